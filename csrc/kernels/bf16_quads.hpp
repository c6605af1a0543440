// Products of bfloat16 by the matrix instruction of AArch64 (bfmmla), which multiplies 2 rows of 4 by 2 columns of 4:
//   C[i][n] += (A[i][0] B[0][n] + A[i][1] B[1][n]) + (A[i][2] B[2][n] + A[i][3] B[3][n])        i, n < 2
// in float32, rounded to odd after each sum, subnormals taken as 0. A quad is four elements that follow each other along
// the sum, as one operand of it; two neighbors fill a vector.
//   scores        C [key][query]    A keys in place [key][d]             B the packed panel [d / 4][query][4 d]
//   weighted_sum  C [d][query]      A values [key / 4][d][4 keys]        B weights [key / 4][query][4 keys]
//   query_sum     C [key][d]        A cells [key][query]                 B summands [query / 4][d][4 queries]
// What fills up a quad is 0 on both sides. select/soft_quads.hpp makes the weights.
#pragma once
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "gemm.hpp"
#include "pack.hpp"
#include "query_sum.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int64_t quads(int64_t count) { return (count + 3) / 4; }
constexpr int quad_panel = panel_vectors * lanes<float>;

using Halves = uint16x8_t;  // two quads

inline Halves load_halves(const uint16_t* p) { return vld1q_u16(p); }
inline Vec<float> multiply_quads(Vec<float> sum, Halves a, Halves b) {
  return vbfmmlaq_f32(sum, vreinterpretq_bf16_u16(a), vreinterpretq_bf16_u16(b));
}

struct QuadProduct {
  using T = float;  // the accumulator
  static float cell(const float* weights, int64_t key, int64_t query, int64_t width) {
    return float_of_bfloat16(reinterpret_cast<const uint16_t*>(weights)[(key / 4 * width + query) * 4 + key % 4]);
  }
  static float rounded(float value) { return rounded_to_bfloat16(value); }
};

// ---- Layout

inline int64_t quad_row_size(int64_t columns) { return 8 * quads(columns); }
inline int64_t quad_value_size(int64_t columns) { return 8 * round_up(columns, 2); }

inline void copy_bfloat16_row(const char* from, int64_t stride, int64_t columns, uint16_t* to) {
  if (stride == 2) {
    memcpy(to, from, size_t(columns) * 2);
    return;
  }
  for (int64_t d = 0; d < columns; ++d) memcpy(to + d, from + d * stride, 2);
}

// Row j of few bits, rounded to bfloat16, from column `first` on, a multiple of 32.
inline void load_few_bits_row(const Rows& from, int64_t j, int64_t first, int64_t end, uint16_t* to) {
  with_few_bits(from.dtype, [&](auto dtype) {
    each_of_few_bits<dtype>(from, j, first, end, [&](int64_t d, Vec<float> x, float scale, int count) INLINED {
      x *= scale;
      for (int i = 0; i < count; ++i) to[d - first + i] = bfloat16_of_float(x[i]);
    });
  });
}

// Keys in rows of whole quads, the rest 0.
inline void load_quad_keys(const Rows& from, int64_t count, int64_t columns, uint16_t* row) {
  const int64_t whole = 4 * quads(columns);
  const bool few = is_few_bits(from.dtype), across = !few && is_across(from, count, columns);
  constexpr int64_t some = 64;  // rows: columns stand on pages of their own
  for (int64_t first = 0; first < count && across; first += some)
    for (int64_t d = 0; d < columns; ++d)
      for (int64_t j = first; j < first + some && j < count; ++j)
        memcpy(row + j * whole + d, from.data + j * from.row_stride + d * from.column_stride, 2);
  for (int64_t j = 0; j < count; ++j, row += whole) {
    if (few)
      load_few_bits_row(from, j, 0, columns, row);
    else if (!across)
      copy_bfloat16_row(from.row(j), from.column_stride, columns, row);
    for (int64_t d = columns; d < whole; ++d) row[d] = 0;
  }
}

