// Weights of attention as bfloat16 pairs, with their tangents and gradients: soft.hpp and soft_tangent.hpp, packed for the
// products of bf16_pairs.hpp and amx.hpp. Weights, and the gradients of scores, are rounded to bfloat16 for the product;
// weights are summed as rounded, for lse as they were. Whole tiles of AMX are filled up with zeros.
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
