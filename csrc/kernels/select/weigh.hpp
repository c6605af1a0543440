// The weights themselves, once the softmax's m and l are known: 2^(scale (s - m)) * factor, factor = 1 / l.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T, int vectors>
void weigh(T* scores, int64_t count, T scale, const T* m, const T* factor) {
  constexpr int width = vectors * lanes<T>;
  const Vec<T> lowest = minus_infinity<T>();
  Vec<T> offset[vectors], by[vectors];
  unroll<vectors>([&](int v) INLINED {
    const Vec<T> top = load(m + v * lanes<T>);
    offset[v] = top == lowest ? Vec<T>{} : top;
    by[v] = load(factor + v * lanes<T>);
  });
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      T* cell = scores + j * width + v * lanes<T>;
      store<T>(cell, exp2<T>((load(cell) - offset[v]) * scale) * by[v]);
    });
}

template <class T>
void weigh(T* scores, int32_t vectors, int64_t count, double scale, const T* m, const T* factor) {
  by_width(vectors, [&](auto v) { weigh<T, v>(scores, count, T(scale), m, factor); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