inline void pack_quad_queries(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int32_t vectors,
                              int64_t head_size, double, const void*, uint16_t* scratch, uint16_t* panel) {
  const int32_t width = vectors * lanes<float>;
  const int64_t whole = quads(head_size);
  const bool in_place = column_stride == 2 && head_size % 4 == 0;
  for (int32_t i = 0; i < width; ++i) {
    uint16_t* to = panel + 4 * i;
    if (i >= live) {
      for (int64_t d = 0; d < whole; ++d, to += 4 * width) vst1_u16(to, uint16x4_t{});
      continue;
    }
    const char* from = rows[i];
    if (!in_place) {
      load_quad_keys({rows[i], Dtype::bfloat16, 0, column_stride}, 1, head_size, scratch);
      from = reinterpret_cast<const char*>(scratch);
    }
    for (int64_t d = 0; d < whole; ++d, to += 4 * width) memcpy(to, from + 8 * d, 8);
  }
}

// 8 elements, or the `count` that there are, the rest 0.
inline Halves some_halves(const char* from, int64_t stride, int64_t count) {
  uint16_t some[8] = {};
  if (stride == 2 && count >= 8) return load_halves(reinterpret_cast<const uint16_t*>(from));
  for (int64_t d = 0; d < count && d < 8; ++d) memcpy(some + d, from + d * stride, 2);
  return load_halves(some);
}

// Where one is inf or NaN is collected, and with `finite` made 0.
inline Halves look_for_bad(Halves x, bool finite, Halves& spoilt) {
  const Halves exponent = vdupq_n_u16(0x7f80), bad = vceqq_u16(vandq_u16(x, exponent), exponent);
  spoilt = vorrq_u16(spoilt, bad);
  return finite ? vbicq_u16(x, bad) : x;
}

// Four rows become one row of quads, of columns up to a multiple of 2 or 4. row(i): the address of row i < 4, or null.
template <class Row>
inline void load_quads(Row&& row, int64_t column_stride, int64_t columns, int64_t whole, bool finite, Halves& spoilt,
                       uint16_t* to) {
  for (int64_t d = 0; d < whole; d += 8, to += 32) {
    uint16x8x4_t four;
    for (int i = 0; i < 4; ++i) {
      const char* const from = row(i);
      const Halves x = from ? some_halves(from + d * column_stride, column_stride, columns - d) : Halves{};
      four.val[i] = look_for_bad(x, finite, spoilt);
    }
    if (whole - d >= 8) {
      vst4q_u16(to, four);
    } else {
      uint16_t some[32];
      vst4q_u16(some, four);
      memcpy(to, some, size_t(whole - d) * 8);
    }
  }
}

inline void load_few_bits_quads(const Rows& from, int64_t count, int64_t columns, bool finite, uint16_t* to) {
  const int64_t whole = round_up(columns, 2);
  Halves spoilt = {};
  constexpr int64_t some = 64;  // columns of four rows
  uint16_t rows[4][some];
  for (int64_t j = 0; j < count; j += 4, to += 4 * whole)
    for (int64_t first = 0; first < columns; first += some) {
      const int64_t end = columns - first < some ? columns : first + some;
      for (int i = 0; i < 4 && j + i < count; ++i) load_few_bits_row(from, j + i, first, end, rows[i]);
      load_quads([&](int i) { return j + i < count ? reinterpret_cast<const char*>(rows[i]) : nullptr; }, 2,
                 end - first, round_up(end - first, 2), finite, spoilt, to + 4 * first);
    }
}

inline void load_quad_values(const Rows& from, int64_t count, int64_t columns, bool finite, uint16_t* to) {
  const int64_t whole = round_up(columns, 2);
  Halves spoilt = {};
  if (is_few_bits(from.dtype)) return load_few_bits_quads(from, count, columns, finite, to);
  for (int64_t j = 0; j < count; j += 4, to += 4 * whole)
    load_quads([&](int i) { return j + i < count ? from.row(j + i) : nullptr; }, from.column_stride, columns, whole,
               finite, spoilt, to);
}

