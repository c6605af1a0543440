#include "numbers.hpp"

#include <cmath>

namespace kernel_tests {
namespace {

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

}  // namespace

std::function<void(Case&, uint64_t)> about(double center, double spread) {
  return [=](Case& c, uint64_t seed) {
    place(c, center, -center * 0.99, spread, seed);
    c.factors = random_weights(c, seed);
    c.scale = spread < 1 ? 1 / spread : 1;
  };
}

std::vector<Numbers> additive_numbers() {
  std::vector<Numbers> all;
  const auto weighed = [](const std::function<double(double, int64_t)>& weight, double scale) {
    return [=](Case& c, uint64_t seed) {
      place(c, 0, 0, 5, seed);
      c.factors = map(random_weights(c, seed), weight);
      c.scale = scale;
    };
  };
  all.push_back({kTanh, "tanh of 0.05", about(0, 0.05)});
  all.push_back({kTanh, "tanh of 1", about(0, 1)});
  all.push_back({kTanh, "tanh of 5", about(0, 5)});
  all.push_back({kTanh, "tanh of 40", about(0, 40)});
  all.push_back({kTanh, "tanh of 1000", about(0, 1000)});
  all.push_back({kTanh, "tanh of 8 - 7.9", about(8, 0.5), 3});
  all.push_back({kTanh, "tanh of 50 - 49.5", about(50, 0.5)});
  all.push_back({kTanh, "tanh of all magnitudes", [=](Case& c, uint64_t seed) {
                   about(0, 1)(c, seed);
                   const auto grow = [&](double x, int64_t i) { return x * std::ldexp(1, int(i * 7 % 13) - 6); };
                   c.query = map(c.query, grow);
                   c.key = map(c.key, grow);
                 }});
  all.push_back({kTanh, "tanh, some inf", [=](Case& c, uint64_t seed) {
                   about(0, 1)(c, seed);
                   const auto some = [](double x, int64_t i) { return i % 29 == 7 ? INFINITY : x; };
                   c.query = map(c.query, some);
                   c.key = map(c.key, some);
                 }});
  all.push_back({kTanh, "tanh, weights with 0", weighed([](double x, int64_t i) { return i % 3 ? x : 0; }, 1)});
  all.push_back({kTanh, "tanh, weights of 0", weighed([](double, int64_t) { return 0; }, 1)});
  all.push_back({kTanh, "tanh, negative weights", weighed([](double x, int64_t) { return -std::fabs(x); }, 1), 3});
  all.push_back({kTanh, "tanh, tiny weights", weighed([](double x, int64_t) { return x * 0x1p-100; }, 0x1p+100)});
  all.push_back({kTanh, "tanh, subnormal weights", weighed([](double x, int64_t) { return x * 0x1p-130; }, 0x1p+127)});
  all.push_back({kTanh, "tanh, huge weights", weighed([](double x, int64_t) { return x * 0x1p+100; }, 0x1p-100)});
  all.push_back({kTanh, "tanh, weights of 2^-60 to 1",
                 weighed([](double x, int64_t i) { return x * std::ldexp(1, -int(i * 17 % 61)); }, 1)});
  all.push_back({kRelu, "relu of 1", about(0, 1)});
  all.push_back({kRelu, "relu of 1000, weights with 0", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1000, seed);
                   c.factors = map(random_weights(c, seed), [](double x, int64_t i) { return i % 3 == 1 ? 0 : x; });
                   c.scale = 1e-3;
                 }});
  all.push_back({kLeakyRelu, "leaky relu of 1", [=](Case& c, uint64_t seed) {
                   about(0, 1)(c, seed);
                   c.slope = 0.2;
                 }});
  all.push_back({kLeakyRelu, "steep leaky relu", [=](Case& c, uint64_t seed) {
                   about(0, 1)(c, seed);
                   c.slope = 2.5;
                 }});
  return all;
}

std::vector<Numbers> distance_numbers() {
  std::vector<Numbers> all;
  all.push_back({kGaussian, "gaussian", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1, seed);
                   c.scale = 1;
                 }});
  all.push_back({kGaussian, "gaussian, weights", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 2, seed);
                   c.factors = map(random_weights(c, seed), [](double x, int64_t i) { return i % 5 == 4 ? 0 : 2 * x; });
                   c.scale = 0.5;
                 }});
  all.push_back({kGaussian, "gaussian, near points far from 0", [](Case& c, uint64_t seed) {
                   place(c, 300, 300, 2, seed);
                   c.factors = random_weights(c, seed);
                   c.scale = 1;
                 }});
  all.push_back({kGaussian, "gaussian, narrow", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1, seed);
                   c.scale = 1000;
                 }});
  all.push_back({kGaussian, "gaussian, negative scale", [](Case& c, uint64_t seed) {
                   place(c, 0, 0, 1, seed);
                   c.scale = -0.25;
                 }});
  const auto grid = [](Case& c, uint64_t seed) { place_on_grid(c, seed); };
  const auto weighed = [](Case& c, uint64_t seed) {
    place_on_grid(c, seed);
    const double of[] = {1, -2, 0.5, 0, -1};  // squared distances stay exact
    c.factors = Tensor(lse_dtype(c.dtype), {c.head_size});
    for (int64_t d = 0; d < c.head_size; ++d) c.factors.set(d, of[(d + int64_t(seed)) % 5]);
  };
  all.push_back({kBoxcar, "boxcar", grid});
  all.push_back({kBoxcar, "boxcar, weights", weighed});
  all.push_back({kEpanechnikov, "epanechnikov", grid});
  all.push_back({kEpanechnikov, "epanechnikov, weights", weighed});
  all.push_back({kTriangular, "triangular", grid});
  all.push_back({kTriangular, "triangular, weights", weighed});
  for (ScoreKind kind : {kBiweight, kTriweight, kTricube, kCosine}) all.push_back({kind, name_of(kind), grid});
  return all;
}

}  // namespace kernel_tests
