// The passes over a tile for the normalizers of normalizers.hpp, each of which has a file.
#pragma once
#include "entmax15.hpp"
#include "sigmoid.hpp"
#include "sparsemax.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// What a query's scores are compared with.
template <class T, int vectors>
struct Thresholds {
  Vec<T> m[vectors], t[vectors];
  T scale;
  Thresholds(const T* m_, const T* t_, double by) : scale(T(by)) {
    unroll<vectors>([&](int v) INLINED {
      m[v] = load(m_ + v * lanes<T>);
      t[v] = load(t_ + v * lanes<T>);
    });
  }
  Vec<T> above(int v, Vec<T> score) const { return (score - m[v]) * scale - t[v]; }
};

// each(chain, j): four chains, key j in chain j % 4.
template <class Each>
inline void in_chains(int64_t count, Each&& each) {
  const int64_t whole = count & -int64_t(4);
  for (int64_t j = 0; j < whole; j += 4) unroll<4>([&](int c) INLINED { each(c, j + c); });
  unroll<3>([&](int c) INLINED {
    if (whole + c < count) each(c, whole + c);
  });
}

template <class T, int vectors>
inline void add_chains(const Vec<T> (&sum)[4][vectors], T* to) {
  unroll<vectors>([&](int v) INLINED {
    const Vec<T> all = (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]);
    store<T>(to + v * lanes<T>, load(to + v * lanes<T>) + all);
  });
}

template <class T, int vectors, class F>
[[gnu::noinline]] void normalize_tile(T* scores, int64_t count, double scale, const T* m, const T* t, T* l) {
  constexpr int width = vectors * lanes<T>;
  const Thresholds<T, vectors> by(m, t, scale);
  const Vec<T> lowest = minus_infinity<T>();
  Vec<T> sum[4][vectors] = {};
  in_chains(count, [&](int c, int64_t j) INLINED {
    unroll<vectors>([&](int v) INLINED {
      T* const cell = scores + j * width + v * lanes<T>;
      const Vec<T> score = load(cell);
      const Vec<T> weight = score == lowest ? Vec<T>{} : F::template weight<T>(by.above(v, score));
      sum[c][v] += weight;
      store<T>(cell, weight);
    });
  });
  add_chains<T, vectors>(sum, l);
}

template <class T, int vectors, class F>
[[gnu::noinline]] void threshold_tile(const T* scores, int64_t count, double scale, const T* m, const T* t, T* sums) {
  constexpr int width = vectors * lanes<T>;
  const Thresholds<T, vectors> by(m, t, scale);
  Vec<T> sum[4][vectors] = {}, slope[4][vectors] = {};
  in_chains(count, [&](int c, int64_t j) INLINED {
    unroll<vectors>([&](int v) INLINED {
      const Grown<T> cell = F::template sums<T>(by.above(v, load(scores + j * width + v * lanes<T>)));
      sum[c][v] += cell.weight;
      slope[c][v] += cell.slope;
    });
  });
  add_chains<T, vectors>(sum, sums);
  add_chains<T, vectors>(slope, sums + width);
}

template <class T, int vectors, class F>
[[gnu::noinline]] void normalize_gradient_tile(const T* s, T* d_weights, int64_t count, double scale, const T* m,
                                               const T* t, const T* shift_, T* weights, T* d_scores, int64_t stride) {
  const Thresholds<T, vectors> by(m, t, scale);
  const Vec<T> lowest = minus_infinity<T>();
  Vec<T> shift[vectors];
  unroll<vectors>([&](int v) INLINED { shift[v] = load(shift_ + v * lanes<T>); });
  each_cell<T, vectors>(s, d_weights, count, weights, d_scores, stride,
                        [&](int v, Vec<T> score, Vec<T> d_weight, Vec<T>& weight, Vec<T>& d_score) INLINED {
                          const IntVec<T> hidden = score == lowest;
                          const Grown<T> cell = F::template grown<T>(by.above(v, score));
                          weight = hidden ? Vec<T>{} : cell.weight;
                          d_score = hidden ? Vec<T>{} : cell.slope * (d_weight - shift[v]);
                        });
}

template <class T>
void normalize(T* scores, int32_t vectors, int64_t count, double scale, Normalizer by, const T* m, const T* t, T* l) {
  by_width(vectors, [&](auto v) {
    const auto tile = [&](auto f) { normalize_tile<T, v, decltype(f)>(scores, count, scale, m, t, l); };
    switch (by) {
      case Normalizer::none: return;
      case Normalizer::sigmoid: return tile(Sigmoid{});
      case Normalizer::rectified: return tile(Rectified{});
      case Normalizer::sparsemax: return tile(Sparsemax{});
      case Normalizer::entmax15: return tile(Entmax15{});
      case Normalizer::sparsemax_slopes: return tile(SparsemaxSlopes{});
      case Normalizer::entmax15_slopes: return tile(Entmax15Slopes{});
    }
  });
}

template <class T>
void threshold_sums(const T* scores, int32_t vectors, int64_t count, double scale, Normalizer by, const T* m,
                    const T* t, T* sums) {
  by_width(vectors, [&](auto v) {
    const auto tile = by == Normalizer::sparsemax ? threshold_tile<T, v, Sparsemax> : threshold_tile<T, v, Entmax15>;
    tile(scores, count, scale, m, t, sums);
  });
}

template <class T>
void normalize_gradient(const T* s, T* d_weights, int32_t vectors, int64_t count, double scale, Normalizer by,
                        const T* m, const T* t, const T* shift, T* weights, T* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) {
    const auto tile = [&](auto f) {
      normalize_gradient_tile<T, v, decltype(f)>(s, d_weights, count, scale, m, t, shift, weights, d_scores, stride);
    };
    switch (by) {
      case Normalizer::sigmoid: return tile(Sigmoid{});
      case Normalizer::sparsemax:
      case Normalizer::rectified: return tile(Rectified{});
      case Normalizer::entmax15: return tile(Entmax15{});
      default: return;
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
