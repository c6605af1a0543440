// Polynomials for exp(t), t = dx . dy, between a box of queries and one of points, and their errors.
//
// |t| <= z = sum_k hx_k hy_k, of the halves of the boxes' sides. There exp(t) = I_0(z) + 2 sum_k I_k(z) T_k(t / z), with modified
// Bessel functions and Chebyshev polynomials, |T_k| <= 1. What is cut off from degree p on is at most 2 sum_{k >= p} I_k(z), and
// exp(t) at least exp(-z): the relative error is at most 2 e^z sum_{k >= p} I_k(z), wherever the boxes stand, about 2^(1-p) of
// that of Taylor's series. As sum_k c_k t^k, and t^k = sum_{|a| = k} k! / a! dx^a dy^a, it is a polynomial of dx and dy.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/table.hpp"

namespace foveate {

// Terms of degree < `degree`; by_degree[k] = k! c_k. Degree 0: none will do.
struct Polynomial {
  int degree = 0;
  const double* by_degree = nullptr;
};

class Degrees {
 public:
  // Finds polynomials whose relative errors are at most `least_error`, where there are any.
  Degrees(int dims, double least_error) {
    for (int p = 0; p <= most_degree; ++p) {
      int64_t terms = 1;
      for (int k = 0; k < dims; ++k) terms = terms * (p - 1 + dims - k) / (k + 1);
      terms_[size_t(p)] = terms;
      if (p > 0 && terms <= most_terms) most_ = p;
    }
    // Terms of different signs, whose sizes add up to about e^2.3z times the sum, are rounded to 2^-53 of themselves.
    const double most_z = std::log(least_error / 16 * 0x1p53) / 2.3;
    for (int step = 0; step_z(step) <= most_z; ++step) add_step(step_z(step), least_error);
  }

  // The least degree whose error is at most exp(log_error) of each term.
  Polynomial least(double z, double log_error) const {
    static constexpr double one = 1;
    if (z == 0) return {1, &one};
    const double place = std::ceil(steps * (std::log2(z) - first_power));
    const auto step = size_t(std::max(place, 0.0));
    if (!(place < double(steps_.size()))) return {};
    const Step& here = steps_[step];
    for (size_t p = 1; p < here.log_error.size(); ++p)
      if (here.log_error[p] <= log_error) return {int(p), here.by_degree.data() + p * (p - 1) / 2};
    return {};
  }

  int64_t terms(int degree) const { return terms_[size_t(degree)]; }

  // Multiplies moments by k! c_k / a!, in the order of the kernels.
  static void scale(int dims, const Polynomial& by, double* moments) {
    scale_rest(dims, by.degree, 0, 1.0, by.by_degree, moments);
  }

 private:
  static constexpr int most_degree = 64, steps = 8, first_power = -8;  // z is rounded up to a power of 2^(1/8)
  static constexpr int64_t most_terms = 4096;

  struct Step {
    std::vector<double> log_error;  // of each degree
    std::vector<double> by_degree;  // p numbers for each degree p, one after the other
  };

  static double step_z(int step) { return std::exp2(first_power + double(step) / steps); }

  static double* scale_rest(int dims, int left, int degree, double factor, const double* by_degree, double* to) {
    for (int power = 0; power < left; ++power) {
      if (power > 0) factor /= power;
      if (dims == 1)
        *to++ *= factor * by_degree[degree + power];
      else
        to = scale_rest(dims - 1, left - power, degree + power, factor, by_degree, to);
    }
    return to;
  }

  // I_k(z) = sum_m (z / 2)^(2m + k) / (m! (m + k)!)
  static double bessel(int k, double z) {
    double term = 1, sum = 0;
    for (int i = 1; i <= k; ++i) term *= z / 2 / i;
    for (int m = 1; term > sum * 0x1p-60 && m < 200; ++m) {
      sum += term;
      term *= z / 2 * (z / 2) / (double(m) * (m + k));
    }
    return sum + term;
  }

  void add_step(double z, double least_error) {
    constexpr int beyond = 40;
    std::array<double, most_degree + beyond + 1> series{};  // 2 I_k(z)
    for (int k = 0; k < most_degree + beyond; ++k) series[size_t(k)] = (k == 0 ? 1 : 2) * bessel(k, z);
    std::array<double, most_degree + beyond + 1> rest{};  // of those from k on; beyond the last they halve at least
    rest[most_degree + beyond] = series[most_degree + beyond - 1];
    for (int k = most_degree + beyond; k-- > 0;) rest[size_t(k)] = rest[size_t(k + 1)] + series[size_t(k)];
    Step step;
    step.log_error.push_back(0);
    std::array<double, most_degree + 1> last{}, here{}, sum{};  // T_{k-1}, T_k and their sum, of t / z
    here[0] = 1;
    for (int k = 0; k < most_; ++k) {
      for (int i = 0; i <= k; ++i) sum[size_t(i)] += series[size_t(k)] * here[size_t(i)];
      double factorial = 1;  // i! / z^i
      for (int i = 0; i <= k; ++i) {
        if (i > 0) factorial *= i / z;
        step.by_degree.push_back(sum[size_t(i)] * factorial);
      }
      step.log_error.push_back(z + std::log(rest[size_t(k + 1)]) + 1e-9);
      if (step.log_error.back() <= std::log(least_error)) break;
      std::array<double, most_degree + 1> next{};
      for (int i = 0; i <= k; ++i) {
        if (i < most_degree) next[size_t(i + 1)] = (k == 0 ? 1 : 2) * here[size_t(i)];
        next[size_t(i)] -= k == 0 ? 0 : last[size_t(i)];
      }
      last = here;
      here = next;
    }
    steps_.push_back(std::move(step));
  }

  int most_ = 1;
  std::array<int64_t, most_degree + 1> terms_{};
  std::vector<Step> steps_;
};

}  // namespace foveate
