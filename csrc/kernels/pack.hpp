// Layout and dtype: rows of any dtype and stride to rows of the accumulator, panels of transposed queries, and back.
// Conversions to a wider dtype are exact; to a narrower one they round to nearest even, NaN stays NaN.
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
#elif defined(__aarch64__)
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
#elif defined(__aarch64__)
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
    default: {
      double x;
      memcpy(&x, p, 8);
      return narrowed<T>(x);
    }
  }
}
constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// One row of `columns` elements of any dtype and stride, as T.
template <class T>
void load_row(const char* from, Dtype dtype, int64_t stride, int64_t columns, T* to) {
  if (stride != size_of(dtype)) {
    for (int64_t d = 0; d < columns; ++d) to[d] = element<T>(from + d * stride, dtype);
    return;
  }
  int64_t d = 0;
  switch (dtype) {
    case Dtype::float16:
#if defined(__AVX512F__)
      if constexpr (sizeof(T) == 4)
        for (; d + 16 <= columns; d += 16)
          store<float>(reinterpret_cast<float*>(to) + d,
                       _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i_u*)(from + 2 * d))));
#elif defined(__F16C__)
      if constexpr (sizeof(T) == 4)
        for (; d + 8 <= columns; d += 8)
          store<float>(reinterpret_cast<float*>(to) + d,
                       _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u*)(from + 2 * d))));
#endif
      for (; d < columns; ++d) to[d] = element<T>(from + 2 * d, Dtype::float16);
      return;
    case Dtype::bfloat16:
#if defined(__AVX512F__)
      if constexpr (sizeof(T) == 4)
        for (; d + 16 <= columns; d += 16) {
          const IntVec<T> words =
              (IntVec<T>)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u*)(from + 2 * d)));
          store<T>(to + d, from_bits<T>(shift_left<T>(words, 16)));
        }
#endif
      for (; d < columns; ++d) to[d] = element<T>(from + 2 * d, Dtype::bfloat16);
      return;
    case Dtype::float32:
      for (; d < columns; ++d) to[d] = element<T>(from + 4 * d, Dtype::float32);
      return;
    case Dtype::float64:
      for (; d < columns; ++d) to[d] = element<T>(from + 8 * d, Dtype::float64);
      return;
  }
}

