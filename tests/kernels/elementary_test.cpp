// exp2, log and tanh against <cmath> in double (long double for float64), over bit patterns at equal distances, of
// both signs, NaN among them: every 4093rd for float32, 2^18 for float64; and over a grid of [-40, 40], and the borders.
// The sweep over all 2^32 floats is one of the Python tests.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "foveate/foveate.h"
#include "report.hpp"

namespace kernel_tests {
namespace {

template <class T>
using Wider = std::conditional_t<sizeof(T) == 4, double, long double>;

template <class T>
std::vector<T> sweep() {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  const Bits step = sizeof(T) == 4 ? Bits(4093) : Bits(0x3fffffff9c40);  // 2^46 less a little, so that low bits vary
  std::vector<T> x;
  Bits bits = 0;
  do {
    T value;
    std::memcpy(&value, &bits, sizeof value);
    x.push_back(value);
    bits += step;
  } while (bits >= step);  // until it wraps
  // where arguments of softmax and tanh lie, and the borders
  for (int i = -40000; i <= 40000; ++i) x.push_back(T(i) * T(0x1p-10));
  for (T edge : {T(0), T(1), std::numeric_limits<T>::min(), std::numeric_limits<T>::denorm_min(),
                 std::numeric_limits<T>::max(), std::numeric_limits<T>::infinity(), T(NAN)})
    x.insert(x.end(), {edge, -edge});
  return x;
}

// The distance between neighbors of type T at y.
template <class T, class Wide>
Wide spacing(Wide y) {
  int exponent;
  std::frexp(y, &exponent);
  const int least = std::numeric_limits<T>::min_exponent;
  return std::ldexp(Wide(1), (exponent < least ? least : exponent) - std::numeric_limits<T>::digits);
}

template <class T>
void check(Report& report, const std::string& isa, const std::string& name, fv_dtype dtype, double ulps,
           Wider<T> (*truth)(Wider<T>)) {
  const std::vector<T> x = sweep<T>();
  std::vector<T> y(x.size());
  fv_error error = {};
  const std::string title = isa + ": " + name + (sizeof(T) == 4 ? " float32" : " float64");
  if (fv_elementary(name.c_str(), dtype, x.data(), y.data(), int64_t(x.size()), &error) != FV_OK)
    return report.that(title, false, error.message);
  double worst = 0;
  T where = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const Wider<T> wanted = truth(Wider<T>(x[i]));
    double ratio;
    if (std::isnan(wanted) || std::isnan(y[i])) {
      ratio = std::isnan(wanted) && std::isnan(y[i]) ? 0 : INFINITY;
    } else if (std::isinf(T(wanted)) || std::isinf(y[i])) {
      // beyond the largest number, or so near to it that rounding may go either way
      const Wider<T> limit = std::numeric_limits<T>::max();
      const bool near = std::fabs(wanted) > limit * (1 - Wider<T>(ulps) * std::numeric_limits<T>::epsilon());
      ratio = T(wanted) == y[i] || near ? 0 : INFINITY;
    } else if (name == "exp2" && wanted < Wider<T>(std::numeric_limits<T>::min())) {
      ratio = y[i] == 0 || std::fabs(Wider<T>(y[i]) - wanted) <= spacing<T>(wanted) ? 0 : INFINITY;  // as promised: 0
    } else {
      ratio = double(std::fabs(Wider<T>(y[i]) - wanted) / spacing<T>(wanted)) / ulps;
    }
    if (!(ratio <= worst)) {
      worst = ratio;
      where = x[i];
    }
  }
  char text[64];
  std::snprintf(text, sizeof text, "%a of %zu arguments", double(where), x.size());
  report.bounded(title, worst, text);
}

template <class T>
void check_all(Report& report, const std::string& isa, fv_dtype dtype) {
  // csrc/kernels/math.hpp promises these with fused multiply-add; without it, each step of a polynomial rounds twice,
  // which the last step and the reconstruction see: one more. The instruction set `generic` has what its machine has.
#if defined(__x86_64__) || defined(__wasm__)
  const double more = isa == "baseline" || isa == "avx" || isa == "generic" ? 1.0 : 0.0;
#else
  const double more = 0.0;
#endif
  check<T>(report, isa, "exp2", dtype, 1.0 + more, [](Wider<T> x) { return std::exp2(x); });
  check<T>(report, isa, "log", dtype, 1.5 + more, [](Wider<T> x) { return std::log(x); });
  check<T>(report, isa, "tanh", dtype, 3.5 + more, [](Wider<T> x) { return std::tanh(x); });
}

}  // namespace

void test_elementary(Report& report, const std::string& isa) {
  check_all<float>(report, isa, FV_FLOAT32);
  check_all<double>(report, isa, FV_FLOAT64);
  const float zero = 0;
  float one = 0;
  fv_error error = {};
  fv_elementary("exp2", FV_FLOAT32, &zero, &one, 1, &error);
  report.that(isa + ": exp2(0) is 1 exactly", one == 1.0f);
  report.that(isa + ": an unknown function is refused",
              fv_elementary("gamma", FV_FLOAT32, &zero, &one, 1, &error) == FV_VALUE_ERROR);
}

}  // namespace kernel_tests
