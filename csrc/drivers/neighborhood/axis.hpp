// What the places of one axis see along it: as many places of the same remainder by the dilation, from a first one on.
#pragma once
#include <algorithm>
#include <cstdint>

#include "drivers/common/problem.hpp"

namespace foveate {

// The places first, first + dilation, ... that place `at` sees, so many of them.
struct SeenPlaces {
  int64_t first, count;
};
inline SeenPlaces places_seen(const NeighborAxis& axis, int64_t at) {
  const int64_t group = at % axis.dilation, place = at / axis.dilation;
  const int64_t places = (axis.length - 1 - group) / axis.dilation + 1;
  int64_t low = place - (axis.causal ? axis.window - 1 : axis.window / 2);
  if (!axis.causal && !axis.clip) low = std::clamp<int64_t>(low, 0, places - axis.window);
  const int64_t high = std::min(low + axis.window, places);
  low = std::max<int64_t>(low, 0);
  return {low * axis.dilation + group, high - low};
}

// By which places a place is seen: again places of one remainder, as windows never move back. Windows that are moved
// inwards are seen by up to one and a half windows.
inline SeenPlaces places_that_see(const NeighborAxis& axis, int64_t at) {
  const int64_t step = axis.dilation;
  const auto sees = [&](int64_t from) {
    const SeenPlaces seen = places_seen(axis, from);
    return seen.first <= at && at < seen.first + seen.count * step;
  };
  int64_t first = at, last = at;  // which sees itself
  while (first - step >= 0 && sees(first - step)) first -= step;
  while (last + step < axis.length && sees(last + step)) last += step;
  return {first, (last - first) / step + 1};
}

}  // namespace foveate
