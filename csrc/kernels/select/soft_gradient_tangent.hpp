// How soft.hpp's gradient of a tile moves, of the second order: with P the weights, dP the gradients of the weights, t how the
// scores move and dP' how dP does,
//   P' = P (t - lse'),   dS = P (dP - shift),   dS' = P' (dP - shift) + P (dP' - shift')
// A cell that is not seen, or of a query whose rest is inf, is 0 in all of them, whatever stands there.
#pragma once
#include "soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T, int vectors>
[[gnu::noinline]] void soft_gradient_tangent_tile(const T* s, T* d_weights, T* moved, const T* tangents, int64_t count,
                                                  T scale, const T* top_, const T* rest_, const T* shift_,
                                                  const T* t_lse_, const T* t_shift_, T* weights, T* t_weights,
                                                  int64_t stride) {
  constexpr int width = vectors * lanes<T>;
  const Vec<T> lowest = minus_infinity<T>();
  for (int v = 0; v < vectors; ++v) {
    const int at = v * lanes<T>;
    const Vec<T> top = load(top_ + at), rest = load(rest_ + at), shift = load(shift_ + at);
    const Vec<T> t_lse = load(t_lse_ + at), t_shift = load(t_shift_ + at);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t here = j * width + at, there = j * stride + at;
      const Vec<T> score = load(s + here);
      const IntVec<T> hidden = (score == lowest) | (rest == -lowest);
      const Vec<T> weight = hidden ? Vec<T>{} : exp2<T>(-at_least<T>(0, rest - (score - top) * scale));
      const Vec<T> t_weight = hidden ? Vec<T>{} : weight * (load(tangents + here) - t_lse);
      const Vec<T> d_weight = load(d_weights + here) - shift;
      const Vec<T> d_score = hidden ? Vec<T>{} : weight * d_weight;
      const Vec<T> t_d_score = hidden ? Vec<T>{} : t_weight * d_weight + weight * (load(moved + here) - t_shift);
      store<T>(weights + there, weight);
      store<T>(t_weights + there, t_weight);
      store<T>(d_weights + here, d_score);
      store<T>(moved + here, t_d_score);
    }
  }
}

template <class T>
void soft_gradient_tangent(const T* s, T* d_weights, T* moved, const T* tangents, int32_t vectors, int64_t count,
                           double scale, const T* top, const T* rest, const T* shift, const T* t_lse, const T* t_shift,
                           T* weights, T* t_weights, int64_t stride) {
  by_width(vectors, [&](auto v) {
    soft_gradient_tangent_tile<T, v>(s, d_weights, moved, tangents, count, T(scale), top, rest, shift, t_lse, t_shift,
                                     weights, t_weights, stride);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
