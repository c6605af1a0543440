// Weights of attention as quads of bfloat16, with their tangents and gradients: soft.hpp and soft_tangent.hpp, packed for
// the products of bf16_quads.hpp. Weights, and the gradients of scores, are rounded to bfloat16 for the product; weights are
// summed as rounded, for lse as they were.
#pragma once
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "../bf16_quads.hpp"
#include "../math.hpp"
#include "soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// 2^x for weights that are rounded to 8 bits: relative error 3e-6, exp2(0) = 1 exactly; x < 128.
inline Vec<float> exp2_of_weights(Vec<float> x) {
  constexpr float exp2m1[] = {0x1.62e12cp-1f, 0x1.ec0378p-3f, 0x1.c9fc46p-5f, 0x1.3a02ccp-7f};
  return exp2_by<float>(exp2m1, x);
}

// Four keys' cells of a vector of queries become two vectors of quads: [0] of the first two queries.
struct Quads {
  Halves of[2];
};
inline Quads quads_of(const Vec<float> (&cell)[4]) {
  const auto two = [&](int i) {
    return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(cell[i]), cell[i + 1]));
  };
  const Halves a = two(0), b = two(2), even = vzip1q_u16(a, b), odd = vzip2q_u16(a, b);
  return {{vzip1q_u16(even, odd), vzip2q_u16(even, odd)}};
}
// To the place of the first rows of cells; which have been read.
template <int vectors>
inline void store_quads(const Quads (&quads)[vectors], float* to) {
  unroll<2 * vectors>([&](int i) INLINED { store<float>(to + i * lanes<float>, (Vec<float>)quads[i / 2].of[i % 2]); });
}

// soft.hpp's online softmax, with the weights of four keys packed into a quad a query. l is their sum as rounded, exact as
// they were before.
template <int vectors, bool with_exact>
[[gnu::noinline]] void soft_quad_tile(float* scores, int64_t count, float scale, const float* top, float* m, float* l,
                                      float* exact, float* alpha, const Prefetch& next) {
  constexpr int width = vectors * lanes<float>;
  Vec<float> sum[vectors][2] = {}, exact_sum[vectors] = {}, offset[vectors];
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  Halves ones = vdupq_n_u16(0x3f80);
  asm("" : "+w"(ones));  // GCC 12 loads bfloat16 1 as half precision's, 0x3c00, where it knows the value
  Prefetcher prefetcher(next, (count + 7) / 8);
  const auto group = [&](const float* from, float* to, auto there) {
    Quads weights[vectors];
    unroll<vectors>([&](int v) INLINED {
      Vec<float> weight[4] = {};
      unroll<4>([&](int i) INLINED {
        if (there(i)) weight[i] = exp2_of_weights((load(from + i * width + v * lanes<float>) - offset[v]) * scale);
      });
      if constexpr (with_exact) exact_sum[v] += (weight[0] + weight[1]) + (weight[2] + weight[3]);
      weights[v] = quads_of(weight);
      unroll<2>([&](int i)
                    INLINED { sum[v][i] = multiply_quads(sum[v][i], weights[v].of[i], ones); });  // each sum twice
    });
    store_quads<vectors>(weights, to);
  };
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    if (j % 8 == 0) prefetcher.step();
    group(scores + j * width, scores + j / 2 * width, [](int) { return true; });
  }
  if (j < count) group(scores + j * width, scores + j / 2 * width, [&](int i) { return j + i < count; });
  unroll<vectors>([&](int v) INLINED {
    const int at = v * lanes<float>;
    store<float>(l + at, load(l + at) + (Vec<float>)vuzp1q_f32(sum[v][0], sum[v][1]));
    if constexpr (with_exact) store<float>(exact + at, load(exact + at) * load(alpha + at) + exact_sum[v]);
  });
}

