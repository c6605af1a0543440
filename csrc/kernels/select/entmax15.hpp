// Entmax of alpha = 1.5 (Peters, Niculae and Martins, 2019): max(x / 2, 0)^2 of a score less twice the threshold at which a
// query's weights add up to 1. What it grows by is max(x / 2, 0), the root of the weight. For the threshold: sum(x+^2), sum(x+).
#pragma once
#include "normalizers.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct Entmax15 {
  template <class T>
  static Vec<T> root(Vec<T> x) {
    return at_least<T>(0, x) * T(ln_2 / 2);
  }
  template <class T>
  static Vec<T> weight(Vec<T> x) {
    return root<T>(x) * root<T>(x);
  }
  template <class T>
  static Grown<T> grown(Vec<T> x) {
    return {weight<T>(x), root<T>(x)};
  }
  template <class T>
  static Grown<T> sums(Vec<T> x) {
    const Vec<T> above = at_least<T>(0, x);
    return {above * above, above};
  }
};
struct Entmax15Slopes {
  template <class T>
  static Vec<T> weight(Vec<T> x) {
    return Entmax15::root<T>(x);
  }
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
