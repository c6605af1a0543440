// Local attention: weights are multiplied by a Gaussian around the center of each query, P_j *= 2^-(rate (j - center))^2.
// The center comes as whole + rest, |rest| <= 1/2, whole counted from the tile's first key: j - whole is exact up to
// 2^24 keys away in float32, so the error does not grow with the length, and the difference to the nearest key, which
// is the rest alone, keeps its digits. Error: 4 ulp of the exponent, and 1.5 ulp for exp2 and the product.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// The factors of one key after the other.
template <class T, int vectors>
class Falloff {
 public:
  explicit Falloff(const Gaussian& gaussian)
      : rate_(gaussian.rate < double(Math<T>::largest) ? T(gaussian.rate) : Math<T>::largest), key_{} {
    for (int v = 0; v < vectors; ++v)
      for (int i = 0; i < lanes<T>; ++i) {
        whole_[v][i] = T(gaussian.whole[v * lanes<T> + i]);
        rest_[v][i] = T(gaussian.rest[v * lanes<T> + i]) * rate_;
      }
  }
  Vec<T> of(int v) const {
    const Vec<T> distance = (key_ - whole_[v]) * rate_ - rest_[v];
    return exp2<T>(-distance * distance);
  }
  void next() { key_ += T(1); }

 private:
  T rate_;
  Vec<T> whole_[vectors], rest_[vectors], key_;
};

template <class T, int vectors>
void multiply_gaussian(T* weights, int64_t count, const Gaussian& gaussian) {
  Falloff<T, vectors> falloff(gaussian);
  for (int64_t j = 0; j < count; ++j, falloff.next())
    unroll<vectors>([&](int v) INLINED {
      T* cell = weights + (j * vectors + v) * lanes<T>;
      store<T>(cell, load(cell) * falloff.of(v));
    });
}

template <class T>
void multiply_gaussian(T* weights, int32_t vectors, int64_t count, const Gaussian& gaussian) {
  by_width(vectors, [&](auto v) { multiply_gaussian<T, v>(weights, count, gaussian); });
}

// The moments of P F dP around the centers, see table.hpp. A cell that is not seen has P = 0.
template <class T, int vectors>
void gaussian_gradient(const T* weights, const T* d_weights, int64_t count, const Gaussian& gaussian, T* to) {
  constexpr int width = vectors * lanes<T>;
  unroll<vectors>([&](int v) INLINED {
    Vec<T> whole, rest, key = {}, first = {}, second = {};
    for (int i = 0; i < lanes<T>; ++i) {
      whole[i] = T(gaussian.whole[v * lanes<T> + i]);
      rest[i] = T(gaussian.rest[v * lanes<T> + i]);
    }
    for (int64_t j = 0; j < count; ++j, key += T(1)) {
      const int64_t cell = j * width + v * lanes<T>;
      const Vec<T> weight = load(weights + cell), way = (key - whole) - rest;
      const Vec<T> g = weight == T(0) ? Vec<T>{} : weight * load(d_weights + cell);
      first += g * way;
      second += g * way * way;
    }
    store<T>(to + v * lanes<T>, load(to + v * lanes<T>) + first);
    store<T>(to + width + v * lanes<T>, load(to + width + v * lanes<T>) + second);
  });
}

template <class T>
void gaussian_gradient(const T* weights, const T* d_weights, int32_t vectors, int64_t count, const Gaussian& gaussian,
                       T* to) {
  by_width(vectors, [&](auto v) { gaussian_gradient<T, v>(weights, d_weights, count, gaussian, to); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
