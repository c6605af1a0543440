// A dense array that owns its memory, of any dtype of foveate.h, read and written as double; and its strided views.
// Numbers of 16 bits are rounded to nearest even here, in software, so that every ISA is judged by the same inputs.
#pragma once
#include <cstdint>
#include <vector>

#include "foveate/foveate.h"

namespace kernel_tests {

using Shape = std::vector<int64_t>;

int64_t size_of(fv_dtype);
const char* name_of(fv_dtype);
double epsilon_of(fv_dtype);   // the distance from 1 to the next number
fv_dtype lse_dtype(fv_dtype);  // of a call on arrays of this dtype
double round_to(fv_dtype, double);

class Tensor {
 public:
  Tensor() = default;  // nothing, which the ABI is given as NULL
  Tensor(fv_dtype, Shape, double fill = 0.0);

  // Uniform in [-scale, scale], the same for a seed on every machine.
  static Tensor random(fv_dtype, Shape, double scale, uint64_t seed);

  Tensor as(fv_dtype) const;  // the same numbers, rounded

  // The same numbers with gaps between them, at odd addresses, the last two axes swapped in memory, rows backwards.
  Tensor scattered() const;

  double get(int64_t flat) const;  // by the row-major index, whatever the strides
  void set(int64_t flat, double value);

  const fv_array* view() const { return given_ ? &view_ : nullptr; }
  const Shape& shape() const { return shape_; }
  fv_dtype dtype() const { return dtype_; }
  int64_t count() const;
  bool same_bits(const Tensor& other) const;

  Tensor(const Tensor& other) { *this = other; }
  Tensor& operator=(const Tensor&);

 private:
  char* address(int64_t flat) const;
  void refresh();

  bool given_ = false, contiguous_ = true;
  fv_dtype dtype_ = FV_FLOAT32;
  Shape shape_, strides_;
  int64_t origin_ = 0;
  std::vector<char> memory_;
  fv_array view_ = {};
};

}  // namespace kernel_tests
