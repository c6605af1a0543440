// Few queries over keys and values of int8 and int4, by integer dot products (AVX-512 VNNI). Queries and weights become
// numbers of fixed point, of two or three signed bytes, with a scale for each query or for the weights of some keys; the
// sums of their products with what is stored are exact.
//   scores   16 keys on the lanes, transposed four bytes at a time: s[key] += sum of K[key][4] (bytes) * Q[4] (bytes)
//   sum      digit_sum.hpp
// The instruction multiplies bytes without a sign by bytes with one: what is stored comes as an offset of 128 or 8 more,
// whose share of the sum is where the sum begins.
#pragma once
#include "../math.hpp"
#include "runs.hpp"

#if defined(__AVX512VNNI__)
namespace foveate::FOVEATE_ISA {
namespace {

constexpr int most_digits = 3;
constexpr int64_t piece = 16;  // bytes of a row that are transposed together

// The largest number of so many digits of a sign each.
constexpr float largest_of(int digits) { return digits == 2 ? 127.0f * 256 : 127.0f * 65536; }
constexpr int32_t offset_of(Dtype dtype) { return dtype == Dtype::int4 ? 8 : 128; }

// Digit i of the numbers x, from the lowest: each of -128..127.
template <int i>
inline __m512i digit_of(__m512i x) {
  if constexpr (i == 0) return _mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24);
  // what is left of x without the lower digits, rounded to the nearest
  const __m512i rest = _mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(i == 1 ? 0x80 : 0x8080)), 8 * i);
  return _mm512_srai_epi32(_mm512_slli_epi32(rest, 24), 24);
}

// sum += the products of four bytes without a sign and four with one, in each lane. Written as the instruction: of the
// intrinsic GCC makes copies of all sums, some of them in memory.
[[gnu::always_inline]] inline void add_products(__m512i& sum, __m512i bytes, __m512i word) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(word));
}
// The same word for all lanes.
[[gnu::always_inline]] inline void add_products(__m512i& sum, __m512i bytes, const int32_t& word) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(bytes), "m"(word));
}

// The queries of a group, of `queries` and `digits`, for keys of a dtype: [words of a row][half of a byte][query][digit].
struct DigitQueries {
  float scale[query_group];
  int32_t begin[query_group * most_digits];  // of the sums of a block, [block][query][digit] behind the words
  int64_t words;                             // of a row, of four bytes each
};
inline int64_t words_of(Dtype dtype, int64_t columns) { return round_up(row_bytes(dtype, columns), piece) / 4; }
constexpr int halves_of(Dtype dtype) { return dtype == Dtype::int4 ? 2 : 1; }

inline int64_t blocks_of(int64_t block, int64_t columns) { return block > 0 ? (columns + block - 1) / block : 1; }

// Bytes of a group of queries.
int64_t digit_queries_size(Dtype dtype, int64_t block, int64_t columns) {
  const int64_t numbers = words_of(dtype, columns) * halves_of(dtype) + blocks_of(block, columns);
  return int64_t(sizeof(DigitQueries)) + numbers * query_group * most_digits * 4;
}

// Where digit `digit` of column d stands among the bytes of the words.
inline int64_t digit_place(Dtype dtype, int64_t d, int32_t q, int32_t queries, int digit, int digits) {
  const int64_t byte = dtype == Dtype::int4 ? d / 2 : d, half = dtype == Dtype::int4 ? d % 2 : 0;
  return (((byte / 4 * halves_of(dtype) + half) * queries + q) * digits + digit) * 4 + byte % 4;
}

