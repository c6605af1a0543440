// Products of bfloat16 pairs (vdpbf16ps): two products and two additions in float32 a lane, subnormals taken as 0. The
// register tiles are those of gemm.hpp; an "element" there is a 32-bit word that holds a pair:
//   keys, queries: (x[2d], x[2d + 1]);   values: (V[2j][d], V[2j + 1][d]);   weights: (P[2j][q], P[2j + 1][q])
// and in the sum over queries (P[j][2q], P[j][2q + 1]), (X[2q][d], X[2q + 1][d]). select/soft_pairs.hpp makes the weights.
// amx.hpp has the same products by AMX: what is here for both fills up to whole tiles with zeros.
#pragma once
#if defined(__AVX512BF16__)
#include "few_bits_pairs.hpp"
#include "gemm.hpp"
#include "pack.hpp"
#include "query_sum.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

using Words = IntVec<float>;  // 16 words, of one bfloat16 or of a pair

constexpr int64_t pairs(int64_t count) { return (count + 1) / 2; }

struct PairProduct {
  using T = float;  // a pair of bfloat16
  static Vec<float> apply(Vec<float> sum, Vec<float> a, Vec<float> b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static Half<float> apply(Half<float> sum, Half<float> a, Half<float> b) {
    return _mm256_dpbf16_ps(sum, (__m256bh)a, (__m256bh)b);
  }
  static constexpr int64_t words(int64_t count) { return pairs(count); }
  static float cell(const float* weights, int64_t key, int64_t query, int64_t width) {
    uint16_t weight;
    memcpy(&weight, reinterpret_cast<const char*>(weights + key / 2 * width + query) + key % 2 * 2, 2);
    return float_of_bfloat16(weight);
  }
  static float rounded(float value) { return rounded_to_bfloat16(value); }
};

constexpr int64_t tile_rows = 16, tile_pairs = 16;  // of a tile of AMX: 16 rows of 32 elements, or of 16 pairs

// Bytes of a key, filled up to a multiple of columns, and of a pair of values.
template <int multiple>
inline int64_t pair_row_size(int64_t columns) {
  return 2 * round_up(columns, multiple);
}
inline int64_t pair_value_size(int64_t columns) { return 4 * columns; }

// The columns of a row, to contiguous ones.
inline void load_bfloat16_row(const char* from, int64_t stride, int64_t columns, uint16_t* to) {
  if (stride == 2) {
    memcpy(to, from, size_t(columns) * 2);
    return;
  }
  alignas(64) uint16_t place[32];  // of load_spaced
  int64_t d = 0;
  if (stride == 4) {
    for (int i = 0; i < 32; ++i) place[i] = uint16_t(i < 16 ? 2 * i : 2 * i + 1);
    const __m512i places = _mm512_load_si512(place);
    for (; d + 32 <= columns; d += 32)
      _mm512_storeu_si512(to + d, _mm512_permutex2var_epi16(_mm512_loadu_si512(from + d * 4), places,
                                                            _mm512_loadu_si512(from + d * 4 + 62)));
  } else if (stride == -2) {
    for (int i = 0; i < 32; ++i) place[i] = uint16_t(31 - i);
    const __m512i places = _mm512_load_si512(place);
    for (; d + 32 <= columns; d += 32)
      _mm512_storeu_si512(to + d, _mm512_permutexvar_epi16(places, _mm512_loadu_si512(from - d * 2 - 62)));
  }
  for (; d < columns; ++d) memcpy(to + d, from + d * stride, 2);
}

// The first 16, or the `count` that there are, a word each.
inline Words some_words(const char* from, int64_t count) {
  return (Words)_mm512_cvtepu16_epi32(
      _mm256_maskz_loadu_epi16(__mmask16(low_bits(count < 16 ? int(count) : 16)), from));
}

// Keys in rows of a multiple of columns, the rest 0.
template <int multiple>
inline void load_pair_keys(const Rows& from, int64_t count, int64_t columns, uint16_t* row) {
  const int64_t whole = round_up(columns, multiple);
  if (is_few_bits(from.dtype)) return load_few_bits_keys(from, count, columns, whole, row);
  const bool across = is_across(from, count, columns);
  if (across && from.row_stride == 2) {
    const auto column = [&](int64_t j, int64_t d) {
      return d < columns ? some_words(from.data + j * 2 + d * from.column_stride, count - j) : Words{};
    };
    for (int64_t first = 0; first < count; first += 32)
      for (int64_t d = 0; d < columns; d += 32)
        for (int64_t j = first; j < first + 32 && j < count; j += 16) {
          Vec<float> square[16];
          for (int i = 0; i < 16; ++i)
            square[i] = from_bits<float>(column(j, d + 2 * i) | shift_left<float>(column(j, d + 2 * i + 1), 16));
          transpose<float>(square);
          const int64_t left = (whole - d) / 2;
          for (int i = 0; i < 16 && j + i < count; ++i)
            _mm512_mask_storeu_epi32(row + (j + i) * whole + d, __mmask16(low_bits(left < 16 ? int(left) : 16)),
                                     (__m512i)square[i]);
        }
    return;
  }
  for (int64_t d = 0; d < columns && across; ++d)
    for (int64_t j = 0; j < count; ++j)
      memcpy(row + j * whole + d, from.data + j * from.row_stride + d * from.column_stride, 2);
  for (int64_t j = 0; j < count; ++j, row += whole) {
    if (!across) load_bfloat16_row(from.row(j), from.column_stride, columns, row);
    memset(row + columns, 0, size_t(whole - columns) * 2);
  }
}

// 16 columns of a row, or the `left` that there are, a word each; no row: 0.
inline Words row_words(const char* row, int64_t column_stride, int64_t left) {
  if (!row) return Words{};
  if (column_stride == 2) return some_words(row, left);
  uint16_t some[16] = {};
  for (int d = 0; d < (left < 16 ? int(left) : 16); ++d) memcpy(some + d, row + d * column_stride, 2);
  return some_words(reinterpret_cast<const char*>(some), 16);
}

// The same of row j of few bits, from column d on, a multiple of 16.
inline Words few_bits_words(const Rows& from, int64_t j, int64_t d, int64_t columns) {
  alignas(64) uint16_t some[32] = {};
  const int64_t begin = d & -32;
  with_few_bits(from.dtype, [&](auto dtype) {
    load_bfloat16_columns<dtype>(from, j, begin, d + 16 < columns ? d + 16 : columns, some);
  });
  return some_words(reinterpret_cast<const char*>(some + (d - begin)), 16);
}

// The pairs of two rows; `spoilt` collects where one is inf or NaN, which `finite` makes 0.
inline Words pair_words(Words low, Words high, bool finite, Words& spoilt) {
  const Words exponent = Words{} + 0x7f80;
  const Words bad_low = (low & exponent) == exponent, bad_high = (high & exponent) == exponent;
  spoilt |= bad_low | bad_high;
  if (finite) {
    low &= ~bad_low;
    high &= ~bad_high;
  }
  return low | shift_left<float>(high, 16);
}

inline void store_words(void* to, Words words) { store<float>(static_cast<float*>(to), from_bits<float>(words)); }

// Two rows of values become one row of pairs; the row after the last is 0.
inline void load_pair_values(const Rows& from, int64_t count, int64_t columns, bool finite, uint32_t* row) {
  if (is_few_bits(from.dtype)) return load_few_bits_values(from, count, columns, finite, row);
  Words spoilt = {};
  const bool across = is_across(from, count, columns);
  if (across && from.row_stride == 2) {  // pairs as they stand
    for (int64_t j = 0; j < count; j += 32, row += 16 * columns) {
      const __mmask32 there = low_bits(count - j < 32 ? int(count - j) : 32);
      for (int64_t d = 0; d < columns; d += 16) {
        Vec<float> square[16];
        for (int i = 0; i < 16; ++i) {
          const char* const column = from.data + j * 2 + (d + i) * from.column_stride;
          const Words words = d + i < columns ? (Words)_mm512_maskz_loadu_epi16(there, column) : Words{};
          square[i] = from_bits<float>(
              pair_words(words & 0xffff, (Words)_mm512_srli_epi32((__m512i)words, 16), finite, spoilt));
        }
        transpose<float>(square);
        const __mmask16 wanted = __mmask16(low_bits(columns - d < 16 ? int(columns - d) : 16));
        for (int i = 0; i < 16 && j + 2 * i < count; ++i)
          _mm512_mask_storeu_epi32(row + i * columns + d, wanted, (__m512i)square[i]);
      }
    }
    return;
  }
  if (!finite && across) {
    if (count % 2) memset(row + count / 2 * columns, 0, size_t(columns) * 4);
    for (int64_t d = 0; d < columns; ++d)
      for (int64_t j = 0; j < count; ++j)
        memcpy(reinterpret_cast<uint16_t*>(row + j / 2 * columns + d) + j % 2,
               from.data + j * from.row_stride + d * from.column_stride, 2);
    return;
  }
  constexpr int64_t some = 256;  // columns of two rows that are brought together first, where they stand apart
  uint16_t rows[2][some];
  for (int64_t j = 0; j < count; j += 2, row += columns) {
    const bool two = j + 1 < count;
    const char *low = from.row(j), *high = from.row(two ? j + 1 : j);
    for (int64_t first = 0; first < columns; first += some) {
      const int64_t end = columns - first < some ? columns : first + some;
      const char *a = low + first * 2, *b = high + first * 2;
      if (from.column_stride != 2) {
        load_bfloat16_row(low + first * from.column_stride, from.column_stride, end - first, rows[0]);
        load_bfloat16_row(high + first * from.column_stride, from.column_stride, end - first, rows[1]);
        a = reinterpret_cast<const char*>(rows[0]);
        b = reinterpret_cast<const char*>(rows[1]);
      }
      for (int64_t d = first; d < end; d += 16, a += 32, b += 32) {
        const Words words = pair_words(some_words(a, end - d), two ? some_words(b, end - d) : Words{}, finite, spoilt);
        _mm512_mask_storeu_epi32(row + d, __mmask16(low_bits(end - d < 16 ? int(end - d) : 16)), (__m512i)words);
      }
    }
  }
}

// 16 columns of the rows i and i + 1, from column d on, as pairs; 0 beyond the live ones.
inline Words summand_words(const char* const* rows, int64_t column_stride, int32_t live, int64_t columns, int32_t i,
                           int64_t d, bool finite, Words& spoilt) {
  const auto words = [&](int32_t row) {
    return row_words(row < live ? rows[row] + d * column_stride : nullptr, column_stride, columns - d);
  };
  return pair_words(words(i), words(i + 1), finite, spoilt);
}

// Rows of queries to pairs of rows, from row `first` on, with zeros up to a whole panel.
inline bool load_pair_summands(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int64_t columns,
                               bool finite, uint32_t* x, int64_t first) {
  const int64_t whole = round_up(columns, lanes<float>);
  uint32_t* to = x + first / 2 * whole;
  Words spoilt = {};
  for (int32_t i = 0; i < panel_vectors * lanes<float>; i += 2)
    for (int64_t d = 0; d < whole; d += 16, to += 16)
      store_words(to, summand_words(rows, column_stride, live, columns, i, d, finite, spoilt));
  return bits_of<float>(spoilt) == 0;
}

// A row of queries takes as many columns as one of load_pair_keys.
template <int multiple>
inline void pack_pair_queries(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int32_t vectors,
                              int64_t head_size, double, const void*, uint16_t* scratch, float* panel) {
  const float* plain[most_lanes];
  const int64_t whole = round_up(head_size, multiple);
  const int32_t width = vectors * lanes<float>;
  if (live == width && are_neighbors<float>(rows, live, Dtype::bfloat16, column_stride)) {
    float* to = panel;
    for (int64_t d = 0; d < whole; d += 2)
      for (int32_t i = 0; i < width; i += 16, to += 16) {
        const auto column = [&](int64_t c) {
          return c < head_size ? some_words(rows[0] + i * 2 + c * column_stride, 16) : Words{};
        };
        store_words(to, column(d) | shift_left<float>(column(d + 1), 16));
      }
    return;
  }
  const bool in_place = column_stride == 2 && head_size == whole;
  for (int32_t i = 0; i < live; ++i) {
    plain[i] = reinterpret_cast<const float*>(rows[i]);
    if (!in_place) {
      uint16_t* row = scratch + i * whole;
      load_pair_keys<multiple>({rows[i], Dtype::bfloat16, 0, column_stride}, 1, head_size, row);
      plain[i] = reinterpret_cast<const float*>(row);
    }
  }
  transpose_to_panel<float>(plain, live, width, whole / 2, [](auto x) { return x; }, panel);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
