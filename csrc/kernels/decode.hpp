// Few queries against many keys: bound by memory, so every key and value is read once, in whole rows, for up to four
// queries together, and widened in registers. The dimensions stand on the lanes:
//   decode_scores:  s[j][q]  = sum_d K[j][d] Q[q][d]        (lanes chains over d, then a tree over the lanes)
//   decode_soft:    the online softmax of soft.hpp, for s[j][q]
//   decode_sum:     O[q][d] += sum_j P[j][q] V[j][d]        (chains over 32 j, from 0)
// Accumulators are T; the order of every sum is fixed by the shape alone.
#pragma once
#include "math.hpp"
#include "pack.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// How far ahead of the loads to prefetch, in bytes: 4 to 6 KB in sequential order is where DRAM kept up.
constexpr int64_t prefetch_ahead = 6144;

// As load_wide, of the first `count` elements, 0 beyond.
template <class T, Dtype dtype>
inline Vec<T> load_wide_some(const char* p, int64_t count) {
  alignas(vector_bytes) char whole[vector_bytes] = {};
  memcpy(whole, p, size_t(count * size_of(dtype)));
  return load_wide<T, dtype>(whole);
}

// One round of the tree that sums the lanes of many vectors at once: vectors a and b become one, whose lanes hold the
// sums of neighbors, a's where bit `block` of the lane is 0, b's where it is 1.
template <class T, int block>
[[gnu::always_inline]] inline Vec<T> fold(Vec<T> a, Vec<T> b) {
  Vec<T> pair[2] = {a, b};
  swap_blocks<T, block>(pair[0], pair[1]);
  return pair[0] + pair[1];
}
// Lane i of the result: the sum of the lanes of x[i].
template <class T, int block = 1>
[[gnu::always_inline]] inline Vec<T> sum_of_lanes(const Vec<T>* x) {
  // x[i] and x[i + block] meet in the round of `block`
  if constexpr (block == lanes<T>) {
    return x[0];
  } else {
    return fold<T, block>(sum_of_lanes<T, block * 2>(x), sum_of_lanes<T, block * 2>(x + block));
  }
}

// keys: contiguous columns. queries: rows of T, `query_stride` elements apart, zero up to a whole vector.
template <class T, Dtype dtype, int queries>
[[gnu::noinline]] void decode_scores_of(const T* query, int64_t query_stride, const Rows& keys, int64_t count,
                                        int64_t head_size, T* s) {
  constexpr int block = lanes<T> / queries;  // keys at a time: as many sums as a vector has lanes
  constexpr int64_t step = lanes<T> * size_of(dtype);
  const int64_t row_bytes = head_size * size_of(dtype);
  const bool sequential = keys.row_stride == row_bytes;  // within a page, too
  for (int64_t first = 0; first < count; first += block) {
    const char* row[block];
    for (int j = 0; j < block; ++j) row[j] = keys.row(first + j < count ? first + j : count - 1);
    const char* ahead = row[0] + prefetch_ahead;
    Vec<T> sum[lanes<T>] = {};
    const auto add = [&](auto load_key, int64_t d) {
      Vec<T> x[queries];
      unroll<queries>([&](int q) INLINED { x[q] = load(query + q * query_stride + d); });
      unroll<block>([&](int j) INLINED {
        const Vec<T> key = load_key(row[j]);
        unroll<queries>([&](int q) INLINED { sum[j * queries + q] += key * x[q]; });
      });
    };
    int64_t d = 0, at = 0;
    for (; d + lanes<T> <= head_size; d += lanes<T>, at += step) {
      if (sequential) {
        unroll<block>([&](int j) INLINED {
          if (j * step % 64 == 0) __builtin_prefetch(ahead + j * step);
        });
        ahead += block * step;
      }
      add([&](const char* p) { return load_wide<T, dtype>(p + at); }, d);
    }
    if (d < head_size) add([&](const char* p) { return load_wide_some<T, dtype>(p + at, head_size - d); }, d);
    store<T>(s + first * queries, sum_of_lanes<T>(sum));
  }
}

template <class T, Dtype dtype>
void decode_scores_for(const T* query, int64_t query_stride, int32_t queries, const Rows& keys, int64_t count,
                       int64_t head_size, T* s) {
  if constexpr (lanes<T> == 2) {  // a vector holds two sums: two queries at a time would need a gather of s
    for (int64_t j = 0; j < count; ++j)
      for (int32_t q = 0; q < queries; q += 2) {
        T two[2];
        decode_scores_of<T, dtype, 2>(query + q * query_stride, queries > 1 ? query_stride : 0,
                                      {keys.row(j), keys.dtype, 0, keys.column_stride}, 1, head_size, two);
        s[j * queries + q] = two[0];
        if (q + 1 < queries) s[j * queries + q + 1] = two[1];
      }
  } else {
    if (queries == 1) decode_scores_of<T, dtype, 1>(query, query_stride, keys, count, head_size, s);
    if (queries == 2) decode_scores_of<T, dtype, 2>(query, query_stride, keys, count, head_size, s);
    if (queries == 4) decode_scores_of<T, dtype, 4>(query, query_stride, keys, count, head_size, s);
  }
}

