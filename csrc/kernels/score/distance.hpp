// The distance family: s[j][q] = -sum_d (w_d (Q[d][q] - K[j][d]))^2, by differences, so that near points far from the
// origin keep their digits. Chains over 16 d; w is multiplied in before the square, as in the formula, or left out.
// Accumulator T, relative error a few ulp; no range but that of T.
#pragma once
#include "../gemm.hpp"
#include "columns.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Rows enough to hide the latency of a multiply-add. On AVX-512 they are taken for one vector of a panel at a time: then a
// key is broadcast by the instruction that subtracts it, where a broadcast of its own, for two vectors, takes an adder's
// time (Zen 4: 24 cycles a vector for 16 dimensions, 18 so; with factors 35 and 32). One or two dimensions have too little
// to do for that.
#if defined(__AVX512F__)
constexpr int distance_rows = 8;
template <int>
constexpr int distance_vectors = 1;
#else
constexpr int distance_rows = 4;
template <int vectors>
constexpr int distance_vectors = vectors;
#endif
constexpr int64_t few_dimensions = 2;

// For `vectors` of a panel that has `all`.
template <class T, int vectors, int all, int rows, bool weighted>
[[gnu::noinline]] void distance_block(const T* panel, const T* keys, int64_t key_stride, int64_t size, const T* w,
                                      T* scores, T* top) {
  constexpr int width = all * lanes<T>;
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
  store_scores<T, vectors, rows, all>(sum, scores, top);
}

template <class T, int vectors, int all, bool weighted>
void distances(const T* panel, const T* keys, int64_t key_stride, int64_t count, int64_t size, const T* w, T* scores,
               T* top, Prefetcher& prefetcher) {
  constexpr int rows = distance_rows;
  const auto block = [&](auto n, int64_t j) INLINED {
    unroll<all / vectors>([&](int part) INLINED {
      const int64_t at = int64_t(part) * vectors * lanes<T>;
      distance_block<T, vectors, all, n, weighted>(panel + at, keys + j * key_stride, key_stride, size, w,
                                                   scores + j * all * lanes<T> + at, top + at);
    });
  };
  int64_t j = 0;
  for (; j + rows <= count; j += rows) {
    prefetcher.step();
    block(Constant<rows>{}, j);
  }
  for (; j < count; ++j) block(Constant<1>{}, j);
}

template <class T>
void distance_scores(const T* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t size, const T* factors,
                     T* s, T* top, const PartialKeys&, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, count / distance_rows);
    start_top<T, v>(top);
    constexpr int some = distance_vectors<v>;
    const auto run = factors                  ? distances<T, some, v, true>
                     : size <= few_dimensions ? distances<T, v, v, false>
                                              : distances<T, some, v, false>;
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