inline bool load_quad_summands(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int64_t columns,
                               bool finite, uint16_t* x, int64_t first) {
  const int64_t whole = round_up(columns, lanes<float>);
  uint16_t* to = x + first * whole;
  Halves spoilt = {};
  for (int32_t i = 0; i < quad_panel; i += 4, to += 4 * whole)
    load_quads([&](int k) { return i + k < live ? rows[i + k] : nullptr; }, column_stride, columns, whole, finite,
               spoilt, to);
  return vmaxvq_u16(spoilt) == 0;
}

// ---- Products: register tiles of 2 * pairs rows of A by `vectors` of columns of B

template <int vectors>
constexpr int quad_pairs = vectors == 1 ? 8 : 4;

template <int pairs, int vectors>
using QuadSums = Vec<float>[pairs][2 * vectors];

// a(p, k): the k-th quads of the rows 2p and 2p + 1. b: of the columns, a step from each to the next.
template <int pairs, int vectors, class Rows>
inline void add_quads(QuadSums<pairs, vectors>& sum, Rows&& a, const uint16_t* b, int64_t step, int64_t count) {
  for (int64_t k = 0; k < count; ++k, b += step) {
    Halves x[pairs];
    unroll<pairs>([&](int p) INLINED { x[p] = a(p, k); });
    unroll<2 * vectors>([&](int c) INLINED {
      const Halves y = load_halves(b + 8 * c);
      unroll<pairs>([&](int p) INLINED { sum[p][c] = multiply_quads(sum[p][c], x[p], y); });
    });
  }
}

// f(row, v, sums of a vector of columns), for the first `rows`.
template <int pairs, int vectors, class F>
inline void each_row(const QuadSums<pairs, vectors>& sum, bool all_rows, F&& f) {
  unroll<pairs>([&](int p) INLINED {
    unroll<vectors>([&](int v) INLINED {
      const float64x2_t a = (float64x2_t)sum[p][2 * v], b = (float64x2_t)sum[p][2 * v + 1];
      f(2 * p, v, (Vec<float>)vzip1q_f64(a, b));
      if (p < pairs - 1 || all_rows) f(2 * p + 1, v, (Vec<float>)vzip2q_f64(a, b));
    });
  });
}

// Rows of A that stand `stride` apart; the last one stands for itself and for one that is not there.
template <int pairs>
struct RowPairs {
  const uint16_t* rows;
  int64_t stride;
  bool all;
  Halves operator()(int p, int64_t k) const {
    const uint16_t* const low = rows + 2 * p * stride + 4 * k;
    return vcombine_u16(vld1_u16(low), vld1_u16(p < pairs - 1 || all ? low + stride : low));
  }
};

// first: no part of the sum stands in `scores` yet; last: it is complete, and its maximum goes to top.
template <int pairs, int vectors, int all, bool first, bool last>
[[gnu::noinline]] void quad_scores_block(const uint16_t* panel, const uint16_t* keys, int64_t key_stride,
                                         int64_t columns, bool all_rows, float* scores, float* top) {
  QuadSums<pairs, vectors> sum = {};
  add_quads<pairs, vectors>(sum, RowPairs<pairs>{keys, key_stride, all_rows}, panel, all * 16, columns);
  Vec<float> most[vectors];
  if constexpr (last) unroll<vectors>([&](int v) INLINED { most[v] = load(top + v * lanes<float>); });
  each_row<pairs, vectors>(sum, all_rows, [&](int j, int v, Vec<float> x) INLINED {
    float* const cell = scores + (j * all + v) * lanes<float>;
    if constexpr (!first) x += load(cell);
    store<float>(cell, x);
    if constexpr (last) most[v] = max(x, most[v]);
  });
  if constexpr (last) unroll<vectors>([&](int v) INLINED { store<float>(top + v * lanes<float>, most[v]); });
}