// queries: 1, 2 or 4. s: [count rounded up to whole vectors][queries].
template <class T>
void decode_scores(const T* query, int64_t query_stride, int32_t queries, const Rows& keys, int64_t count,
                   int64_t head_size, T* s) {
  with_wide_dtype<T>(keys.dtype, [&](auto dtype) {
    decode_scores_for<T, dtype>(query, query_stride, queries, keys, count, head_size, s);
  });
}

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

// Vectors of the output held in registers. Values that must be widened are widened once, for all queries; others are
// best read in rows as long as can be, for two queries at a time.
#if defined(__AVX512F__) || defined(FOVEATE_NEON)
constexpr int decode_sums = 16;
#else
constexpr int decode_sums = 8;
#endif

template <class T, Dtype dtype, int queries, int vectors>
[[gnu::noinline]] void decode_sum_block(const T* weights, int32_t weight_stride, const Rows& values, int64_t first,
                                        int64_t count, int64_t row_ahead, T* output, int64_t output_stride) {
  constexpr int64_t step = lanes<T> * size_of(dtype);
  Vec<T> sum[queries][vectors] = {};
  for (int64_t j = 0; j < count; ++j, weights += weight_stride) {
    const char* const row = values.row(j) + first * size_of(dtype);
    for (int64_t at = 0; at < row_ahead; at += 64) __builtin_prefetch(row + prefetch_ahead + at);
    unroll<vectors>([&](int v) INLINED {
      const Vec<T> value = load_wide<T, dtype>(row + v * step);
      unroll<queries>([&](int q) INLINED { sum[q][v] += broadcast(weights[q]) * value; });
    });
  }
  unroll<queries>([&](int q) INLINED {
    unroll<vectors>([&](int v) INLINED {
      T* cell = output + q * output_stride + v * lanes<T>;
      store<T>(cell, load(cell) + sum[q][v]);
    });
  });
}

// row_ahead: bytes of each row to prefetch.
template <class T, Dtype dtype, int queries>
void decode_sum_rows(const T* weights, int32_t weight_stride, const Rows& values, int64_t count, int64_t value_size,
                     int64_t row_ahead, T* output, int64_t output_stride) {
  constexpr int vectors = decode_sums / queries;
  constexpr int64_t wide = vectors * lanes<T>;
  int64_t d = 0;
  for (; d + wide <= value_size; d += wide, row_ahead = 0)
    decode_sum_block<T, dtype, queries, vectors>(weights, weight_stride, values, d, count, row_ahead, output + d,
                                                 output_stride);
  for (; d + lanes<T> <= value_size; d += lanes<T>, row_ahead = 0)
    decode_sum_block<T, dtype, queries, 1>(weights, weight_stride, values, d, count, row_ahead, output + d,
                                           output_stride);
  if (d == value_size) return;
  Vec<T> sum[queries] = {};
  for (int64_t j = 0; j < count; ++j) {
    const char* const row = values.row(j) + d * size_of(dtype);
    const Vec<T> value = load_wide_some<T, dtype>(row, value_size - d);
    unroll<queries>([&](int q) INLINED { sum[q] += broadcast(weights[j * weight_stride + q]) * value; });
  }
  unroll<queries>([&](int q) INLINED {
    T* cell = output + q * output_stride + d;
    store<T>(cell, load(cell) + sum[q]);
  });
}

template <class T, Dtype dtype>
void decode_sum_for(const T* weights, int32_t queries, Rows values, int64_t count, int64_t value_size, T* output,
                    int64_t output_stride) {
  constexpr int together = size_of(dtype) == sizeof(T) ? 2 : 4;
  constexpr int64_t some = 32;  // keys whose values stay in L1 for further queries or columns
  const int64_t row_bytes = value_size * size_of(dtype);
  for (; count > 0; count -= some, values = values.from(some), weights += some * queries) {
    const int64_t now = count < some ? count : some;
    const auto rows = [&](auto n, int32_t first) {
      decode_sum_rows<T, dtype, n>(weights + first, queries, values, now, value_size, first ? 0 : row_bytes,
                                   output + first * output_stride, output_stride);
    };
    if (queries == 1) rows(Constant<1>{}, 0);
    if (queries == 2) rows(Constant<2>{}, 0);
    for (int32_t q = 0; queries == query_group && q < queries; q += together) rows(Constant<together>{}, q);
  }
}

// values: contiguous columns. output: rows of T, of whole vectors.
template <class T>
void decode_sum(const T* weights, int32_t queries, const Rows& values, int64_t count, int64_t value_size, T* output,
                int64_t output_stride) {
  with_wide_dtype<T>(values.dtype, [&](auto dtype) {
    decode_sum_for<T, dtype>(weights, queries, values, count, value_size, output, output_stride);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
