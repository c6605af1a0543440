// fv_attention and fv_attention_weights against the formula, over dtypes, reaches and lengths around every tile's edge.
//
// The one tolerance: twice the error that the plain formula makes in the same dtype (over all shapes of a check, so
// that a lucky shape does not set it), and twice the dtype's spacing at the largest value, for the roundings that any
// way of computing makes at the end: the product with 1 / l, and the output itself. For lse, four float32 spacings
// (float64) at its largest value: the change of base, the logarithm (1.5), the sum.
#include <cmath>
#include <functional>

#include "plain.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

constexpr int64_t lengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 111, 112, 113, 127, 129, 225};
constexpr int64_t head_sizes[] = {8, 1, 16, 3, 40, 64, 33};

struct Variant {
  const char* name;
  std::function<void(Case&)> apply;
};

Tensor lengths_for(const Case& c) {  // per key head, 0 for the second of them
  Tensor t(FV_INT64, {c.heads, 1});
  for (int64_t h = 0; h < c.heads; ++h) t.set(h, h == 1 ? 0 : double((c.keys + 1) / 2));
  return t;
}

Tensor segments_for(int64_t length) {
  Tensor t(FV_INT64, {length});
  for (int64_t i = 0; i < length; ++i) t.set(i, double(i * 3 / length));
  return t;
}

const Variant variants[] = {
    {"all keys", [](Case&) {}},
    {"causal", [](Case& c) { c.right = 0; }},
    {"causal, at the end",
     [](Case& c) {
       c.right = 0;
       c.offset_at_end = true;
     }},
    {"window",
     [](Case& c) {
       c.left = 5;
       c.right = 2;
     }},
    {"window, offset",
     [](Case& c) {
       c.left = 9;
       c.right = 9;
       c.offset = Tensor(FV_INT64, {c.heads, 1});
       for (int64_t h = 0; h < c.heads; ++h) c.offset.set(h, double(7 * h - 4));
     }},
    {"bool mask",
     [](Case& c) {
       c.mask = Tensor(FV_BOOL, {c.queries, c.keys});
       for (int64_t n = 0; n < c.mask.count(); ++n) c.mask.set(n, n * 7 % 5 < 2);
     }},
    {"float mask",
     [](Case& c) {
       c.mask = Tensor::random(c.dtype, {c.queries, c.keys}, 2.0, 99);
       for (int64_t n = 0; n < c.mask.count(); n += 3) c.mask.set(n, -INFINITY);
     }},
    {"key lengths", [](Case& c) { c.key_lengths = lengths_for(c); }},
    {"segments",
     [](Case& c) {
       c.query_segments = segments_for(c.queries);
       c.key_segments = segments_for(c.keys);
     }},
    {"softcap and sink",
     [](Case& c) {
       c.softcap = 3.0;
       c.sink = Tensor::random(FV_FLOAT64, {c.heads, c.groups}, 2.0, 5);
     }},
    {"any strides",
     [](Case& c) {
       c.query = c.query.scattered();
       c.key = c.key.scattered();
       c.value = c.value.scattered();
     }},
    {"all of a reach",
     [](Case& c) {
       c.right = 3;
       c.left = 60;
       c.offset_at_end = true;
       c.key_lengths = lengths_for(c);
       c.mask = Tensor(FV_BOOL, {c.queries, c.keys});
       for (int64_t n = 0; n < c.mask.count(); ++n) c.mask.set(n, n * 3 % 7 != 1);
     }},
};

// The largest error and magnitude of one output over the shapes of a check. A NaN or a wrong infinity is an error of
// infinity.
struct Errors {
  double ours = 0, formula = 0, magnitude = 0;
  std::string where;

  void see(double got, double yardstick, double wanted, const std::string& shape) {
    if (std::isinf(wanted)) {
      if (got != wanted) worse(INFINITY, shape);
      return;
    }
    magnitude = std::fmax(magnitude, std::fabs(wanted));
    formula = std::fmax(formula, std::fabs(yardstick - wanted));
    const double error = std::fabs(got - wanted);
    worse(std::isnan(error) ? INFINITY : error, shape);
  }
  double ratio(double spacings) const {
    const double allowed = 2 * formula + spacings * (magnitude > 0 ? magnitude : 1);
    return ours / allowed;
  }

 private:
  void worse(double error, const std::string& shape) {
    if (error < ours || (error == ours && !where.empty())) return;
    ours = error;
    where = shape;
  }
};

struct Measured {
  Errors output, lse, weights;
  std::string refusal;
};

void compare(Errors& errors, const Case& c, const Tensor& got, const std::vector<double>& formula,
             const std::vector<double>& wanted) {
  for (int64_t i = 0; i < got.count(); ++i) errors.see(got.get(i), formula[size_t(i)], wanted[size_t(i)], c.shape());
}

void measure(Measured& measured, const Case& c, const Answer& yardstick, const Answer& truth) {
  Tensor output(c.dtype, {c.heads, c.groups, c.queries, c.value_size}, NAN);
  Tensor lse(lse_dtype(c.dtype), {c.heads, c.groups, c.queries}, NAN);
  Tensor weights(c.dtype, {c.heads, c.groups, c.queries, c.keys}, NAN);
  fv_problem problem = c.problem();
  fv_error error = {};
  fv_status status = fv_attention(&problem, output.view(), lse.view(), &error);
  problem.value = nullptr;
  if (status == FV_OK) status = fv_attention_weights(&problem, weights.view(), &error);
  if (status != FV_OK) {
    measured.refusal = c.shape() + " is refused: " + error.message;
    return;
  }
  compare(measured.output, c, output, yardstick.output, truth.output);
  compare(measured.lse, c, lse, yardstick.lse, truth.lse);
  compare(measured.weights, c, weights, yardstick.weights, truth.weights);
}

void check(Report& report, const std::vector<std::string>& isas, fv_dtype dtype, const Variant& variant) {
  std::vector<Measured> measured(isas.size());
  constexpr size_t shapes = sizeof lengths / sizeof *lengths;
  for (size_t n = 0; n < shapes; ++n) {
    // float64 without groups: its truth, in long double, takes long where the hardware has none
    const int64_t groups = dtype == FV_FLOAT64 ? 1 : 1 + int64_t(n % 3);
    Case c(dtype, 2, groups, lengths[n], lengths[(n * 5 + 3) % shapes], head_sizes[n % 7], head_sizes[(n + 2) % 7],
           n + 1);
    variant.apply(c);
    const Answer truth = exact(c), yardstick = plain(c);
    for (size_t i = 0; i < isas.size(); ++i) {
      fv_error error = {};
      fv_isa_select(isas[i].c_str(), &error);
      measure(measured[i], c, yardstick, truth);
    }
  }
  for (size_t i = 0; i < isas.size(); ++i) {
    const std::string title = isas[i] + ": " + name_of(dtype) + ", " + variant.name;
    const Measured& m = measured[i];
    if (!m.refusal.empty()) {
      report.that(title, false, m.refusal);
      continue;
    }
    report.bounded(title, m.output.ratio(2 * epsilon_of(dtype)), m.output.where);
    report.bounded(title + ", lse", m.lse.ratio(4 * epsilon_of(lse_dtype(dtype))), m.lse.where);
    report.bounded(title + ", weights", m.weights.ratio(2 * epsilon_of(dtype)), m.weights.where);
  }
}

}  // namespace

void test_attention(Report& report, const std::vector<std::string>& isas) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16})
    for (const Variant& variant : variants) check(report, isas, dtype, variant);
}

}  // namespace kernel_tests
