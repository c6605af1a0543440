// The terms that the formulas of attention and of its gradients share, in a type of numbers.
#pragma once
#include <cmath>
#include <vector>

#include "plain.hpp"

namespace kernel_tests {

template <class Real>
std::vector<Real> numbers(const Tensor& t) {
  std::vector<Real> x(size_t(t.count()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = Real(t.get(int64_t(i)));
  return x;
}

template <class Real, class Term>
Real sum_of(int64_t count, Term term) {
  Real sum = 0;
  for (int64_t n = 0; n < count; ++n) sum += term(n);
  return sum;
}

template <class Real>
Real squared_distance(const Case& c, const Real* q, const Real* k, const Real* w) {
  return sum_of<Real>(c.head_size, [&](int64_t d) {
    const Real difference = (w ? w[d] : Real(1)) * (q[d] - k[d]);
    return difference * difference;
  });
}

template <class Real>
constexpr Real half_pi = Real(1.57079632679489661923132169163975144L);

// The score of a query and a key; of a compact kernel the weight, which a NaN makes NaN, except the boxcar.
template <class Real, class Round>
Real score(const Case& c, const Real* q, const Real* k, const Real* w, Round rounded) {
  const int64_t size = c.head_size;
  switch (c.kind.family) {
    case FV_INNER: return rounded(Real(c.scale) * sum_of<Real>(size, [&](int64_t d) { return q[d] * k[d]; }));
    case FV_TANH:
      return rounded(Real(c.scale) * sum_of<Real>(size, [&](int64_t d) { return w[d] * std::tanh(q[d] + k[d]); }));
    case FV_RELU:
      return rounded(Real(c.scale) * sum_of<Real>(size, [&](int64_t d) {
                       const Real x = q[d] + k[d];
                       return w[d] * (x < 0 ? Real(0) : x);
                     }));
    case FV_LEAKY_RELU:
      return rounded(Real(c.scale) * sum_of<Real>(size, [&](int64_t d) {
                       const Real x = q[d] + k[d];
                       return w[d] * (x > 0 ? x : Real(c.slope) * x);
                     }));
    case FV_DISTANCE: break;
  }
  const Real squared = squared_distance(c, q, k, w);
  switch (c.kind.weighing) {
    case FV_BOXCAR: return Real(squared <= 1);
    case FV_EPANECHNIKOV: return rounded(squared > 1 ? Real(0) : 1 - squared);
    case FV_TRIANGULAR: return rounded(squared > 1 ? Real(0) : 1 - std::sqrt(squared));
    case FV_BIWEIGHT: return rounded(squared > 1 ? Real(0) : (1 - squared) * (1 - squared));
    case FV_TRIWEIGHT: return rounded(squared > 1 ? Real(0) : (1 - squared) * (1 - squared) * (1 - squared));
    case FV_TRICUBE: {
      const Real rest = squared > 1 ? Real(0) : 1 - squared * std::sqrt(squared);
      return rounded(rest * rest * rest);
    }
    case FV_COSINE: return rounded(squared >= 1 ? Real(0) : std::cos(half_pi<Real> * std::sqrt(squared)));
    case FV_SOFTMAX:
    case FV_SIGMOID:
    case FV_RECTIFIED:
    case FV_SPARSEMAX:
    case FV_ENTMAX15: break;
  }
  return rounded(Real(c.scale) * (squared / -2));
}

}  // namespace kernel_tests
