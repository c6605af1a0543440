// A row of categories, block by block: as it lies in memory, or carefully, as float64 divided by a power of two, where
// sums would overflow, or lose digits among subnormal numbers.
#pragma once
#include <cmath>
#include <limits>

#include "runtime/dispatch.hpp"
#include "runtime/refuse.hpp"
#include "sampling.hpp"

namespace foveate {

class Row {
 public:
  Row(const Sampling& problem, int64_t row) noexcept
      : dtype_(dtype_of(problem.p)),
        logits_(problem.logits),
        data_(problem.p.data + offset(problem, problem.p, row)),
        stride_(problem.p.column_stride),
        categories_(problem.categories) {}

  static int64_t offset(const Sampling& problem, const Operand& x, int64_t row) noexcept {
    int64_t bytes = 0;
    for (int axis = problem.lead_ndim - 1; axis >= 0 && row; --axis) {
      const int64_t extent = problem.lead_shape[axis];
      bytes += row % extent * x.lead[axis];
      row /= extent;
    }
    return bytes;
  }

  int64_t blocks() const { return (categories_ + draw_block - 1) / draw_block; }
  const Drawing& drawing() const {
    return careful_ || dtype_ == Dtype::float64 ? kernels().drawing_float64 : kernels().drawing_float32;
  }

  // careful: room for a block of float64, which holds this one for as long as it is used
  Categories block(int64_t b, double top, double* careful) const noexcept {
    const int64_t count = b + 1 < blocks() ? draw_block : categories_ - b * draw_block;
    const char* const at = data_ + b * draw_block * stride_;
    if (!careful_) return {at, dtype_, logits_, stride_, count, top};
    load(b, count, careful);
    for (int64_t k = 0; k < count; ++k) careful[k] = std::ldexp(careful[k], -exponent_);
    return {reinterpret_cast<const char*>(careful), Dtype::float64, logits_, sizeof(double), count, top};
  }

  // Whether this total, that of the row or of its only block, may be drawn by; and whether that of a careful row may.
  static bool is_some(const BlockSum& sum) {
    return sum.total > 0 && sum.total < std::numeric_limits<double>::infinity();
  }
  static bool is_plain(const BlockSum& sum) { return !sum.doubtful && sum.total >= 0x1p-900 && sum.total <= 0x1p1000; }

  // Looks at each element: false, and what is wrong, where there is no distribution. Otherwise the row is careful from
  // here on. buffer: a block of float64.
  bool inspect(double* buffer, int64_t row, fv_error* error) noexcept {
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t b = 0; b < blocks(); ++b) {
      const int64_t count = b + 1 < blocks() ? draw_block : categories_ - b * draw_block;
      load(b, count, buffer);
      for (int64_t k = 0; k < count; ++k) {
        const double x = buffer[k];
        const bool fits = logits_ ? x < std::numeric_limits<double>::infinity()
                                  : x >= 0 && x < std::numeric_limits<double>::infinity();
        if (!fits) {
          refuse(error, FV_VALUE_ERROR, "p: got %g for category %lld of row %lld, wanted %s", x,
                 printable(b * draw_block + k), printable(row),
                 logits_ ? "logits that are numbers or -inf" : "weights that are finite and not negative");
          return false;
        }
        if (x > largest) largest = x;
      }
    }
    if (!(largest > (logits_ ? -std::numeric_limits<double>::infinity() : 0))) {
      refuse(error, FV_VALUE_ERROR, "p: got only %s in row %lld, wanted a category that can be drawn",
             logits_ ? "logits of -inf" : "weights of 0", printable(row));
      return false;
    }
    if (!logits_) {
      careful_ = true;
      std::frexp(largest, &exponent_);
    }
    return true;
  }

  // Why a row was refused.
  void explain(double* buffer, int64_t row, fv_error* error) noexcept {
    if (!inspect(buffer, row, error)) return;
    refuse(error, FV_VALUE_ERROR, "p: got weights that changed during the call, in row %lld, wanted them unchanged",
           printable(row));
  }

 private:
  void load(int64_t b, int64_t count, double* to) const noexcept {
    kernels().float64.load_values({data_ + b * draw_block * stride_, dtype_, 0, stride_}, 1, count, false, to);
  }

  Dtype dtype_;
  bool logits_;
  bool careful_ = false;
  const char* data_;
  int64_t stride_, categories_;
  int exponent_ = 0;
};

}  // namespace foveate
