// Weights of attention as bfloat16 pairs, with their tangents and gradients: soft.hpp and soft_tangent.hpp, packed for the
// products of bf16_pairs.hpp and amx.hpp. Weights, and the gradients of scores, are rounded to bfloat16 for the product;
// weights are summed as rounded, for lse as they were. Whole tiles of AMX are filled up with zeros.
// A pair of weights for the online softmax is made as it is packed, in 16 bits each (WeightBits): in half the time.
#pragma once
#if defined(__AVX512BF16__)
#include "../bf16_pairs.hpp"
#include "../math.hpp"
#include "soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

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

// 2^x as the bits of a bfloat16, for x = scale * difference <= 0. Without its exponential, 1 + f for 2^f, a weight is its
// own logarithm: y = 512 (x + 127) has the exponent in the bits from 9 on and the mantissa, with two bits more, below;
// 1 + f - 2^f comes from a table of 64, and the last two bits are rounded off. Relative error: root mean square 0.0018,
// where rounding alone has 0.0017, at most 0.0056, where it has 0.0039; 2^0 = 1 exactly, less than 2^-126 counts as 0.
class WeightBits {
 public:
  explicit WeightBits(float scale)
      : scale_(broadcast(scale < 0x1p118f ? scale * 512 : Math<float>::largest)),
        low_table_(words_of(bends)),
        high_table_(words_of(bends + 32)) {
    for (int i = 0; i < 16; ++i) upper_[i] = (4 * (i % 4) | (4 * (i % 4) + 1) << 8) << 16;
  }

  // y in the low bits, with 2 to round by; where x is less than -127: 0. NaN remains, if that is wanted.
  template <bool with_nan>
  __m512i log(Vec<float> difference) const {
    const Vec<float> y = _mm512_fmadd_round_ps(difference, scale_, broadcast(zero + 127 * 512 + 2),
                                               _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    if constexpr (with_nan) return (__m512i)at_least<float>(zero, y);
    return _mm512_max_epi32((__m512i)y, log_of_0());  // has more pipes, and takes some NaN for a negative number
  }
  static __m512i log_of_0() { return (__m512i)broadcast(zero); }

  // The weights of two keys, from their logarithms.
  Vec<float> pair(__m512i low, __m512i high) const {
    const __m512i y = _mm512_mask_shuffle_epi8(low, 0xcccccccccccccccc, high, (__m512i)upper_);
    const __m512i bend = _mm512_permutex2var_epi16(low_table_, _mm512_srli_epi16(y, 3), high_table_);
    return (Vec<float>)_mm512_srli_epi16(_mm512_sub_epi16(y, bend), 2);
  }

  // Collects logarithms, to tell where one was NaN.
  static __m512i any(__m512i before, __m512i low, __m512i high) {
    return _mm512_ternarylogic_epi32(before, low, high, 0xfe);
  }
  static __mmask16 any_nan(__m512i any) { return _mm512_test_epi32_mask(any, _mm512_set1_epi32(1 << 23)); }

 private:
  // 512 (1 + f - 2^f) where 512 f = 8 i + 2, the middle of those that are rounded to it
  static constexpr uint8_t bends[64] = {0,  3,  5,  8,  10, 12, 14, 16, 18, 20, 22, 24, 25, 27, 29, 30,
                                        31, 33, 34, 35, 36, 38, 38, 39, 40, 41, 42, 42, 43, 43, 44, 44,
                                        44, 44, 44, 44, 44, 44, 43, 43, 42, 42, 41, 40, 39, 38, 37, 36,
                                        35, 33, 32, 30, 28, 27, 25, 23, 20, 18, 16, 13, 11, 8,  5,  2};
  // From here on numbers are whole, those below 2^16 in the low bits; bit 23 is NaN's.
  static constexpr float zero = 0x1p23f;
  static __m512i words_of(const uint8_t* bytes) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  }

  Vec<float> scale_;
  __m512i low_table_, high_table_;
  Words upper_;  // where the upper half of a pair stands
};

