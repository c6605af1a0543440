// The softmax of few queries in the order in which panels of queries have it (select/soft.hpp), cut so that tiles may be
// taken in any order, and folded one after the other at the end:
//   top = max_j s_j,  m' = max(m, top),  P_j = 2^(scale (s_j - m')),  sum = sum_j P_j, key j in chain j % 4
//   alpha = 2^(scale (m - m')),  l' = alpha l + sum,  O' = alpha O + (sum_j P_j V_j, a chain over j from 0)
// Scores are s[j][q], with room for a whole vector of keys more.
#pragma once
#include "../math.hpp"
#include "../pack.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Fills up to whole vectors of keys, and to whole rounds of the chains, with keys that are not seen: how many cells there are.
template <class T>
int64_t fill_vectors(T* s, int32_t queries, int64_t count) {
  constexpr int64_t step = lanes<T> > sum_chains ? lanes<T> : sum_chains;
  const int64_t whole = (count + step - 1) / step * step * queries;
  for (int64_t i = count * queries; i < whole; ++i) s[i] = minus_infinity<T>()[0];
  return whole;
}

template <class T>
void decode_tops(T* s, int32_t queries, int64_t count, T* tops) {
  const int64_t whole = fill_vectors(s, queries, count);
  Vec<T> top[query_group];
  for (int32_t t = 0; t < queries; ++t) top[t] = minus_infinity<T>();
  for (int64_t i = 0; i < whole; i += lanes<T> * queries)
    for (int32_t t = 0; t < queries; ++t) top[t] = max(load(s + i + t * lanes<T>), top[t]);
  for (int32_t q = 0; q < queries; ++q) {
    T now = minus_infinity<T>()[0];
    for (int32_t c = q; c < lanes<T> * queries; c += queries) {
      const T other = top[c / lanes<T>][c % lanes<T>];
      now = other > now ? other : now;
    }
    tops[q] = now;
  }
}

template <class T, int queries>
[[gnu::noinline]] void decode_chains(const T* weights, int64_t whole, T* sums) {
  constexpr int cells = sum_chains * queries;
  T sum[cells] = {};
  for (int64_t i = 0; i < whole; i += cells)
    for (int c = 0; c < cells; ++c) sum[c] += weights[i + c];
  for (int q = 0; q < queries; ++q)
    sums[q] = (sum[q] + sum[queries + q]) + (sum[2 * queries + q] + sum[3 * queries + q]);
}

// s becomes the weights, m being m'.
template <class T>
void decode_weights(T* s, int32_t queries, int64_t count, double scale, const T* m, T* sums) {
  const int64_t whole = fill_vectors(s, queries, count);
  Vec<T> offset[query_group] = {};
  for (int32_t c = 0; c < lanes<T> * queries; ++c) {
    const T now = m[c % queries];
    offset[c / lanes<T>][c % lanes<T>] = now == minus_infinity<T>()[0] ? T(0) : now;
  }
  for (int64_t i = 0; i < whole; i += lanes<T> * queries)
    for (int32_t t = 0; t < queries; ++t) {
      T* cell = s + i + t * lanes<T>;
      store<T>(cell, exp2<T>((load(cell) - offset[t]) * T(scale)));
    }
  const auto chains = queries == 1 ? decode_chains<T, 1> : queries == 2 ? decode_chains<T, 2> : decode_chains<T, 4>;
  chains(s, whole, sums);
}

// parts[q][d] goes on as one chain over these keys. Rows stay in L1 for further queries and columns.
template <class T, int queries, int vectors>
[[gnu::noinline]] void decode_chain_block(const T* weights, const char* row, int64_t row_stride, int64_t count,
                                          T* parts, int64_t stride) {
  Vec<T> sum[queries][vectors];
  unroll<queries>([&](int q) INLINED {
    unroll<vectors>([&](int v) INLINED { sum[q][v] = load(parts + q * stride + v * lanes<T>); });
  });
  for (int64_t j = 0; j < count; ++j, row += row_stride, weights += queries) {
    const T* const value = reinterpret_cast<const T*>(row);
    unroll<vectors>([&](int v) INLINED {
      const Vec<T> x = load_anywhere<T>(value + v * lanes<T>);
      unroll<queries>([&](int q) INLINED { sum[q][v] += broadcast(weights[q]) * x; });
    });
  }
  unroll<queries>([&](int q) INLINED {
    unroll<vectors>([&](int v) INLINED { store<T>(parts + q * stride + v * lanes<T>, sum[q][v]); });
  });
}

// The last columns, fewer than a vector.
template <class T, int queries>
void decode_chain_rest(const T* weights, const char* row, int64_t row_stride, int64_t count, int64_t columns, T* parts,
                       int64_t stride) {
  for (int64_t j = 0; j < count; ++j, row += row_stride, weights += queries) {
    alignas(vector_bytes) T value[lanes<T>] = {};
    memcpy(value, row, size_t(columns) * sizeof(T));
    for (int q = 0; q < queries; ++q) {
      T* const part = parts + q * stride;
      store<T>(part, load(part) + broadcast(weights[q]) * load(value));
    }
  }
}

template <class T, int queries>
void decode_chain_of(const T* weights, const char* values, int64_t value_stride, int64_t count, int64_t value_size,
                     T* parts, int64_t stride) {
  constexpr int64_t rows = 16;
  constexpr int64_t wide = (queries < 4 ? 8 : 4) * lanes<T>;
  for (int64_t j = 0; j < count; j += rows, weights += rows * queries, values += rows * value_stride) {
    const int64_t now = count - j < rows ? count - j : rows;
    int64_t d = 0;
    const auto pass = [&](auto vectors) {
      constexpr int64_t columns = vectors * lanes<T>;
      for (; d + columns <= value_size; d += columns)
        decode_chain_block<T, queries, vectors>(weights, values + d * int64_t(sizeof(T)), value_stride, now, parts + d,
                                                stride);
    };
    pass(Constant<int(wide / lanes<T>)>{});
    pass(Constant<2>{});
    pass(Constant<1>{});
    if (d < value_size)
      decode_chain_rest<T, queries>(weights, values + d * int64_t(sizeof(T)), value_stride, now, value_size - d,
                                    parts + d, stride);
  }
}

template <class T>
void decode_chain(const T* weights, int32_t queries, const char* values, int64_t value_stride, int64_t count,
                  int64_t value_size, T* parts, int64_t stride) {
  const auto chain = queries == 1   ? decode_chain_of<T, 1>
                     : queries == 2 ? decode_chain_of<T, 2>
                                    : decode_chain_of<T, 4>;
  chain(weights, values, value_stride, count, value_size, parts, stride);
}

// part: the sum of the tile's values by its weights. Rows of outputs and parts are whole vectors.
template <class T>
void decode_fold(int32_t queries, double scale, const T* m, const T* next_m, const T* sums, const T* parts,
                 int64_t stride, int64_t value_size, T* l, T* outputs) {
  for (int32_t q = 0; q < queries; ++q) {
    const T offset = next_m[q] == minus_infinity<T>()[0] ? T(0) : next_m[q];
    const Vec<T> alpha = exp2<T>((broadcast(m[q]) - broadcast(offset)) * T(scale));
    l[q] *= alpha[0];
    T* output = outputs + q * stride;
    const T* part = parts + q * stride;
    for (int64_t d = 0; d < value_size; d += lanes<T>) store<T>(output + d, load(output + d) * alpha + load(part + d));
    l[q] += sums[q];  // apart from the product, as panels round it
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
