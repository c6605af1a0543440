// The softcap, a link: s becomes softcap tanh(scale s / softcap) unit, which never is beyond +-softcap unit. Its slope is
// 1 - tanh^2, of the tanh that was kept: an error of 3.5 ulp of tanh, and where tanh is next to 1 no digits of the slope.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
void softcap(T* scores, int32_t vectors, int64_t count, const LinkParameters& by, T* kept) {
  const T inner = T(by.scale / by.parameter), outer = T(by.parameter * by.unit);
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) store<T>(scores + i, tanh<T>(load(scores + i) * inner) * outer);
  if (kept) memcpy(kept, scores, size_t(cells) * sizeof(T));
}

// 0 stays 0, whatever was kept of a cell that is not seen.
template <class T, int vectors>
void softcap_gradient(const T* capped, T* d_scores, int64_t count, double largest) {
  constexpr int width = vectors * lanes<T>;
  const T factor = T(1 / largest);
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      T* const cell = d_scores + j * width + v * lanes<T>;
      const Vec<T> d_score = load(cell), t = load(capped + j * width + v * lanes<T>) * factor;
      store<T>(cell, d_score == T(0) ? d_score : d_score * (T(1) - t * t));
    });
}
template <class T>
void softcap_gradient(const T* kept, T* d_scores, int32_t vectors, int64_t count, const LinkParameters& by) {
  by_width(vectors, [&](auto v) { softcap_gradient<T, v>(kept, d_scores, count, by.parameter * by.unit); });
}

// Its curvature is -2 tanh (1 - tanh^2) / softcap.
template <class T>
void softcap_curvature(const T* capped, const T* tangents, T* d_scores, T* moved, int32_t vectors, int64_t count,
                       const LinkParameters& by) {
  const T factor = T(1 / (by.parameter * by.unit)), bend = T(-2 / by.parameter);
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> t = load(capped + i) * factor, d = load(d_scores + i), move = load(moved + i);
    const Vec<T> slope = T(1) - t * t;
    const IntVec<T> nothing = (d == T(0)) & (move == T(0));
    store<T>(moved + i, nothing ? Vec<T>{} : slope * (move + d * t * (bend * load(tangents + i))));
    store<T>(d_scores + i, d == T(0) ? d : d * slope);
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
