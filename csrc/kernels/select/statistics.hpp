// Statistics of the weights. First the online softmax of soft.hpp, which keeps beside l how far the scores lie below m:
//   t = sum_j P_j x_j,  x_j = scale (s_j - m) <= 0        the entropy is log(l) - log(2) t / l: no terms cancel
// In the chains of l. A cell of weight 0 adds 0. Then, where m and l are known, the sums over the queries of a panel, of the
// weights P as the first left them beside an m of that tile: those of a vector in pairs, then in float64.
#pragma once
#include "soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Vector after vector of queries: two sums in four chains are enough.
template <class T, int vectors, bool scaled>
[[gnu::noinline]] void soft_entropy_tile(const T* scores, T* weights, int64_t count, T scale, const T* top_, T* m_,
                                         T* l_, T* t_) {
  constexpr int width = vectors * lanes<T>, chains = sum_chains;
  constexpr T least = Math<T>::least_exponent - 64;  // beyond, where weights are 0, it may be -inf
  const Vec<T> lowest = minus_infinity<T>();
  for (int v = 0; v < vectors; ++v) {
    const int at = v * lanes<T>;
    const Vec<T> old = load(m_ + at), now = max(load(top_ + at), old), l = load(l_ + at);
    const Vec<T> offset = now == lowest ? Vec<T>{} : now, moved = (old - offset) * scale;
    const Vec<T> shrink = exp2<T>(moved);
    Vec<T> sum[chains] = {}, moment[chains] = {};
    const auto add = [&](int c, int64_t j) INLINED {
      const Vec<T> x = in_base_2<scaled, T>(load(scores + j * width + at) - offset, scale), weight = exp2<T>(x);
      sum[c] += weight;
      moment[c] += weight * at_least<T>(least, x);
      store<T>(weights + j * width + at, weight);
    };
    const int64_t whole = count & -int64_t(chains);
    for (int64_t j = 0; j < whole; j += chains) unroll<chains>([&](int c) INLINED { add(c, j + c); });
    unroll<chains - 1>([&](int c) INLINED {
      if (whole + c < count) add(c, whole + c);
    });
    store<T>(m_ + at, now);
    store<T>(l_ + at, l * shrink + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    store<T>(t_ + at, (load(t_ + at) + l * at_least<T>(least, moved)) * shrink +
                          ((moment[0] + moment[1]) + (moment[2] + moment[3])));
  }
}

template <class T>
void soft_entropy(const T* scores, int32_t vectors, int64_t count, double scale, const T* top, T* m, T* l, T* t,
                  T* weights) {
  by_width(vectors, [&](auto v) {
    const auto tile = scale == 1 ? soft_entropy_tile<T, v, false> : soft_entropy_tile<T, v, true>;
    tile(scores, weights, count, T(scale), top, m, l, t);
  });
}

// Lane i of the answer is the sum of rows[i], by log2(lanes) rounds of halves.
template <class T, int block>
[[gnu::always_inline]] inline void fold_rows(Vec<T> (&rows)[lanes<T>]) {
  unroll<block>([&](int i) INLINED {
    swap_blocks<T, block>(rows[i], rows[i + block]);
    rows[i] += rows[i + block];
  });
  if constexpr (block > 1) fold_rows<T, block / 2>(rows);
}

template <class T, int vectors>
[[gnu::noinline]] void key_sums(const T* weights, int64_t count, T scale, const T* at, const T* m, const T* share,
                                double* to) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> factor[vectors];
  IntVec<T> counted[vectors];
  unroll<vectors>([&](int v) INLINED {
    const Vec<T> by = load(share + v * lanes<T>);
    counted[v] = by != T(0);
    factor[v] = counted[v] ? exp2<T>((load(at + v * lanes<T>) - load(m + v * lanes<T>)) * scale) * by : Vec<T>{};
  });
  const auto row = [&](int64_t j) INLINED {
    Vec<T> sum = {};
    unroll<vectors>([&](int v) INLINED {
      const Vec<T> weight = load(weights + j * width + v * lanes<T>);  // of a query that does not count perhaps NaN
      sum += from_bits<T>(as_bits<T>(weight) & counted[v]) * factor[v];
    });
    return sum;
  };
  int64_t j = 0;
  for (; j + lanes<T> <= count; j += lanes<T>) {
    Vec<T> rows[lanes<T>];
    unroll<lanes<T>>([&](int i) INLINED { rows[i] = row(j + i); });
    if constexpr (lanes<T> > 1) fold_rows<T, lanes<T> / 2>(rows);
    for (int i = 0; i < lanes<T>; ++i) to[j + i] += double(rows[0][i]);
  }
  if (j == count) return;
  Vec<T> rows[lanes<T>];
  unroll<lanes<T>>([&](int i) INLINED { rows[i] = j + i < count ? row(j + i) : Vec<T>{}; });
  if constexpr (lanes<T> > 1) fold_rows<T, lanes<T> / 2>(rows);
  for (int i = 0; j + i < count; ++i) to[j + i] += double(rows[0][i]);
}

template <class T>
void key_sums(const T* weights, int32_t vectors, int64_t count, double scale, const T* at, const T* m, const T* share,
              double* to) {
  by_width(vectors, [&](auto v) { key_sums<T, v>(weights, count, T(scale), at, m, share, to); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
