// What the backward pass has beyond the forward's products: a tile of weights and of the gradients of its scores, and
// the product that sums over queries. With P the weights, dP = dO V^T, delta = rowsum(dO O) and dlse the gradient of lse:
//   P[j][q]  = 2^(scale (S[j][q] - top[q]) - rest[q]),  dS[j][q] = P[j][q] (dP[j][q] - shift[q]),  shift = delta - dlse
// lse = scale top + rest in base 2, in two numbers, since its rounding would be an error of every weight of the query: the
// difference of S and top is exact where it matters, as in the forward pass. No weight is more than 1, whatever the rounding.
//   to[j][d] += sum_q cells[j][q] X[q][d]        (a chain over the q of one call, from 0: dV from P, dK from dS)
// A score of -inf is that of a cell that is not seen: both are 0 there, whatever dP holds.
#pragma once
#include "gemm.hpp"
#include "pack.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// s and d_weights are [key][vectors * lanes]; dS takes the place of dP. Weights, and dS too unless d_scores is null, also
// go to rows `stride` apart, in which the panels of a block stand side by side: they point at this panel's first column.
// cell(v, s, dP): weight and dS of the queries of vector v
template <class T, int vectors, class Cell>
inline void each_cell(const T* s, T* d_weights, int64_t count, T* weights, T* d_scores, int64_t stride, Cell&& cell) {
  constexpr int width = vectors * lanes<T>;
  const auto run = [&](auto beside) {
    for (int64_t j = 0; j < count; ++j)
      unroll<vectors>([&](auto v) {
        const int64_t here = j * width + v * lanes<T>, there = j * stride + v * lanes<T>;
        Vec<T> weight, d_score;
        cell(v, load(s + here), load(d_weights + here), weight, d_score);
        store<T>(weights + there, weight);
        if constexpr (beside) store<T>(d_scores + there, d_score);
        store<T>(d_weights + here, d_score);
      });
  };
  if (d_scores)
    run(Constant<1>{});
  else
    run(Constant<0>{});
}

template <class T, int vectors>
[[gnu::noinline]] void soft_gradient(const T* s, T* d_weights, int64_t count, T scale, const T* top_, const T* rest_,
                                     const T* shift_, T* weights, T* d_scores, int64_t stride) {
  const Vec<T> lowest = minus_infinity<T>();
  Vec<T> top[vectors], rest[vectors], shift[vectors];
  unroll<vectors>([&](auto v) {
    top[v] = load(top_ + v * lanes<T>);
    rest[v] = load(rest_ + v * lanes<T>);
    shift[v] = load(shift_ + v * lanes<T>);
  });
  each_cell<T, vectors>(s, d_weights, count, weights, d_scores, stride,
                        [&](auto v, Vec<T> score, Vec<T> d_weight, Vec<T>& weight, Vec<T>& d_score) {
                          const IntVec<T> hidden = score == lowest;
                          weight = hidden ? Vec<T>{} : exp2<T>(-max(Vec<T>{}, rest[v] - (score - top[v]) * scale));
                          d_score = hidden ? Vec<T>{} : weight * (d_weight - shift[v]);
                        });
}

// The second half, where d_scores changed after the first: their rows.
template <class T, int vectors>
void lay_cells(const T* d_weights, int64_t count, T* d_scores, int64_t stride) {
  constexpr int width = vectors * lanes<T>;
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>(
        [&](auto v) { store<T>(d_scores + j * stride + v * lanes<T>, load(d_weights + j * width + v * lanes<T>)); });
}

// Compact kernels, of s = -d: P = K(d) / l and dS = -K'(d) / l (dP - shift), l = 2^rest. Where K is 0, so are both; K' is
// taken as 0 where a triangle has its top.
template <class T, int vectors>
[[gnu::noinline]] void compact_gradient(const T* s, T* d_weights, int64_t count, Profile profile, const T* rest,
                                        const T* shift_, T* weights, int64_t stride) {
  const Vec<T> zero = {}, one = broadcast(T(1));
  Vec<T> inverse[vectors], shift[vectors];
  unroll<vectors>([&](auto v) {
    inverse[v] = exp2<T>(-load(rest + v * lanes<T>));
    shift[v] = load(shift_ + v * lanes<T>);
  });
  const auto run = [&](auto&& profile_of) {
    each_cell<T, vectors>(s, d_weights, count, weights, nullptr, stride,
                          [&](auto v, Vec<T> score, Vec<T> d_weight, Vec<T>& weight, Vec<T>& d_score) {
                            Vec<T> value, slope;
                            profile_of(score, value, slope);
                            const IntVec<T> flat = slope == zero;
                            weight = value * inverse[v];
                            d_score = flat ? zero : slope * inverse[v] * (d_weight - shift[v]);
                          });
  };
  switch (profile) {
    case Profile::boxcar:
      return run([&](Vec<T> s, Vec<T>& value, Vec<T>& slope) {
        value = s >= -one ? one : zero;
        slope = zero;
      });
    case Profile::epanechnikov:
      return run([&](Vec<T> s, Vec<T>& value, Vec<T>& slope) {
        value = max(zero, one + s);
        slope = value > zero ? one : zero;
      });
    case Profile::triangular:
      return run([&](Vec<T> s, Vec<T>& value, Vec<T>& slope) {
        const Vec<T> distance = square_root(-s);
        value = max(zero, one - distance);
        slope = value > zero && distance > zero ? T(0.5) / distance : zero;
      });
  }
}

