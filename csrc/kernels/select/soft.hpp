// Soft selection: the online softmax of a tile of scores. In base 2: x = scale * s, with log2(e) in the scale.
//   m' = max(m, max_j x_j),  alpha = 2^(m - m'),  P_j = 2^(x_j - m'),  l' = alpha l + sum_j P_j
// The sum is a chain over the tile's j, from 0: its error does not grow with the number of tiles.
// m starts at -inf with l = 0, or at the sink with l = 1. While nothing was seen, m' is -inf and is taken as 0 in the
// differences: weights of cells that are not seen (score -inf) are then 0, not NaN. NaN does not enter m, but l.
#pragma once
#include "../math.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// The first half: m', alpha and alpha l are stored; offset = m'.
template <class T, int vectors>
inline void soft_offset(const T* scores, int64_t count, T scale, T* m, T* l, T* alpha, Vec<T> (&offset)[vectors]) {
  constexpr int width = vectors * lanes<T>;
  const Vec<T> lowest = -from_bits<T>(IntVec<T>{} + Math<T>::infinity);
  Vec<T> top[2][vectors];  // two chains: a maximum takes longer than a load
  unroll<vectors>([&](auto v) { top[0][v] = top[1][v] = lowest; });
  int64_t j = 0;
  for (; j + 2 <= count; j += 2)
    unroll<vectors>([&](auto v) {
      top[0][v] = max(load(scores + j * width + v * lanes<T>), top[0][v]);
      top[1][v] = max(load(scores + (j + 1) * width + v * lanes<T>), top[1][v]);
    });
  if (j < count)
    unroll<vectors>([&](auto v) { top[0][v] = max(load(scores + j * width + v * lanes<T>), top[0][v]); });
  unroll<vectors>([&](auto v) {
    const Vec<T> old = load(m + v * lanes<T>), now = max(max(top[0][v], top[1][v]) * scale, old);
    offset[v] = now == lowest ? Vec<T>{} : now;
    const Vec<T> shrink = exp2<T>(old - offset[v]);
    store<T>(l + v * lanes<T>, load(l + v * lanes<T>) * shrink);
    store<T>(alpha + v * lanes<T>, shrink);
    store<T>(m + v * lanes<T>, now);
  });
}

template <class T, int vectors>
[[gnu::noinline]] void soft_tile(T* scores, int64_t count, T scale, T* m, T* l, T* alpha) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> sum[vectors] = {}, offset[vectors];
  soft_offset<T, vectors>(scores, count, scale, m, l, alpha, offset);
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](auto v) {
      T* cell = scores + j * width + v * lanes<T>;
      const Vec<T> weight = exp2<T>(load(cell) * scale - offset[v]);
      sum[v] += weight;
      store<T>(cell, weight);
    });
  unroll<vectors>([&](auto v) { store<T>(l + v * lanes<T>, load(l + v * lanes<T>) + sum[v]); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
