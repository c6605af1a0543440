// How the scores of the distance family move with queries and keys:
//   t[j][q] = -2 sum_d w_d (Q[d][q] - K[j][d]) w_d (Q'[d][q] - K'[j][d])
// by differences, as distance.hpp has the scores, in the same chains.
#pragma once
#include "../gemm.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T, int vectors, int rows>
[[gnu::noinline]] void distance_tangent_block(const T* panel, const T* d_panel, const T* keys, int64_t key_stride,
                                              const T* d_keys, int64_t d_key_stride, int64_t size, const T* w, T* to) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> sum[rows][vectors] = {};
  sum_in_parts<T, vectors, rows>(size, sum, [&](int64_t begin, int64_t end, auto& part) {
    for (int64_t d = begin; d < end; ++d) {
      const Vec<T> factor = broadcast(w ? w[d] : T(1));
      unroll<rows>([&](int j) INLINED {
        const Vec<T> key = broadcast(keys[j * key_stride + d]), d_key = broadcast(d_keys[j * d_key_stride + d]);
        unroll<vectors>([&](int v) INLINED {
          const int64_t at = d * width + v * lanes<T>;
          part[j][v] -= ((load(panel + at) - key) * factor) * ((load(d_panel + at) - d_key) * factor);
        });
      });
    }
  });
  unroll<rows>([&](int j) INLINED {
    unroll<vectors>([&](int v) INLINED { store<T>(to + j * width + v * lanes<T>, sum[j][v] * T(2)); });
  });
}

// d_keys may be one row, with a stride of 0.
template <class T>
void distance_tangent(const T* panel, const T* d_panel, int32_t vectors, LoadedRows keys, LoadedRows d_keys,
                      int64_t count, int64_t size, const T* factors, T* to) {
  by_width(vectors, [&](auto v) {
    constexpr int rows = 2;
    const T *key = static_cast<const T*>(keys.data), *d_key = static_cast<const T*>(d_keys.data);
    const int64_t step = keys.row_stride / int64_t(sizeof(T)), d_step = d_keys.row_stride / int64_t(sizeof(T));
    int64_t j = 0;
    for (; j + rows <= count; j += rows)
      distance_tangent_block<T, v, rows>(panel, d_panel, key + j * step, step, d_key + j * d_step, d_step, size,
                                         factors, to + j * v * lanes<T>);
    if (j < count)
      distance_tangent_block<T, v, 1>(panel, d_panel, key + j * step, step, d_key + j * d_step, d_step, size, factors,
                                      to + j * v * lanes<T>);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
