// Hard selection by a draw: a weighted reservoir over the tiles. With the weights P_j of a tile, their sum t, the sum l of
// all weights so far, the tile's included, and a uniform number u of the tile's own,
//   where u l < t, the tile's key replaces the one drawn before: the first j with P_0 + ... + P_j > u l.
// Given u l < t, u l is uniform in [0, t): one number decides both. A tile is kept with probability t / l and replaced later
// with the rest, so that each key ends up drawn with P_j / l, up to the rounding of the sums. Compared strictly: a weight of
// 0 is never drawn, nor a key beyond the last that has weight. A NaN among the weights fails every comparison.
// Partial sums are noted every `run_keys` keys, so that few weights are read again; they are points of the one chain over
// j, and change no bits.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"
#include "soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int64_t run_keys = 12;
inline int64_t runs_of(int64_t count) { return (count + run_keys - 1) / run_keys; }

// soft.hpp's online softmax, which also gives the tile's sums: runs[r][q] = P_0 + ... + P_j, j the last key of run r.
template <class T, int vectors, bool scaled>
[[gnu::noinline]] void soft_runs_tile(T* scores, int64_t count, T scale, const T* top, T* m, T* l, T* alpha, T* runs) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> sum[vectors] = {}, offset[vectors];
  soft_offset<T, vectors>(top, scale, m, l, alpha, offset);
  for (int64_t first = 0; first < count; first += run_keys) {
    const int64_t end = first + run_keys < count ? first + run_keys : count;
    for (int64_t j = first; j < end; ++j)
      unroll<vectors>([&](int v) INLINED {
        T* cell = scores + j * width + v * lanes<T>;
        const Vec<T> weight = exp2<T>(in_base_2<scaled, T>(load(cell) - offset[v], scale));
        sum[v] += weight;
        store<T>(cell, weight);
      });
    unroll<vectors>([&](int v) INLINED { store<T>(runs + v * lanes<T>, sum[v]); });
    runs += width;
  }
  unroll<vectors>([&](int v) INLINED { store<T>(l + v * lanes<T>, load(l + v * lanes<T>) + sum[v]); });
}

template <class T>
void soft_runs(T* scores, int32_t vectors, int64_t count, double scale, const T* top, T* m, T* l, T* alpha, T* runs) {
  by_width(vectors, [&](auto v) {
    const auto tile = scale == 1 ? soft_runs_tile<T, v, false> : soft_runs_tile<T, v, true>;
    tile(scores, count, T(scale), top, m, l, alpha, runs);
  });
}

// Returns the queries whose key is replaced, and the places of the keys.
template <class T, int vectors>
uint32_t draw(const T* weights, int64_t count, const T* runs, const T* l, const T* uniform, int32_t* place) {
  constexpr int width = vectors * lanes<T>;
  const int64_t last = (count - 1) / run_keys;
  Vec<T> target[vectors];
  uint32_t drawn = 0;
  unroll<vectors>([&](int v) INLINED {
    target[v] = load(uniform + v * lanes<T>) * load(l + v * lanes<T>);
    drawn |= bits_of<T>(target[v] < load(runs + last * width + v * lanes<T>)) << (v * lanes<T>);
  });
  if (!drawn) return 0;
  IntVec<T> before[vectors] = {};  // runs that end at or below the target
  for (int64_t r = 0; r < last; ++r)
    unroll<vectors>([&](int v) INLINED { before[v] -= load(runs + r * width + v * lanes<T>) <= target[v]; });
  for (uint32_t left = drawn; left; left &= left - 1) {
    const int i = __builtin_ctz(left);
    const int64_t run = before[i / lanes<T>][i % lanes<T>];
    const T wanted = target[i / lanes<T>][i % lanes<T>];
    const T* weight = weights + run * run_keys * width + i;
    T sum = run ? runs[(run - 1) * width + i] : T(0);
    int64_t at = run * run_keys;
    // no way out of the loop: it runs beside that of the next query
    for (int64_t n = at + run_keys < count ? run_keys : count - at; n > 0; --n, weight += width) {
      sum += *weight;
      at += sum <= wanted;
    }
    place[i] = int32_t(at);
  }
  return drawn;
}

template <class T>
uint32_t draw(const T* weights, int32_t vectors, int64_t count, const T* runs, const T* l, const T* uniform,
              int32_t* place) {
  return by_width(vectors, [&](auto v) { return draw<T, v>(weights, count, runs, l, uniform, place); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
