// The series of exp(t), t = dx . dy, between a box of queries and one of points, and what it costs to cut it off.
//
// |t| <= z = sum_k hx_k hy_k, of the halves of the boxes' sides. By Taylor's theorem with Lagrange's remainder, the terms of
// degree < p give exp(t) up to |t|^p / p! e^s with s between 0 and t, so that the error is at most e^z z^p / p! times exp(t):
// relative, wherever the boxes stand.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/table.hpp"

namespace foveate {

class Degrees {
 public:
  static constexpr int most_degree = 64;
  static constexpr int64_t most_terms = 4096;

  explicit Degrees(int dims, double tolerance) : dims_(dims) {
    // Terms of different signs, whose sizes add up to e^2z times the sum, are rounded to 2^-53 of themselves.
    most_z_ = std::log(tolerance / 64 * 0x1p53) / 2;
    for (int p = 0; p <= most_degree; ++p) {
      if (p > 0) log_factorial_[size_t(p)] = log_factorial_[size_t(p - 1)] + std::log(double(p));
      int64_t terms = 1;
      for (int k = 0; k < dims; ++k) terms = terms * (p - 1 + dims - k) / (k + 1);
      terms_[size_t(p)] = terms;
      if (p > 0 && terms <= most_terms) most_ = p;
    }
    factors_.resize(size_t(most_ + 1));
    for (int p = 1; p <= most_; ++p) {
      factors_[size_t(p)].reserve(size_t(terms_[size_t(p)]));
      list_factors(dims, p, 1.0, factors_[size_t(p)]);
    }
  }

  // The least degree whose error is at most exp(log_error) of each term; 0: none will do.
  int least(double z, double log_error) const {
    if (!(z <= most_z_)) return 0;
    if (z == 0) return 1;
    const double log_z = std::log(z);
    for (int p = 1; p <= most_; ++p)
      if (z + p * log_z - log_factorial_[size_t(p)] <= log_error) return p;
    return 0;
  }
  int64_t terms(int degree) const { return terms_[size_t(degree)]; }
  // 1 / a! of each monomial, in the order of the kernels.
  const double* factors(int degree) const { return factors_[size_t(degree)].data(); }
  int64_t most() const { return terms_[size_t(most_)]; }

 private:
  static void list_factors(int dims, int left, double factor, std::vector<double>& to) {
    for (int power = 0; power < left; ++power) {
      if (power > 0) factor /= power;
      if (dims == 1)
        to.push_back(factor);
      else
        list_factors(dims - 1, left - power, factor, to);
    }
  }

  int dims_, most_ = 1;
  double most_z_;
  std::array<double, most_degree + 1> log_factorial_{};
  std::array<int64_t, most_degree + 1> terms_{};
  std::vector<std::vector<double>> factors_;
};

}  // namespace foveate
