// Layout: rows of any dtype and strides to rows of the accumulator, panels of transposed queries, and back. Elements are
// read along the axis on which they are neighbors, a vector at a time; the bits do not depend on it.
#pragma once
#include "convert.hpp"
#include "few_bits.hpp"
#include "spaced.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

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
#elif defined(FOVEATE_NEON)
      if constexpr (sizeof(T) == 4)
        if (stride == 2)
          for (; d + 4 <= columns; d += 4) {
            const float16x4_t x = vcvt_f16_f32(load(from + d));
            memcpy(to + 2 * d, &x, sizeof x);
          }
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
    default: return;  // of few bits are keys and values alone
  }
}

template <class T>
inline bool is_finite(T x) {
  return x - x == T(0);
}

constexpr int64_t round_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Bytes of a contiguous row of T.
template <class T>
int64_t row_size(int64_t columns) {
  return columns * int64_t(sizeof(T));
}

// `count` rows of any dtype and layout as contiguous rows of T; with `finite`, inf and NaN become 0.
template <class T>
void load_values(const Rows& from, int64_t count, int64_t columns, bool finite, T* to) {
  const bool few = is_few_bits(from.dtype);
  const bool across = !few && count >= lanes<T> && widens<T>(from.dtype) && is_across(from, count, columns);
  if (few) load_few_bits<T>(from, count, columns, to);
  if (across) load_columns<T>(from, count, columns, to);
  for (int64_t j = 0; j < count; ++j, to += columns) {
    if (!few && !across) load_row<T>(from.row(j), from.dtype, from.column_stride, columns, to);
    if (finite)
      for (int64_t d = 0; d < columns; ++d) to[d] = is_finite(to[d]) ? to[d] : T(0);
  }
}
template <class T>
void load_keys(const Rows& from, int64_t count, int64_t columns, T* to) {
  load_values<T>(from, count, columns, false, to);
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
        for (int i = 0; i < lanes<T>; ++i) square[i] = load_anywhere<T>(rows[first + i] + d);
      else
        for (int i = 0; i < lanes<T>; ++i) square[i] = i < count ? load_anywhere<T>(rows[first + i] + d) : Vec<T>{};
      transpose<T>(square);
      for (int i = 0; i < lanes<T>; ++i) store<T>(to + (d + i) * width + first, change(square[i]));
    }
    for (; d < columns; ++d)
      for (int32_t i = 0; i < lanes<T>; ++i)
        to[d * width + first + i] = i < count ? change(load_one(rows[first + i] + d)) : T(0);
  }
}

template <class T>
void pack_queries(const char* const* rows, Dtype dtype, int64_t column_stride, int32_t live, int32_t vectors,
                  int64_t head_size, double factor, const void*, T* scratch, T* panel) {
  const T* plain[most_lanes];
  const bool in_place = size_of(dtype) == sizeof(T) && column_stride == sizeof(T);
  const int32_t width = vectors * lanes<T>;
  if (live == width && are_neighbors<T>(rows, live, dtype, column_stride)) {  // a panel as it stands, except gaps
    with_wide_dtype<T>(dtype, [&](auto of) {
      T* to = panel;
      for (const char* from = rows[0]; head_size > 0; --head_size, from += column_stride, to += width)
        for (int32_t i = 0; i < width; i += lanes<T>)
          store<T>(to + i, load_wide<T, of>(from + i * size_of(of)) * T(factor));
    });
    return;
  }
  for (int32_t i = 0; i < live; ++i) {
    if (in_place) {
      plain[i] = reinterpret_cast<const T*>(rows[i]);
    } else {
      T* row = scratch + i * head_size;
      load_row<T>(rows[i], dtype, column_stride, head_size, row);
      plain[i] = row;
    }
  }
  transpose_to_panel<T>(plain, live, width, head_size, [&](auto x) { return x * T(factor); }, panel);
}

template <class T>
bool store_rows(const T* panel, int32_t vectors, int64_t rows, const T* factor, int32_t live, T* scratch,
                char* const* to, Dtype dtype, int64_t column_stride) {
  const int32_t width = vectors * lanes<T>;
  const bool in_place = size_of(dtype) == sizeof(T) && column_stride == sizeof(T);
  bool finite = true;
  for (int32_t first = 0; first < live; first += lanes<T>) {
    const int32_t count = live - first < lanes<T> ? live - first : lanes<T>;
    const Vec<T> by = load(factor + first);
    Vec<T> probe = {};  // 0 as long as every element is finite
    T* row[lanes<T>];
    for (int i = 0; i < lanes<T>; ++i)
      row[i] = in_place && i < count ? reinterpret_cast<T*>(to[first + i]) : scratch + i * rows;
    int64_t r = 0;
    for (; r + lanes<T> <= rows; r += lanes<T>) {
      Vec<T> square[lanes<T>];
      for (int i = 0; i < lanes<T>; ++i) {
        square[i] = load(panel + (r + i) * width + first) * by;
        probe += square[i] * T(0);
      }
      transpose<T>(square);
      if (count == lanes<T>)
        for (int i = 0; i < lanes<T>; ++i) store_anywhere<T>(row[i] + r, square[i]);
      else
        for (int i = 0; i < count; ++i) store_anywhere<T>(row[i] + r, square[i]);
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
