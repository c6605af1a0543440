// The triweight by s = -d: ((1 - d)+)^3.
#pragma once
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Triweight {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    const Vec<T> rest = at_least<T>(0, T(1) + s);
    return rest * rest * rest;
  }
  template <class T>
  static Vec<T> slope(Vec<T> s) {
    const Vec<T> rest = at_least<T>(0, T(1) + s);
    return T(3) * rest * rest;
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
