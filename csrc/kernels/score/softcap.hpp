// The softcap, a link: s becomes softcap tanh(scale s / softcap) unit, which never is beyond +-softcap unit; an error of 3.5
// ulp. Kept is e = e^|2x| - 1 with the sign of x: the slope 1 - tanh^2 = 4 (|e| + 1) / (|e| + 2)^2 has an error of a few ulp
// of its own also where tanh is next to 1. It is 0 where e is beyond 1e26, as at |x| = 30.
#pragma once
#include "../math.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
void softcap(T* scores, int32_t vectors, int64_t count, const LinkParameters& by, T* kept) {
  const T inner = T(by.scale / by.parameter), outer = T(by.parameter * by.unit);
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> e = tanh_growth<T>(load(scores + i) * inner);
    if (kept) store<T>(kept + i, e);
    store<T>(scores + i, tanh_of_growth<T>(e) * outer);
  }
}

template <class T>
inline Vec<T> softcap_slope(Vec<T> kept) {
  const T most = T(1e26);  // e^60 = 1.14e26
  const Vec<T> e = absolute<T>(kept), shrink = T(1) / (e + T(2));
  return e > most ? Vec<T>{} : T(4) * ((e + T(1)) * shrink) * shrink;
}

// 0 stays 0, whatever was kept of a cell that is not seen.
template <class T>
void softcap_gradient(const T* kept, T* d_scores, int32_t vectors, int64_t count, const LinkParameters&) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> d = load(d_scores + i);
    store<T>(d_scores + i, d == T(0) ? d : d * softcap_slope<T>(load(kept + i)));
  }
}

// Its curvature is -2 tanh (1 - tanh^2) / softcap.
template <class T>
void softcap_curvature(const T* kept, const T* tangents, T* d_scores, T* moved, int32_t vectors, int64_t count,
                       const LinkParameters& by) {
  const T bend = T(-2 / by.parameter);
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> e = load(kept + i), d = load(d_scores + i), move = load(moved + i);
    const Vec<T> slope = softcap_slope<T>(e), t = tanh_of_growth<T>(e);
    const IntVec<T> nothing = (d == T(0)) & (move == T(0));
    store<T>(moved + i, nothing ? Vec<T>{} : slope * (move + d * t * (bend * load(tangents + i))));
    store<T>(d_scores + i, d == T(0) ? d : d * slope);
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
