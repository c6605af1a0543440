// The sum of values of int8 and int4 by the weights of few queries, by integer dot products, as digits.hpp has the scores: the
// columns on the lanes, the bytes of four values beside each other, O[d] += sum of V[4][d] * P[4].
#pragma once
#include "digits.hpp"

#if defined(__AVX512VNNI__)
namespace foveate::FOVEATE_ISA {
namespace {

constexpr int64_t digit_rows = 64;     // whose weights share a scale
constexpr int64_t most_columns = 512;  // of values that are summed together
constexpr int64_t chunk_bytes = 64;    // of a row, whose columns are summed together

// The weights of some keys as digits: words[four keys][digit][query].
template <int queries, int digits>
struct DigitWeights {
  int32_t words[digit_rows / 4][digits * queries];
  float scale[queries];
  int32_t begin[digits * queries];  // of the sums

  // weights: of `count` keys, [key][query]; each is multiplied by the scale of its row.
  void load(const float* weights, const float* scales, int64_t count, int32_t offset) {
    constexpr int keys = 16 / queries, vectors = digit_rows / keys;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i key = _mm512_srli_epi32(lane, queries == 4 ? 2 : queries == 2 ? 1 : 0);
    __m512 x[vectors], top = _mm512_setzero_ps(), all = _mm512_setzero_ps();
    unroll<vectors>([&](int i) INLINED {
      const int64_t left = (count - i * keys) * queries;
      const __mmask16 there = __mmask16(left > 0 ? low_bits(left < 16 ? left : 16) : 0);
      const __m512 scale =
          _mm512_permutexvar_ps(key, _mm512_maskz_loadu_ps(i * keys < count ? low_bits(keys) : 0, scales + i * keys));
      x[i] = _mm512_maskz_mul_ps(there, _mm512_maskz_loadu_ps(there, weights + i * 16), scale);
      top = _mm512_max_ps(top, _mm512_abs_ps(x[i]));
      all = _mm512_add_ps(all, x[i]);
    });
    top = of_each_query(top, [](__m512 a, __m512 b) INLINED { return _mm512_max_ps(a, b); });
    all = of_each_query(all, [](__m512 a, __m512 b) INLINED { return _mm512_add_ps(a, b); });
    const __m512 largest = _mm512_set1_ps(largest_of(digits));
    const __mmask16 any = _mm512_cmp_ps_mask(top, _mm512_set1_ps(0x1p-100f), _CMP_GT_OQ);
    const __m512 by = _mm512_maskz_div_ps(any, largest, top);
    // a weight that is not finite makes the sum so
    const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_sub_ps(all, all), _mm512_setzero_ps(), _CMP_EQ_OQ);
    const __m512 nan = _mm512_set1_ps(__builtin_nanf(""));
    _mm512_mask_storeu_ps(scale, low_bits(queries), _mm512_mask_div_ps(nan, finite, top, largest));
    __m512i total[digits];
    unroll<digits>([&](int i) INLINED { total[i] = _mm512_setzero_si512(); });
    // bytes [key][query] become [four keys][query][key]
    const __m128i order = queries == 4   ? _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                          : queries == 2 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                                         : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    unroll<vectors>([&](int i) INLINED {
      const __m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(x[i], by));
      const auto put = [&](auto digit) INLINED {
        const __m512i d = digit_of<digit>(number);
        total[digit] = _mm512_add_epi32(total[digit], d);
        const __m128i bytes = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(d), order);
        if constexpr (queries == 4) {
          _mm_storeu_si128((__m128i*)&words[i][digit * 4], bytes);
        } else if constexpr (queries == 2) {
          _mm_storel_epi64((__m128i*)&words[2 * i][digit * 2], bytes);
          _mm_storel_epi64((__m128i*)&words[2 * i + 1][digit * 2], _mm_srli_si128(bytes, 8));
        } else {
          words[4 * i][digit] = _mm_cvtsi128_si32(bytes);
          words[4 * i + 1][digit] = _mm_extract_epi32(bytes, 1);
          words[4 * i + 2][digit] = _mm_extract_epi32(bytes, 2);
          words[4 * i + 3][digit] = _mm_extract_epi32(bytes, 3);
        }
      };
      put(Constant<0>{});
      put(Constant<1>{});
      if constexpr (digits == 3) put(Constant<2>{});
    });
    unroll<digits>([&](int i) INLINED {
      const auto add = [](__m512 a, __m512 b) INLINED {
        return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
      };
      const __m512i sum = _mm512_castps_si512(of_each_query(_mm512_castsi512_ps(total[i]), add));
      _mm512_mask_storeu_epi32(begin + i * queries, low_bits(queries),
                               _mm512_mullo_epi32(sum, _mm512_set1_epi32(-offset)));
    });
  }

  // What f makes of the lanes of a query, in all of them.
  template <class F>
  [[gnu::always_inline]] static __m512 of_each_query(__m512 x, F&& f) {
    x = f(x, _mm512_shuffle_f32x4(x, x, 0x4e));
    x = f(x, _mm512_shuffle_f32x4(x, x, 0xb1));
    if constexpr (queries < 4) x = f(x, _mm512_permute_ps(x, 0x4e));
    if constexpr (queries < 2) x = f(x, _mm512_permute_ps(x, 0xb1));
    return x;
  }
};

