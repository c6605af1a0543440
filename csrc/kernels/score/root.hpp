// The root, a link of distances: x = scale s = -d / 2 becomes -sqrt(-2 x), the distance itself. Its slope, 1 / sqrt(-2 x),
// is that of what was kept; it is taken as 0 where the distance is 0.
#pragma once
#include "../panel.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr bool is_root(double x) { return x == 0; }

template <class T>
void root(T* scores, int32_t vectors, int64_t count, const LinkParameters& by, T* kept) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> distance = square_root(load(scores + i) * T(-2 * by.scale));
    if (kept) store<T>(kept + i, distance);
    store<T>(scores + i, distance * T(-by.unit));
  }
}

// 0 stays 0, whatever was kept of a cell that is not seen.
template <class T>
void root_gradient(const T* kept, T* d_scores, int32_t vectors, int64_t count, const LinkParameters&) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> d = load(d_scores + i), distance = load(kept + i);
    const IntVec<T> nothing = (d == T(0)) | (distance == T(0));
    store<T>(d_scores + i, nothing ? Vec<T>{} : d / distance);
  }
}

// Its curvature is that of 1 / sqrt(-2 x): the third power of the slope.
template <class T>
void root_curvature(const T* kept, const T* tangents, T* d_scores, T* moved, int32_t vectors, int64_t count,
                    const LinkParameters&) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> distance = load(kept + i), d = load(d_scores + i), move = load(moved + i);
    const IntVec<T> top = distance == T(0);
    const IntVec<T> nothing = top | ((d == T(0)) & (move == T(0)));
    const Vec<T> slope = T(1) / distance;
    store<T>(moved + i, nothing ? Vec<T>{} : slope * (move + d * slope * slope * load(tangents + i)));
    store<T>(d_scores + i, ((d == T(0)) | top) ? Vec<T>{} : d * slope);
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
