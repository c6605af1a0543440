// Rows of few bits as numbers: what is stored, exactly, times the scale of its row or block, rounded once. A vector of
// columns is decoded at a time, into a tile; no row is decoded as a whole anywhere else.
//   int8, int4       two's complement; int4 in pairs, the even column in the low half of a byte
//   float8_e5m2      the upper half of a float16
//   float8_e4m3      a float16 of 7 bits fewer, times 2^8; of its codes 0x7f alone is none: NaN
#pragma once
#include "convert.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Calls f(DtypeConstant<dtype>).
template <class F>
inline void with_few_bits(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::int8: return f(DtypeConstant<Dtype::int8>{});
    case Dtype::int4: return f(DtypeConstant<Dtype::int4>{});
    case Dtype::float8_e4m3: return f(DtypeConstant<Dtype::float8_e4m3>{});
    default: return f(DtypeConstant<Dtype::float8_e5m2>{});
  }
}

// As many signed bytes as a vector has floats, as integers.
inline IntVec<float> signed_bytes(const char* p) {
#if defined(__AVX512F__)
  return (IntVec<float>)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i_u*)p));
#elif defined(__AVX2__)
  return (IntVec<float>)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i_u*)p));
#elif defined(__AVX__)
  const __m128i x = _mm_loadl_epi64((const __m128i_u*)p);
  return (IntVec<float>)_mm256_set_m128i(_mm_cvtepi8_epi32(_mm_srli_si128(x, 4)), _mm_cvtepi8_epi32(x));
#elif defined(FOVEATE_SSE)
  return (IntVec<float>)_mm_cvtepi8_epi32(_mm_cvtsi32_si128(load_one(reinterpret_cast<const int32_t*>(p))));
#elif defined(FOVEATE_NEON)
  return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(load_one(reinterpret_cast<const uint32_t*>(p))))));
#else
  IntVec<float> x;
  for (int i = 0; i < lanes<float>; ++i) x[i] = static_cast<signed char>(p[i]);
  return x;
#endif
}

// Half as many bytes, each of them two numbers.
inline IntVec<float> signed_halves(const char* p) {
#if defined(__AVX512F__)
  const __m128i word = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i_u*)p));
  const __m128i half = _mm_and_si128(_mm_or_si128(word, _mm_slli_epi16(word, 4)), _mm_set1_epi8(15));
  const __m128i number = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return (IntVec<float>)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_shuffle_epi8(number, half));
#elif defined(FOVEATE_SSE)
  int32_t bytes = 0;
  memcpy(&bytes, p, lanes<float> / 2);
  const __m128i word = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(bytes));
  const __m128i half = _mm_and_si128(_mm_or_si128(word, _mm_slli_epi16(word, 4)), _mm_set1_epi8(15));
  const __m128i number = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  alignas(16) char some[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(some), _mm_shuffle_epi8(number, half));
  return signed_bytes(some);
#else
  IntVec<float> x;
  for (int i = 0; i < lanes<float>; ++i) x[i] = (((uint8_t(p[i / 2]) >> i % 2 * 4) & 15) ^ 8) - 8;
  return x;
#endif
}

// As many codes of a float8 as a vector has floats.
template <Dtype dtype>
inline Vec<float> float8_numbers(const char* p) {
  constexpr bool e4m3 = dtype == Dtype::float8_e4m3;
#if defined(__AVX512BW__)
  const __m256i code = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i_u*)p));
  if constexpr (!e4m3) return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_slli_epi16(code, 8));
  const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi16(0x7f));
  const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(code, 7), _mm256_set1_epi16(int16_t(0xbf80)));
  const __m256i number = _mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7fff));
  return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, number) * 256.0f;
#else
  constexpr int bits = e4m3 ? 3 : 2, bias = e4m3 ? 7 : 15;  // of the fraction; of the exponent
  const IntVec<float> code = signed_bytes(p), magnitude = code & 0x7f;
  const IntVec<float> normal = (magnitude << (23 - bits)) + ((127 - bias) << 23);
  // a subnormal number is an integer: as the bits of a float32 it would be subnormal too, and count as 0 here
  const Vec<float> small = __builtin_convertvector(magnitude, Vec<float>) * (e4m3 ? 0x1p-9f : 0x1p-16f);
  IntVec<float> number = magnitude < (1 << bits) ? as_bits<float>(small) : normal;
  if constexpr (e4m3)
    number = magnitude == 0x7f ? IntVec<float>{} + 0x7fc00000 : number;
  else
    number = magnitude >= 0x7c ? number | 0x7f800000 : number;
  return from_bits<float>(number | (code & int32_t(0x80000000)));