inline __mmask16 is_nan(Vec<float> x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
inline Vec<float> nan_where(__mmask16 nan, Vec<float> x) {
  return _mm512_mask_blend_ps(nan, x, from_bits<float>(Words{} - 1));
}

// soft.hpp's online softmax, with the weights of two keys packed into one word a query. l is their sum as rounded; exact,
// for lse, that of weights as accurate as exp2_of_weights. What is asked for does not change the weights.
template <int vectors, bool with_exact>
[[gnu::noinline]] void soft_pair_tile(float* scores, int64_t count, float scale, const float* top, float* m, float* l,
                                      float* exact, float* alpha, const Prefetch& next) {
  constexpr int width = vectors * lanes<float>;
  Vec<float> sum[vectors] = {}, exact_sum[vectors] = {}, offset[vectors];
  __m512i logs[vectors] = {};
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  const WeightBits weight(scale);
  const Vec<float> ones = from_bits<float>(Words{} + 0x3f803f80);
  Prefetcher prefetcher(next, (count + 7) / 8);
  const auto pair = [&](int64_t j, int v, bool both) INLINED {
    const float* const from = scores + j * width + v * lanes<float>;
    const Vec<float> low = load(from) - offset[v];
    const Vec<float> high = both ? load(from + width) - offset[v] : Vec<float>{};
    const __m512i low_log = weight.log<!with_exact>(low);
    const __m512i high_log = both ? weight.log<!with_exact>(high) : weight.log_of_0();
    const Vec<float> weights = weight.pair(low_log, high_log);
    sum[v] = PairProduct::apply(sum[v], weights, ones);
    if constexpr (with_exact)
      exact_sum[v] += exp2_of_weights(low * scale, 0xffff) + exp2_of_weights(high * scale, both ? 0xffff : 0);
    else
      logs[v] = WeightBits::any(logs[v], low_log, high_log);
    store<float>(scores + j / 2 * width + v * lanes<float>, weights);
  };
  const int64_t even = count & ~int64_t(1);
  for (int64_t j = 0; j < even; j += 2) {
    if (j % 8 == 0) prefetcher.step();
    unroll<vectors>([&](int v) INLINED { pair(j, v, true); });
  }
  if (even < count) unroll<vectors>([&](int v) INLINED { pair(even, v, false); });
  fill_pairs<vectors>(scores, count);
  unroll<vectors>([&](int v) INLINED {
    const int at = v * lanes<float>;
    const __mmask16 nan = with_exact ? is_nan(exact_sum[v]) : WeightBits::any_nan(logs[v]);
    store<float>(l + at, nan_where(nan, load(l + at) + sum[v]));
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

// soft_tangent.hpp, with both products packed and soft_pair_tile's weights; l and d are sums as rounded, exact and d_exact
// as they were before.
template <int vectors>
[[gnu::noinline]] void soft_pair_tangent_tile(float* scores, float* tangents, const float* more, int64_t count,
                                              float scale, float factor, const float* top, float* m, float* l,
                                              float* exact, float* d, float* d_exact, float* alpha) {
  constexpr int width = vectors * lanes<float>;
  const Vec<float> lowest = minus_infinity<float>();
  Vec<float> sum[vectors] = {}, exact_sum[vectors] = {}, moved[vectors] = {}, exact_moved[vectors] = {};
  Vec<float> offset[vectors];
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  const WeightBits bits(scale);
  Words interleave;  // words (i, 16 + i): the pair of query i
  for (int i = 0; i < 16; ++i) interleave[i] = i | (16 + i) << 16;
  const Vec<float> ones = from_bits<float>(Words{} + 0x3f803f80);
  const auto packed = [&](Vec<float> low, Vec<float> high) INLINED {
    return (Vec<float>)_mm512_permutexvar_epi16((__m512i)interleave, as_bfloat16(low, high));
  };
  const auto weigh = [&](int64_t cell, int v, __m512i& log, Vec<float>& product) INLINED {
    const Vec<float> score = load(scores + cell), difference = score - offset[v];
    const Vec<float> weight = exp2_of_weights(difference * scale, 0xffff);
    log = bits.log<false>(difference);
    const Vec<float> tangent = more ? load(tangents + cell) + load(more + cell) : load(tangents + cell);
    const __mmask16 seen = _mm512_cmp_ps_mask(score, lowest, _CMP_NEQ_UQ);
    product = _mm512_maskz_mul_ps(seen, weight, tangent * factor);
    return weight;
  };
  for (int64_t j = 0; j < count; j += 2)
    unroll<vectors>([&](int v) INLINED {
      const int64_t cell = j * width + v * lanes<float>, to = j / 2 * width + v * lanes<float>;
      Vec<float> high = {}, low_product, high_product = {};
      __m512i low_log, high_log = bits.log_of_0();
      const Vec<float> low = weigh(cell, v, low_log, low_product);
      if (j + 1 < count) high = weigh(cell + width, v, high_log, high_product);
      const Vec<float> weights = bits.pair(low_log, high_log), products = packed(low_product, high_product);
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
    store<float>(l + at, nan_where(is_nan(exact_sum[v]), load(l + at) + sum[v]));
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