// dS times the derivative of softcap * tanh(s / softcap), 1 - tanh^2; bent: softcap * tanh(...) * log2(e). 0 stays 0.
template <class T, int vectors>
void bend_gradient(const T* bent, T* d_scores, int64_t count, double softcap) {
  constexpr int width = vectors * lanes<T>;
  const T factor = T(1 / (softcap * Math<double>::log2_e));
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](auto v) {
      T* const cell = d_scores + j * width + v * lanes<T>;
      const Vec<T> d_score = load(cell), t = load(bent + j * width + v * lanes<T>) * factor;
      store<T>(cell, d_score == T(0) ? d_score : d_score * (T(1) - t * t));
    });
}

// Rows to X as query_sum takes them, from row `first` on.
template <class T>
bool load_summands(const char* const* rows, Dtype dtype, int64_t column_stride, int32_t live, int64_t columns,
                   bool finite, void* x, int64_t first) {
  const int64_t whole = (columns + lanes<T> - 1) / lanes<T> * lanes<T>;
  T* to = static_cast<T*>(x) + first * whole;
  IntVec<T> spoilt = {};
  for (int32_t i = 0; i < live; ++i, to += whole) {
    load_row<T>(rows[i], dtype, column_stride, columns, to);
    for (int64_t d = columns; d < whole; ++d) to[d] = 0;
    for (int64_t d = 0; d < whole; d += lanes<T>) {
      const Vec<T> row = load(to + d);
      const IntVec<T> bad = ~(row - row == T(0));
      spoilt |= bad;
      if (finite) store<T>(to + d, bad ? Vec<T>{} : row);
    }
  }
  return bits_of<T>(spoilt) == 0;
}

// Register tiles as those of scores: `rows` keys x `vectors` of columns, of which rows of X are whole vectors. Of pairs,
// a "query" is two neighbours, in words of T's size.
template <class Product, int vectors, int rows, class T = typename Product::T>
[[gnu::noinline]] void query_sum_block(const T* cells, int64_t stride, int64_t queries, const T* x, int64_t columns,
                                       T* to) {
  Vec<T> sum[rows][vectors] = {};
  for (int64_t q = 0; q < queries; ++q) {
    Vec<T> row[vectors];
    unroll<vectors>([&](auto v) { row[v] = load(x + v * lanes<T>); });
    unroll<rows>([&](auto j) {
      const Vec<T> cell = broadcast(cells[j * stride]);
      unroll<vectors>([&](auto v) { sum[j][v] = Product::apply(sum[j][v], cell, row[v]); });
    });
    cells += 1;
    x += columns;
  }
  unroll<rows>([&](auto j) {
    unroll<vectors>([&](auto v) {
      T* const place = to + j * columns + v * lanes<T>;
      store<T>(place, load(place) + sum[j][v]);
    });
  });
}

// columns: of X and of `to`, a multiple of the lanes.
template <class Product, int rows = key_rows<panel_vectors>, class T = typename Product::T>
void query_sum(const T* cells, int64_t stride, int64_t count, int64_t queries, const T* x, int64_t columns, T* to) {
  for (; count >= rows; count -= rows) {
    int64_t d = 0;
    for (; d + panel_vectors * lanes<T> <= columns; d += panel_vectors * lanes<T>)
      query_sum_block<Product, panel_vectors, rows>(cells, stride, queries, x + d, columns, to + d);
    for (; d < columns; d += lanes<T>)
      query_sum_block<Product, 1, rows>(cells, stride, queries, x + d, columns, to + d);
    cells += rows * stride;
    to += rows * columns;
  }
  if constexpr (rows > 1) {
    if (count > 0) query_sum<Product, (rows + 1) / 2>(cells, stride, count, queries, x, columns, to);
  }
}

// The inner products of rows a[i] and b[i], of whole vectors.
template <class T>
void row_products(const T* a, const T* b, int64_t count, int64_t columns, T* to) {
  for (int64_t i = 0; i < count; ++i, a += columns, b += columns) {
    Vec<T> sum = {};
    for (int64_t d = 0; d < columns; d += lanes<T>) sum += load(a + d) * load(b + d);
    T total = 0;
    for (int lane = 0; lane < lanes<T>; ++lane) total += sum[lane];
    to[i] = total;
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
