// A bias, the mask of floats, is added to a score after its scale and its link: s += bias log2(e). From here on scores
// are in base 2.
#pragma once
#include "../math.hpp"
#include "../pack.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// s[j][i] += bias[i][j] * log2(e): the bias of a query is a row, and is transposed on the way
template <class T>
void add_bias(T* scores, int32_t vectors, int64_t count, const char* const* rows, Dtype dtype, int64_t key_stride,
              int32_t live) {
  const int32_t width = vectors * lanes<T>;
  for (int32_t first = 0; first < live; first += lanes<T>) {
    const int32_t some = live - first < lanes<T> ? live - first : lanes<T>;
    for (int64_t j = 0; j < count; j += lanes<T>) {
      const int64_t keys = count - j < lanes<T> ? count - j : lanes<T>;
      alignas(vector_bytes) T square[lanes<T>][lanes<T>] = {};
      for (int32_t i = 0; i < some; ++i)
        load_row<T>(rows[first + i] + j * key_stride, dtype, key_stride, keys, square[i]);
      Vec<T> bias[lanes<T>];
      for (int i = 0; i < lanes<T>; ++i) bias[i] = load(square[i]);
      transpose<T>(bias);
      for (int64_t k = 0; k < keys; ++k) {
        T* cell = scores + (j + k) * width + first;
        store<T>(cell, load(cell) + in_base_2<T>(bias[k]));
      }
    }
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