// Columns of a chunk as sums hold them. int8: vector a, block b, lane i is column 16 b + 4 a + i; int4: twice that, and one
// more in the second vector of each two.
inline int64_t column_at(Dtype dtype, int64_t place) {
  if (dtype == Dtype::int8) return place % 16 / 4 * 16 + place / 16 * 4 + place % 4;
  return 2 * (place % 16 / 4 * 16 + place / 32 * 4 + place % 4) + place / 16 % 2;
}
constexpr int64_t chunk_columns(Dtype dtype) { return dtype == Dtype::int4 ? 128 : 64; }

// Two vectors of the columns of a chunk, part `part`, for some rows of one chunk. to: the two of each query, `stride` apart.
template <Dtype dtype, int queries, int digits, int part>
[[gnu::noinline]] void digit_sum_part(const DigitWeights<queries, digits>& weights, const char* row, int64_t row_stride,
                                      int64_t count, __mmask64 there, const char* ahead, int64_t ahead_lines, float* to,
                                      int64_t stride) {
  const __m512i sign = _mm512_set1_epi8(dtype == Dtype::int4 ? int8_t(0x88) : int8_t(0x80));
  __m512i sum[2][queries * digits];
  unroll<queries * digits>([&](int i) INLINED { sum[0][i] = sum[1][i] = _mm512_set1_epi32(weights.begin[i]); });
  const auto add = [&](int64_t j, __mmask64 second, __mmask64 third, __mmask64 fourth) INLINED {
    const char* const p = row + j * row_stride;
    const __m512i a = _mm512_maskz_loadu_epi8(there, p), b = _mm512_maskz_loadu_epi8(second, p + row_stride);
    const __m512i c = _mm512_maskz_loadu_epi8(third, p + 2 * row_stride);
    const __m512i d = _mm512_maskz_loadu_epi8(fourth, p + 3 * row_stride);
    __m512i bytes[2];
    if constexpr (dtype == Dtype::int8) {
      const __m512i low = part ? _mm512_unpackhi_epi8(a, b) : _mm512_unpacklo_epi8(a, b);
      const __m512i high = part ? _mm512_unpackhi_epi8(c, d) : _mm512_unpacklo_epi8(c, d);
      bytes[0] = _mm512_xor_si512(_mm512_unpacklo_epi16(low, high), sign);
      bytes[1] = _mm512_xor_si512(_mm512_unpackhi_epi16(low, high), sign);
    } else {
      const __m512i low = part / 2 ? _mm512_unpackhi_epi8(a, b) : _mm512_unpacklo_epi8(a, b);
      const __m512i high = part / 2 ? _mm512_unpackhi_epi8(c, d) : _mm512_unpacklo_epi8(c, d);
      const __m512i both = part % 2 ? _mm512_unpackhi_epi16(low, high) : _mm512_unpacklo_epi16(low, high);
      const __m512i whole = _mm512_xor_si512(both, sign), low_half = _mm512_set1_epi8(15);
      bytes[0] = _mm512_and_si512(whole, low_half);
      bytes[1] = _mm512_and_si512(_mm512_srli_epi16(whole, 4), low_half);
    }
    const int32_t* const words = weights.words[j / 4];
    unroll<queries * digits>([&](int i) INLINED {
      const __m512i word = _mm512_set1_epi32(words[i]);
      add_products(sum[0][i], bytes[0], word);
      add_products(sum[1][i], bytes[1], word);
    });
  };
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    for (int64_t i = 0; i < ahead_lines; ++i, ahead += line_bytes) __builtin_prefetch(ahead);
    add(j, there, there, there);
  }
  if (j < count) add(j, j + 1 < count ? there : 0, j + 2 < count ? there : 0, 0);
  unroll<2>([&](int v) INLINED {
    unroll<queries>([&](int q) INLINED {
      __m512i of[digits];
      for (int i = 0; i < digits; ++i) of[i] = sum[v][i * queries + q];
      float* const cell = to + q * stride + v * 16;
      _mm512_storeu_ps(cell,
                       _mm512_fmadd_ps(value_of<digits>(of), _mm512_set1_ps(weights.scale[q]), _mm512_loadu_ps(cell)));
    });
  });
}

