#include "compare.hpp"

namespace kernel_tests {

void Errors::see(double got, double formula, double wanted, const std::string& where) {
  double error = std::fabs(got - wanted);
  if (std::isnan(wanted) || std::isinf(wanted)) {
    error = got == wanted || (std::isnan(got) && std::isnan(wanted)) ? 0 : INFINITY;
  } else {
    error = or_infinity(error);
    magnitude_ = std::fmax(magnitude_, std::fabs(wanted));
    const double yardstick = std::fabs(formula - wanted);
    if (std::isfinite(yardstick)) formula_ = std::fmax(formula_, yardstick);
  }
  if (error < ours_ || (error == ours_ && !where_.empty())) return;
  ours_ = error;
  where_ = where;
}

void Errors::see(const Tensor& got, const std::vector<double>& formula, const std::vector<double>& wanted,
                 const std::string& where) {
  for (int64_t i = 0; i < got.count(); ++i) see(got.get(i), formula[size_t(i)], wanted[size_t(i)], where);
}

double Errors::ratio(double spacings, double formulas, double more) const {
  return ours_ / (formulas * formula_ + spacings * (magnitude_ > 0 ? magnitude_ : 1) + more);
}

namespace {

struct Measured {
  Errors output, lse, weights;
  std::string refusal;
};

void measure(Measured& measured, const Case& c, const std::string& where, const Answer& yardstick,
             const Answer& truth) {
  Tensor output(c.dtype, {c.heads, c.groups, c.queries, c.value_size}, NAN);
  Tensor lse(lse_dtype(c.dtype), {c.heads, c.groups, c.queries}, NAN);
  Tensor weights(c.dtype, {c.heads, c.groups, c.queries, c.keys}, NAN);
  fv_problem problem = c.problem();
  fv_error error = {};
  fv_status status = fv_attention(&problem, output.view(), lse.view(), &error);
  problem.value = nullptr;
  if (status == FV_OK && !c.compact()) status = fv_attention_weights(&problem, weights.view(), &error);
  if (status != FV_OK) {
    measured.refusal = where + " is refused: " + error.message;
    return;
  }
  measured.output.see(output, yardstick.output, truth.output, where);
  measured.lse.see(lse, yardstick.lse, truth.lse, where);
  if (!c.compact()) measured.weights.see(weights, yardstick.weights, truth.weights, where);
}

}  // namespace

void compare(Report& report, const std::vector<std::string>& isas, const std::string& title, int64_t count,
             const std::function<Case(int64_t)>& make, double formulas) {
  std::vector<Measured> measured(isas.size());
  fv_dtype dtype = FV_FLOAT32;
  bool compact = false;
  for (int64_t n = 0; n < count; ++n) {
    const Case c = make(n);
    const Answer truth = exact(c), yardstick = plain(c);
    for (size_t i = 0; i < isas.size(); ++i) {
      fv_error error = {};
      fv_isa_select(isas[i].c_str(), &error);
      measure(measured[i], c, c.shape(), yardstick, truth);
    }
    dtype = c.dtype;
    compact = c.compact();
  }
  for (size_t i = 0; i < isas.size(); ++i) {
    const std::string line = isas[i] + ": " + name_of(dtype) + ", " + title;
    const Measured& m = measured[i];
    if (!m.refusal.empty()) {
      report.that(line, false, m.refusal);
      continue;
    }
    report.bounded(line, m.output.ratio(2 * epsilon_of(dtype), formulas), m.output.where());
    report.bounded(line + ", lse", m.lse.ratio(4 * epsilon_of(lse_dtype(dtype)), formulas), m.lse.where());
    if (!compact)
      report.bounded(line + ", weights", m.weights.ratio(2 * epsilon_of(dtype), formulas), m.weights.where());
  }
}

}  // namespace kernel_tests
