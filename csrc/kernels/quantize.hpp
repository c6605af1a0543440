// Rows to few bits: codes of x / scale, rounded to nearest even, with scale = max |x| / largest number, in float32, for each
// row or block of its columns. Below the smallest normal number of float32 a scale is 0, and so are its codes; no code of 0
// has a sign. Subnormal numbers of x count as they are.
#pragma once
#include "few_bits.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
constexpr int fraction_bits = sizeof(T) == 8 ? 52 : 23;
template <class T>
constexpr typename VectorOf<T>::Bits infinite_bits = sizeof(T) == 8 ? 0x7ff0000000000000 : 0x7f800000;

// `count` elements, at most a vector, the rest 0.
template <class T>
inline Vec<T> load_up_to(const T* x, int64_t count) {
  if (count >= lanes<T>) return load_anywhere<T>(x);
  Vec<T> some = {};
  memcpy(&some, x, size_t(count) * sizeof(T));
  return some;
}

// The integers nearest to multiples of a unit 2^-exponent: x is less than 2^21 of these.
template <class T, int exponent>
inline IntVec<T> rounded_units(Vec<T> x) {
  using Bits = typename VectorOf<T>::Bits;
  constexpr int bias = sizeof(T) == 8 ? 1023 : 127;
  constexpr Bits half = Bits(1) << (fraction_bits<T> - 1);
  constexpr Bits large =
      (Bits(fraction_bits<T> - exponent + bias) << fraction_bits<T>) | half;  // 1.5 * 2^(bits - exponent)
  const IntVec<T> shift = IntVec<T>{} + large;
  return as_bits<T>(x + from_bits<T>(shift)) - shift;
}

// The codes of numbers within the range of a dtype.
template <class T, Dtype dtype>
inline IntVec<T> codes_of(Vec<T> x) {
  if constexpr (dtype == Dtype::int8 || dtype == Dtype::int4) {
    return rounded_units<T, 0>(x);
  } else {
    using Bits = typename VectorOf<T>::Bits;
    constexpr bool e4m3 = dtype == Dtype::float8_e4m3;
    constexpr int bits = e4m3 ? 3 : 2, bias = e4m3 ? 7 : 15, dropped = fraction_bits<T> - bits;
    constexpr int own_bias = sizeof(T) == 8 ? 1023 : 127;
    const Vec<T> magnitude = absolute<T>(x);
    const IntVec<T> from = as_bits<T>(magnitude);
    const IntVec<T> even = (from >> dropped) & 1;
    const IntVec<T> normal =
        ((from + (even + ((Bits(1) << (dropped - 1)) - 1))) >> dropped) - (Bits(own_bias - bias) << bits);
    const IntVec<T> small = rounded_units<T, bias - 1 + bits>(magnitude);  // which may be the smallest normal one
    const IntVec<T> code = from < (Bits(own_bias - bias + 1) << fraction_bits<T>) ? small : normal;
    return code | (code != 0 ? (as_bits<T>(x) >> (8 * sizeof(T) - 8)) & 0x80 : IntVec<T>{});
  }
}

// The lowest bytes of as many integers as a vector holds.
template <class T>
inline void store_bytes(IntVec<T> x, char* to) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    _mm_storeu_si128((__m128i_u*)to, _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)x));
  else
    _mm_storeu_si64(to, _mm512_maskz_cvtepi64_epi8(0xff, (__m512i)x));
#elif defined(FOVEATE_SSE)
  if constexpr (sizeof(T) == 4) {
    const __m128i low = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    for (int i = 0; i < vector_bytes / 16; ++i) {
      __m128i part;
      memcpy(&part, reinterpret_cast<const char*>(&x) + 16 * i, 16);
      const int32_t bytes = _mm_cvtsi128_si32(_mm_shuffle_epi8(part, low));
      memcpy(to + 4 * i, &bytes, 4);
    }
  } else {
    for (int i = 0; i < lanes<T>; ++i) to[i] = char(x[i]);
  }
#else
  for (int i = 0; i < lanes<T>; ++i) to[i] = char(x[i]);
#endif
}

// The lowest halves of them, two in a byte.
template <class T>
inline void store_pairs(IntVec<T> x, char* to) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __m512i half = _mm512_and_si512((__m512i)x, _mm512_set1_epi32(15));
    const __m512i both = _mm512_or_si512(half, _mm512_maskz_srli_epi64(0xff, half, 28));
    return _mm_storeu_si64(to, _mm512_maskz_cvtepi64_epi8(0xff, both));
  }
#endif
  char some[lanes<T>];
  store_bytes<T>(x, some);
  for (int i = 0; i < lanes<T> / 2; ++i) to[i] = char((some[2 * i] & 15) | (uint8_t(some[2 * i + 1]) << 4));
}

// The codes of `count` columns over one scale.
template <class T, Dtype dtype>
inline void encode(const T* x, int64_t count, T scale, char* to) {
  for (int64_t d = 0; d < count; d += lanes<T>) {
    const int64_t left = count - d < lanes<T> ? count - d : lanes<T>;
    char some[lanes<T>];
    const IntVec<T> codes = codes_of<T, dtype>(load_up_to(x + d, left) / broadcast(scale));
    if constexpr (dtype == Dtype::int4) {
      store_pairs<T>(codes, some);
      memcpy(to + d / 2, some, size_t(left + 1) / 2);
    } else if (left == lanes<T>) {
      store_bytes<T>(codes, to + d);
    } else {
      store_bytes<T>(codes, some);
      memcpy(to + d, some, size_t(left));
    }
  }
}

// The largest magnitude; what is not finite if there is such a number.
template <class T>
inline T largest_of(const T* x, int64_t count) {
  IntVec<T> top = {};
  for (int64_t d = 0; d < count; d += lanes<T>) {
    const IntVec<T> magnitude = as_bits<T>(absolute<T>(load_up_to(x + d, count - d)));
    top = magnitude > top ? magnitude : top;
  }
  typename VectorOf<T>::Bits most = 0;
  for (int i = 0; i < lanes<T>; ++i) most = top[i] > most ? top[i] : most;
  T largest;
  memcpy(&largest, &most, sizeof largest);
  return largest;
}

// A row of T to codes, contiguous, and scales, one for each `block` columns, or of 0 one for all. False where a number, or a
// scale, is not finite.
template <class T>
bool quantize(const T* x, int64_t columns, Dtype dtype, int64_t block, char* data, float* scales) {
  const int64_t step = block ? block : columns > 0 ? columns : 1;
  bool finite = true;
  if (columns == 0 && block == 0) *scales = 0;
  with_few_bits(dtype, [&](auto to) {
    constexpr float most = to == Dtype::int8 ? 127 : to == Dtype::int4 ? 7 : to == Dtype::float8_e4m3 ? 448 : 57344;
    for (int64_t d = 0; d < columns; d += step) {
      const int64_t count = columns - d < step ? columns - d : step;
      float scale = float(largest_of(x + d, count) / T(most));
      finite = finite && scale - scale == 0;
      if (scale < 0x1p-126f) scale = 0;
      memcpy(scales++, &scale, sizeof scale);
      constexpr int in_byte = to == Dtype::int4 ? 2 : 1;
      encode<T, to>(x + d, count, scale > 0 ? T(scale) : T(__builtin_inf()), data + d / in_byte);
    }
  });
  return finite;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
