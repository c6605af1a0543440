// Elements of any dtype as T, and back. Conversions to a wider dtype are exact; to a narrower one they round to nearest
// even, NaN stays NaN.
#pragma once
#include "simd.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

inline float float_of_bfloat16(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
inline uint16_t bfloat16_of_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
}
inline float rounded_to_bfloat16(float x) { return float_of_bfloat16(bfloat16_of_float(x)); }
#if defined(__AVX512F__)
// The same of a vector, a word each.
inline IntVec<float> bfloat16_bits(Vec<float> x) {
  const IntVec<float> bits = as_bits<float>(x);
  using Unsigned = VectorOf<float>::Unsigned;  // which may wrap
  const IntVec<float> nan = x != x, rounded = (IntVec<float>)((Unsigned)bits + 0x7fff + (((Unsigned)bits >> 16) & 1));
  return (nan ? bits | 0x400000 : rounded) >> 16;
}
#endif
inline float float_of_float16(uint16_t x) {
#if defined(__F16C__)
  return _cvtsh_ss(x);
#elif defined(FOVEATE_NEON)
  __fp16 y;
  memcpy(&y, &x, 2);
  return float(y);
#else
  // The exponent moves from bias 15 to 127; inf and NaN are set by hand. A subnormal number is an integer times 2^-24: as
  // the bits of a float32 it would be subnormal too, and count as 0 here.
  const uint32_t magnitude = uint32_t(x & 0x7fff) << 13;
  float y = float(int32_t(x & 0x3ff)) * 0x1p-24f;
  uint32_t bits;
  memcpy(&bits, &y, 4);
  if (magnitude >= 0x400u << 13) bits = magnitude + (112u << 23);
  if (magnitude >= 0x7c00u << 13) bits = magnitude | 0x7f800000;
  bits |= uint32_t(x & 0x8000) << 16;
  memcpy(&y, &bits, 4);
  return y;
#endif
}
inline uint16_t float16_of_float(float x) {
#if defined(__F16C__)
  return uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(FOVEATE_NEON)
  const __fp16 y = __fp16(x);
  uint16_t bits;
  memcpy(&bits, &y, 2);
  return bits;
#else
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and more round to inf
  if (magnitude < 0x38800000) {                                 // subnormal: let the adder round
    float y;
    memcpy(&y, &magnitude, 4);
    y += 0.5f;
    memcpy(&bits, &y, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  return uint16_t(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13));
#endif
}

// A float64 as T. What is finite stays so, as the largest number: the most negative float64 is a common bias.
template <class T>
inline T narrowed(double x) {
  if constexpr (sizeof(T) == 8) return x;
  constexpr double largest = 0x1.fffffep127, infinity = __builtin_inf();
  const double bounded = x > largest ? largest : x < -largest ? -largest : x;
  return T(x == infinity || x == -infinity ? x : bounded);
}

template <class T>
inline T element(const char* p, Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: {
      uint16_t x;
      memcpy(&x, p, 2);
      return T(float_of_float16(x));
    }
    case Dtype::bfloat16: {
      uint16_t x;
      memcpy(&x, p, 2);
      return T(float_of_bfloat16(x));
    }
    case Dtype::float32: {
      float x;
      memcpy(&x, p, 4);
      return T(x);
    }
    default: break;
  }
  double x;
  memcpy(&x, p, 8);
  return narrowed<T>(x);
}

// `lanes` elements of a dtype, at any address, widened to T.
template <class T, Dtype dtype>
inline Vec<T> load_wide(const char* p) {
  if constexpr (size_of(dtype) == sizeof(T)) {
    return load_anywhere<T>(p);
  } else if constexpr (dtype == Dtype::bfloat16) {
#if defined(__AVX512F__)
    return (Vec<T>)_mm512_slli_epi32(_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i_u*)p)), 16);
#elif defined(__AVX2__)
    return (Vec<T>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u*)p)), 16);
#elif defined(__AVX__)
    const __m128i x = _mm_loadu_si128((const __m128i_u*)p), zero = _mm_setzero_si128();
    return (Vec<T>)_mm256_set_m128i(_mm_unpackhi_epi16(zero, x), _mm_unpacklo_epi16(zero, x));
#elif defined(FOVEATE_SSE)
    return (Vec<T>)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i_u*)p));
#elif defined(FOVEATE_NEON)
    uint16x4_t x;
    memcpy(&x, p, sizeof x);
    return (Vec<T>)vshll_n_u16(x, 16);
#else
    // a word of 0 below each: one instruction, where conversions of 16 bits to 32 are many to GCC
    typedef uint16_t Words __attribute__((vector_size(16)));
    constexpr bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    Words x = {};
    memcpy(&x, p, 8);
    const Words first = little ? Words{} : x, second = little ? x : Words{};
#if defined(__clang__)
    return (Vec<T>)__builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return (Vec<T>)__builtin_shuffle(first, second, Words{0, 8, 1, 9, 2, 10, 3, 11});
#endif
#endif
  } else {
    static_assert(dtype == Dtype::float16);
#if defined(__AVX512F__)
    return (Vec<T>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i_u*)p));
#elif defined(__F16C__)
    return (Vec<T>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u*)p));
#elif defined(FOVEATE_NEON)
    float16x4_t x;
    memcpy(&x, p, sizeof x);
    return (Vec<T>)vcvt_f32_f16(x);
#else
    Vec<T> x;
    for (int i = 0; i < lanes<T>; ++i) x[i] = element<T>(p + 2 * i, dtype);
    return x;
#endif
  }
}

// Whether load_wide takes this dtype to T.
template <class T>
constexpr bool widens(Dtype dtype) {
  return (sizeof(T) == 8) == (dtype == Dtype::float64);
}

// Calls f(DtypeConstant<dtype>) for a dtype that is not one of few bits.
template <Dtype dtype>
struct DtypeConstant {
  constexpr operator Dtype() const { return dtype; }
};
template <class F>
inline void with_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float16: return f(DtypeConstant<Dtype::float16>{});
    case Dtype::bfloat16: return f(DtypeConstant<Dtype::bfloat16>{});
    case Dtype::float32: return f(DtypeConstant<Dtype::float32>{});
    case Dtype::float64: return f(DtypeConstant<Dtype::float64>{});
    default: return;
  }
}
// The same for a dtype that load_wide takes to T; nothing for others.
template <class T, class F>
inline void with_wide_dtype(Dtype dtype, F&& f) {
  with_dtype(dtype, [&](auto of) {
    if constexpr (widens<T>(of)) f(of);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
