// Products of the backward pass alone.
//   query_sum   to[j][d] += sum_q cells[j][q] X[q][d]      (a chain over the q of one call, from 0: dV from P, dK from dS)
//   dot_rows    to[i] = sum_d a[i][d] b[i][d]              (delta, from dO and O)
#pragma once
#include "gemm.hpp"
#include "pack.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Rows to X as query_sum takes them, from row `first` on.
template <class T>
bool load_summands(const char* const* rows, Dtype dtype, int64_t column_stride, int32_t live, int64_t columns,
                   bool finite, T* x, int64_t first) {
  const int64_t whole = (columns + lanes<T> - 1) / lanes<T> * lanes<T>;
  T* to = x + first * whole;
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
// a "query" is two neighbors, in words of T's size.
template <class Product, int vectors, int rows, class T = typename Product::T>
[[gnu::noinline]] void query_sum_block(const T* cells, int64_t stride, int64_t queries, const T* x, int64_t columns,
                                       T* to) {
  Vec<T> sum[rows][vectors] = {};
  RowBases<T, rows> cell_of(cells, stride);
  for (int64_t q = 0; q < queries; ++q) {
    Vec<T> row[vectors];
    unroll<vectors>([&](int v) INLINED { row[v] = load(x + v * lanes<T>); });
    unroll<rows>([&](int j) INLINED {
      const Vec<T> cell = broadcast(cell_of.of(j));
      unroll<vectors>([&](int v) INLINED { sum[j][v] = Product::apply(sum[j][v], cell, row[v]); });
    });
    cell_of.next();
    x += columns;
  }
  unroll<rows>([&](int j) INLINED {
    unroll<vectors>([&](int v) INLINED {
      T* const place = to + j * columns + v * lanes<T>;
      store<T>(place, load(place) + sum[j][v]);
    });
  });
}

template <class Product, int rows = key_rows<panel_vectors>, class T = typename Product::T>
void query_sum_rows(const T* cells, int64_t stride, int64_t count, int64_t queries, const T* x, int64_t columns,
                    T* to) {
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
    if (count > 0) query_sum_rows<Product, (rows + 1) / 2>(cells, stride, count, queries, x, columns, to);
  }
}

// columns: of X and of `to`, a multiple of the lanes.
template <class Product, class T = typename Product::T>
void query_sum(const T* cells, int64_t stride, int64_t count, int64_t queries, const T* x, int64_t columns, T* to) {
  query_sum_rows<Product>(cells, Product::words(stride), count, Product::words(queries), x, columns, to);
}

// The inner products of rows a[i] and b[i], of whole vectors.
template <class T>
void dot_rows(const T* a, const T* b, int64_t count, int64_t columns, T* to) {
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
