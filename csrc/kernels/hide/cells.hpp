// What a query does not see becomes -inf, whatever score stood there: NaN and inf of keys that are not seen go no
// further. Two forms: an interval of keys for each query (causal, window, lengths), and one bit a cell (masks,
// segments).
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Query i sees low[i] <= j < high[i]. Rows begin..end of the tile; the others are known to be seen by all.
template <class T, int vectors>
void hide_outside(T* scores, int64_t begin, int64_t end, const int32_t* low, const int32_t* high) {
  constexpr int width = vectors * lanes<T>;
  const Vec<T> hidden = minus_infinity<T>();
  IntVec<T> from[vectors], to[vectors];
  for (int v = 0; v < vectors; ++v)
    for (int i = 0; i < lanes<T>; ++i) {
      from[v][i] = low[v * lanes<T> + i];
      to[v][i] = high[v * lanes<T> + i];
    }
  for (int64_t j = begin; j < end; ++j) {
    const IntVec<T> key = IntVec<T>{} + typename VectorOf<T>::Bits(j);
    unroll<vectors>([&](int v) INLINED {
      T* cell = scores + j * width + v * lanes<T>;
      const IntVec<T> seen = (key >= from[v]) & (key < to[v]);
      store<T>(cell, seen ? load(cell) : hidden);
    });
  }
}

template <class T>
void hide_outside(T* scores, int32_t vectors, int64_t begin, int64_t end, const int32_t* low, const int32_t* high) {
  by_width(vectors, [&](auto v) { hide_outside<T, v>(scores, begin, end, low, high); });
}

// Query i sees key j where bit i of seen[j] is set.
template <class T, int vectors>
void hide_unset(T* scores, int64_t count, const uint32_t* seen) {
  constexpr int width = vectors * lanes<T>;
  const Vec<T> hidden = minus_infinity<T>();
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      T* cell = scores + j * width + v * lanes<T>;
      store<T>(cell, select_bits<T>(seen[j] >> (v * lanes<T>), load(cell), hidden));
    });
}

template <class T>
void hide_unset(T* scores, int32_t vectors, int64_t count, const uint32_t* seen) {
  by_width(vectors, [&](auto v) { hide_unset<T, v>(scores, count, seen); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
