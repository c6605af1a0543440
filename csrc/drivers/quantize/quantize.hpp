// A validated problem of rows that become few bits, and its driver.
#pragma once
#include "runtime/operand.hpp"

namespace foveate {

struct Quantizing {
  int lead_ndim = 0;
  int64_t lead_shape[FV_MAX_DIMS] = {};
  int64_t leads = 1;    // their number
  int64_t rows = 0;     // L
  int64_t columns = 0;  // D
  int64_t block = 0;    // columns that share a scale; 0: all
  Operand x;            // (L, D) of a float
  Operand data, scale;  // (L, D) of few bits, and (L, blocks): contiguous columns
};

fv_status quantize(const Quantizing&, fv_error*) noexcept;

}  // namespace foveate
