// Hard selection of the most probable key: of a tile's scores, the first place of the largest one, where it is larger than
// that of all tiles before. Scores are compared as they are, before any exponential: two that differ are no tie. NaN is
// never the largest.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// top: the tile's largest scores; m: those of the tiles before. Returns the queries that found a new one, and its place.
template <class T, int vectors>
uint32_t argmax_place(const T* scores, int64_t count, const T* top_, const T* m, int32_t* place) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> top[vectors];
  IntVec<T> first[vectors] = {};
  uint32_t found = 0;
  unroll<vectors>([&](int v) INLINED {
    top[v] = load(top_ + v * lanes<T>);
    found |= bits_of<T>(top[v] > load(m + v * lanes<T>)) << (v * lanes<T>);
  });
  if (!found) return 0;
  for (int64_t j = count - 1; j >= 0; --j)
    unroll<vectors>([&](int v) INLINED {
      const IntVec<T> here = IntVec<T>{} + typename VectorOf<T>::Bits(j);
      first[v] = load(scores + j * width + v * lanes<T>) == top[v] ? here : first[v];
    });
  for (int i = 0; i < width; ++i) place[i] = int32_t(first[i / lanes<T>][i % lanes<T>]);
  return found;
}

template <class T>
uint32_t argmax_place(const T* s, int32_t vectors, int64_t count, const T* top, const T* m, int32_t* place) {
  return by_width(vectors, [&](auto v) { return argmax_place<T, v>(s, count, top, m, place); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
