// The distance family: s[j][q] = -sum_d (w_d (Q[d][q] - K[j][d]))^2, by differences, so that near points far from the
// origin keep their digits. Chains over 16 d; w is multiplied in before the square, as in the formula, or left out.
// Accumulator T, relative error a few ulp; no range but that of T.
#pragma once
#include "../gemm.hpp"
#include "columns.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Enough rows to hide the latency of a multiply-add. On AVX-512 twice as many are 5% faster without factors; with them,
// or with 16 registers, they spill.
#if defined(__AVX512F__)
template <bool weighted>
constexpr int distance_rows = weighted ? 4 : 8;
#else
template <bool weighted>
constexpr int distance_rows = 4;
#endif

template <class T, int vectors, int rows, bool weighted>
[[gnu::noinline]] void distance_block(const T* panel, const T* keys, int64_t key_stride, int64_t size, const T* w,
                                      T* scores, T* top) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> sum[rows][vectors] = {};
  sum_in_parts<T, vectors, rows>(size, sum, [&](int64_t begin, int64_t end, auto& part) {
    for (int64_t d = begin; d < end; ++d) {
      Vec<T> query[vectors];
      unroll<vectors>([&](int v) INLINED { query[v] = load(panel + d * width + v * lanes<T>); });
      unroll<rows>([&](int j) INLINED {
        const Vec<T> key = broadcast(keys[j * key_stride + d]);
        unroll<vectors>([&](int v) INLINED {
          Vec<T> difference = query[v] - key;
          if constexpr (weighted) difference *= broadcast(w[d]);
          part[j][v] -= difference * difference;
        });
      });
    }
  });
  store_scores<T, vectors, rows>(sum, scores, top);
}

template <class T, int vectors, bool weighted>
void distances(const T* panel, const T* keys, int64_t key_stride, int64_t count, int64_t size, const T* w, T* scores,
               T* top, Prefetcher& prefetcher) {
  constexpr int rows = distance_rows<weighted>;
  int64_t j = 0;
  for (; j + rows <= count; j += rows) {
    prefetcher.step();
    distance_block<T, vectors, rows, weighted>(panel, keys + j * key_stride, key_stride, size, w,
                                               scores + j * vectors * lanes<T>, top);
  }
  for (; j < count; ++j)
    distance_block<T, vectors, 1, weighted>(panel, keys + j * key_stride, key_stride, size, w,
                                            scores + j * vectors * lanes<T>, top);
}

template <class T>
void distance_scores(const T* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t size, const T* factors,
                     T* s, T* top, const PartialKeys&, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, count / (factors ? distance_rows<true> : distance_rows<false>));
    const auto run = factors ? distances<T, v, true> : distances<T, v, false>;
    start_top<T, v>(top);
    run(panel, static_cast<const T*>(keys.data), keys.row_stride / int64_t(sizeof(T)), count, size, factors, s, top,
        prefetcher);
  });
}

// The slope, for column_gradients.
struct DistanceSlope : Alone<DistanceSlope> {
  template <class T>
  static Slope<T> of(Vec<T> a, Vec<T> b, Vec<T> w) {
    const Vec<T> difference = a - b, weighted = difference * w;
    return {weighted, weighted * difference};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