// Rows of queries as digits. The scale of one that is not finite is NaN, as its scores are.
void load_digit_queries(const float* query, int64_t query_stride, int32_t queries, int32_t digits, Dtype dtype,
                        int64_t block, int64_t columns, void* to) {
  DigitQueries& x = *static_cast<DigitQueries*>(to);
  x.words = words_of(dtype, columns);
  int8_t* const bytes = reinterpret_cast<int8_t*>(&x + 1);
  const int64_t size = x.words * halves_of(dtype) * queries * digits * 4, blocks = blocks_of(block, columns);
  memset(bytes, 0, size_t(size));
  int32_t* const begin = reinterpret_cast<int32_t*>(bytes + size);
  memset(begin, 0, size_t(blocks * queries * digits * 4));
  for (int32_t q = 0; q < queries; ++q) {
    const float* const row = query + q * query_stride;
    float top = 0, probe = 0;
    for (int64_t d = 0; d < columns; ++d) {
      const float size = __builtin_fabsf(row[d]);
      top = size > top ? size : top;
      probe += row[d] * 0.0f;
    }
    if (probe != 0) {
      x.scale[q] = probe;
      continue;
    }
    // of numbers so small that the factor would be inf, nothing is left
    const float factor = top > 0x1p-100f ? largest_of(digits) / top : 0;
    x.scale[q] = top / largest_of(digits);
    for (int64_t d = 0; d < columns; ++d) {
      int32_t number = int32_t(__builtin_rintf(row[d] * factor));
      for (int digit = 0; digit < digits; ++digit) {
        const int8_t low = int8_t(number & 0xff);
        number = (number - low) >> 8;
        bytes[digit_place(dtype, d, q, queries, digit, digits)] = low;
        begin[((block ? d / block : 0) * queries + q) * digits + digit] -= offset_of(dtype) * low;
      }
    }
  }
}

// 16 bytes of each of 16 rows: word i of all of them, key by key, in vector i; as numbers without a sign.
template <class Load>
[[gnu::always_inline]] inline void transpose_words(Load&& load, __m512i (&words)[4]) {
  __m512i x[4];
  unroll<4>([&](int r) INLINED {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(r)), load(r + 4), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(r + 8)), load(r + 12), 1);
    x[r] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  });
  const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
  const __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
  words[0] = _mm512_unpacklo_epi64(a, c);
  words[1] = _mm512_unpackhi_epi64(a, c);
  words[2] = _mm512_unpacklo_epi64(b, d);
  words[3] = _mm512_unpackhi_epi64(b, d);
}

// The sums of 16 keys for each query and digit, for one or two such groups of keys, which share a load of the digits.
template <int n, int groups>
[[gnu::always_inline]] inline void add_digits(__m512i (&sum)[groups][n], const __m512i (&bytes)[groups],
                                              const int32_t* words) {
  if constexpr (groups == 1) {
    unroll<n>([&](int i) INLINED { add_products(sum[0][i], bytes[0], words[i]); });
  } else {
    unroll<n>([&](int i) INLINED {
      const __m512i word = _mm512_set1_epi32(words[i]);
      unroll<groups>([&](int g) INLINED { add_products(sum[g][i], bytes[g], word); });
    });
  }
}

// The value of digits as they were summed.
template <int digits>
[[gnu::always_inline]] inline __m512 value_of(const __m512i* sum) {
  const __m512 low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[1]), _mm512_set1_ps(256), _mm512_cvtepi32_ps(sum[0]));
  if constexpr (digits == 2) return low;
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[digits - 1]), _mm512_set1_ps(65536), low);
}

// The scales of 16 rows of which `live` are there, of the block of a column.
inline __m512 scales_of_rows(const Rows& rows, int64_t first, int64_t live, int64_t column) {
  if (!rows.scale_list && rows.scale_stride == 4 && live >= 16) return _mm512_loadu_ps(rows.scale_of(first));
  alignas(64) float scale[16];
  for (int64_t j = 0; j < 16; ++j) scale[j] = scale_of_column(rows, first + (j < live ? j : live - 1), column);
  return _mm512_load_ps(scale);
}

