// fv_attention and fv_attention_weights against the formula, over the cases of a check.
//
// The one tolerance: twice the error that the plain formula makes in the same dtype (over all cases of a check, so
// that a lucky one does not set it), and twice the dtype's spacing at the largest value, for the roundings that any
// way of computing makes at the end: the product with 1 / l, and the output itself. For lse, four float32 spacings
// (float64) at its largest value: the change of base, the logarithm (1.5), the sum.
#pragma once
#include <cmath>
#include <functional>

#include "plain.hpp"
#include "report.hpp"

namespace kernel_tests {

// An error that is NaN is as bad as can be, and must not lose a comparison.
inline double or_infinity(double error) { return std::isnan(error) ? INFINITY : error; }

// The largest error and magnitude of one output over the cases of a check. A NaN or an infinity in the wrong place is
// an error of infinity.
class Errors {
 public:
  void see(double got, double formula, double wanted, const std::string& where);
  void see(const Tensor& got, const std::vector<double>& formula, const std::vector<double>& wanted,
           const std::string& where);
  // The worst error as a share of what is allowed: `formulas` times that of the formula, `spacings` at the largest
  // value, and `more`, which the answer may differ by beside its rounding.
  double ratio(double spacings, double formulas = 2, double more = 0) const;
  const std::string& where() const { return where_; }

 private:
  double ours_ = 0, formula_ = 0, magnitude_ = 0;
  std::string where_;
};

// Cases 0..count-1, all of one dtype, on every ISA; the formula once, for all of them.
void compare(Report&, const std::vector<std::string>& isas, const std::string& title, int64_t count,
             const std::function<Case(int64_t)>& make, double formulas = 2);

}  // namespace kernel_tests
