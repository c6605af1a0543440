// Products of bfloat16 pairs (vdpbf16ps): two products and two additions in float32 a lane, subnormals taken as 0. The
// register tiles are those of gemm.hpp; an "element" there is a 32-bit word that holds a pair:
//   keys, queries: (x[2d], x[2d + 1]);   values: (V[2j][d], V[2j + 1][d]);   weights: (P[2j][q], P[2j + 1][q])
// and in the sum over queries (P[j][2q], P[j][2q + 1]), (X[2q][d], X[2q + 1][d]). Weights, and the gradients of scores, are
// rounded to bfloat16 for the product; weights are summed as rounded, for lse as they were. amx.hpp has the same products by AMX: what is
// here for both fills up to whole tiles with zeros.
#pragma once
#if defined(__AVX512BF16__)
#include "gemm.hpp"
#include "math.hpp"
#include "pack.hpp"
#include "query_sum.hpp"
#include "select/soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

using Words = IntVec<float>;  // 16 words, of one bfloat16 or of a pair

constexpr int64_t pairs(int64_t count) { return (count + 1) / 2; }

struct PairProduct {
  using T = float;  // a pair of bfloat16
  static Vec<float> apply(Vec<float> sum, Vec<float> a, Vec<float> b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  static constexpr int64_t words(int64_t count) { return pairs(count); }
  static float cell(const float* weights, int64_t key, int64_t query, int64_t width) {
    uint16_t weight;
    memcpy(&weight, reinterpret_cast<const char*>(weights + key / 2 * width + query) + key % 2 * 2, 2);
    return float_of_bfloat16(weight);
  }
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
  if (from.row_stride == 2 && is_across(from, count, columns)) {
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
  const bool across = is_across(from, count, columns);
  for (int64_t d = 0; d < columns && across; ++d)
    for (int64_t j = 0; j < count; ++j)
      memcpy(row + j * whole + d, from.data + j * from.row_stride + d * from.column_stride, 2);
  for (int64_t j = 0; j < count; ++j, row += whole) {
    if (!across) load_bfloat16_row(from.data + j * from.row_stride, from.column_stride, columns, row);
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
  Words spoilt = {};
  if (from.row_stride == 2 && is_across(from, count, columns)) {  // pairs as they stand
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
  if (!finite && is_across(from, count, columns)) {
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
    const char* low = from.data + j * from.row_stride;
    const char* high = low + (two ? from.row_stride : 0);
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

// 2^x for weights that are rounded to 8 bits: relative error 3e-6, exp2(0) = 1 exactly; x < 128. Where a bit of `seen` is
// not set, 0.
inline Vec<float> exp2_of_weights(Vec<float> x, __mmask16 seen) {
  // (2^f - 1) / f on [0, 1], for the relative error of 2^f
  constexpr float exp2m1[] = {0x1.62d6c6p-1f, 0x1.ee2450p-3f, 0x1.abf868p-5f, 0x1.b7f732p-7f};
  // reduce: x - floor(x), 0 for an infinity; scalef: p * 2^floor(x)
  const Vec<float> f = _mm512_reduce_ps(x, 9);
  return _mm512_maskz_scalef_ps(seen, polynomial<float>(exp2m1, f) * f + 1.0f, x);
}

// Vectors of two halves of a row of queries, or of two keys, as bfloat16: the 16 of `low` first.
inline __m512i as_bfloat16(Vec<float> low, Vec<float> high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// Zeros in the rows of pairs that fill up the last tile of `count` keys.
template <int vectors>
inline void fill_pairs(float* words, int64_t count) {
  constexpr int width = vectors * lanes<float>;
  const int64_t end = round_up(pairs(count), tile_pairs);
  for (int64_t i = pairs(count) * width; i < end * width; i += lanes<float>) store<float>(words + i, Vec<float>{});
}

// soft.hpp's online softmax, with the weights of two keys packed into one word a query. l is their sum as rounded, exact
// as they were before.
template <int vectors, bool with_exact>
[[gnu::noinline]] void soft_pair_tile(float* scores, int64_t count, float scale, const float* top, float* m, float* l,
                                      float* exact, float* alpha, const Prefetch& next) {
  constexpr int width = vectors * lanes<float>;
  Vec<float> sum[vectors] = {}, exact_sum[vectors] = {}, offset[vectors];
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  Words interleave;  // words (i, 16 + i): the pair of query i
  for (int i = 0; i < 16; ++i) interleave[i] = i | (16 + i) << 16;
  const Vec<float> ones = from_bits<float>(Words{} + 0x3f803f80);
  const int64_t even = count & ~int64_t(1);
  Prefetcher prefetcher(next, (count + 7) / 8);
  const auto pair = [&](const float* from, float* to, int v, bool both) INLINED {
    const Vec<float> low = exp2_of_weights((load(from) - offset[v]) * scale, 0xffff);
    const Vec<float> high = both ? exp2_of_weights((load(from + width) - offset[v]) * scale, 0xffff) : Vec<float>{};
    const Vec<float> weights = (Vec<float>)_mm512_permutexvar_epi16((__m512i)interleave, as_bfloat16(low, high));
    sum[v] = PairProduct::apply(sum[v], weights, ones);
    if constexpr (with_exact) exact_sum[v] += low + high;
    store<float>(to, weights);
  };
  for (int64_t j = 0; j < even; j += 2) {
    if (j % 8 == 0) prefetcher.step();
    unroll<vectors>([&](int v) INLINED {
      pair(scores + j * width + v * lanes<float>, scores + j / 2 * width + v * lanes<float>, v, true);
    });
  }
  if (even < count)
    unroll<vectors>([&](int v) INLINED {
      pair(scores + even * width + v * lanes<float>, scores + even / 2 * width + v * lanes<float>, v, false);
    });
  fill_pairs<vectors>(scores, count);
  unroll<vectors>([&](int v) INLINED {
    const int at = v * lanes<float>;
    store<float>(l + at, load(l + at) + sum[v]);
    if constexpr (with_exact) store<float>(exact + at, load(exact + at) * load(alpha + at) + exact_sum[v]);
  });
}

inline void soft_pairs(float* scores, int32_t vectors, int64_t count, double scale, const float* top, float* m,
                       float* l, float* exact, float* alpha, const Gaussian*, const Prefetch& next) {
  by_width(vectors, [&](auto v) {
    const auto tile = exact ? soft_pair_tile<v, true> : soft_pair_tile<v, false>;
    tile(scores, count, float(scale), top, m, l, exact, alpha, next);
  });
}

// soft_tangent.hpp, with both products packed; l and d are sums as rounded, exact and d_exact as they were before.
template <int vectors>
[[gnu::noinline]] void soft_pair_tangent_tile(float* scores, float* tangents, const float* more, int64_t count,
                                              float scale, float factor, const float* top, float* m, float* l,
                                              float* exact, float* d, float* d_exact, float* alpha) {
  constexpr int width = vectors * lanes<float>;
  const Vec<float> lowest = minus_infinity<float>();
  Vec<float> sum[vectors] = {}, exact_sum[vectors] = {}, moved[vectors] = {}, exact_moved[vectors] = {};
  Vec<float> offset[vectors];
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  Words interleave;  // words (i, 16 + i): the pair of query i
  for (int i = 0; i < 16; ++i) interleave[i] = i | (16 + i) << 16;
  const Vec<float> ones = from_bits<float>(Words{} + 0x3f803f80);
  const auto packed = [&](Vec<float> low, Vec<float> high) INLINED {
    return (Vec<float>)_mm512_permutexvar_epi16((__m512i)interleave, as_bfloat16(low, high));
  };
  const auto weigh = [&](int64_t cell, int v, Vec<float>& product) INLINED {
    const Vec<float> score = load(scores + cell), weight = exp2_of_weights((score - offset[v]) * scale, 0xffff);
    const Vec<float> tangent = more ? load(tangents + cell) + load(more + cell) : load(tangents + cell);
    const __mmask16 seen = _mm512_cmp_ps_mask(score, lowest, _CMP_NEQ_UQ);
    product = _mm512_maskz_mul_ps(seen, weight, tangent * factor);
    return weight;
  };
  for (int64_t j = 0; j < count; j += 2)
    unroll<vectors>([&](int v) INLINED {
      const int64_t cell = j * width + v * lanes<float>, to = j / 2 * width + v * lanes<float>;
      Vec<float> high = {}, low_product, high_product = {};
      const Vec<float> low = weigh(cell, v, low_product);
      if (j + 1 < count) high = weigh(cell + width, v, high_product);
      const Vec<float> weights = packed(low, high), products = packed(low_product, high_product);
      sum[v] = PairProduct::apply(sum[v], weights, ones);
      moved[v] = PairProduct::apply(moved[v], products, ones);
      exact_sum[v] += low + high;
      exact_moved[v] += low_product + high_product;
      store<float>(scores + to, weights);
      store<float>(tangents + to, products);
    });
  fill_pairs<vectors>(scores, count);
  fill_pairs<vectors>(tangents, count);
  unroll<vectors>([&](int v) INLINED {
    const int at = v * lanes<float>;
    const Vec<float> shrink = load(alpha + at);
    store<float>(l + at, load(l + at) + sum[v]);
    store<float>(d + at, load(d + at) * shrink + moved[v]);
    if (!exact) return;
    store<float>(exact + at, load(exact + at) * shrink + exact_sum[v]);
    store<float>(d_exact + at, load(d_exact + at) * shrink + exact_moved[v]);
  });
}

inline void soft_pair_tangent(float* scores, float* tangents, const float* more, int32_t vectors, int64_t count,
                              double scale, double factor, const float* top, float* m, float* l, float* exact, float* d,
                              float* d_exact, float* alpha) {
  by_width(vectors, [&](auto v) {
    soft_pair_tangent_tile<v>(scores, tangents, more, count, float(scale), float(factor), top, m, l, exact, d, d_exact,
                              alpha);
  });
}

// A row of a panel's cells as bfloat16, the upper half 0 where the panel is one vector wide.
template <int vectors>
inline __m512i cell_row(const Vec<float> (&row)[vectors]) {
  return as_bfloat16(row[0], vectors > 1 ? row[vectors - 1] : Vec<float>{});
}

// Rows of two keys to words of pairs, in the place of the first row; which has been read.
template <int vectors>
inline void store_pairs(__m512i first, __m512i second, float* to) {
  Words low;  // the pairs of queries 0..15: elements i of both
  for (int i = 0; i < 16; ++i) low[i] = i | (32 + i) << 16;
  unroll<vectors>([&](int v) INLINED {
    const Words at = low + (v * 16 | (v * 16) << 16);
    store_words(to + v * lanes<float>, (Words)_mm512_permutex2var_epi16(first, (__m512i)at, second));
  });
}

// soft.hpp's gradient: rows of bfloat16, and of dS the pairs too; where d_scores is null, dS as float32.
template <int vectors>
[[gnu::noinline]] void soft_pair_gradient_tile(const float* s, float* d_weights, int64_t count, float scale,
                                               const float* top_, const float* rest_, const float* shift_,
                                               uint16_t* weights, uint16_t* d_scores, int64_t stride) {
  constexpr int width = vectors * lanes<float>;
  const Vec<float> lowest = minus_infinity<float>();
  Vec<float> top[vectors], rest[vectors], shift[vectors];
  __mmask16 live[vectors];
  unroll<vectors>([&](int v) INLINED {
    top[v] = load(top_ + v * lanes<float>);
    rest[v] = load(rest_ + v * lanes<float>);
    shift[v] = load(shift_ + v * lanes<float>);
    live[v] = _mm512_cmp_ps_mask(rest[v], -lowest, _CMP_NEQ_UQ);
  });
  const auto row = [&](int64_t j, Vec<float>(&d_score)[vectors]) {
    Vec<float> weight[vectors];
    unroll<vectors>([&](int v) INLINED {
      const int64_t cell = j * width + v * lanes<float>;
      const Vec<float> score = load(s + cell);
      const __mmask16 seen = _mm512_mask_cmp_ps_mask(live[v], score, lowest, _CMP_NEQ_UQ);
      // min(0, x), and NaN where x is
      const Vec<float> exponent = _mm512_maskz_min_ps(0xffff, Vec<float>{}, (score - top[v]) * scale - rest[v]);
      weight[v] = exp2_of_weights(exponent, seen);
      d_score[v] = _mm512_maskz_mul_ps(seen, weight[v], load(d_weights + cell) - shift[v]);
    });
    _mm512_storeu_si512(weights + j * stride, cell_row<vectors>(weight));
  };
  if (!d_scores) {
    for (int64_t j = 0; j < count; ++j) {
      Vec<float> d_score[vectors];
      row(j, d_score);
      unroll<vectors>([&](int v) INLINED { store<float>(d_weights + j * width + v * lanes<float>, d_score[v]); });
    }
    return;
  }
  for (int64_t j = 0; j < count; j += 2) {
    Vec<float> first[vectors], second[vectors] = {};
    row(j, first);
    if (j + 1 < count) row(j + 1, second);
    const __m512i a = cell_row<vectors>(first), b = cell_row<vectors>(second);
    _mm512_storeu_si512(d_scores + j * stride, a);
    if (j + 1 < count) _mm512_storeu_si512(d_scores + (j + 1) * stride, b);
    store_pairs<vectors>(a, b, d_weights + j / 2 * width);
  }
  fill_pairs<vectors>(d_weights, count);
}

inline void soft_pair_gradient(const float* s, float* d_weights, int32_t vectors, int64_t count, double scale,
                               const float* top, const float* rest, const float* shift, uint16_t* weights,
                               uint16_t* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) {
    soft_pair_gradient_tile<v>(s, d_weights, count, float(scale), top, rest, shift, weights, d_scores, stride);
  });
}

// What soft_pair_gradient left to do.
template <int vectors>
void store_pair_cells_tile(float* d_weights, int64_t count, uint16_t* d_scores, int64_t stride) {
  constexpr int width = vectors * lanes<float>;
  const auto row = [&](int64_t j) {
    Vec<float> x[vectors];
    unroll<vectors>([&](int v) INLINED { x[v] = load(d_weights + j * width + v * lanes<float>); });
    const __m512i cells = cell_row<vectors>(x);
    _mm512_storeu_si512(d_scores + j * stride, cells);
    return cells;
  };
  for (int64_t j = 0; j < count; j += 2) {
    const __m512i a = row(j), b = j + 1 < count ? row(j + 1) : __m512i{};
    store_pairs<vectors>(a, b, d_weights + j / 2 * width);
  }
  fill_pairs<vectors>(d_weights, count);
}

inline void store_pair_cells(float* d_weights, int32_t vectors, int64_t count, uint16_t* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) { store_pair_cells_tile<v>(d_weights, count, d_scores, stride); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
