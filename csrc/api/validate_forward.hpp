// Validation of what the forward passes write: the outputs of attention, soft and hard, and what hard attention
// chooses.
#pragma once
#include "validate.hpp"

namespace foveate {

class ForwardValidator : public Validator {
 public:
  using Validator::Validator;

  // The output, (..., rows, columns) with rows = Lq.
  bool output(const fv_array* out, int64_t columns) {
    const int64_t core[2] = {problem_.queries, columns};
    return view("out", out) && of_float("out", *out) && place_output("out", *out, core, 2, problem_.out);
  }

  // The logarithm of the denominator, (..., Lq), or with what it is made of, (..., Lq, 3); optional.
  bool lse(const fv_array* lse) {
    if (lse == nullptr) return true;
    const int64_t core[2] = {problem_.queries, lse_numbers};
    return view("lse", lse) && of_lse(*lse) && place_output("lse", *lse, core, lse_axes(*lse), problem_.lse);
  }

  // What is chosen, and how often.
  bool hard(fv_selection selection, const fv_random* random, int64_t draws) {
    if (selection != FV_ARGMAX && selection != FV_SAMPLE) {
      return refuse(FV_VALUE_ERROR, "selection: got %d, wanted one of fv_selection", static_cast<int>(selection));
    }
    if (selection == FV_SAMPLE && random == nullptr) {
      return refuse(FV_VALUE_ERROR, "random: got none, wanted a key to draw with");
    }
    if (selection == FV_ARGMAX && draws != 1) {
      return refuse(FV_VALUE_ERROR, "draws: got %lld, wanted 1 for the most probable key", printable(draws));
    }
    if (!takes_draws(draws)) return false;
    int64_t cells = kWidestElement;
    bool fits = draws <= kMaxLength && multiply(cells, draws) && multiply(cells, problem_.queries);
    for (int axis = 0; fits && axis < problem_.lead_ndim; ++axis) fits = multiply(cells, problem_.lead_shape[axis]);
    if (!fits || !multiply(cells, problem_.value_size)) {
      return refuse(FV_NO_MEMORY, "draws: %lld for each of %lld queries are too many", printable(draws),
                    printable(problem_.queries));
    }
    problem_.selection = selection;
    if (random != nullptr) problem_.random = *random;
    problem_.choices = problem_.value;
    problem_.value = {};
    return true;
  }

  bool hard_outputs(const fv_array* out, const fv_array* index, const fv_array* log_prob) {
    const int64_t core[3] = {problem_.queries, problem_.draws, problem_.value_size};
    const bool placed = view("out", out) && of_float("out", *out) && place_output("out", *out, core, 3, problem_.out) &&
                        view("index", index) && of_dtype("index", *index, FV_INT64) &&
                        place_output("index", *index, core, 2, problem_.index) && view("log_prob", log_prob) &&
                        of_dtype("log_prob", *log_prob, accumulator()) &&
                        place_output("log_prob", *log_prob, core, 2, problem_.log_prob);
    if (placed) problem_.out_draw_stride = out->strides[problem_.lead_ndim + 1];
    return placed;
  }
};

}  // namespace foveate
