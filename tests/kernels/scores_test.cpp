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
#include "reaches.hpp"

namespace kernel_tests {
namespace {

constexpr int64_t query_counts[] = {1, 3, 4, 5, 33, 70};
constexpr int64_t key_counts[] = {1, 31, 167, 168, 169, 400};
constexpr int64_t sizes[] = {1, 2, 3, 7, 16, 33, 64};
constexpr int64_t shapes = 18;  // of a check; each takes up the sequence where the one before it ended

Tensor map(Tensor t, const std::function<double(double x, int64_t i)>& f) {
  for (int64_t i = 0; i < t.count(); ++i) t.set(i, f(t.get(i), i));
  return t;
}

// Uniform in [center - spread, center + spread].
void place(Case& c, double query_center, double key_center, double spread, uint64_t seed) {
  c.query = map(Tensor::random(c.dtype, c.query.shape(), spread, 7 * seed),
                [&](double x, int64_t) { return x + query_center; });
  c.key = map(Tensor::random(c.dtype, c.key.shape(), spread, 7 * seed + 1),
              [&](double x, int64_t) { return x + key_center; });
}

Tensor random_weights(const Case& c, uint64_t seed) {
  return Tensor::random(lse_dtype(c.dtype), {c.head_size}, 1.0, 7 * seed + 2);
}

// Points on a grid of 1/8, about as far apart as 1.
void place_on_grid(Case& c, uint64_t seed) {
  const double steps = std::ceil(std::sqrt(6 * 64 / double(c.head_size))) / 2;
  const auto grid = [](double x, int64_t) { return std::rint(x) / 8; };
  c.query = map(Tensor::random(FV_FLOAT64, c.query.shape(), steps, 7 * seed), grid).as(c.dtype);
  c.key = map(Tensor::random(FV_FLOAT64, c.key.shape(), steps, 7 * seed + 1), grid).as(c.dtype);
}

struct Numbers {
  fv_score_kind kind;
  std::string name;
  std::function<void(Case&, uint64_t seed)> fill;
  double formulas = 2;  // as compare() takes it
};

// Queries about center, keys about -0.99 center.
std::function<void(Case&, uint64_t)> both(double center, double spread) {
  return [=](Case& c, uint64_t seed) {
    place(c, center, -center * 0.99, spread, seed);
    c.weights = random_weights(c, seed);
    c.scale = spread < 1 ? 1 / spread : 1;
  };
}

std::vector<Numbers> additive() {
  std::vector<Numbers> all;
  const auto weighed = [](const std::function<double(double, int64_t)>& weight, double scale) {
    return [=](Case& c, uint64_t seed) {
      place(c, 0, 0, 5, seed);
      c.weights = map(random_weights(c, seed), weight);
      c.scale = scale;
    };
  };
  all.push_back({FV_TANH, "tanh of 0.05", both(0, 0.05)});
  all.push_back({FV_TANH, "tanh of 1", both(0, 1)});
  all.push_back({FV_TANH, "tanh of 5", both(0, 5)});
  all.push_back({FV_TANH, "tanh of 40", both(0, 40)});
  all.push_back({FV_TANH, "tanh of 1000", both(0, 1000)});
  all.push_back({FV_TANH, "tanh of 8 - 7.9", both(8, 0.5), 3});
  all.push_back({FV_TANH, "tanh of 50 - 49.5", both(50, 0.5)});
  all.push_back({FV_TANH, "tanh of all magnitudes", [=](Case& c, uint64_t seed) {
                   both(0, 1)(c, seed);
                   const auto grow = [&](double x, int64_t i) { return x * std::ldexp(1, int(i * 7 % 13) - 6); };
                   c.query = map(c.query, grow);
                   c.key = map(c.key, grow);
                 }});
  all.push_back({FV_TANH, "tanh, some inf", [=](Case& c, uint64_t seed) {
                   both(0, 1)(c, seed);
                   const auto some = [](double x, int64_t i) { return i % 29 == 7 ? INFINITY : x; };
                   c.query = map(c.query, some);
                   c.key = map(c.key, some);
                 }});
  all.push_back({FV_TANH, "tanh, weights with 0", weighed([](double x, int64_t i) { return i % 3 ? x : 0; }, 1)});
  all.push_back({FV_TANH, "tanh, weights of 0", weighed([](double, int64_t) { return 0; }, 1)});
  all.push_back({FV_TANH, "tanh, negative weights", weighed([](double x, int64_t) { return -std::fabs(x); }, 1), 3});
  all.push_back({FV_TANH, "tanh, tiny weights", weighed([](double x, int64_t) { return x * 0x1p-100; }, 0x1p+100)});
  all.push_back(
      {FV_TANH, "tanh, subnormal weights", weighed([](double x, int64_t) { return x * 0x1p-130; }, 0x1p+127)});
  all.push_back({FV_TANH, "tanh, huge weights", weighed([](double x, int64_t) { return x * 0x1p+100; }, 0x1p-100)});
  all.push_back({FV_TANH, "tanh, weights of 2^-60 to 1",
                 weighed([](double x, int64_t i) { return x * std::ldexp(1, -int(i * 17 % 61)); }, 1)});
  all.push_back({FV_RELU, "relu of 1", both(0, 1)});
  all.push_back({FV_RELU, "relu of 1000, weights with 0", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1000, seed);
                   c.weights = map(random_weights(c, seed), [](double x, int64_t i) { return i % 3 == 1 ? 0 : x; });
                   c.scale = 1e-3;
                 }});
  return all;
}

