// Every kind of score against the formula: few queries (their own driver) and many, lengths around the tile of 168
// keys, sizes around the vectors and the parts of a sum, each with every reach in turn; and numbers of a magnitude
// for each way through the additive family: a polynomial, shared divisions, tanh of the sum.
//
// The tolerance is that of compare.hpp; but three times the error of the plain formula where shared divisions cancel
// more than it does: v - 2 / t of weights of one sign, and e^2a e^2b of a near -b. The scores themselves, which are the
// lse of a single key, have the bound of additive.hpp, in ulp of sum |v|. Compact kernels jump, or have a bend, at a
// distance of 1, which rounding must not decide: their points stand on a grid of 1/8, where squared distances are
// exact, and 1 itself is among them.
#include <cmath>

#include "call.hpp"
#include "compare.hpp"
#include "numbers.hpp"
#include "reaches.hpp"

namespace kernel_tests {
namespace {

constexpr int64_t query_counts[] = {1, 3, 4, 5, 33, 70};
constexpr int64_t key_counts[] = {1, 31, 167, 168, 169, 400};
constexpr int64_t sizes[] = {1, 2, 3, 7, 16, 33, 64};
constexpr int64_t shapes = 18;  // of a check; each takes up the sequence where the one before it ended

Case scored(fv_dtype dtype, const Numbers& numbers, int64_t n) {
  // float64 with one head, and small: its truth, in long double, takes long where the hardware has none
  const bool slow = dtype == FV_FLOAT64;
  const int64_t queries = query_counts[n % 6], keys = key_counts[(n + n / 6) % 6];
  int64_t size = n % 7;
  while (slow && size > 0 && queries * keys * sizes[size] > 30000) --size;
  Case c(dtype, slow ? 1 : 1 + n % 2, slow || n % 3 ? 1 : 2, queries, keys, sizes[size], sizes[(n * 3 + 1) % 7],
         uint64_t(n + 1));
  c.kind = numbers.kind;
  numbers.fill(c, uint64_t(n + 1));
  apply_in_turn(c, size_t(n));
  return c;
}

// |lse - score| of single keys with tanh of about center - 0.99 center, as a share of 2.5 spacings at sum |v| and
// one at lse, for its own rounding: additive.hpp says 2 ulp, and a tenth more was seen where D = 1.
void check_scores(Report& report, const std::vector<std::string>& isas, fv_dtype dtype, double center) {
  std::vector<double> worst(isas.size());
  std::vector<std::string> where(isas.size());
  const double spreads[] = {0.05, 0.5, 4};
  for (int64_t n = 0; n < 21; ++n) {
    Case c(dtype, 5, 1, n % 2 ? 3 : 40, 1, sizes[n % 7], 1, uint64_t(n + 50));
    c.kind = kTanh;
    about(center, spreads[n % 3])(c, uint64_t(n + 50));
    c.scale = 1;
    double sum = 0;
    for (int64_t d = 0; d < c.head_size; ++d) sum += std::fabs(c.factors.get(d));
    const Answer truth = exact(c);
    for (size_t i = 0; i < isas.size(); ++i) {
      fv_error error = {};
      fv_isa_select(isas[i].c_str(), &error);
      const Result got = run(c);
      for (int64_t row = 0; row < got.lse.count(); ++row) {
        const double wanted = truth.lse[size_t(row)], allowed = epsilon_of(dtype) * (2.5 * sum + std::fabs(wanted));
        const double ratio = or_infinity(std::fabs(got.lse.get(row) - wanted) / allowed);
        if (ratio <= worst[i]) continue;
        worst[i] = ratio;
        where[i] = c.shape();
      }
    }
  }
  for (size_t i = 0; i < isas.size(); ++i) {
    char title[96];
    std::snprintf(title, sizeof title, "%s: %s, scores, tanh of %g - %g", isas[i].c_str(), name_of(dtype), center,
                  center * 0.99);
    report.bounded(title, worst[i], where[i]);
  }
}

}  // namespace

void test_scores(Report& report, const std::vector<std::string>& isas) {
  std::vector<Numbers> all = additive_numbers();
  for (const Numbers& numbers : distance_numbers()) all.push_back(numbers);
  int64_t first = 0;
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16})
    for (const Numbers& numbers : all) {
      compare(
          report, isas, numbers.name, shapes, [&](int64_t n) { return scored(dtype, numbers, first + n); },
          numbers.formulas);
      first += shapes;
    }
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64})
    for (double center : {0., 0.3, 1., 4., 8., 12., 20., 50., 100., 200.}) check_scores(report, isas, dtype, center);
}

}  // namespace kernel_tests
