// Products of bfloat16 pairs (vdpbf16ps): two products and two additions in float32 a lane, subnormals taken as 0. The
// register tiles are those of gemm.hpp; an "element" there is a 32-bit word that holds a pair:
//   keys, queries: (x[2d], x[2d + 1]);   values: (V[2j][d], V[2j + 1][d]);   weights: (P[2j][q], P[2j + 1][q])
// Weights are rounded to bfloat16 for the product, and summed as rounded.
#pragma once
#if defined(__AVX512BF16__)
#include "gemm.hpp"
#include "math.hpp"
#include "pack.hpp"
#include "select/soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct PairProduct {
  using T = float;
  static Vec<float> apply(Vec<float> sum, Vec<float> a, Vec<float> b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

constexpr int64_t pairs(int64_t count) { return (count + 1) / 2; }

inline void load_bfloat16_row(const Rows& from, int64_t row, int64_t columns, uint16_t* to) {
  const char* source = from.data + row * from.row_stride;
  if (from.column_stride == 2) {
    memcpy(to, source, size_t(columns) * 2);
  } else {
    for (int64_t d = 0; d < columns; ++d) memcpy(to + d, source + d * from.column_stride, 2);
  }
}

// Keys in rows of whole pairs: an odd head size gets a 0.
inline void load_pair_keys(const Rows& from, int64_t count, int64_t columns, void* to) {
  uint16_t* row = static_cast<uint16_t*>(to);
  for (int64_t j = 0; j < count; ++j, row += 2 * pairs(columns)) {
    load_bfloat16_row(from, j, columns, row);
    if (columns & 1) row[columns] = 0;
  }
}

// Two rows of values become one row of pairs; the row after the last is 0.
inline void load_pair_values(const Rows& from, int64_t count, int64_t columns, bool finite, void* to) {
  uint32_t* row = static_cast<uint32_t*>(to);
  for (int64_t j = 0; j < count; j += 2, row += columns) {
    const bool both = j + 1 < count;
    const char* low = from.data + j * from.row_stride;
    const char* high = low + (both ? from.row_stride : 0);
    const uint32_t keep_high = both ? 0xffff0000u : 0;
    if (from.column_stride == 2) {
      for (int64_t d = 0; d < columns; ++d) {
        uint16_t a, b;
        memcpy(&a, low + 2 * d, 2);
        memcpy(&b, high + 2 * d, 2);
        row[d] = a | ((uint32_t(b) << 16) & keep_high);
      }
    } else {
      for (int64_t d = 0; d < columns; ++d) {
        uint16_t a, b;
        memcpy(&a, low + d * from.column_stride, 2);
        memcpy(&b, high + d * from.column_stride, 2);
        row[d] = a | ((uint32_t(b) << 16) & keep_high);
      }
    }
    if (finite)
      for (int64_t d = 0; d < columns; ++d) {
        if ((row[d] & 0x7f80) == 0x7f80) row[d] &= 0xffff0000u;
        if ((row[d] & 0x7f800000) == 0x7f800000) row[d] &= 0xffff;
      }
  }
}

inline void pack_pair_queries(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int32_t vectors,
                              int64_t head_size, double, const void*, void* scratch, void* panel) {
  const float* plain[32];
  const bool in_place = column_stride == 2 && head_size % 2 == 0;
  for (int32_t i = 0; i < live; ++i) {
    plain[i] = reinterpret_cast<const float*>(rows[i]);
    if (!in_place) {
      float* row = static_cast<float*>(scratch) + i * pairs(head_size);
      load_pair_keys({rows[i], Dtype::bfloat16, 0, column_stride}, 1, head_size, row);
      plain[i] = row;
    }
  }
  transpose_to_panel<float>(
      plain, live, vectors * lanes<float>, pairs(head_size), [](auto x) { return x; }, static_cast<float*>(panel));
}

// soft.hpp's online softmax, with the weights of two keys packed into one word a query.
template <int vectors>
[[gnu::noinline]] void soft_pair_tile(float* scores, int64_t count, float scale, const float* top, float* m, float* l,
                                      float* alpha) {
  constexpr int width = vectors * lanes<float>;
  Vec<float> sum[vectors] = {}, offset[vectors];
  soft_offset<float, vectors>(top, scale, m, l, alpha, offset);
  IntVec<float> interleave;  // words (i, 16 + i): the pair of query i
  for (int i = 0; i < 16; ++i) interleave[i] = i | (16 + i) << 16;
  const Vec<float> ones = from_bits<float>(IntVec<float>{} + 0x3f803f80);
  const int64_t even = count & ~int64_t(1);
  const auto pair = [&](const float* from, float* to, auto v, bool both) {
    const Vec<float> low = exp2<float>((load(from) - offset[v]) * scale);
    const Vec<float> high = both ? exp2<float>((load(from + width) - offset[v]) * scale) : Vec<float>{};
    const __m512i packed = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const Vec<float> weights = (Vec<float>)_mm512_permutexvar_epi16((__m512i)interleave, packed);
    sum[v] = PairProduct::apply(sum[v], weights, ones);
    store<float>(to, weights);
  };
  for (int64_t j = 0; j < even; j += 2)
    unroll<vectors>([&](auto v) {
      pair(scores + j * width + v * lanes<float>, scores + j / 2 * width + v * lanes<float>, v, true);
    });
  if (even < count)
    unroll<vectors>([&](auto v) {
      pair(scores + even * width + v * lanes<float>, scores + even / 2 * width + v * lanes<float>, v, false);
    });
  unroll<vectors>([&](auto v) { store<float>(l + v * lanes<float>, load(l + v * lanes<float>) + sum[v]); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
