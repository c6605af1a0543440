// The tricube by s = -d: (1 - u^3)^3 within u = sqrt(d) <= 1. Its slope is 9/2 u (1 - u^3)^2.
#pragma once
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Tricube {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    const Vec<T> near = at_least<T>(-1, s), rest = T(1) + near * square_root(-near);
    return rest * rest * rest;
  }
  template <class T>
  static Vec<T> slope(Vec<T> s) {
    const Vec<T> near = at_least<T>(-1, s), distance = square_root(-near), rest = T(1) + near * distance;
    return T(4.5) * distance * rest * rest;
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
