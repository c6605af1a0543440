// Epanechnikov's kernel by s = -d: (1 - d)+.
#pragma once
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Epanechnikov {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    return at_least<T>(0, T(1) + s);
  }
  template <class T>
  static Vec<T> slope(Vec<T> s) {
    return value<T>(s) > T(0) ? broadcast(T(1)) : Vec<T>{};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
