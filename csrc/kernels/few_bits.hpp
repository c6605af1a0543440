// Elements of few bits (int8, int4, float8) as T, without their scale. All conversions are exact: NaN stays NaN, and numbers
// below the smallest normal one of their own format are what they say.
#pragma once
#include "convert.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Where a column begins, which is even in rows of int4.
constexpr int64_t byte_of(Dtype dtype, int64_t column) {
  return dtype == Dtype::int4 ? column / 2 : column * size_of(dtype);
}

// Of e4m3 the exponent has a bias of 7, and nothing is inf; of e5m2 it is that of float16.
inline float float_of_float8(uint8_t x, Dtype dtype) {
  if (dtype == Dtype::float8_e5m2) return float_of_float16(uint16_t(x << 8));
  if ((x & 0x7f) == 0x7f) return __builtin_nanf("");
  return float_of_float16(uint16_t((x & 0x80) << 8 | (x & 0x7f) << 7)) * 256.0f;
}

template <class T, Dtype dtype>
inline T few_bits(const char* row, int64_t column) {
  const uint8_t byte = uint8_t(row[byte_of(dtype, column)]);
  if constexpr (dtype == Dtype::int8) return T(int8_t(byte));
  if constexpr (dtype == Dtype::int4) return T(int((column % 2 ? byte >> 4 : byte & 15) ^ 8) - 8);
  return T(float_of_float8(byte, dtype));
}

#if !defined(__F16C__)
// By arithmetic on bits, one number in each word. As the bits of a float32, a number whose exponent is 0 would be subnormal.
template <Dtype dtype>
inline Vec<float> floats_of_float8(IntVec<float> x) {
  constexpr int digits = dtype == Dtype::float8_e4m3 ? 3 : 2, bias = dtype == Dtype::float8_e4m3 ? 7 : 15;
  const IntVec<float> magnitude = x & 0x7f, sign = shift_left<float>(x & 0x80, 24);
  const IntVec<float> normal = shift_left<float>(magnitude, 23 - digits);
  IntVec<float> bits = normal + ((127 - bias) << 23), low;
  Vec<float> small;
  for (int i = 0; i < lanes<float>; ++i) small[i] = float(magnitude[i]);
  low = as_bits<float>(small * (dtype == Dtype::float8_e4m3 ? 0x1p-9f : 0x1p-16f));
  bits = magnitude < (1 << digits) ? low : bits;
  if constexpr (dtype == Dtype::float8_e4m3)
    bits = magnitude == 0x7f ? IntVec<float>{} + 0x7fc00000 : bits;
  else
    bits = magnitude >= 0x7c ? normal | 0x7f800000 : bits;
  return from_bits<float>(bits | sign);
}
#endif

// `lanes` elements from a column on, a multiple of `lanes`.
template <class T, Dtype dtype>
inline Vec<T> load_few_bits(const char* p) {
  static_assert(is_few_bits(dtype));
  if constexpr (sizeof(T) == 8) {
    Vec<T> x;
    for (int i = 0; i < lanes<T>; ++i) x[i] = few_bits<T, dtype>(p, i);
    return x;
  } else if constexpr (dtype == Dtype::int8) {
#if defined(__AVX512F__)
    const __m512i x = _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i_u*)p));
    return _mm512_maskz_cvtepi32_ps(0xffff, x);
#elif defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u*)p)));
#elif defined(FOVEATE_SSE) && !defined(__AVX__)
    return _mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(load_one((const int32_t*)p))));
#elif defined(FOVEATE_NEON)
    int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(load_one((const int32_t*)p)));
    return (Vec<T>)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(x))));
#else
    Vec<T> x;
    for (int i = 0; i < lanes<T>; ++i) x[i] = few_bits<T, dtype>(p, i);
    return x;
#endif
  } else if constexpr (dtype == Dtype::int4) {
    // a byte in each word of 64 bits, its high half moved to the upper 32
#if defined(__AVX512F__)
    const __m512i x = _mm512_maskz_cvtepu8_epi64(0xff, _mm_loadl_epi64((const __m128i_u*)p));
    const __m512i halves = _mm512_or_si512(x, _mm512_slli_epi64(x, 28));
    const __m512i low = _mm512_and_si512(halves, _mm512_set1_epi32(15));
    const __m512i code = _mm512_xor_si512(low, _mm512_set1_epi32(8));
    return (Vec<T>)_mm512_maskz_cvtepi32_ps(0xffff, code) - T(8);
#elif defined(__AVX2__)
    const __m256i x = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(load_one((const int32_t*)p)));
    const __m256i halves = _mm256_or_si256(x, _mm256_slli_epi64(x, 28));
    const __m256i low = _mm256_and_si256(halves, _mm256_set1_epi32(15));
    return (Vec<T>)_mm256_cvtepi32_ps(_mm256_xor_si256(low, _mm256_set1_epi32(8))) - T(8);
