// Dropout: over values of the unit matrix the output is the weights themselves, each 0 or over 1 - dropout.
#include "call.hpp"
#include "compare.hpp"
#include "reaches.hpp"

namespace kernel_tests {
namespace {

constexpr double rate = 0.4;
constexpr int64_t queries[] = {70, 1, 3, 33, 16}, keys[] = {65, 200, 340, 31, 7};

// Cells that have a weight, and those of them that are dropped.
struct Count {
  double cells = 0, dropped = 0;
};

// The worst weight that is kept, as a share of what is allowed: of 1 / (1 - dropout) times what it is without, the
// spacing of each, and as much for their sums, which tell weights that are rounded for a product from those that are not;
// and a spacing each of the logits, which are sums of 8 products in other orders, below 4 * 2 * 8 / sqrt(8) = 23.
double judge(const Tensor& found, const Tensor& weights, fv_dtype dtype, Count& count) {
  const double least = dtype == FV_FLOAT16 ? 0x1p-24 : 1e-36;
  const double spacings = 4 * epsilon_of(dtype) + 2 * 23 * epsilon_of(lse_dtype(dtype));
  double worst = 0;
  for (int64_t n = 0; n < found.count(); ++n) {
    const double weight = weights.get(n) / (1 - rate);
    if (found.get(n) != 0)
      worst = std::fmax(worst, or_infinity(std::fabs(found.get(n) - weight)) / (spacings * weight + least));
    if (weight <= least) continue;
    count.cells += 1;
    count.dropped += found.get(n) == 0;
  }
  return worst;
}

bool same_zeros(const Tensor& a, const Tensor& b) {
  for (int64_t n = 0; n < a.count(); ++n)
    if ((a.get(n) == 0) != (b.get(n) == 0)) return false;
  return true;
}

void test_variant(Report& report, const std::vector<std::string>& isas, fv_dtype dtype, const Variant& variant) {
  const std::string title = std::string("dropout, ") + name_of(dtype) + ", " + variant.name;
  std::vector<double> worst(isas.size());
  bool threads = true, alike = true;
  Count count;
  for (int64_t n = 0; n < 5; ++n) {
    Case c(dtype, 2, 1 + n % 3, queries[n], keys[n], 8, keys[n], uint64_t(n + 1));
    variant.apply(c);
    c.value = Tensor(dtype, {1, 1, keys[n], keys[n]});
    for (int64_t j = 0; j < keys[n]; ++j) c.value.set(j * (keys[n] + 1), 1);
    Tensor first;
    for (size_t i = 0; i < isas.size(); ++i) {
      fv_error error = {};
      fv_isa_select(isas[i].c_str(), &error);
      Tensor weights(dtype, {c.heads, c.groups, c.queries, c.keys}, NAN);
      c.dropout = 0;
      fv_problem problem = c.problem();
      problem.value = nullptr;
      if (fv_attention_weights(&problem, weights.view(), &error) != FV_OK)
        return report.that(title, false, error.message);
      c.dropout = rate;
      const Result one = run(c, 1);
      threads = threads && same(one, run(c, 2));
      worst[i] = std::fmax(worst[i], judge(one.output, weights, dtype, count));
      if (i == 0) first = one.output;
      // weights that are next to nothing may be 0 on one and not on the other
      alike = alike && (dtype == FV_FLOAT16 || same_zeros(one.output, first));
    }
  }
  for (size_t i = 0; i < isas.size(); ++i) report.bounded(isas[i] + ": " + title, worst[i], "some case");
  report.that(title + ": the same on 1 and 2 threads", threads);
  report.that(title + ": the same on every ISA", alike);
  // the same cells on every ISA: 6 deviations of those of one
  const double cells = count.cells / double(isas.size()), dropped = count.dropped / double(isas.size());
  const double off = std::fabs(dropped - rate * cells) / std::sqrt(rate * (1 - rate) * cells);
  report.bounded(title + ": how many", off / 6, "some case");
}

}  // namespace

void test_dropout(Report& report, const std::vector<std::string>& isas) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16})
    for (const Variant& variant : variants()) test_variant(report, isas, dtype, variant);
}

}  // namespace kernel_tests