inline void soft_quads(float* scores, int32_t vectors, int64_t count, double scale, const float* top, float* m,
                       float* l, float* exact, float* alpha, const Gaussian*, const Prefetch& next) {
  by_width(vectors, [&](auto v) {
    const auto tile = exact ? soft_quad_tile<v, true> : soft_quad_tile<v, false>;
    tile(scores, count, float(scale), top, m, l, exact, alpha, next);
  });
}

// soft_tangent.hpp, with both products packed; l and d are sums as rounded, exact and d_exact as they were before.
template <int vectors>
[[gnu::noinline]] void soft_quad_tangent_tile(float* scores, float* tangents, const float* more, int64_t count,
                                              float scale, float factor, const float* top, float* m, float* l,
                                              float* exact, float* d, float* d_exact, float* alpha) {
  constexpr int width = vectors * lanes<float>;
  const Vec<float> lowest = minus_infinity<float>();
  Vec<float> sum[vectors][2] = {}, exact_sum[vectors] = {}, moved[vectors][2] = {}, exact_moved[vectors] = {};
  Vec<float> offset[vectors];
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  Halves ones = vdupq_n_u16(0x3f80);
  asm("" : "+w"(ones));  // as in soft_quad_tile
  for (int64_t j = 0; j < count; j += 4) {
    Quads weights[vectors], products[vectors];
    unroll<vectors>([&](int v) INLINED {
      Vec<float> weight[4] = {}, product[4] = {};
      for (int i = 0; i < 4 && j + i < count; ++i) {
        const int64_t cell = (j + i) * width + v * lanes<float>;
        const Vec<float> score = load(scores + cell);
        const Vec<float> tangent = more ? load(tangents + cell) + load(more + cell) : load(tangents + cell);
        weight[i] = exp2_of_weights((score - offset[v]) * scale);
        product[i] = score == lowest ? Vec<float>{} : weight[i] * (tangent * factor);
      }
      exact_sum[v] += (weight[0] + weight[1]) + (weight[2] + weight[3]);
      exact_moved[v] += (product[0] + product[1]) + (product[2] + product[3]);
      weights[v] = quads_of(weight);
      products[v] = quads_of(product);
      unroll<2>([&](int i) INLINED {  // each sum twice
        sum[v][i] = multiply_quads(sum[v][i], weights[v].of[i], ones);
        moved[v][i] = multiply_quads(moved[v][i], products[v].of[i], ones);
      });
    });
    store_quads<vectors>(weights, scores + j / 2 * width);
    store_quads<vectors>(products, tangents + j / 2 * width);
  }
  unroll<vectors>([&](int v) INLINED {
    const int at = v * lanes<float>;
    const Vec<float> shrink = load(alpha + at);
    store<float>(l + at, load(l + at) + (Vec<float>)vuzp1q_f32(sum[v][0], sum[v][1]));
    store<float>(d + at, load(d + at) * shrink + (Vec<float>)vuzp1q_f32(moved[v][0], moved[v][1]));
    if (!exact) return;
    store<float>(exact + at, load(exact + at) * shrink + exact_sum[v]);
    store<float>(d_exact + at, load(d_exact + at) * shrink + exact_moved[v]);
  });
}

inline void soft_quad_tangent(float* scores, float* tangents, const float* more, int32_t vectors, int64_t count,
                              double scale, double factor, const float* top, float* m, float* l, float* exact, float* d,
                              float* d_exact, float* alpha) {
  by_width(vectors, [&](auto v) {
    soft_quad_tangent_tile<v>(scores, tangents, more, count, float(scale), float(factor), top, m, l, exact, d, d_exact,
                              alpha);
  });
}

