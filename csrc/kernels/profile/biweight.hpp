// The biweight by s = -d: ((1 - d)+)^2.
#pragma once
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Biweight {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    const Vec<T> rest = at_least<T>(0, T(1) + s);
    return rest * rest;
  }
  template <class T>
  static Vec<T> slope(Vec<T> s) {
    return T(2) * at_least<T>(0, T(1) + s);
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
