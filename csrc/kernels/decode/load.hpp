// Elements of a row as few queries take them: a vector at a time, widened in registers; of few bits without their scale.
#pragma once
#include "../few_bits.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Where a column begins, which is even in rows of int4.
constexpr int64_t byte_of(Dtype dtype, int64_t column) {
  return dtype == Dtype::int4 ? column / 2 : column * size_of(dtype);
}

template <class T, Dtype dtype>
inline Vec<T> load_any(const char* p) {
  if constexpr (is_few_bits(dtype))
    return stored_numbers<dtype>(p, 1, 0, lanes<T>);
  else
    return load_wide<T, dtype>(p);
}
// The first `count` elements, 0 beyond.
template <class T, Dtype dtype>
inline Vec<T> load_some(const char* p, int64_t count) {
  if constexpr (is_few_bits(dtype)) {
    return stored_numbers<dtype>(p, 1, 0, count);
  } else {
    alignas(vector_bytes) char whole[vector_bytes] = {};
    memcpy(whole, p, size_t(row_bytes(dtype, count)));
    return load_wide<T, dtype>(whole);
  }
}

// Calls f(DtypeConstant<dtype>) for a dtype that these take to T. Those of few bits are taken to float32 alone.
template <class T, class F>
inline void with_any_dtype(Dtype dtype, F&& f) {
  if constexpr (sizeof(T) == 4)
    if (is_few_bits(dtype)) return with_few_bits(dtype, f);
  with_wide_dtype<T>(dtype, f);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
