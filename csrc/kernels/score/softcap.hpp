// What happens to a score between the product and the softmax, in the order of the definition: scale, softcap, bias.
// Afterwards scores are in base 2, log2(e) included.
#pragma once
#include "../math.hpp"
#include "../pack.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// softcap * tanh(scale * s / softcap) * log2(e) where softcap > 0, else scale * s
template <class T>
void bend(T* scores, int64_t cells, double scale, double softcap) {
  if (softcap > 0) {
    const T inner = T(scale / softcap), outer = T(softcap * Math<double>::log2_e);
    for (int64_t i = 0; i < cells; i += lanes<T>) store<T>(scores + i, tanh<T>(load(scores + i) * inner) * outer);
  } else {
    for (int64_t i = 0; i < cells; i += lanes<T>) store<T>(scores + i, load(scores + i) * T(scale));
  }
}

// s[j][i] += bias[i][j] * log2(e): the bias of a query is a row, and is transposed on the way
template <class T>
void add_bias(T* scores, int32_t width, int64_t count, const char* const* rows, Dtype dtype, int64_t key_stride,
              int32_t live) {
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
