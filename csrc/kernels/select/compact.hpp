// Compact kernels: scores s = -d, of squared distances d, become weights as they are, without an exponential:
//   boxcar [d <= 1],  Epanechnikov (1 - d)+,  triangular (1 - sqrt(d))+;   l' = l + sum_j P_j, a chain from 0 in a tile.
// A cell that is not seen (-inf) weighs 0. NaN stays NaN, but for the boxcar, whose comparison it fails.
#pragma once
#include "../math.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T, int vectors, class F>
void compact_tile(T* scores, int64_t count, T* l, F&& weight_of) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> sum[vectors] = {};
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](auto v) {
      T* cell = scores + j * width + v * lanes<T>;
      const Vec<T> weight = weight_of(load(cell));
      sum[v] += weight;
      store<T>(cell, weight);
    });
  unroll<vectors>([&](auto v) { store<T>(l + v * lanes<T>, load(l + v * lanes<T>) + sum[v]); });
}

template <class T, int vectors>
void compact_tile(T* scores, int64_t count, Profile profile, T* l) {
  const Vec<T> zero = {}, one = broadcast(T(1));
  switch (profile) {
    case Profile::boxcar:
      return compact_tile<T, vectors>(scores, count, l, [&](Vec<T> s) { return s >= -one ? one : zero; });
    case Profile::epanechnikov:
      return compact_tile<T, vectors>(scores, count, l, [&](Vec<T> s) { return max(zero, one + s); });
    case Profile::triangular:
      return compact_tile<T, vectors>(scores, count, l, [&](Vec<T> s) { return max(zero, one - square_root(-s)); });
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