// In chains over as many columns as those of gemm.hpp.
template <int pairs, int vectors, int all>
inline void quad_scores_of_rows(const uint16_t* panel, const uint16_t* keys, int64_t key_stride, int64_t columns,
                                bool all_rows, float* scores, float* top) {
  constexpr int64_t chain = score_chain / 4, step = chain * all * 16;
  if (columns <= chain)
    return quad_scores_block<pairs, vectors, all, true, true>(panel, keys, key_stride, columns, all_rows, scores, top);
  quad_scores_block<pairs, vectors, all, true, false>(panel, keys, key_stride, chain, all_rows, scores, top);
  int64_t d = chain;
  for (panel += step; columns - d > chain; d += chain, panel += step)
    quad_scores_block<pairs, vectors, all, false, false>(panel, keys + 4 * d, key_stride, chain, all_rows, scores, top);
  quad_scores_block<pairs, vectors, all, false, true>(panel, keys + 4 * d, key_stride, columns - d, all_rows, scores,
                                                      top);
}

template <int vectors, int all, int pairs = quad_pairs<vectors>>
void quad_scores_product(const uint16_t* panel, const uint16_t* keys, int64_t key_stride, int64_t count,
                         int64_t columns, float* scores, float* top, Prefetcher& prefetcher) {
  for (; count >= 2 * pairs || (pairs == 1 && count > 0); count -= 2 * pairs) {
    prefetcher.step();
    quad_scores_of_rows<pairs, vectors, all>(panel, keys, key_stride, columns, count > 1, scores, top);
    keys += 2 * pairs * key_stride;
    scores += 2 * pairs * all * lanes<float>;
  }
  if constexpr (pairs > 1) {
    if (count > 0)
      quad_scores_product<vectors, all, pairs / 2>(panel, keys, key_stride, count, columns, scores, top, prefetcher);
  }
}

inline void quad_scores(const uint16_t* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t head_size,
                        const void*, float* s, float* top, const PartialKeys& partial, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, count / (2 * quad_pairs<v>));
    float unwanted[v * lanes<float>];
    float* const tops = top ? top : unwanted;
    start_top<float, v>(tops);
    const int64_t stride = keys.row_stride / 2;
    // the keys begin..end of `some` vectors from `first` on
    const auto product = [&](auto some, auto first, int64_t begin, int64_t end) {
      quad_scores_product<some, v>(panel + first * 16, static_cast<const uint16_t*>(keys.data) + begin * stride, stride,
                                   end - begin, quads(head_size), s + (begin * v + first) * lanes<float>,
                                   tops + first * lanes<float>, prefetcher);
    };
    if constexpr (v == 1) {
      product(v, Constant<0>{}, 0, count);
    } else {
      if (partial.first > 0) product(Constant<1>{}, Constant<0>{}, 0, partial.first);
      product(v, Constant<0>{}, partial.first, partial.last);
      if (partial.last < count) product(Constant<1>{}, Constant<v - 1>{}, partial.last, count);
    }
  });
}

// Columns of values that stand side by side.
struct ValuePairs {
  const uint16_t* values;
  int64_t stride;
  Halves operator()(int p, int64_t k) const { return load_halves(values + k * stride + 8 * p); }
};

template <int vectors, int pairs>
[[gnu::noinline]] void quad_weighted_block(const uint16_t* weights, const uint16_t* values, int64_t value_stride,
                                           int64_t count, const PartialKeys& partial, bool all_columns,
                                           const float* alpha, float* output) {
  constexpr int width = vectors * lanes<float>;
  QuadSums<pairs, vectors> sum = {};
  // the next groups of keys, for `some` vectors from `first` on
  const auto add_keys = [&](auto some, auto first, int64_t groups) {
    if constexpr (some == vectors) {
      add_quads<pairs, vectors>(sum, ValuePairs{values, value_stride}, weights, width * 4, groups);
    } else {
      QuadSums<pairs, 1> part;
      unroll<pairs>([&](int p) INLINED { unroll<2>([&](int c) INLINED { part[p][c] = sum[p][2 * first + c]; }); });
      add_quads<pairs, 1>(part, ValuePairs{values, value_stride}, weights + 16 * first, width * 4, groups);
      unroll<pairs>([&](int p) INLINED { unroll<2>([&](int c) INLINED { sum[p][2 * first + c] = part[p][c]; }); });
    }
    weights += groups * width * 4;
    values += groups * value_stride;
  };
  if constexpr (vectors == 1) {
    add_keys(Constant<1>{}, Constant<0>{}, count);
  } else {
    add_keys(Constant<1>{}, Constant<0>{}, partial.first);
    add_keys(Constant<vectors>{}, Constant<0>{}, partial.last - partial.first);
    add_keys(Constant<1>{}, Constant<vectors - 1>{}, count - partial.last);
  }
  each_row<pairs, vectors>(sum, all_columns, [&](int d, int v, Vec<float> x) INLINED {
    float* const cell = output + d * width + v * lanes<float>;
    store<float>(cell, load(cell) * load(alpha + v * lanes<float>) + x);
  });
}

