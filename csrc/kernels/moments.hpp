// The sums that local linear regression is made of, of a tile of keys and a panel of queries: of z = K[j] - Q[q], formed
// by differences, and of p = P[j][q] s[j], where V[j] is s, y_0 .. y_{k-1}:
//   O[..][q] = alpha[q] O[..][q] + sum_j p, p y, p z, p z_a z_b (a <= b), p z_a y (a by a)
// In T, a chain over j from 0 in a tile, as weighted_sum; for 1 to 3 axes.
#pragma once
#include "gemm.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// For one vector of queries and one column of y, of which `y` is the place in a value. first: all sums but those of y too.
template <class T, int axes, bool first>
[[gnu::noinline]] void moments_of(const T* weights, int64_t width, const T* panel, const T* keys, int64_t key_stride,
                                  const T* values, int64_t value_stride, int64_t y, int64_t count, const T* alpha_,
                                  T* of_one, T* of_y, T* of_z, T* of_z_y, int64_t columns) {
  constexpr int squares = axes * (axes + 1) / 2;
  Vec<T> query[axes], one = {}, sum_y = {}, sum_z[axes] = {}, sum_zz[squares] = {}, sum_zy[axes] = {};
  unroll<axes>([&](int a) INLINED { query[a] = load(panel + a * width); });
  for (int64_t j = 0; j < count; ++j) {
    const T* const value = values + j * value_stride;
    const Vec<T> p = load(weights + j * width) * broadcast(value[0]);
    const Vec<T> target = broadcast(value[y]);
    Vec<T> z[axes];
    unroll<axes>([&](int a) INLINED { z[a] = broadcast(keys[j * key_stride + a]) - query[a]; });
    sum_y += p * target;
    if constexpr (first) one += p;
    unroll<axes>([&](int a) INLINED {
      const Vec<T> along = p * z[a];
      sum_zy[a] += along * target;
      if constexpr (first) {
        sum_z[a] += along;
        unroll<axes>([&](int b) INLINED {
          if (b >= a) sum_zz[a * axes - a * (a - 1) / 2 + b - a] += along * z[b];
        });
      }
    });
  }
  const Vec<T> alpha = load(alpha_);
  const auto add = [&](T* cell, Vec<T> sum) INLINED { store<T>(cell, load(cell) * alpha + sum); };
  add(of_y, sum_y);
  unroll<axes>([&](int a) INLINED { add(of_z_y + a * columns * width, sum_zy[a]); });
  if constexpr (first) {
    add(of_one, one);
    unroll<axes>([&](int a) INLINED { add(of_z + a * width, sum_z[a]); });
    unroll<squares>([&](int a) INLINED { add(of_z + (axes + a) * width, sum_zz[a]); });
  }
}

template <class T, int axes>
void moments_of_axes(const T* weights, int32_t vectors, const T* panel, LoadedRows keys, LoadedRows values,
                     int64_t count, int64_t columns, const T* alpha, T* output, const PartialKeys& partial) {
  const int64_t width = vectors * lanes<T>, key_stride = keys.row_stride / int64_t(sizeof(T)),
                value_stride = values.row_stride / int64_t(sizeof(T));
  for (int32_t v = 0; v < vectors; ++v) {
    const int64_t begin = v > 0 ? partial.first : 0, end = v < vectors - 1 ? partial.last : count;
    T* const to = output + v * lanes<T>;
    T* const of_z = to + (1 + columns) * width;
    T* const of_z_y = of_z + (axes + axes * (axes + 1) / 2) * width;
    for (int64_t y = 0; y < columns; ++y)
      (y == 0 ? moments_of<T, axes, true>
              : moments_of<T, axes, false>)(weights + begin * width + v * lanes<T>, width, panel + v * lanes<T>,
                                            static_cast<const T*>(keys.data) + begin * key_stride, key_stride,
                                            static_cast<const T*>(values.data) + begin * value_stride, value_stride,
                                            1 + y, end - begin, alpha + v * lanes<T>, to, to + (1 + y) * width, of_z,
                                            of_z_y + y * width, columns);
  }
}

template <class T>
void moments(const T* weights, int32_t vectors, const T* panel, LoadedRows keys, LoadedRows values, int64_t count,
             int64_t axes, int64_t columns, const T* alpha, T* output, const PartialKeys& partial) {
  const auto run = axes == 1 ? moments_of_axes<T, 1> : axes == 2 ? moments_of_axes<T, 2> : moments_of_axes<T, 3>;
  run(weights, vectors, panel, keys, values, count, columns, alpha, output, partial);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
