// Scores as weights, where they are positive: max(x, 0). Its slope is 0 at 0.
#pragma once
#include "normalizers.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Rectified {
  template <class T>
  static Vec<T> weight(Vec<T> x) {
    return at_least<T>(0, x) * T(ln_2);
  }
  template <class T>
  static Grown<T> grown(Vec<T> x) {
    return {weight<T>(x), x > T(0) ? broadcast(T(1)) : Vec<T>{}};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
