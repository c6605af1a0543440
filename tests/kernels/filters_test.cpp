// What filters leave of rows of categories, through the C ABI: against sorting in plain double arithmetic; that it does not
// depend on layouts and threads; refusals.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "report.hpp"
#include "tensor.hpp"

namespace kernel_tests {
namespace {

constexpr fv_random key = {{0x0123456789abcdefu, 42}};

struct Drawn {
  Tensor index, log_prob;
  fv_status status;
  fv_error error = {};
};

Drawn draw(const Tensor& p, int64_t draws, bool logits, const fv_filters& filters, bool distinct, int32_t threads = 0) {
  Shape shape = p.shape();
  const fv_dtype dtype = lse_dtype(p.view()->dtype);
  shape.back() = draws;
  Drawn drawn = {Tensor(FV_INT64, shape, -7.0), Tensor(dtype, shape, -7.0), FV_OK};
  fv_set_num_threads(threads);
  drawn.status = fv_filtered_multinoulli(p.view(), logits, &filters, distinct, &key, draws, drawn.index.view(),
                                         drawn.log_prob.view(), &drawn.error);
  fv_set_num_threads(0);
  return drawn;
}

// The probabilities that are left of a row, 0 of what is out.
std::vector<double> left_of(const std::vector<double>& x, bool logits, const fv_filters& by) {
  const double top = *std::max_element(x.begin(), x.end());
  std::vector<double> p(x.size());
  for (size_t k = 0; k < x.size(); ++k)
    p[k] = logits ? std::exp((x[k] - top) / by.temperature) : std::pow(x[k] / top, 1 / by.temperature);
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  if (by.top_k > 0 && size_t(by.top_k) < x.size()) {
    const double last = x[order[size_t(by.top_k) - 1]];
    for (size_t k = 0; k < x.size(); ++k) p[k] = x[k] >= last ? p[k] : 0;
  }
  const double share = by.top_p * std::accumulate(p.begin(), p.end(), 0.0);
  double before = 0;
  for (const size_t k : order) {
    const double own = p[k];
    if (by.top_p < 1 && before >= share) p[k] = 0;
    before += own;
  }
  for (double& one : p) one = one >= by.min_p ? one : 0;
  const double left = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& one : p) one /= left;
  return p;
}

// Logits or weights, of which one in five is out.
Tensor some_numbers(fv_dtype dtype, Shape shape, bool logits) {
  Tensor x = Tensor::random(dtype, shape, 4.0, uint64_t(shape.back()));
  for (int64_t i = 0; i < x.count(); ++i) {
    const bool out = i % 5 == 3 && i % shape.back();
    const double number = logits ? x.get(i) : std::exp(x.get(i));
    x.set(i, out ? (logits ? -INFINITY : 0) : round_to(dtype, number));
  }
  return x;
}

void test_left(Report& report, const std::string& title, fv_dtype dtype) {
  constexpr fv_filters all[] = {{0.7, 0, 1, 0, nullptr, 0},  {1, 3, 1, 0, nullptr, 0},
                                {1, 200, 1, 0, nullptr, 0},  {1, 0, 0.9, 0, nullptr, 0},
                                {1, 0, 1, 0.05, nullptr, 0}, {1.3, 40, 0.8, 0.1, nullptr, 0},
                                {1, 0, 1e-6, 0, nullptr, 0}, {1, 0, 1, 0, nullptr, 0}};
  // probabilities to the error of 64 sums and of exp at 8 in float32; 2^-40 is that of numbers to the 1 / 0.7
  const double error = dtype == FV_FLOAT64 ? 0x1p-40 : 100 * 0x1p-24;
  bool right = true, refused = true, scattered = true, threads = true;
  for (const int64_t categories : {1, 7, 127, 129, 5000})
    for (const bool logits : {false, true})
      for (const fv_filters& filters : all) {
        const Tensor x = some_numbers(dtype, {1, categories}, logits);
        std::vector<double> row(size_t(categories), 0.0);
        for (int64_t k = 0; k < categories; ++k) row[size_t(k)] = x.get(k);
        const std::vector<double> p = left_of(row, logits, filters);
        const int64_t count = std::count_if(p.begin(), p.end(), [](double one) { return one > 0; });
        const Drawn drawn = draw(x, count, logits, filters, true);
        right &= drawn.status == FV_OK;
        std::vector<bool> seen(size_t(categories), false);
        for (int64_t d = 0; d < count && right; ++d) {
          const auto k = size_t(drawn.index.get(d));
          right &= k < p.size() && !seen[k] && p[k] > 0;
          if (!right) break;
          seen[k] = true;
          right &= std::fabs(drawn.log_prob.get(d) - std::log(p[k])) <= error * (1 + std::fabs(std::log(p[k])));
        }
        refused &= draw(x, count + 1, logits, filters, true).status == FV_VALUE_ERROR;
        for (const bool distinct : {false, true}) {
          const int64_t draws = distinct ? count : 3;
          const Drawn one = draw(x, draws, logits, filters, distinct, 1);
          const Drawn other = draw(x.scattered(), draws, logits, filters, distinct);
          scattered &= one.index.same_bits(other.index) && one.log_prob.same_bits(other.log_prob);
          const Drawn many = draw(x, draws, logits, filters, distinct, 3);
          threads &= one.index.same_bits(many.index) && one.log_prob.same_bits(many.log_prob);
        }
      }
  report.that(title + "what filters leave", right);
  report.that(title + "more draws than filters leave are refused", refused);
  report.that(title + "filters whatever the layout", scattered);
  report.that(title + "filters on 1 thread and on 3", threads);
}

void test_bias(Report& report, const std::string& title, fv_dtype dtype) {
  const Tensor x = some_numbers(dtype, {4, 300}, true);
  bool right = true;
  for (const fv_dtype other : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16}) {
    const Tensor bias = Tensor::random(other, {1, 300}, 2.0, 9);
    Tensor sum(lse_dtype(dtype), {4, 300});
    for (int64_t i = 0; i < x.count(); ++i) sum.set(i, round_to(lse_dtype(dtype), x.get(i) + bias.get(i % 300)));
    const fv_filters plain = {1, 20, 1, 0, nullptr, 0};
    fv_filters with = plain;
    with.bias = bias.view();
    if (other == FV_FLOAT64 && dtype != FV_FLOAT64) continue;  // rounded before the sum
    right &= draw(x, 5, true, with, false).index.same_bits(draw(sum, 5, true, plain, false).index);
    const Tensor scattered = bias.scattered();
    with.bias = scattered.view();
    right &= draw(x, 5, true, with, false).index.same_bits(draw(sum, 5, true, plain, false).index);
  }
  report.that(title + "a bias", right);
}