template <int vectors, int pairs = quad_pairs<vectors>>
void quad_weighted_columns(const uint16_t* weights, const uint16_t* values, int64_t value_stride, int64_t count,
                           int64_t value_size, const PartialKeys& partial, const float* alpha, float* output,
                           Prefetcher& prefetcher) {
  for (; value_size >= 2 * pairs || (pairs == 1 && value_size > 0); value_size -= 2 * pairs) {
    prefetcher.step();
    quad_weighted_block<vectors, pairs>(weights, values, value_stride, count, partial, value_size > 1, alpha, output);
    values += 8 * pairs;
    output += 2 * pairs * vectors * lanes<float>;
  }
  if constexpr (pairs > 1) {
    if (value_size > 0)
      quad_weighted_columns<vectors, pairs / 2>(weights, values, value_stride, count, value_size, partial, alpha,
                                                output, prefetcher);
  }
}

inline void quad_weighted_sum(const uint16_t* weights, int32_t vectors, LoadedRows values, int64_t count,
                              int64_t value_size, const float* alpha, float* output, const PartialKeys& partial,
                              const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, value_size / (2 * quad_pairs<v>));
    const PartialKeys groups = {quads(partial.first), quads(partial.last), {}, {}};  // no halves
    quad_weighted_columns<v>(weights, static_cast<const uint16_t*>(values.data), values.row_stride / 2, quads(count),
                             value_size, groups, alpha, output, prefetcher);
  });
}

template <int pairs, int vectors>
[[gnu::noinline]] void quad_query_sum_block(const uint16_t* cells, int64_t stride, int64_t queries, const uint16_t* x,
                                            int64_t columns, bool all_rows, float* to) {
  QuadSums<pairs, vectors> sum = {};
  add_quads<pairs, vectors>(sum, RowPairs<pairs>{cells, stride, all_rows}, x, columns * 4, queries);
  each_row<pairs, vectors>(sum, all_rows, [&](int j, int v, Vec<float> more) INLINED {
    float* const place = to + j * columns + v * lanes<float>;
    store<float>(place, load(place) + more);
  });
}

template <int pairs = quad_pairs<panel_vectors>>
void quad_query_sum_rows(const uint16_t* cells, int64_t stride, int64_t count, int64_t queries, const uint16_t* x,
                         int64_t columns, float* to) {
  constexpr int width = panel_vectors * lanes<float>;
  for (; count >= 2 * pairs || (pairs == 1 && count > 0); count -= 2 * pairs) {
    int64_t d = 0;
    for (; d + width <= columns; d += width)
      quad_query_sum_block<pairs, panel_vectors>(cells, stride, queries, x + 4 * d, columns, count > 1, to + d);
    for (; d < columns; d += lanes<float>)
      quad_query_sum_block<pairs, 1>(cells, stride, queries, x + 4 * d, columns, count > 1, to + d);
    cells += 2 * pairs * stride;
    to += 2 * pairs * columns;
  }
  if constexpr (pairs > 1) {
    if (count > 0) quad_query_sum_rows<pairs / 2>(cells, stride, count, queries, x, columns, to);
  }
}

inline void quad_query_sum(const uint16_t* cells, int64_t stride, int64_t count, int64_t queries, const uint16_t* x,
                           int64_t columns, float* to) {
  quad_query_sum_rows<>(cells, stride, count, quads(queries), x, columns, to);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