template <class T>
void store_row(const T* from, int64_t columns, char* to, Dtype dtype, int64_t stride) {
  switch (dtype) {
    case Dtype::float16: {
      int64_t d = 0;
#if defined(__AVX512F__)
      if constexpr (sizeof(T) == 4)
        if (stride == 2)
          for (; d + 16 <= columns; d += 16)
            _mm256_storeu_si256((__m256i_u*)(to + 2 * d),
                                _mm512_maskz_cvtps_ph(0xffff, load(from + d), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
      if constexpr (sizeof(T) == 4)
        if (stride == 2)
          for (; d + 8 <= columns; d += 8)
            _mm_storeu_si128((__m128i_u*)(to + 2 * d), _mm256_cvtps_ph(load(from + d), _MM_FROUND_TO_NEAREST_INT));
#endif
      for (; d < columns; ++d) {
        const uint16_t x = float16_of_float(float(from[d]));
        memcpy(to + d * stride, &x, 2);
      }
      return;
    }
    case Dtype::bfloat16:
      if (stride == 2) {
        int64_t d = 0;
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
          for (; d + 16 <= columns; d += 16)
            _mm256_storeu_si256((__m256i_u*)(to + 2 * d),
                                _mm512_cvtepi32_epi16((__m512i)bfloat16_bits(load(from + d))));
#endif
        for (; d < columns; ++d) {
          const uint16_t x = bfloat16_of_float(float(from[d]));
          memcpy(to + d * 2, &x, 2);
        }
        return;
      }
      for (int64_t d = 0; d < columns; ++d) {
        const uint16_t x = bfloat16_of_float(float(from[d]));
        memcpy(to + d * stride, &x, 2);
      }
      return;
    case Dtype::float32:
      for (int64_t d = 0; d < columns; ++d) {
        const float x = float(from[d]);
        memcpy(to + d * stride, &x, 4);
      }
      return;
    case Dtype::float64:
      for (int64_t d = 0; d < columns; ++d) {
        const double x = double(from[d]);
        memcpy(to + d * stride, &x, 8);
      }
      return;
  }
}

template <class T>
inline bool is_finite(T x) {
  return x - x == T(0);
}

// `count` rows of any dtype and layout as contiguous rows of T; with `finite`, inf and NaN become 0.
template <class T>
void load_rows(const Rows& from, int64_t count, int64_t columns, bool finite, T* to) {
  for (int64_t j = 0; j < count; ++j, to += columns) {
    load_row<T>(from.data + j * from.row_stride, from.dtype, from.column_stride, columns, to);
    if (finite)
      for (int64_t d = 0; d < columns; ++d) to[d] = is_finite(to[d]) ? to[d] : T(0);
  }
}

// to[d][i] = change(rows[i][d]): `live` contiguous rows of T to a panel `width` wide, zero beyond the live ones.
template <class T, class Change>
void transpose_to_panel(const T* const* rows, int32_t live, int32_t width, int64_t columns, Change&& change, T* to) {
  for (int32_t first = 0; first < width; first += lanes<T>) {
    const int32_t count = live - first < lanes<T> ? live - first : lanes<T>;
    int64_t d = 0;
    for (; d + lanes<T> <= columns; d += lanes<T>) {
      Vec<T> square[lanes<T>];
      if (count == lanes<T>)
        for (int i = 0; i < lanes<T>; ++i) square[i] = load(rows[first + i] + d);
      else
        for (int i = 0; i < lanes<T>; ++i) square[i] = i < count ? load(rows[first + i] + d) : Vec<T>{};
      transpose<T>(square);
      for (int i = 0; i < lanes<T>; ++i) store<T>(to + (d + i) * width + first, change(square[i]));
    }
    for (; d < columns; ++d)
      for (int32_t i = 0; i < lanes<T>; ++i) to[d * width + first + i] = i < count ? change(rows[first + i][d]) : T(0);
  }
}

template <class T>
void pack_queries(const char* const* rows, Dtype dtype, int64_t column_stride, int32_t live, int32_t vectors,
                  int64_t head_size, double factor, const void*, void* scratch, void* panel) {
  const T* plain[32];
  const bool in_place = size_of(dtype) == sizeof(T) && column_stride == sizeof(T);
  for (int32_t i = 0; i < live; ++i) {
    if (in_place) {
      plain[i] = reinterpret_cast<const T*>(rows[i]);
    } else {
      T* row = static_cast<T*>(scratch) + i * head_size;
      load_row<T>(rows[i], dtype, column_stride, head_size, row);
      plain[i] = row;
    }
  }
  transpose_to_panel<T>(
      plain, live, vectors * lanes<T>, head_size, [&](auto x) { return x * T(factor); }, static_cast<T*>(panel));
}

template <class T>
bool store_rows(const void* panel_, int32_t vectors, int64_t rows, const void* factor_, int32_t live, void* scratch,
                char* const* to, Dtype dtype, int64_t column_stride) {
  const T* panel = static_cast<const T*>(panel_);
  const T* factor = static_cast<const T*>(factor_);
  const int32_t width = vectors * lanes<T>;
  const bool in_place = size_of(dtype) == sizeof(T) && column_stride == sizeof(T);
  bool finite = true;
  for (int32_t first = 0; first < live; first += lanes<T>) {
    const int32_t count = live - first < lanes<T> ? live - first : lanes<T>;
    const Vec<T> by = load(factor + first);
    Vec<T> probe = {};  // 0 as long as every element is finite
    T* row[lanes<T>];
    for (int i = 0; i < lanes<T>; ++i)
      row[i] = in_place && i < count ? reinterpret_cast<T*>(to[first + i]) : static_cast<T*>(scratch) + i * rows;
    int64_t r = 0;
    for (; r + lanes<T> <= rows; r += lanes<T>) {
      Vec<T> square[lanes<T>];
      for (int i = 0; i < lanes<T>; ++i) {
        square[i] = load(panel + (r + i) * width + first) * by;
        probe += square[i] * T(0);
      }
      transpose<T>(square);
      if (count == lanes<T>)
        for (int i = 0; i < lanes<T>; ++i) store(row[i] + r, square[i]);
      else
        for (int i = 0; i < count; ++i) store(row[i] + r, square[i]);
    }
    for (; r < rows; ++r) {
      const Vec<T> x = load(panel + r * width + first) * by;
      probe += x * T(0);
      for (int i = 0; i < count; ++i) memcpy(row[i] + r, reinterpret_cast<const char*>(&x) + i * sizeof(T), sizeof(T));
    }
    for (int i = 0; i < count; ++i) {
      finite = finite && probe[i] == T(0);
      if (!in_place) store_row<T>(row[i], rows, to[first + i], dtype, column_stride);
    }
  }
  return finite;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
