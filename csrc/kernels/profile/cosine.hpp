// The cosine by s = -d: cos(pi/2 sqrt(d)) within d <= 1, which is 1 - d times a polynomial in d; its slope is
// pi/4 sin(pi/2 sqrt(d)) / sqrt(d), a polynomial too. Both of the least largest error on [0, 1]: 3e-20, 3e-19.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
constexpr T cosine_over_edge[] = {T(0x1.0000000000000p+0),   T(-0x1.de9e64df22ef3p-3),  T(0x1.472be12243485p-6),
                                  T(-0x1.d4fcd831141f3p-11), T(0x1.9f05cafefd16ep-16),  T(-0x1.f309e72a40936p-22),
                                  T(0x1.b267f6e69eed9p-28),  T(-0x1.1e560aad98474p-34), T(0x1.1f94ce943d27ap-41)};
template <class T>
constexpr T cosine_slope[] = {T(0x1.3bd3cc9be45dep+0),  T(-0x1.03c1f081b5ac3p-1),  T(0x1.005ed5ead8facp-4),
                              T(-0x1.e1f50689154a1p-9), T(0x1.084337a335855p-13),  T(-0x1.7b5ea62dc0ddcp-19),
                              T(0x1.800564017f0adp-25), T(-0x1.209e2d8f961c7p-31), T(0x1.4495a7493c130p-38)};

struct Cosine {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    const Vec<T> near = at_least<T>(-1, s);
    return (T(1) + near) * polynomial<T>(cosine_over_edge<T>, -near);
  }
  template <class T>
  static Vec<T> slope(Vec<T> s) {
    return value<T>(s) > T(0) ? polynomial<T>(cosine_slope<T>, -s) : Vec<T>{};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
