// Few queries of bfloat16 over keys and values of it, by products of pairs: two products and two additions a lane.
//   scores   s[j][q] = factor * sum_d K[j][d] Q[q][d]: chains over pairs of dimensions on the lanes, then a tree over the lanes
//   sum      O[q][d] += sum_j P[j][q] V[j][d]: chains over pairs of keys, `pair_rows` of them at a time, from 0
// Products are exact and sums are of float32; weights are rounded to bfloat16, and subnormal numbers count as 0. The order of
// every sum is fixed by the shape alone.
#pragma once
#include "scores.hpp"
#include "sum.hpp"

#if defined(__AVX512BF16__)
namespace foveate::FOVEATE_ISA {
namespace {

constexpr int line_columns = 32;       // of bfloat16 in a vector, and in a line of the cache
constexpr int64_t pair_rows = 16;      // whose weights are rounded together, and whose values stay in L1
constexpr int64_t most_columns = 512;  // of values that are summed together

constexpr int64_t pairs_near = 2048;  // bytes
constexpr bool prefetches_pairs(int queries) { return queries > 1; }

inline __mmask32 columns_mask(int64_t count) {
  return __mmask32(count < 32 ? (uint32_t(1) << count) - 1 : ~uint32_t(0));
}

[[gnu::always_inline]] inline void add_pairs(Vec<float>& sum, __m512i a, __m512i b) {
  sum = _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// Numbers of float32 that bfloat16 has, as such, in place.
void narrow_to_pairs(void* data, int64_t count) {
  char* const p = static_cast<char*>(data);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 some = __mmask16(columns_mask(count - i));
    const __m512i bits = _mm512_maskz_loadu_epi32(some, p + i * 4);
    _mm256_mask_storeu_epi16(p + i * 2, some, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
  }
}

inline int64_t pair_query_size(int64_t columns) { return round_up(columns, line_columns) * 2; }

// Contiguous columns, filled up with 0.
void load_pair_query(const char* from, int64_t column_stride, int64_t columns, void* to) {
  char* const row = static_cast<char*>(to);
  memset(row, 0, size_t(pair_query_size(columns)));
  for (int64_t d = 0; d < columns; ++d) memcpy(row + d * 2, from + d * column_stride, 2);
}

// side: keys side by side. A single query of long rows computes little with each line: it reads two keys at a time, and what
// fetches ahead by itself is fast enough.
template <int queries, int side>
[[gnu::noinline]] void pair_scores_of(const char* query, int64_t query_size, const Run& run, int64_t count,
                                      int64_t head_size, float factor, float* s) {
  constexpr int block = lanes<float> / queries;  // keys at a time: as many sums as a vector has lanes
  const bool one_stream = run.stride == head_size * 2;
  const int64_t ahead_apart = one_stream ? line_bytes : run.stride,
                ahead_step = one_stream ? side * line_bytes : line_bytes;
  for (int64_t first = 0; first < count; first += block) {
    alignas(vector_bytes) float sums[lanes<float>][lanes<float>];
    for (int64_t beside = 0; beside < block; beside += side) {
      const char* row[side];
      for (int j = 0; j < side; ++j)
        row[j] = run.data + (first + beside + j < count ? first + beside + j : count - 1) * run.stride;
      const char* ahead = run.ahead + (first + beside) * run.stride;
      Vec<float> sum[side * queries] = {};
      const auto add = [&](int64_t d, auto load_key) INLINED {
        __m512i x[queries];
        unroll<queries>([&](int q) INLINED { x[q] = _mm512_loadu_si512(query + q * query_size + d * 2); });
        unroll<side>([&](int j) INLINED {
          const __m512i key = load_key(row[j] + d * 2);
          unroll<queries>([&](int q) INLINED { add_pairs(sum[j * queries + q], key, x[q]); });
        });
      };
      int64_t d = 0;
      for (; d + line_columns <= head_size; d += line_columns) {
        if constexpr (side == 4) {
          unroll<side>([&](int j) INLINED { prefetch_far(ahead + j * ahead_apart); });
          ahead += ahead_step;
        }
        add(d, [](const char* p) INLINED { return _mm512_loadu_si512(p); });
      }
      if (d < head_size) {
        const __mmask32 there = columns_mask(head_size - d);
        add(d, [&](const char* p) INLINED { return _mm512_maskz_loadu_epi16(there, p); });
      }
      if constexpr (side == block) {
        store<float>(s + first * queries, sum_of_lanes<float>(sum) * factor);
      } else {
        unroll<side * queries>([&](int i) INLINED { store<float>(sums[beside * queries + i], sum[i]); });
      }
    }
    if constexpr (side < block) {
      Vec<float> sum[lanes<float>];
      unroll<lanes<float>>([&](int i) INLINED { sum[i] = load(sums[i]); });
      store<float>(s + first * queries, sum_of_lanes<float>(sum) * factor);
    }
  }
}

template <class F>
inline void with_queries(int32_t queries, F&& f) {
  if (queries == 1) f(Constant<1>{});
  if (queries == 2) f(Constant<2>{});
  if (queries == 4) f(Constant<4>{});
}

// query: rows of load_pair_query. s: [count rounded up to whole vectors][queries]. keys: contiguous columns.
void pair_scores(const void* query, int32_t queries, const Rows& keys, int64_t count, int64_t head_size, double factor,
                 float* s) {
  const int64_t size = pair_query_size(head_size);
  with_queries(queries, [&](auto n) {
    in_runs(
        keys, count, 0, head_size * 2, lanes<float> / n,
        [&](int64_t first, int64_t some, const Run& run, const Rows&) {
          const auto scores = n == 1 && head_size > 64 ? pair_scores_of < n, n == 1 ? 2 : 4 > : pair_scores_of<n, 4>;
          scores(static_cast<const char*>(query), size, run, some, head_size, float(factor), s + first * n);
        },
        far_ahead);
  });
}

// Weights [key][query] as pairs of two keys, a word for each query; 0 for a key that is not there, up to a whole vector.
template <int queries>
inline void round_weights(const float* weights, int64_t count, int32_t (*words)[queries]) {
  alignas(64) uint16_t from[32];  // where a half of a word stands among rounded weights
  for (int i = 0; i < 32; ++i) from[i] = uint16_t((i / 2 / queries * 2 + i % 2) * queries + i / 2 % queries);
  const __m512i order = _mm512_load_si512(from);
  for (int64_t i = 0; i < count * queries; i += 32) {
    const int64_t left = count * queries - i;
    const __m512 low = _mm512_maskz_loadu_ps(__mmask16(columns_mask(left)), weights + i);
    const __m512 high = _mm512_maskz_loadu_ps(__mmask16(left > 16 ? columns_mask(left - 16) : 0), weights + i + 16);
    _mm512_storeu_si512(words[0] + i / 2, _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low)));
  }
}

// What to prefetch in a pass with each two rows: lines of what is far ahead to L2, and of what is near to L1.
struct AheadOfPairs {
  const char *far, *near;
  int64_t row;   // from the lines of the first row to those of the second
  int64_t step;  // to those of the next two
};

// Columns of `vectors` vectors of 32, of the last of which `columns` where they are not `whole`. Inlined: called for each block
// of rows it took half as much time again.
template <int queries, int vectors, bool whole>
[[gnu::always_inline]] inline void pair_sum_block(const int32_t (*words)[queries], const char* row, int64_t row_stride,
                                                  int64_t count, int64_t columns, AheadOfPairs ahead, float* output,
                                                  int64_t output_stride) {
  const __mmask32 there = whole ? ~__mmask32(0) : columns_mask(columns);
  Vec<float> sum[queries][vectors * 2] = {};
  const auto add = [&](const int32_t* word, auto load_second) INLINED {
    __m512i weight[queries];
    unroll<queries>([&](int q) INLINED { weight[q] = _mm512_set1_epi32(word[q]); });
    unroll<vectors>([&](int v) INLINED {
      __m512i a = whole ? _mm512_loadu_si512(row + v * 64) : _mm512_maskz_loadu_epi16(there, row + v * 64);
      __m512i b = load_second(row + row_stride + v * 64);
      asm("" : "+v"(a), "+v"(b));  // loaded once: rows begin anywhere, and a load of two lines costs two
      const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
      unroll<queries>([&](int q) INLINED {
        add_pairs(sum[q][2 * v], low, weight[q]);
        add_pairs(sum[q][2 * v + 1], high, weight[q]);
      });
    });
  };
  for (int64_t j = 0; j + 2 <= count; j += 2, row += 2 * row_stride, ++words) {
    if constexpr (prefetches_pairs(queries)) {
      unroll<2 * vectors>([&](int i) INLINED {
        const int64_t at = i / vectors * ahead.row + i % vectors * line_bytes;
        prefetch_far(ahead.far + at);
        prefetch_near(ahead.near + at);
      });
      ahead.far += ahead.step;
      ahead.near += ahead.step;
    }
    add(*words,
        [&](const char* p) INLINED { return whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(there, p); });
  }
  if (count % 2) add(*words, [](const char*) INLINED { return _mm512_setzero_si512(); });
  unroll<queries>([&](int q) INLINED {
    unroll<vectors>([&](int v) INLINED {
      float* const cell = output + q * output_stride + v * 32;
      // blocks of four columns: 0, 2, 4, 6 of the first, 1, 3, 5, 7 of the second
      const __m512 low = sum[q][2 * v], high = sum[q][2 * v + 1];
      const __m512 first = _mm512_shuffle_f32x4(low, high, 0x44), second = _mm512_shuffle_f32x4(low, high, 0xee);
      store<float>(cell, load(cell) + (Vec<float>)_mm512_shuffle_f32x4(first, first, 0xd8));
      if (whole || columns > 16)
        store<float>(cell + 16, load(cell + 16) + (Vec<float>)_mm512_shuffle_f32x4(second, second, 0xd8));
    });
  });
}

template <int queries>
void pair_sum_of(const float* weights, const Run& run, int64_t count, int64_t columns, float* output,
                 int64_t output_stride) {
  const int64_t whole = columns / line_columns, rest = columns % line_columns, bytes = columns * 2;
  const bool one_stream = run.stride == bytes;
  const int64_t near = rows_near(bytes, pairs_near) * run.stride;
  constexpr int64_t most = pair_rows * queries < line_columns ? line_columns : pair_rows * queries;
  alignas(64) int32_t words[most / 2 / queries][queries];  // room for a whole vector
  for (int64_t first = 0; first < count; first += pair_rows) {
    const int64_t now = count - first < pair_rows ? count - first : pair_rows;
    round_weights<queries>(weights + first * queries, now, words);
    const char* const row = run.data + first * run.stride;
    const char *far = run.ahead + first * run.stride, *next = row + near;
    const auto pass = [&](auto vectors, auto all, int64_t v) INLINED {
      const int64_t lines = vectors * line_bytes, apart = one_stream ? lines : run.stride;
      pair_sum_block<queries, vectors, all>(words, row + v * 64, run.stride, now, rest, {far, next, apart, 2 * apart},
                                            output + v * 32, output_stride);
      far += one_stream ? now * lines : lines;
      next += one_stream ? now * lines : lines;
    };
    int64_t v = 0;
    if constexpr (queries == 1)  // of short rows the whole, for what fetches them
      for (; v + 4 <= whole; v += 4) pass(Constant<4>{}, Constant<1>{}, v);
    for (; v + 2 <= whole; v += 2) pass(Constant<2>{}, Constant<1>{}, v);
    for (; v < whole; ++v) pass(Constant<1>{}, Constant<1>{}, v);
    if (rest > 0) pass(Constant<1>{}, Constant<0>{}, v);
  }
}

// values: contiguous columns. output: rows of whole vectors.
void pair_sum(const float* weights, int32_t queries, const Rows& values, int64_t count, int64_t value_size,
              float* output, int64_t output_stride) {
  static_assert(pair_rows * most_columns * 2 <= gather_bytes);
  const int64_t slice = values.list && value_size > most_columns ? most_columns : value_size;
  with_queries(queries, [&](auto n) {
    for (int64_t d = 0; d < value_size; d += slice) {
      const int64_t columns = value_size - d < slice ? value_size - d : slice;
      in_runs(
          values, count, d * 2, columns * 2, pair_rows,
          [&](int64_t first, int64_t some, const Run& run, const Rows&) {
            pair_sum_of<n>(weights + first * n, run, some, columns, output + d, output_stride);
          },
          far_ahead);
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
