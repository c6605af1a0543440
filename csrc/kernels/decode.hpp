// Few queries against many keys: the dimensions stand on the lanes, and every key and value is read once, for up to four
// queries together. Scores and the sum stand in decode/; here, what makes weights of scores s[j][q], their bias before.
// Accumulators are T; the order of every sum is fixed by the shape alone.
#pragma once
#include "decode/scores.hpp"
#include "decode/sum.hpp"
#include "math.hpp"
#include "spaced.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// s[j][q] += bias[q][j] * log2(e)
template <class T>
void decode_bias(T* s, int32_t queries, int64_t count, const char* const* rows, Dtype dtype, int64_t key_stride,
                 int32_t live) {
  for (int32_t q = 0; q < live; ++q) {
    T* const cells = s + q;
    for (int64_t j = 0; j < count; j += lanes<T>) {
      const int64_t keys = count - j < lanes<T> ? count - j : lanes<T>;
      alignas(vector_bytes) T bias[lanes<T>] = {};
      load_row<T>(rows[q] + j * key_stride, dtype, key_stride, keys, bias);
      store<T>(bias, in_base_2<T>(load(bias)));
      for (int64_t k = 0; k < keys; ++k) cells[(j + k) * queries] += bias[k];
    }
  }
}

// The online softmax: s becomes the weights; m, l: one T a query; output rows are scaled by alpha. What is not seen is
// -inf in s. The sum of a query runs in as many chains as a vector has lanes, key j in chain j % lanes, whatever the
// number of queries: `queries` vectors hold one key of every chain.
template <class T>
void decode_soft(T* s, int32_t queries, int64_t count, double scale, T* m, T* l, T* outputs, int64_t output_stride,
                 int64_t value_size) {
  const Vec<T> lowest = minus_infinity<T>();
  const int64_t whole = (count + lanes<T> - 1) / lanes<T> * lanes<T> * queries;
  for (int64_t i = count * queries; i < whole; ++i) s[i] = lowest[0];
  Vec<T> top[query_group], offset[query_group], sum[query_group] = {};
  for (int32_t t = 0; t < queries; ++t) top[t] = lowest;
  for (int64_t i = 0; i < whole; i += lanes<T> * queries)
    for (int32_t t = 0; t < queries; ++t) top[t] = max(load(s + i + t * lanes<T>), top[t]);
  for (int32_t q = 0; q < queries; ++q) {
    T now = lowest[0];
    for (int32_t c = q; c < lanes<T> * queries; c += queries) {
      const T other = top[c / lanes<T>][c % lanes<T>];
      now = other > now ? other : now;
    }
    now = now > m[q] ? now : m[q];
    const T shift = now == lowest[0] ? T(0) : now;
    for (int32_t c = q; c < lanes<T> * queries; c += queries) offset[c / lanes<T>][c % lanes<T>] = shift;
    const T alpha = exp2<T>((broadcast(m[q]) - broadcast(shift)) * T(scale))[0];
    m[q] = now;
    l[q] *= alpha;
    T* output = outputs + q * output_stride;
    if (alpha != T(1))
      for (int64_t d = 0; d < value_size; ++d) output[d] *= alpha;
  }
  for (int64_t i = 0; i < whole; i += lanes<T> * queries)
    for (int32_t t = 0; t < queries; ++t) {
      T* cell = s + i + t * lanes<T>;
      const Vec<T> weight = exp2<T>((load(cell) - offset[t]) * T(scale));
      sum[t] += weight;
      store<T>(cell, weight);
    }
  for (int32_t q = 0; q < queries; ++q)
    for (int32_t c = q; c < lanes<T> * queries; c += queries) l[q] += sum[c / lanes<T>][c % lanes<T>];
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