void test_refused(Report& report, const std::string& title) {
  const Tensor x = some_numbers(FV_FLOAT32, {4, 30}, true), wide(FV_FLOAT32, {4, 31}), whole(FV_INT64, {30}, 0.0);
  const auto refused = [&](const char* name, const fv_filters& filters, bool logits = true) {
    const Drawn drawn = draw(x, 2, logits, filters, false);
    return drawn.status != FV_OK && std::strncmp(drawn.error.message, name, std::strlen(name)) == 0;
  };
  bool right = true;
  for (const double wrong : {0.0, -1.0, double(NAN), double(INFINITY)})
    right &= refused("temperature: got ", {wrong, 0, 1, 0, nullptr, 0});
  right &= refused("top_k: got ", {1, -1, 1, 0, nullptr, 0});
  for (const double wrong : {0.0, -1.0, double(NAN), 1.5})
    right &= refused("top_p: got ", {1, 0, wrong, 0, nullptr, 0});
  for (const double wrong : {1.0, -1.0, double(NAN)}) right &= refused("min_p: got ", {1, 0, 1, wrong, nullptr, 0});
  right &= refused("bias: got shape ", {1, 0, 1, 0, wide.view(), 0}) &&
           refused("bias: got int64", {1, 0, 1, 0, whole.view(), 0});
  right &= refused("bias: got an array beside weights", {1, 0, 1, 0, x.view(), 0}, false);
  const Tensor index(FV_INT64, {4, 2}, 0.0), doubles(FV_FLOAT64, {4, 2}, 0.0), few(FV_FLOAT32, {4, 1}, 0.0);
  fv_error error = {};
  for (const Tensor* log_prob : {&doubles, &few})
    right &=
        fv_filtered_multinoulli(x.view(), 1, nullptr, 0, &key, 2, index.view(), log_prob->view(), &error) != FV_OK &&
        std::strncmp(error.message, "log_prob: got ", 14) == 0;
  right &= fv_filtered_multinoulli(x.view(), 1, nullptr, 0, &key, 2, index.view(), nullptr, &error) == FV_OK;
  Tensor plain(FV_INT64, {4, 2}, 0.0);
  right &= fv_multinoulli(x.view(), 1, &key, 2, plain.view(), &error) == FV_OK && plain.same_bits(index);
  report.that(title + "wrong filters are refused", right);
}

}  // namespace

void test_filters(Report& report, const std::string& isa) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16}) {
    const std::string title = isa + ": " + name_of(dtype) + ", ";
    test_left(report, title, dtype);
    test_bias(report, title, dtype);
  }
  test_refused(report, isa + ": ");
}

}  // namespace kernel_tests