// Groups of 16 keys from `first` on, of which `live` are there, `stride` bytes apart.
template <Dtype dtype, int queries, int digits, int groups>
[[gnu::always_inline]] inline void digit_scores_of_groups(const DigitQueries& x, const char* row, int64_t stride,
                                                          const char* ahead, const Rows& keys, int64_t first,
                                                          int64_t live, int64_t columns,
                                                          __m512 (&score)[groups][queries]) {
  constexpr int halves = halves_of(dtype), n = queries * digits;
  const int64_t bytes = row_bytes(dtype, columns);
  const int32_t* words = reinterpret_cast<const int32_t*>(&x + 1);
  const int32_t* begin = words + x.words * halves * n;
  const int64_t block = keys.block > 0 ? keys.block : columns;
  const __m512i sign = _mm512_set1_epi8(dtype == Dtype::int4 ? int8_t(0x88) : int8_t(0x80));
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t column = 0, at = 0; column < columns; column += block, begin += n) {
    const int64_t end = column + block < columns ? row_bytes(dtype, column + block) : bytes;
    __m512i sum[groups][n];
    unroll<n>([&](int i) INLINED { unroll<groups>([&](int g) INLINED { sum[g][i] = _mm512_set1_epi32(begin[i]); }); });
    for (; at < end; at += piece) {
      unroll<4 * groups>([&](int i) INLINED { __builtin_prefetch(ahead + i * line_bytes); });
      ahead += 4 * groups * line_bytes;
      __m512i word[groups][4];
      unroll<groups>([&](int g) INLINED {
        const char* const from = row + 16 * g * stride + at;
        if (at + piece <= bytes) {
          transpose_words([&](int r) INLINED { return _mm_loadu_si128((const __m128i_u*)(from + r * stride)); },
                          word[g]);
        } else {
          const __mmask16 there = __mmask16(low_bits(bytes - at));
          transpose_words([&](int r) INLINED { return _mm_maskz_loadu_epi8(there, from + r * stride); }, word[g]);
        }
      });
      unroll<4>([&](int i) INLINED {
        __m512i some[groups];
        if constexpr (halves == 1) {
          unroll<groups>([&](int g) INLINED { some[g] = _mm512_xor_si512(word[g][i], sign); });
          add_digits<n, groups>(sum, some, words);
        } else {
          unroll<groups>([&](int g) INLINED {
            word[g][i] = _mm512_xor_si512(word[g][i], sign);
            some[g] = _mm512_and_si512(word[g][i], low);
          });
          add_digits<n, groups>(sum, some, words);
          unroll<groups>([&](int g) INLINED { some[g] = _mm512_and_si512(_mm512_srli_epi16(word[g][i], 4), low); });
          add_digits<n, groups>(sum, some, words + n);
        }
        words += halves * n;
      });
    }
    unroll<groups>([&](int g) INLINED {
      const __m512 scale = scales_of_rows(keys, first + 16 * g, live - 16 * g, column);
      unroll<queries>([&](int q) INLINED {
        const __m512 before = column ? score[g][q] : _mm512_setzero_ps();
        score[g][q] = _mm512_fmadd_ps(value_of<digits>(sum[g] + q * digits), scale, before);
      });
    });
  }
  unroll<queries>([&](int q) INLINED {
    unroll<groups>([&](int g) INLINED { score[g][q] = _mm512_mul_ps(score[g][q], _mm512_set1_ps(x.scale[q])); });
  });
}

