// Compact kernels: scores s = -d, of squared distances d, become weights K(d) as they are, without an exponential, each by
// its profile, which says what a weight is and what it grows by with s;   l' = l + sum_j P_j, a chain from 0 in a tile.
// A cell that is not seen (-inf) weighs 0. NaN stays NaN, except the boxcar, whose comparison it fails.
// Backward, with dP the gradients of the weights and shift that of select/soft.hpp:
//   P_j = K(d_j) / l,  dS_j = -K'(d_j) / l (dP_j - shift),  l = 2^rest
// Where K is 0, so are both; K' is taken as 0 where a triangle has its top.
#pragma once
#include "../profile/biweight.hpp"
#include "../profile/boxcar.hpp"
#include "../profile/cosine.hpp"
#include "../profile/epanechnikov.hpp"
#include "../profile/triangular.hpp"
#include "../profile/tricube.hpp"
#include "../profile/triweight.hpp"
#include "../table.hpp"
#include "cells.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class F>
inline void by_profile(Profile profile, F&& f) {
  switch (profile) {
    case Profile::boxcar: return f(Boxcar{});
    case Profile::epanechnikov: return f(Epanechnikov{});
    case Profile::triangular: return f(Triangular{});
    case Profile::biweight: return f(Biweight{});
    case Profile::triweight: return f(Triweight{});
    case Profile::tricube: return f(Tricube{});
    case Profile::cosine: return f(Cosine{});
  }
}

template <class T, int vectors, class P>
void compact_tile(T* scores, int64_t count, T* l) {
  constexpr int width = vectors * lanes<T>;
  Vec<T> sum[vectors] = {};
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      T* cell = scores + j * width + v * lanes<T>;
      const Vec<T> weight = P::template value<T>(load(cell));
      sum[v] += weight;
      store<T>(cell, weight);
    });
  unroll<vectors>([&](int v) INLINED { store<T>(l + v * lanes<T>, load(l + v * lanes<T>) + sum[v]); });
}

template <class T>
void compact(T* scores, int32_t vectors, int64_t count, Profile profile, T* l) {
  by_width(vectors,
           [&](auto v) { by_profile(profile, [&](auto p) { compact_tile<T, v, decltype(p)>(scores, count, l); }); });
}

template <class T, int vectors, class P>
void compact_gradient_tile(const T* s, T* d_weights, int64_t count, const T* rest, const T* shift_, T* weights,
                           int64_t stride) {
  Vec<T> inverse[vectors], shift[vectors];
  unroll<vectors>([&](int v) INLINED {
    inverse[v] = exp2<T>(-load(rest + v * lanes<T>));
    shift[v] = load(shift_ + v * lanes<T>);
  });
  each_cell<T, vectors>(s, d_weights, count, weights, nullptr, stride,
                        [&](int v, Vec<T> score, Vec<T> d_weight, Vec<T>& weight, Vec<T>& d_score) INLINED {
                          const Vec<T> slope = P::template slope<T>(score);
                          weight = P::template value<T>(score) * inverse[v];
                          d_score = slope == T(0) ? Vec<T>{} : slope * inverse[v] * (d_weight - shift[v]);
                        });
}

template <class T>
void compact_gradient(const T* s, T* d_weights, int32_t vectors, int64_t count, Profile profile, const T* rest,
                      const T* shift, T* weights, int64_t stride) {
  by_width(vectors, [&](auto v) {
    by_profile(profile, [&](auto p) {
      compact_gradient_tile<T, v, decltype(p)>(s, d_weights, count, rest, shift, weights, stride);
    });
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
