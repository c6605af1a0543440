// The power, a link: x = scale s becomes x^degree, by squaring, with a rounding for each of at most 2 log2(degree)
// products. Its slope is degree x^(degree - 1), of the x that was kept.
#pragma once
#include "../panel.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// A whole number that a uint64_t holds, and a double exactly.
constexpr bool is_degree(double x) { return x >= 1 && x <= 0x1p53 && x == double(uint64_t(x)); }

template <class T>
inline Vec<T> power_of(Vec<T> x, uint64_t degree) {
  Vec<T> product = broadcast(T(1));
  for (; degree > 1; degree >>= 1, x = x * x)
    if (degree & 1) product = product * x;
  return degree ? product * x : product;
}

template <class T>
void power(T* scores, int32_t vectors, int64_t count, const LinkParameters& by, T* kept) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> x = load(scores + i) * T(by.scale);
    if (kept) store<T>(kept + i, x);
    store<T>(scores + i, power_of<T>(x, uint64_t(by.parameter)) * T(by.unit));
  }
}

// 0 stays 0, whatever was kept of a cell that is not seen.
template <class T>
void power_gradient(const T* kept, T* d_scores, int32_t vectors, int64_t count, const LinkParameters& by) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> d = load(d_scores + i);
    const Vec<T> slope = power_of<T>(load(kept + i), uint64_t(by.parameter) - 1) * T(by.parameter);
    store<T>(d_scores + i, d == T(0) ? d : d * slope);
  }
}

// Its curvature is degree (degree - 1) x^(degree - 2).
template <class T>
void power_curvature(const T* kept, const T* tangents, T* d_scores, T* moved, int32_t vectors, int64_t count,
                     const LinkParameters& by) {
  const uint64_t degree = uint64_t(by.parameter);
  const T most = T(by.parameter), more = T(by.parameter - 1);
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) {
    const Vec<T> x = load(kept + i), d = load(d_scores + i), move = load(moved + i);
    const Vec<T> curve = degree < 2 ? Vec<T>{} : power_of<T>(x, degree - 2) * (most * more);
    const Vec<T> slope = power_of<T>(x, degree - 1) * most;
    const IntVec<T> nothing = (d == T(0)) & (move == T(0));
    store<T>(moved + i, nothing ? Vec<T>{} : move * slope + d * curve * load(tangents + i));
    store<T>(d_scores + i, d == T(0) ? d : d * slope);
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
