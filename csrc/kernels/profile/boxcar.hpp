// The boxcar by s = -d: [d <= 1], which is flat. NaN fails the comparison.
#pragma once
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Boxcar {
  template <class T>
  static Vec<T> value(Vec<T> s) {
    return s >= T(-1) ? broadcast(T(1)) : Vec<T>{};
  }
  template <class T>
  static Vec<T> slope(Vec<T>) {
    return Vec<T>{};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