#endif
}

// As many numbers of a contiguous row as a vector has floats.
template <Dtype dtype>
inline Vec<float> numbers_at(const char* p) {
  if constexpr (dtype == Dtype::int8)
    return __builtin_convertvector(signed_bytes(p), Vec<float>);
  else if constexpr (dtype == Dtype::int4)
    return __builtin_convertvector(signed_halves(p), Vec<float>);
  else
    return float8_numbers<dtype>(p);
}

// `count` bytes a stride apart, and zeros up to `all`. Apart from what calls it, where it would slow down the usual case.
[[gnu::noinline]] inline void bring_together(const char* from, int64_t stride, int count, int all, char* to) {
  for (int i = 0; i < all; ++i) to[i] = i < count ? from[i * stride] : char(0);
}

// Columns d and on of a row as they are stored, d a multiple of the lanes; `left` are there, and beyond them anything.
template <Dtype dtype>
inline Vec<float> stored_numbers(const char* row, int64_t stride, int64_t d, int64_t left) {
  constexpr int in_byte = dtype == Dtype::int4 ? 2 : 1, bytes = lanes<float> / in_byte;
  const char* from = row + d / in_byte * stride;
  if (left >= lanes<float> && stride == 1) return numbers_at<dtype>(from);
  char some[bytes];
  const int64_t there = (left + in_byte - 1) / in_byte;
  bring_together(from, stride, there < bytes ? int(there) : bytes, bytes, some);
  return numbers_at<dtype>(some);
}
inline float scale_of_column(const Rows& from, int64_t j, int64_t d) {
  return load_one(reinterpret_cast<const float*>(from.scale_of(j)) + (from.block ? d / from.block : 0));
}

// Calls put(d, numbers, scale, count) for the columns first..end - 1 of row j, a vector of `count` of them at a time.
// `first` is a multiple of 32.
template <Dtype dtype, class F>
inline void each_of_few_bits(const Rows& from, int64_t j, int64_t first, int64_t end, F&& put) {
  const char* const row = from.row(j);
  for (int64_t d = first; d < end;) {
    const float scale = scale_of_column(from, j, d);
    int64_t last = from.block ? (d / from.block + 1) * from.block : end;
    if (last > end) last = end;
    for (; d + lanes<float> <= last; d += lanes<float>)
      put(d, stored_numbers<dtype>(row, from.column_stride, d, lanes<float>), scale, lanes<float>);
    if (d < last) put(d, stored_numbers<dtype>(row, from.column_stride, d, last - d), scale, int(last - d));
    d = last;
  }
}

// `count` rows as contiguous rows of T.
template <class T>
[[gnu::noinline]] void load_few_bits(const Rows& from, int64_t count, int64_t columns, T* to) {
  with_few_bits(from.dtype, [&](auto dtype) {
    for (int64_t j = 0; j < count; ++j, to += columns)
      each_of_few_bits<dtype>(from, j, 0, columns, [&](int64_t d, Vec<float> x, float scale, int some) INLINED {
        if constexpr (sizeof(T) == 4) {
          x *= scale;
          if (some == lanes<float>) return store<float>(to + d, x);
        }
        for (int i = 0; i < some; ++i) to[d + i] = sizeof(T) == 4 ? T(x[i]) : T(x[i]) * T(scale);
      });
  });
}

// The element of row j and column d.
template <class T>
inline T few_bits_element(const Rows& from, int64_t j, int64_t d) {
  T x = 0;
  with_few_bits(from.dtype, [&](auto dtype) {
    const int64_t begin = d & -lanes<float>;
    const Vec<float> some = stored_numbers<dtype>(from.row(j), from.column_stride, begin, d + 1 - begin);
    x = T(some[d - begin]) * T(scale_of_column(from, j, d));
  });
  return x;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
