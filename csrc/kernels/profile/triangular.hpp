// The triangular kernel by s = -d: (1 - sqrt(d))+. Its slope is taken as 0 where it has its top.
#pragma once
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Triangular {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    return at_least<T>(0, T(1) - square_root(-s));
  }
  template <class T>
  static Vec<T> slope(Vec<T> s) {
    const Vec<T> distance = square_root(-s);
    return value<T>(s) > T(0) && distance > T(0) ? T(0.5) / distance : Vec<T>{};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
