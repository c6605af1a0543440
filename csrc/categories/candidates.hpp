// A row of categories as the filters see it, block by block: logits with what is added to them, or weights; how its
// numbers become weights; and why it is refused.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "row.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/refuse.hpp"
#include "sampling.hpp"

namespace foveate {

// What passes the filters of a row: the numbers above `least`, and those equal to it that stand before place `equals`.
struct Threshold {
  double least;
  int64_t equals;
  Threshold in_block(int64_t b) const { return {least, equals - b * draw_block}; }
};
constexpr int64_t all_equals = INT64_MAX;

class CandidateRow {
 public:
  CandidateRow(const Sampling& problem, const Filters& filters, int64_t row) noexcept
      : problem_(problem), filters_(filters), number_(row) {
    whole_.data = problem.p.data + Row::offset(problem, problem.p, row);
    whole_.dtype = dtype_of(problem.p);
    whole_.stride = problem.p.column_stride;
    whole_.count = problem.categories;
    whole_.bias = filters.bias ? filters.bias.data + Row::offset(problem, filters.bias, row) : nullptr;
    whole_.bias_dtype = dtype_of(filters.bias);
    whole_.bias_stride = filters.bias.column_stride;
  }

  int64_t number() const { return number_; }
  int64_t categories() const { return problem_.categories; }
  int64_t blocks() const { return (problem_.categories + draw_block - 1) / draw_block; }
  int64_t spans() const { return (problem_.categories + filter_span - 1) / filter_span; }
  bool is_double() const { return whole_.dtype == Dtype::float64; }
  const Filtering& filtering() const { return is_double() ? kernels().filtering_float64 : kernels().filtering_float32; }

  Candidates block(int64_t b) const {
    Candidates some = whole_;
    some.data += b * draw_block * some.stride;
    if (some.bias) some.bias += b * draw_block * some.bias_stride;
    some.count = std::min<int64_t>(draw_block, whole_.count - b * draw_block);
    return some;
  }

  // What every category that has weight passes.
  Threshold lowest() const {
    const double least =
        !problem_.logits ? (is_double() ? DBL_TRUE_MIN : FLT_TRUE_MIN) : (is_double() ? -DBL_MAX : -FLT_MAX);
    return {least, all_equals};
  }
  bool is_some(double top) const { return top >= lowest().least && top < std::numeric_limits<double>::infinity(); }

  Weighing weighing(double top) const {
    Weighing by = {problem_.logits, top, 1 / filters_.temperature, {1, 1}};
    const double most = is_double() ? 0x1p1000 : 0x1p100;  // 0 times it is 0, and -inf times its inverse -inf
    by.rate = std::clamp(by.rate, 1 / most, most);
    if (!problem_.logits) {
      int exponent;
      std::frexp(top, &exponent);
      by.scale[0] = std::ldexp(1.0, -exponent / 2);
      by.scale[1] = std::ldexp(1.0, -exponent - -exponent / 2);
    }
    return by;
  }

  // The least number whose weight is min_p beside that of the top.
  double least_of_min_p(double top) const {
    const double least = problem_.logits ? top + filters_.temperature * std::log(filters_.min_p)
                                         : top * std::pow(filters_.min_p, filters_.temperature);
    if (is_double() || least < -FLT_MAX) return least;
    const float rounded = float(least);
    return rounded < least ? std::nextafter(rounded, FLT_MAX) : rounded;
  }

  // Looks at each element: false, and what is wrong, where there is no distribution. buffer: two blocks of float64.
  bool inspect(double* buffer, fv_error* error) const noexcept {
    if (!whole_.bias) return Row(problem_, number_).inspect(buffer, number_, error);
    double* const bias = buffer + draw_block;
    const double infinity = std::numeric_limits<double>::infinity();
    double top = -infinity;
    for (int64_t b = 0; b < blocks(); ++b) {
      const Candidates some = block(b);
      const Arithmetic& load = kernels().float64;
      load.load_values({some.data, some.dtype, 0, some.stride}, 1, some.count, false, buffer);
      load.load_values({some.bias, some.bias_dtype, 0, some.bias_stride}, 1, some.count, false, bias);
      for (int64_t k = 0; k < some.count; ++k) {
        const double sum = is_double() ? buffer[k] + bias[k] : float(float(buffer[k]) + float(bias[k]));
        if (sum < infinity) {
          top = std::max(top, sum);
          continue;
        }
        const bool of_p = !(buffer[k] < infinity), of_bias = !(bias[k] < infinity);
        refuse(error, FV_VALUE_ERROR,
               "%s: got %g for category %lld of row %lld, wanted logits that are numbers or -inf",
               of_p      ? "p"
               : of_bias ? "bias"
                         : "p + bias",
               of_p      ? buffer[k]
               : of_bias ? bias[k]
                         : sum,
               printable(b * draw_block + k), printable(number_));
        return false;
      }
    }
    if (top > -infinity) return true;
    refuse(error, FV_VALUE_ERROR, "p + bias: got only logits of -inf in row %lld, wanted a category that can be drawn",
           printable(number_));
    return false;
  }

 private:
  const Sampling& problem_;
  const Filters& filters_;
  int64_t number_;
  Candidates whole_;
};

}  // namespace foveate