template <Dtype dtype, int queries, int digits>
[[gnu::noinline]] void digit_sum_of(const float* weights, const Run& run, const Rows& values, int64_t count,
                                    int64_t column, int64_t columns, float* sums) {
  constexpr int parts = dtype == Dtype::int4 ? 4 : 2;
  const int64_t bytes = row_bytes(dtype, columns), chunks = (bytes + chunk_bytes - 1) / chunk_bytes;
  for (int64_t first = 0; first < count; first += digit_rows) {
    const int64_t now = count - first < digit_rows ? count - first : digit_rows;
    DigitWeights<queries, digits> digit;
    const char* ahead = run.ahead + first * run.stride;
    const int64_t lines = (bytes * 4 / line_bytes + chunks * parts - 1) / (chunks * parts);
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t d = column + c * chunk_columns(dtype);
      if (c == 0 || values.block > 0) {
        alignas(64) float scales[digit_rows];
        for (int64_t j = 0; j < digit_rows; j += 16)
          if (j < now) _mm512_store_ps(scales + j, scales_of_rows(values, first + j, now - j, d));
        digit.load(weights + first * queries, scales, now, offset_of(dtype));
      }
      const char* const row = run.data + first * run.stride + c * chunk_bytes;
      const int64_t left = bytes - c * chunk_bytes;
      const __mmask64 there = left >= 64 ? ~__mmask64(0) : (__mmask64(1) << left) - 1;
      const auto part = [&](auto n) INLINED {
        digit_sum_part<dtype, queries, digits, n>(digit, row, run.stride, now, there, ahead, lines,
                                                  sums + c * chunk_columns(dtype) + n * 32, most_columns);
        ahead += lines * line_bytes * ((now + 3) / 4);
      };
      part(Constant<0>{});
      part(Constant<1>{});
      if constexpr (parts == 4) {
        part(Constant<2>{});
        part(Constant<3>{});
      }
    }
  }
}

// Blocks of columns that share a scale are whole chunks.
bool takes_values(Dtype dtype, int64_t block) {
  return (dtype == Dtype::int8 || dtype == Dtype::int4) && block % chunk_columns(dtype) == 0;
}

// As decode_sum.
void digit_sum(const float* weights, int32_t queries, int32_t digits, const Rows& values, int64_t count,
               int64_t value_size, float* output, int64_t output_stride) {
  with_digits(values.dtype, queries, digits, [&](auto dtype, auto n, auto of) {
    alignas(64) float sums[n][most_columns];
    for (int64_t d = 0; d < value_size; d += most_columns) {
      const int64_t columns = value_size - d < most_columns ? value_size - d : most_columns;
      memset(sums, 0, sizeof sums);
      in_runs(values, count, byte_of(dtype, d), row_bytes(dtype, columns), digit_rows,
              [&](int64_t first, int64_t some, const Run& run, const Rows& rows) {
                digit_sum_of<dtype, n, of>(weights + first * n, run, rows, some, d, columns, sums[0]);
              });
      constexpr int64_t chunk = chunk_columns(dtype);
      for (int q = 0; q < n; ++q)
        for (int64_t c = 0; c < columns; c += chunk)
          for (int64_t i = 0; i < chunk; ++i) {
            const int64_t at = c + column_at(dtype, i);
            if (at < columns) output[q * output_stride + d + at] += sums[q][c + i];
          }
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
