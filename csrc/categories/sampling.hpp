// A validated problem of draws from rows of categories, and its drivers.
#pragma once
#include "runtime/operand.hpp"

namespace foveate {

struct Sampling {
  int lead_ndim = 0;
  int64_t lead_shape[FV_MAX_DIMS] = {};
  int64_t rows = 0;        // their number, of all leading axes together
  int64_t categories = 0;  // K
  int64_t draws = 0;       // from each row
  bool logits = false;
  uint64_t key[2] = {};
  int64_t first_row = 0;  // what is added to the number of a row where it counts random numbers
  Operand p;              // (K,): column_stride
  Operand index;          // (draws,): column_stride
  Operand trials;         // multinomial: one int64 a row
  int64_t most_trials = 0;
  Operand counts;  // multinomial: (draws, K), row_stride and column_stride
};

// What is done to the categories before a draw, in this order; and the draw itself.
struct Filters {
  double temperature = 1;
  int64_t top_k = 0;  // 0: all
  double top_p = 1, min_p = 0;
  bool distinct = false;  // draws of a row are different categories
  Operand bias;           // (K,): column_stride; added to logits
  Operand log_prob;       // (draws,): column_stride
  bool any(int64_t categories) const {
    return temperature != 1 || (top_k > 0 && top_k < categories) || top_p < 1 || min_p > 0 || distinct || bias;
  }
};

fv_status multinoulli(const Sampling&, fv_error*) noexcept;
fv_status filtered_multinoulli(const Sampling&, const Filters&, fv_error*) noexcept;
fv_status multinomial(const Sampling&, fv_error*) noexcept;

}  // namespace foveate
