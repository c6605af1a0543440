// The lse of a query in parts, and its sink in units of the scores.
#include "lse.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace foveate {
namespace {

// The number as T, the largest one where it is too large.
template <class T>
T bounded(double x) {
  return T(std::clamp(x, double(std::numeric_limits<T>::lowest()), double(std::numeric_limits<T>::max())));
}

// A natural logarithm in units of the scores, as they are held.
double score_of(const Plan& plan, double natural) {
  const double score = natural * log2_e / plan.softmax_scale();
  return plan.arithmetic.element_size == 8 ? bounded<double>(score) : double(bounded<float>(score));
}

// log(x) to 1 ulp by arithmetic alone: those of C libraries differ in the last bit. With x = 2^e m and s = (m - 1) / (m + 1),
// log(m) = 2 atanh(s) = f - f^2 / 2 + s (f^2 / 2 + 2 s^2 / 3 + 2 s^4 / 5 + ...), f = m - 1, |s| <= 0.172 (as in fdlibm).
double logarithm(double x) {
  constexpr double high = 0x1.62e42feep-1, low = 0x1.a39ef35793c76p-33;  // of log(2); high times any exponent is exact
  if (!(std::numeric_limits<double>::min() <= x && x <= std::numeric_limits<double>::max())) return std::log(x);
  constexpr uint64_t fraction = (uint64_t(1) << 52) - 1, sqrt_half = 0x3fe6a09e667f3bcd, one = 0x3ff0000000000000;
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += one - sqrt_half;
  const double exponent = double(int64_t(bits >> 52) - int64_t(one >> 52));
  bits = (bits & fraction) + sqrt_half;  // sqrt(1/2) <= m < sqrt(2)
  double m;
  std::memcpy(&m, &bits, sizeof m);
  const double f = m - 1, s = f / (f + 2), z = s * s, zz = z * z, half_square = 0.5 * f * f;
  const double odd = (((2.0 / 19 * zz + 2.0 / 15) * zz + 2.0 / 11) * zz + 2.0 / 7) * zz + 2.0 / 3;
  const double even = (((2.0 / 21 * zz + 2.0 / 17) * zz + 2.0 / 13) * zz + 2.0 / 9) * zz + 2.0 / 5;
  const double tail = zz * even + z * odd;
  return exponent * high - ((half_square - (s * (half_square + tail) + exponent * low)) - f);
}

}  // namespace

double sink_score_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const double sink = sink_of(plan, batch, group);
  if (!std::isfinite(sink)) return sink;
  if (!plan.any_bias() || plan.arithmetic.element_size == 8) return score_of(plan, sink);
  return bounded<float>(
      double(bounded<float>(sink) * float(log2_e)));  // rounded as a bias is: of equals each weighs as much
}

double sink_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const Operand& x = plan.problem.sink;
  if (!x) return -std::numeric_limits<double>::infinity();
  return plan.value<double>(x, batch, group);
}

// Pairs hold scores without their scale, but another arithmetic may take up what they leave: float32, which loses nothing here.
Lse lse_of(const Plan& plan, double m, double l) noexcept {
  const double scaled = m * plan.softmax_scale(), low = logarithm(l);
  return {scaled * ln_2 + low, plan.arithmetic.pairs ? scaled : m, low};
}

Lse lse_of_nothing(const Plan& plan, int64_t batch, int64_t group) noexcept {
  Lse nothing = lse_of(plan, sink_score_of(plan, batch, group), 1);
  nothing.lse = sink_of(plan, batch, group);  // as it is, not rounded
  return nothing;
}

void write_lse(const Operand& lse, char* at, const Lse& number) noexcept {
  if (lse.dtype == FV_FLOAT32) {
    const float rounded = float(number.lse);
    std::memcpy(at, &rounded, sizeof rounded);
    return;
  }
  const double numbers[3] = {number.lse, number.high, number.low};
  for (int i = 0; i < (lse.column_stride != 0 ? 3 : 1); ++i)
    std::memcpy(at + i * lse.column_stride, &numbers[i], sizeof numbers[i]);
}

Lse read_lse(const Plan& plan, const char* at) noexcept {
  const Operand& lse = plan.problem.lse;
  double numbers[3] = {};
  float rounded;
  if (lse.dtype == FV_FLOAT32) {
    std::memcpy(&rounded, at, sizeof rounded);
    numbers[0] = double(rounded);
  } else {
    for (int i = 0; i < (lse.column_stride != 0 ? 3 : 1); ++i)
      std::memcpy(&numbers[i], at + i * lse.column_stride, sizeof numbers[i]);
  }
  if (lse.column_stride == 0 || numbers[1] != numbers[1]) {
    numbers[1] = std::isfinite(numbers[0]) ? score_of(plan, numbers[0]) : numbers[0];
    numbers[2] = numbers[0] - numbers[1] * plan.softmax_scale() * ln_2;
  } else if (plan.arithmetic.pairs) {
    numbers[1] /= plan.softmax_scale();
  }
  return {numbers[0], numbers[1], numbers[2]};
}

}  // namespace foveate
