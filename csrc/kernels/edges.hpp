// One row against rows that stand anywhere, as a query and its keys along the edges of a graph: the columns are on the lanes.
//   scores      s[e] = score(row, others[e]); the lanes are summed by halves, a vector of edges at a time
//   gradients   to_row[d] = sum_e dS[e] (..),  to_factors[d] = sum_e dS[e] (..), the terms of score/columns.hpp
//   sum         to[d] = sum_e weights[e] rows[e][d]
// Rows are T in whole vectors of columns, zeros at the end. Accumulator T. Edges are added in chains by their place modulo a
// constant, so that the order of a sum depends on the number of edges alone. What is constant in a column, v_h or w_h, is
// left to the driver in the gradients, as in score/columns.hpp.
#pragma once
#include "score/additive.hpp"
#include "score/columns.hpp"
#include "score/distance.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// The term of a score in a column: of a row a, another b, and the factor v.
struct EdgeInner {
  template <class T>
  static Vec<T> of(Vec<T> a, Vec<T> b, Vec<T>, Vec<T>) {
    return a * b;
  }
};
template <class Activation>
struct EdgeAdditive {
  template <class T>
  static Vec<T> of(Vec<T> a, Vec<T> b, Vec<T> v, Vec<T> slope) {
    return Activation::template of<T>(a + b, slope) * v;
  }
};
struct EdgeDistance {
  template <class T>
  static Vec<T> of(Vec<T> a, Vec<T> b, Vec<T> w, Vec<T>) {
    const Vec<T> difference = (a - b) * w;
    return -(difference * difference);
  }
};

template <class T, int block>
[[gnu::always_inline]] inline void fold(Vec<T> (&sums)[lanes<T>]) {
  if constexpr (block > 0) {
    unroll<block>([&](int i) INLINED {
      swap_blocks<T, block>(sums[i], sums[i + block]);
      sums[i] += sums[i + block];
    });
    fold<T, block / 2>(sums);
  }
}

template <class T, class Term>
[[gnu::noinline]] void edge_scores(const T* row, const EdgeRows& others, int64_t count, int64_t columns,
                                   const T* factors, T slope_, T* s) {
  const Vec<T> slope = broadcast(slope_);
  for (int64_t first = 0; first < count; first += lanes<T>) {
    const int some = count - first < lanes<T> ? int(count - first) : lanes<T>;
    Vec<T> sums[lanes<T>];
    if (columns == lanes<T>) {
      const Vec<T> a = load(row), v = load(factors);
      for (int i = 0; i < some; ++i)
        sums[i] = Term::template of<T>(a, load_anywhere<T>(others.base + others.offsets[first + i]), v, slope);
    } else {
      for (int i = 0; i < some; ++i) {
        const char* const other = others.base + others.offsets[first + i];
        Vec<T> even = {}, odd = {};
        int64_t d = 0;
        for (; d + lanes<T> < columns; d += 2 * lanes<T>) {
          even += Term::template of<T>(load(row + d), load_anywhere<T>(other + d * int64_t(sizeof(T))),
                                       load(factors + d), slope);
          odd += Term::template of<T>(load(row + d + lanes<T>),
                                      load_anywhere<T>(other + (d + lanes<T>)*int64_t(sizeof(T))),
                                      load(factors + d + lanes<T>), slope);
        }
        if (d < columns)
          even += Term::template of<T>(load(row + d), load_anywhere<T>(other + d * int64_t(sizeof(T))),
                                       load(factors + d), slope);
        sums[i] = even + odd;
      }
    }
    for (int i = some; i < lanes<T>; ++i) sums[i] = Vec<T>{};
    fold<T, lanes<T> / 2>(sums);
    store<T>(s + first, sums[0]);
  }
}

// What a row adds to a sum, for weights that may have been 0: nothing then, whatever it holds.
template <class T, class F, bool with_factors>
[[gnu::noinline]] void edge_gradients(const T* row, const EdgeRows& others, int64_t count, int64_t columns,
                                      const T* factors, const T* d_scores, T* to_row, T* to_factors) {
  constexpr int chains = 2;
  for (int64_t d = 0; d < columns; d += lanes<T>) {
    const Vec<T> a = load(row + d), w = load(factors + d);
    Vec<T> of_row[chains] = {}, of_factors[chains] = {};
    const auto add = [&](int c, int64_t e) INLINED {
      if (d_scores[e] == T(0)) return;
      const Vec<T> b = load_anywhere<T>(others.base + others.offsets[e] + d * int64_t(sizeof(T)));
      const Slope<T> slope = F::template of<T>(a, b, w);
      const Vec<T> d_score = broadcast(d_scores[e]);
      of_row[c] += d_score * slope.operand;
      if constexpr (with_factors) of_factors[c] += d_score * slope.factor;
    };
    int64_t e = 0;
    for (; e + chains <= count; e += chains) unroll<chains>([&](int c) INLINED { add(c, e + c); });
    if (e < count) add(0, e);
    store<T>(to_row + d, of_row[0] + of_row[1]);
    if constexpr (with_factors) store<T>(to_factors + d, of_factors[0] + of_factors[1]);
  }
}

// to_factors: null where they are not wanted. factors: of a column, as F takes them.
template <class T, class F>
void edge_gradients(const T* row, const EdgeRows& others, int64_t count, int64_t columns, const T* factors,
                    const T* d_scores, T* to_row, T* to_factors) {
  const auto run = to_factors ? edge_gradients<T, F, true> : edge_gradients<T, F, false>;
  run(row, others, count, columns, factors, d_scores, to_row, to_factors);
}

template <class T, int vectors, int chains>
[[gnu::always_inline]] inline void edge_sum_columns(const T* weights, const char* base, const int64_t* offsets,
                                                    int64_t count, T* to) {
  Vec<T> sum[chains][vectors] = {};
  const auto add = [&](int c, int64_t e) INLINED {
    const Vec<T> weight = broadcast(weights[e]);
    const char* const row = base + offsets[e];
    unroll<vectors>([&](int v) INLINED { sum[c][v] += weight * load_anywhere<T>(row + v * vector_bytes); });
  };
  int64_t e = 0;
  for (; e + chains <= count; e += chains) unroll<chains>([&](int c) INLINED { add(c, e + c); });
  for (int c = 0; e < count; ++e, ++c) add(c, e);
  unroll<vectors>([&](int v) INLINED {
    Vec<T> all = sum[0][v];
    for (int c = 1; c < chains; ++c) all += sum[c][v];
    store<T>(to + v * lanes<T>, all);
  });
}

template <class T>
[[gnu::noinline]] void edge_sum(const T* weights, const EdgeRows& rows, int64_t count, int64_t columns, T* to) {
  int64_t d = 0;
  for (; d + 4 * lanes<T> <= columns; d += 4 * lanes<T>)
    edge_sum_columns<T, 4, 2>(weights, rows.base + d * int64_t(sizeof(T)), rows.offsets, count, to + d);
  for (; d < columns; d += lanes<T>)
    edge_sum_columns<T, 1, 4>(weights, rows.base + d * int64_t(sizeof(T)), rows.offsets, count, to + d);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
