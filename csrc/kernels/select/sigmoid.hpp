// The sigmoid of each score, without a sum: 1 / (1 + e^-x), and what it grows by, e^x / (1 + e^x)^2. With e = e^-|x| neither
// overflows nor loses digits: an error of 3 ulp. A weight below the smallest normal number is 0.
#pragma once
#include "normalizers.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Sigmoid {
  template <class T>
  static Vec<T> weight(Vec<T> x) {
    const Vec<T> e = exp2<T>(-absolute<T>(x));
    return (x < T(0) ? e : broadcast(T(1))) / (T(1) + e);
  }
  template <class T>
  static Grown<T> grown(Vec<T> x) {
    const Vec<T> e = exp2<T>(-absolute<T>(x)), inverse = T(1) / (T(1) + e), less = e * inverse;
    return {x < T(0) ? less : inverse, less * inverse};
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