// A row of a panel's cells as bfloat16, with zeros up to a whole panel.
template <int vectors>
inline void store_cell_row(const Vec<float> (&cell)[vectors], uint16_t* to) {
  unroll<panel_vectors>([&](int v) INLINED {
    uint16x4_t x = {};
    if (v < vectors) x = vreinterpret_u16_bf16(vcvt_bf16_f32(cell[v]));
    vst1_u16(to + v * lanes<float>, x);
  });
}
// Rows of four keys, or of the `count` that there are; and to quads in the place of the first rows of cells.
template <int vectors>
inline void store_cell_rows(const Vec<float> (&cell)[4][vectors], int64_t count, int64_t stride, uint16_t* to,
                            float* quads) {
  for (int i = 0; i < 4 && i < count; ++i) store_cell_row<vectors>(cell[i], to + i * stride);
  Quads all[vectors];
  unroll<vectors>([&](int v) INLINED {
    const Vec<float> column[4] = {cell[0][v], cell[1][v], cell[2][v], cell[3][v]};
    all[v] = quads_of(column);
  });
  store_quads<vectors>(all, quads);
}

// soft.hpp's gradient: rows of bfloat16, and of dS the quads too; where d_scores is null, dS as float32.
template <int vectors>
[[gnu::noinline]] void soft_quad_gradient_tile(const float* s, float* d_weights, int64_t count, float scale,
                                               const float* top_, const float* rest_, const float* shift_,
                                               uint16_t* weights, uint16_t* d_scores, int64_t stride) {
  constexpr int width = vectors * lanes<float>;
  const Vec<float> lowest = minus_infinity<float>();
  Vec<float> top[vectors], rest[vectors], shift[vectors];
  unroll<vectors>([&](int v) INLINED {
    top[v] = load(top_ + v * lanes<float>);
    rest[v] = load(rest_ + v * lanes<float>);
    shift[v] = load(shift_ + v * lanes<float>);
  });
  for (int64_t j = 0; j < count; j += 4) {
    Vec<float> d_score[4][vectors] = {};
    for (int i = 0; i < 4 && j + i < count; ++i) {
      Vec<float> weight[vectors];
      unroll<vectors>([&](int v) INLINED {
        const int64_t cell = (j + i) * width + v * lanes<float>;
        const Vec<float> score = load(s + cell), x = at_least(0.0f, rest[v] - (score - top[v]) * scale);
        const IntVec<float> hidden = (score == lowest) | (rest[v] == -lowest);
        weight[v] = hidden ? Vec<float>{} : exp2_of_weights(-x);
        d_score[i][v] = hidden ? Vec<float>{} : weight[v] * (load(d_weights + cell) - shift[v]);
        if (!d_scores) store<float>(d_weights + cell, d_score[i][v]);
      });
      store_cell_row<vectors>(weight, weights + (j + i) * stride);
    }
    if (d_scores)
      store_cell_rows<vectors>(d_score, count - j, stride, d_scores + j * stride, d_weights + j / 2 * width);
  }
}

inline void soft_quad_gradient(const float* s, float* d_weights, int32_t vectors, int64_t count, double scale,
                               const float* top, const float* rest, const float* shift, uint16_t* weights,
                               uint16_t* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) {
    soft_quad_gradient_tile<v>(s, d_weights, count, float(scale), top, rest, shift, weights, d_scores, stride);
  });
}

// What soft_quad_gradient left to do.
template <int vectors>
void store_quad_cells_tile(float* d_weights, int64_t count, uint16_t* d_scores, int64_t stride) {
  constexpr int width = vectors * lanes<float>;
  for (int64_t j = 0; j < count; j += 4) {
    Vec<float> cell[4][vectors] = {};
    for (int i = 0; i < 4 && j + i < count; ++i)
      unroll<vectors>([&](int v) INLINED { cell[i][v] = load(d_weights + (j + i) * width + v * lanes<float>); });
    store_cell_rows<vectors>(cell, count - j, stride, d_scores + j * stride, d_weights + j / 2 * width);
  }
}

inline void store_quad_cells(float* d_weights, int32_t vectors, int64_t count, uint16_t* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) { store_quad_cells_tile<v>(d_weights, count, d_scores, stride); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
