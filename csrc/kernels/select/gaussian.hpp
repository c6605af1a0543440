// Local attention: weights are multiplied by a Gaussian round each query's centre, P_j *= 2^-(rate (j - center))^2.
// The centre comes as whole + rest, |rest| <= 1/2, whole counted from the tile's first key: j - whole is exact up to
// 2^24 keys away in float32, so the error does not grow with the length, and the difference to the nearest key, which
// is the rest alone, keeps its digits. Error: 4 ulp of the exponent, and 1.5 ulp for exp2 and the product.
#pragma once
#include "../math.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T, int vectors>
void gaussian_tile(T* weights, int64_t count, T rate, const double* whole_, const double* rest_) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> whole[vectors], rest[vectors], key = {};
  for (int v = 0; v < vectors; ++v)
    for (int i = 0; i < lanes<T>; ++i) {
      whole[v][i] = T(whole_[v * lanes<T> + i]);
      rest[v][i] = T(rest_[v * lanes<T> + i]) * rate;
    }
  for (int64_t j = 0; j < count; ++j, key += T(1))
    unroll<vectors>([&](auto v) {
      T* cell = weights + j * width + v * lanes<T>;
      const Vec<T> distance = (key - whole[v]) * rate - rest[v];
      store<T>(cell, load(cell) * exp2<T>(-distance * distance));
    });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
