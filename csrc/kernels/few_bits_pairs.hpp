// Rows of few bits as bfloat16, for the products of pairs: decoded as floats, times their scales, rounded to nearest even.
// 32 columns at a time, which have one scale.
#pragma once
#if defined(__AVX512BF16__)
#include "few_bits.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Goes along a row, from a column on that is a multiple of 32.
template <Dtype dtype>
class FewBitsRow {
 public:
  FewBitsRow(const Rows& from, int64_t j, int64_t first)
      : row_(from.row(j)),
        stride_(from.column_stride),
        block_(from.block),
        rest_(from.block ? from.block - first % from.block : -1),
        scale_(from.scale_of(j) + (from.block ? first / from.block : 0) * 4) {}

  // The next columns, from d on: all are there, and contiguous.
  void next(int64_t d, Vec<float> (&x)[2]) {
    constexpr int in_byte = dtype == Dtype::int4 ? 2 : 1;
    const float scale = next_scale();
    x[0] = numbers_at<dtype>(row_ + d / in_byte) * scale;
    x[1] = numbers_at<dtype>(row_ + (d + 16) / in_byte) * scale;
  }
  // The same where `left` are there; beyond them anything.
  void next(int64_t d, int64_t left, Vec<float> (&x)[2]) {
    const float scale = next_scale();
    x[0] = stored_numbers<dtype>(row_, stride_, d, left) * scale;
    x[1] = left > 16 ? stored_numbers<dtype>(row_, stride_, d + 16, left - 16) * scale : Vec<float>{};
  }

 private:
  float next_scale() {
    if (rest_ == 0) {
      rest_ = block_;
      scale_ += 4;
    }
    rest_ -= 32;
    return load_one(reinterpret_cast<const float*>(scale_));
  }

  const char* row_;
  int64_t stride_, block_, rest_;  // rest: columns until the next scale; negative: there is one
  const char* scale_;
};

// Columns first..end - 1 of row j.
template <Dtype dtype>
inline void load_bfloat16_columns(const Rows& from, int64_t j, int64_t first, int64_t end, uint16_t* to) {
  FewBitsRow<dtype> row(from, j, first);
  Vec<float> x[2];
  int64_t d = first;
  for (; d + 32 <= end && from.column_stride == 1; d += 32, to += 32) {
    row.next(d, x);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
  }
  for (; d < end; d += 32, to += 32) {
    row.next(d, end - d, x);
    _mm512_mask_storeu_epi16(to, low_bits(int(end - d < 32 ? end - d : 32)), (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
  }
}

// Keys in rows of `whole` columns, the rest 0.
[[gnu::noinline]] inline void load_few_bits_keys(const Rows& from, int64_t count, int64_t columns, int64_t whole,
                                                 uint16_t* row) {
  with_few_bits(from.dtype, [&](auto dtype) {
    for (int64_t j = 0; j < count; ++j, row += whole) {
      load_bfloat16_columns<dtype>(from, j, 0, columns, row);
      if (whole > columns) memset(row + columns, 0, size_t(whole - columns) * 2);
    }
  });
}

// Two rows of values become one row of pairs; the row after the last is 0. finite: so are inf and NaN.
template <Dtype dtype>
inline void load_bfloat16_pairs(const Rows& from, int64_t j, bool two, int64_t columns, bool finite, __m512i places,
                                uint32_t* to) {
  FewBitsRow<dtype> low(from, j, 0), high(from, two ? j + 1 : j, 0);
  Vec<float> a[2], b[2] = {};
  const auto pairs = [&](int half) INLINED {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    const __m512i both = _mm512_permutexvar_epi16(places, (__m512i)_mm512_cvtne2ps_pbh(b[half], a[half]));
    if (!finite) return both;
    return _mm512_maskz_mov_epi16(_mm512_cmpneq_epi16_mask(_mm512_and_si512(both, exponent), exponent), both);
  };
  int64_t d = 0;
  for (; d + 32 <= columns && from.column_stride == 1 && two; d += 32) {
    low.next(d, a);
    high.next(d, b);
    _mm512_storeu_si512(to + d, pairs(0));
    _mm512_storeu_si512(to + d + 16, pairs(1));
  }
  for (; d < columns; d += 32) {
    const int64_t left = columns - d;
    low.next(d, left, a);
    if (two) high.next(d, left, b);
    _mm512_mask_storeu_epi32(to + d, __mmask16(low_bits(left < 16 ? int(left) : 16)), pairs(0));
    if (left > 16)
      _mm512_mask_storeu_epi32(to + d + 16, __mmask16(low_bits(left < 32 ? int(left) - 16 : 16)), pairs(1));
  }
}
[[gnu::noinline]] inline void load_few_bits_values(const Rows& from, int64_t count, int64_t columns, bool finite,
                                                   uint32_t* row) {
  alignas(64) uint16_t place[32];
  for (int i = 0; i < 32; ++i) place[i] = uint16_t(i / 2 + i % 2 * 16);
  const __m512i places = _mm512_load_si512(place);
  with_few_bits(from.dtype, [&](auto dtype) {
    for (int64_t j = 0; j < count; j += 2, row += columns)
      load_bfloat16_pairs<dtype>(from, j, j + 1 < count, columns, finite, places, row);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