// Scores of 16 keys as s[key][query].
template <int queries>
[[gnu::always_inline]] inline void store_scores(const __m512 (&score)[queries], float* s) {
  if constexpr (queries == 1) {
    _mm512_storeu_ps(s, score[0]);
  } else if constexpr (queries == 2) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    _mm512_storeu_ps(s, _mm512_permutex2var_ps(score[0], low, score[1]));
    _mm512_storeu_ps(s + 16, _mm512_permutex2var_ps(score[0], high, score[1]));
  } else {
    const __m512 a = _mm512_unpacklo_ps(score[0], score[1]), b = _mm512_unpackhi_ps(score[0], score[1]);
    const __m512 c = _mm512_unpacklo_ps(score[2], score[3]), d = _mm512_unpackhi_ps(score[2], score[3]);
    const auto pair = [](__m512 x, __m512 y, bool high) INLINED {
      const __m512d u = _mm512_castps_pd(x), v = _mm512_castps_pd(y);
      return _mm512_castpd_ps(high ? _mm512_unpackhi_pd(u, v) : _mm512_unpacklo_pd(u, v));
    };
    // vector i holds keys i, 4 + i, 8 + i, 12 + i
    const __m512 x[4] = {pair(a, c, false), pair(a, c, true), pair(b, d, false), pair(b, d, true)};
    unroll<4>([&](int i) INLINED {
      _mm_storeu_ps(s + 4 * i, _mm512_castps512_ps128(x[i]));
      _mm_storeu_ps(s + 4 * (4 + i), _mm512_extractf32x4_ps(x[i], 1));
      _mm_storeu_ps(s + 4 * (8 + i), _mm512_extractf32x4_ps(x[i], 2));
      _mm_storeu_ps(s + 4 * (12 + i), _mm512_extractf32x4_ps(x[i], 3));
    });
  }
}

template <Dtype dtype, int queries, int digits>
[[gnu::noinline]] void digit_scores_of(const DigitQueries& x, const Run& run, const Rows& keys, int64_t count,
                                       int64_t columns, float* s) {
  constexpr int groups = digits == 2 ? 2 : 1;  // as many as registers hold
  int64_t j = 0;
  const auto score = [&](auto some, int64_t first) INLINED {
    __m512 scores[some][queries];
    digit_scores_of_groups<dtype, queries, digits, some>(x, run.data + first * run.stride, run.stride,
                                                         run.ahead + first * run.stride, keys, first, 16 * some,
                                                         columns, scores);
    for (int g = 0; g < some; ++g) store_scores<queries>(scores[g], s + (first + 16 * g) * queries);
  };
  for (; j + 16 * groups <= count; j += 16 * groups) score(Constant<groups>{}, j);
  if (j == count) return;
  if (count >= 16 * groups) return score(Constant<groups>{}, count - 16 * groups);  // some of the last ones once more
  for (; j < count; ++j) {  // one by one: all lanes the same key
    __m512 scores[1][queries];
    digit_scores_of_groups<dtype, queries, digits, 1>(x, run.data + j * run.stride, 0, run.ahead, keys, j, 1, columns,
                                                      scores);
    for (int q = 0; q < queries; ++q) s[j * queries + q] = _mm512_cvtss_f32(scores[0][q]);
  }
}

template <class F>
inline void with_digits(Dtype dtype, int32_t queries, int32_t digits, F&& f) {
  const auto of = [&](auto type, auto n) {
    if (queries == 1) f(type, Constant<1>{}, n);
    if (queries == 2) f(type, Constant<2>{}, n);
    if (queries == 4) f(type, Constant<4>{}, n);
  };
  if (dtype == Dtype::int8 && digits == 2) of(DtypeConstant<Dtype::int8>{}, Constant<2>{});
  if (dtype == Dtype::int8 && digits == 3) of(DtypeConstant<Dtype::int8>{}, Constant<3>{});
  if (dtype == Dtype::int4 && digits == 2) of(DtypeConstant<Dtype::int4>{}, Constant<2>{});
  if (dtype == Dtype::int4 && digits == 3) of(DtypeConstant<Dtype::int4>{}, Constant<3>{});
}

// As decode_scores.
void digit_scores(const void* query, int32_t queries, int32_t digits, const Rows& keys, int64_t count, int64_t columns,
                  float* s) {
  const DigitQueries& x = *static_cast<const DigitQueries*>(query);
  with_digits(keys.dtype, queries, digits, [&](auto dtype, auto n, auto of) {
    in_runs(keys, count, 0, row_bytes(dtype, columns), 16,
            [&](int64_t first, int64_t some, const Run& run, const Rows& rows) {
              digit_scores_of<dtype, n, of>(x, run, rows, some, columns, s + first * n);
            });
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
