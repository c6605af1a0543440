// Rows of any dtype and stride as T: by vectors of every element, of every other one, or backwards; and rows whose elements
// are neighbors of those of the next row (Fortran order), a square of vectors at a time. No byte is read except of elements
// and of those between them.
#pragma once
#include "convert.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// `lanes` elements, each `step` elements after the one before: 1, 2 or -1.
template <class T, Dtype dtype, int step>
inline Vec<T> load_spaced(const char* p) {
  constexpr int item = int(size_of(dtype)), n = lanes<T>;
  if constexpr (step == 1) {
    return load_wide<T, dtype>(p);
  } else {
    // of every other one the second half begins an element early, so as to end with the last
    const Vec<T> a = load_wide<T, dtype>(step < 0 ? p - (n - 1) * item : p);
    const Vec<T> b = step < 0 ? a : load_wide<T, dtype>(p + (n - 1) * item);
#if defined(__clang__)
    Vec<T> x = a;
    for (int i = 0; i < n; ++i) x[i] = step < 0 ? a[n - 1 - i] : i < n / 2 ? a[2 * i] : b[2 * i - (n - 1)];
    return x;
#else
    IntVec<T> from;
    for (int i = 0; i < n; ++i) from[i] = step < 0 ? n - 1 - i : i < n / 2 ? 2 * i : n + 2 * i - (n - 1);
    return __builtin_shuffle(a, b, from);
#endif
  }
}

// Calls f(Constant<step>) where so many bytes are a step of load_spaced; else returns false.
template <class F>
inline bool by_step(int64_t stride, int64_t item, F&& f) {
  if (stride == item)
    f(Constant<1>{});
  else if (stride == 2 * item)
    f(Constant<2>{});
  else if (stride == -item)
    f(Constant<-1>{});
  else
    return false;
  return true;
}

// One row of `columns` elements of any dtype and stride, as T.
template <class T>
[[gnu::noinline]] void load_row(const char* from, Dtype dtype, int64_t stride, int64_t columns, T* to) {
  with_dtype(dtype, [&](auto type) {
    int64_t d = 0;
    if constexpr (widens<T>(type))
      by_step(stride, size_of(type), [&](auto step) {
        for (; d + lanes<T> <= columns; d += lanes<T>) store<T>(to + d, load_spaced<T, type, step>(from + d * stride));
      });
    const auto load_rest = [&](int64_t apart) {
      for (; d < columns; ++d) to[d] = element<T>(from + d * apart, type);
    };
    if (stride == size_of(type))
      load_rest(size_of(type));  // a constant: the loop vectorizes
    else
      load_rest(stride);
  });
}

// `lanes` rows, each a step after the one before, from their columns.
template <class T, Dtype dtype, int step>
inline void load_square_rows(const char* from, int64_t column_stride, int64_t begin, int64_t end, int64_t columns,
                             T* to) {
  if (end - begin == lanes<T>) {
    Vec<T> square[lanes<T>];
    for (int i = 0; i < lanes<T>; ++i) square[i] = load_spaced<T, dtype, step>(from + (begin + i) * column_stride);
    transpose<T>(square);
    for (int i = 0; i < lanes<T>; ++i) store<T>(to + i * columns + begin, square[i]);
    return;
  }
  for (int64_t d = begin; d < end; ++d) {
    const Vec<T> column = load_spaced<T, dtype, step>(from + d * column_stride);
    for (int i = 0; i < lanes<T>; ++i) to[i * columns + d] = column[i];
  }
}

// Rows whose elements stand nearer to those of the next row than to each other, to contiguous rows. A line of each column
// is used up before the next one: lines of columns that are a power of 2 apart share few sets of the cache. What is left
// of the last square is done again with rows before it.
template <class T>
[[gnu::noinline]] void load_columns(const Rows& from, int64_t count, int64_t columns, T* to) {
  with_wide_dtype<T>(from.dtype, [&](auto type) {
    constexpr int64_t some = 64 / size_of(type) > lanes<T> ? 64 / size_of(type) : lanes<T>;
    const bool in_squares = by_step(from.row_stride, size_of(type), [&](auto step) {
      for (int64_t first = 0; first < count; first += some)
        for (int64_t begin = 0; begin < columns; begin += lanes<T>)
          for (int64_t j = first; j < first + some && j < count; j += lanes<T>) {
            const int64_t row = j + lanes<T> <= count ? j : count - lanes<T>;
            load_square_rows<T, type, step>(from.data + row * from.row_stride, from.column_stride, begin,
                                            begin + lanes<T> < columns ? begin + lanes<T> : columns, columns,
                                            to + row * columns);
          }
    });
    constexpr int64_t more = 64;  // rows: columns stand on pages of their own
    for (int64_t first = 0; first < count && !in_squares; first += more)
      for (int64_t d = 0; d < columns; ++d) {
        const char* const column = from.data + d * from.column_stride;
        for (int64_t j = first; j < first + more && j < count; ++j)
          to[j * columns + d] = element<T>(column + j * from.row_stride, type);
      }
  });
}

// Whether rows are better read by columns.
inline bool is_across(const Rows& from, int64_t count, int64_t columns) {
  const auto distance = [](int64_t stride) { return stride < 0 ? -stride : stride; };
  return !from.list && count > 1 && columns > 1 && from.row_stride != 0 &&
         distance(from.row_stride) < distance(from.column_stride);
}

// Whether rows stand one element after the other, and their own elements farther apart.
template <class T>
inline bool are_neighbors(const char* const* rows, int32_t count, Dtype dtype, int64_t column_stride) {
  if (column_stride == size_of(dtype) || !widens<T>(dtype)) return false;
  for (int32_t i = 1; i < count; ++i)
    if (rows[i] - rows[i - 1] != size_of(dtype)) return false;
  return count > 1;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