std::vector<Numbers> distances() {
  std::vector<Numbers> all;
  all.push_back({FV_GAUSSIAN, "gaussian", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1, seed);
                   c.scale = 1;
                 }});
  all.push_back({FV_GAUSSIAN, "gaussian, weights", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 2, seed);
                   c.weights = map(random_weights(c, seed), [](double x, int64_t i) { return i % 5 == 4 ? 0 : 2 * x; });
                   c.scale = 0.5;
                 }});
  all.push_back({FV_GAUSSIAN, "gaussian, near points far from 0", [](Case& c, uint64_t seed) {
                   place(c, 300, 300, 2, seed);
                   c.weights = random_weights(c, seed);
                   c.scale = 1;
                 }});
  all.push_back({FV_GAUSSIAN, "gaussian, narrow", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1, seed);
                   c.scale = 1000;
                 }});
  all.push_back({FV_GAUSSIAN, "gaussian, negative scale", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1, seed);
                   c.scale = -0.25;
                 }});
  const auto grid = [](Case& c, uint64_t seed) { place_on_grid(c, seed); };
  const auto weighed = [](Case& c, uint64_t seed) {
    place_on_grid(c, seed);
    const double of[] = {1, -2, 0.5, 0, -1};  // squared distances stay exact
    c.weights = Tensor(lse_dtype(c.dtype), {c.head_size});
    for (int64_t d = 0; d < c.head_size; ++d) c.weights.set(d, of[(d + int64_t(seed)) % 5]);
  };
  all.push_back({FV_BOXCAR, "boxcar", grid});
  all.push_back({FV_BOXCAR, "boxcar, weights", weighed});
  all.push_back({FV_EPANECHNIKOV, "epanechnikov", grid});
  all.push_back({FV_EPANECHNIKOV, "epanechnikov, weights", weighed});
  all.push_back({FV_TRIANGULAR, "triangular", grid});
  all.push_back({FV_TRIANGULAR, "triangular, weights", weighed});
  return all;
}

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
  if (c.compact()) c.scale = 1;
  const size_t count = variants().size();
  size_t reach = size_t(n) % count;
  while (c.compact() && variants()[reach].of_logits) reach = (reach + 1) % count;
  variants()[reach].apply(c);
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
    c.kind = FV_TANH;
    both(center, spreads[n % 3])(c, uint64_t(n + 50));
    c.scale = 1;
    double sum = 0;
    for (int64_t d = 0; d < c.head_size; ++d) sum += std::fabs(c.weights.get(d));
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
  std::vector<Numbers> all = additive();
  for (const Numbers& numbers : distances()) all.push_back(numbers);
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