#elif defined(FOVEATE_SSE) && !defined(__AVX__)
    const __m128i x = _mm_cvtepu8_epi64(_mm_cvtsi32_si128(load_one((const uint16_t*)p)));
    const __m128i halves = _mm_or_si128(x, _mm_slli_epi64(x, 28));
    const __m128i low = _mm_and_si128(halves, _mm_set1_epi32(15));
    return (Vec<T>)_mm_cvtepi32_ps(_mm_xor_si128(low, _mm_set1_epi32(8))) - T(8);
#else
    Vec<T> x;
    for (int i = 0; i < lanes<T>; ++i) x[i] = few_bits<T, dtype>(p, i);
    return x;
#endif
  } else {
    // float16 has the numbers of e5m2 in its high byte, and those of e4m3 times 2^-8 a bit lower
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128((const __m128i_u*)p);
    if constexpr (dtype == Dtype::float8_e5m2) {
      return _mm512_maskz_cvtph_ps(0xffff, _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8));
    } else {
      const __m256i half =
          _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7), _mm256_set1_epi16(int16_t(0xbfff)));
      const __mmask16 number = _mm_cmpneq_epi8_mask(_mm_or_si128(bytes, _mm_set1_epi8(-128)), _mm_set1_epi8(-1));
      return _mm512_mask_mul_ps(_mm512_set1_ps(__builtin_nanf("")), number, _mm512_maskz_cvtph_ps(0xffff, half),
                                _mm512_set1_ps(256.0f));
    }
#elif defined(__F16C__) && defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64((const __m128i_u*)p);
    if constexpr (dtype == Dtype::float8_e5m2) {
      return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 8));
    } else {
      const __m128i words = _mm_cvtepi8_epi16(bytes);
      const __m128i half = _mm_and_si128(_mm_slli_epi16(words, 7), _mm_set1_epi16(int16_t(0xbfff)));
      // 0x7f becomes a NaN of float16
      const __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(words, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7f));
      return (Vec<T>)_mm256_cvtph_ps(_mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x7f80)))) * T(256);
    }
#elif defined(__F16C__)
    Vec<T> x;
    for (int i = 0; i < lanes<T>; ++i) x[i] = few_bits<T, dtype>(p, i);
    return x;
#else
#if defined(FOVEATE_SSE)
    const IntVec<T> x = (IntVec<T>)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(load_one((const int32_t*)p)));
#else
    IntVec<T> x;
    for (int i = 0; i < lanes<T>; ++i) x[i] = uint8_t(p[i]);
#endif
    return floats_of_float8<dtype>(x);
#endif
  }
}

// Any dtype that a sum of T takes.
template <class T>
constexpr bool takes(Dtype dtype) {
  return is_few_bits(dtype) || widens<T>(dtype);
}
template <class T, Dtype dtype>
inline Vec<T> load_any(const char* p) {
  if constexpr (is_few_bits(dtype))
    return load_few_bits<T, dtype>(p);
  else
    return load_wide<T, dtype>(p);
}
// The first `count` elements, 0 beyond.
template <class T, Dtype dtype>
inline Vec<T> load_some(const char* p, int64_t count) {
  alignas(vector_bytes) char whole[vector_bytes] = {};
  memcpy(whole, p, size_t(row_bytes(dtype, count)));
  return load_any<T, dtype>(whole);
}
template <class T, class F>
inline void with_any_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::int8: return f(DtypeConstant<Dtype::int8>{});
    case Dtype::int4: return f(DtypeConstant<Dtype::int4>{});
    case Dtype::float8_e4m3: return f(DtypeConstant<Dtype::float8_e4m3>{});
    case Dtype::float8_e5m2: return f(DtypeConstant<Dtype::float8_e5m2>{});
    default: return with_wide_dtype<T>(dtype, f);
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
