// Dropout: the cells whose bit is not set are multiplied by 0, the others stay as they are. A weight or a gradient that is
// NaN or inf makes NaN of 0, as in the formula; the factor of those that are kept comes where a row is divided.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Query i keeps key j where bit i of kept[j] is set.
template <class T, int vectors>
void clear_unset(T* cells, int64_t count, const uint32_t* kept) {
  constexpr int width = vectors * lanes<T>;
  const Vec<T> zero = {}, one = broadcast(T(1));
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      T* cell = cells + j * width + v * lanes<T>;
      store<T>(cell, load(cell) * select_bits<T>(kept[j] >> (v * lanes<T>), one, zero));
    });
}

template <class T>
void clear_unset(T* cells, int32_t vectors, int64_t count, const uint32_t* kept) {
  by_width(vectors, [&](auto v) { clear_unset<T, v>(cells, count, kept); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
