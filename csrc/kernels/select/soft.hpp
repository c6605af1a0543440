// Soft selection: the online softmax of a tile of scores, in base 2, with log2(e) in the scale.
//   m' = max(m, max_j s_j),  alpha = 2^(scale (m - m')),  P_j = 2^(scale (s_j - m')),  l' = alpha l + sum_j P_j
// The difference comes before the scale: it is exact where it matters, and the largest weight is 1 whatever the scores.
// Most inner products have the scale in their queries; then it is 1 here, and left out.
// The sum runs over the tile's j in four chains, key j in chain j % 4, from 0: its error does not grow with the number of
// tiles, and a tile begins at a multiple of 4 whatever the company of a query, so that its bits do not depend on that.
// m starts at -inf with l = 0, or at the sink with l = 1. While nothing was seen, m' is -inf and is taken as 0 in the
// differences: weights of cells that are not seen (score -inf) are then 0, not NaN. NaN does not enter m, but l.
// Backward, with dP the gradients of the weights, delta = rowsum(dO O) and dlse the gradient of lse:
//   P_j = 2^(scale (s_j - top) - rest),  dS_j = P_j (dP_j - shift),  shift = delta - dlse
// lse = scale top + rest in base 2, in two numbers, since its rounding would be an error of every weight of the query. No
// weight is more than 1, whatever the rounding.
#pragma once
#include "../factor/gaussian.hpp"
#include "../math.hpp"
#include "../table.hpp"
#include "cells.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// max_j s[j][q]: of scores that changed since the product, which found its own maximum on the way.
template <class T, int vectors>
inline void find_top(const T* scores, int64_t count, T* top_) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> top[vectors];
  unroll<vectors>([&](int v) INLINED { top[v] = minus_infinity<T>(); });
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED { top[v] = max(load(scores + j * width + v * lanes<T>), top[v]); });
  unroll<vectors>([&](int v) INLINED { store<T>(top_ + v * lanes<T>, top[v]); });
}
template <class T>
void find_top(const T* scores, int32_t vectors, int64_t count, T* top) {
  by_width(vectors, [&](auto v) { find_top<T, v>(scores, count, top); });
}

// The first half, from the tile's largest scores: m', alpha and alpha l are stored; offset = m'.
template <bool scaled, class T>
inline Vec<T> in_base_2(Vec<T> difference, T scale) {
  return scaled ? difference * scale : difference;
}

template <class T, int vectors>
inline void soft_offset(const T* top, T scale, T* m, T* l, T* alpha, Vec<T> (&offset)[vectors]) {
  const Vec<T> lowest = minus_infinity<T>();
  unroll<vectors>([&](int v) INLINED {
    const Vec<T> old = load(m + v * lanes<T>), now = max(load(top + v * lanes<T>), old);
    offset[v] = now == lowest ? Vec<T>{} : now;
    const Vec<T> shrink = exp2<T>((old - offset[v]) * scale);
    store<T>(l + v * lanes<T>, load(l + v * lanes<T>) * shrink);
    store<T>(alpha + v * lanes<T>, shrink);
    store<T>(m + v * lanes<T>, now);
  });
}

// falloff: whether there is a Gaussian, which the weights are multiplied by, but not those that are summed.
template <class T, int vectors, bool scaled, bool falloff>
[[gnu::noinline]] void soft_tile(T* scores, int64_t count, T scale, const T* top, T* m, T* l, T* alpha,
                                 const Gaussian* gaussian) {
  constexpr int width = vectors * lanes<T>;
  constexpr int chains = sum_chains;
  Vec<T> sum[chains][vectors] = {}, offset[vectors];
  soft_offset<T, vectors>(top, scale, m, l, alpha, offset);
  const auto each = [&](auto&& factor) {
    const auto add = [&](int c, int64_t j) INLINED {
      unroll<vectors>([&](int v) INLINED {
        T* cell = scores + j * width + v * lanes<T>;
        const Vec<T> weight = exp2<T>(in_base_2<scaled, T>(load(cell) - offset[v], scale));
        sum[c][v] += weight;
        store<T>(cell, factor(v, weight));
      });
    };
    const int64_t whole = count & -int64_t(chains);
    for (int64_t j = 0; j < whole; j += chains) unroll<chains>([&](int c) INLINED { add(c, j + c); });
    unroll<chains - 1>([&](int c) INLINED {
      if (whole + c < count) add(c, whole + c);
    });
  };
  if constexpr (falloff) {
    Falloff<T, vectors> by(*gaussian);
    each([&](int v, Vec<T> weight) INLINED {
      const Vec<T> product = weight * by.of(v);
      if (v == vectors - 1) by.next();
      return product;
    });
  } else {
    each([](int, Vec<T> weight) INLINED { return weight; });
  }
  unroll<vectors>([&](int v) INLINED {
    const Vec<T> all = (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]);
    store<T>(l + v * lanes<T>, load(l + v * lanes<T>) + all);
  });
}

template <class T>
void soft(T* scores, int32_t vectors, int64_t count, double scale, const T* top, T* m, T* l, T*, T* alpha,
          const Gaussian* gaussian, const Prefetch&) {
  by_width(vectors, [&](auto v) {
    const auto plain = scale == 1 ? soft_tile<T, v, false, false> : soft_tile<T, v, true, false>;
    const auto falling = scale == 1 ? soft_tile<T, v, false, true> : soft_tile<T, v, true, true>;
    (gaussian ? falling : plain)(scores, count, T(scale), top, m, l, alpha, gaussian);
  });
}

template <class T, int vectors>
[[gnu::noinline]] void soft_gradient(const T* s, T* d_weights, int64_t count, T scale, const T* top_, const T* rest_,
                                     const T* shift_, T* weights, T* d_scores, int64_t stride) {
  const Vec<T> lowest = minus_infinity<T>();
  Vec<T> top[vectors], rest[vectors], shift[vectors];
  unroll<vectors>([&](int v) INLINED {
    top[v] = load(top_ + v * lanes<T>);
    rest[v] = load(rest_ + v * lanes<T>);
    shift[v] = load(shift_ + v * lanes<T>);
  });
  each_cell<T, vectors>(s, d_weights, count, weights, d_scores, stride,
                        [&](int v, Vec<T> score, Vec<T> d_weight, Vec<T>& weight, Vec<T>& d_score) INLINED {
                          const IntVec<T> hidden = score == lowest;
                          weight = hidden ? Vec<T>{} : exp2<T>(-at_least<T>(0, rest[v] - (score - top[v]) * scale));
                          d_score = hidden ? Vec<T>{} : weight * (d_weight - shift[v]);
                        });
}

template <class T>
void soft_gradient(const T* s, T* d_weights, int32_t vectors, int64_t count, double scale, const T* top, const T* rest,
                   const T* shift, T* weights, T* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) {
    soft_gradient<T, v>(s, d_weights, count, T(scale), top, rest, shift, weights, d_scores, stride);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
