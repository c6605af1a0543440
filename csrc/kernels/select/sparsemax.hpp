// Sparsemax (Martins and Astudillo, 2016): max(x, 0) of a score less the threshold at which a query's weights add up to 1.
// What it grows by is 1 in the support. For the threshold: sum(x+) and its size, the number of keys in the support.
#pragma once
#include "rectified.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Sparsemax : Rectified {
  template <class T>
  static Grown<T> sums(Vec<T> x) {
    return {at_least<T>(0, x), x > T(0) ? broadcast(T(1)) : Vec<T>{}};
  }
};
struct SparsemaxSlopes {
  template <class T>
  static Vec<T> weight(Vec<T> x) {
    return Rectified::grown<T>(x).slope;
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
