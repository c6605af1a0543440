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

  // Statistics, each optional: sums over the queries first <= i < end, and one number a query.
  bool statistics(int64_t first, int64_t end, const fv_array* key_sum, const fv_array* entropy, const fv_array* largest,
                  const fv_array* place) {
    if (given_.sigma != 0) return refuse(FV_VALUE_ERROR, "sigma: got %g, wanted 0 for statistics", given_.sigma);
    if (given_.score.weighing != FV_SOFTMAX)
      return refuse(FV_VALUE_ERROR, "weighing: got one that is no softmax, wanted FV_SOFTMAX for statistics");
    if (first < 0 || end < first || end > problem_.queries) {
      return refuse(FV_VALUE_ERROR, "queries: got %lld..%lld, wanted a part of 0..%lld", printable(first),
                    printable(end), printable(problem_.queries));
    }
    problem_.first_query = first;
    problem_.end_query = end;
    return numbers("key_sum", key_sum, accumulator(), problem_.keys, problem_.key_sum) &&
           numbers("entropy", entropy, accumulator(), problem_.queries, problem_.entropy) &&
           numbers("largest", largest, accumulator(), problem_.queries, problem_.largest) &&
           numbers("place", place, FV_INT64, problem_.queries, problem_.place);
  }

  // What is chosen, and how often.
  bool hard(fv_selection selection, const fv_random* random, int64_t draws) {
    if (selection < FV_ARGMAX || selection > FV_DISTINCT) {
      return refuse(FV_VALUE_ERROR, "selection: got %d, wanted one of fv_selection", static_cast<int>(selection));
    }
    if ((selection == FV_SAMPLE || selection == FV_DISTINCT) && random == nullptr) {
      return refuse(FV_VALUE_ERROR, "random: got none, wanted a key to draw with");
    }
    if (selection == FV_ARGMAX && draws != 1) {
      return refuse(FV_VALUE_ERROR, "draws: got %lld, wanted 1 for the most probable key", printable(draws));
    }
    if (!takes_draws(draws)) return false;
    if ((selection == FV_TOP || selection == FV_DISTINCT) && draws > kMostDistinct) {
      return refuse(FV_VALUE_ERROR, "draws: got %lld different keys for each query, wanted at most %d",
                    printable(draws), kMostDistinct);
    }
    if ((selection == FV_TOP || selection == FV_DISTINCT) && problem_.keys > INT32_MAX) {
      return refuse(FV_VALUE_ERROR, "key: got %lld keys, wanted fewer than 2^31 to choose different ones from",
                    printable(problem_.keys));
    }
    int64_t cells = kWidestElement;
    bool fits = draws <= kMaxLength && multiply(cells, draws) && multiply(cells, problem_.queries);
    for (int axis = 0; fits && axis < problem_.lead_ndim; ++axis) fits = multiply(cells, problem_.lead_shape[axis]);
    if (!fits || !multiply(cells, problem_.value_size)) {
      return refuse(FV_NO_MEMORY, "draws: %lld for each of %lld queries are too many", printable(draws),
                    printable(problem_.queries));
    }
    if (!joins(selection)) return false;
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
                        of_dtype("log_prob", *log_prob, problem_.gives_scores ? FV_FLOAT64 : accumulator()) &&
                        place_output("log_prob", *log_prob, core, 2, problem_.log_prob);
    if (placed) problem_.out_draw_stride = out->strides[problem_.lead_ndim + 1];
    return placed;
  }

 private:
  // Of a part of another problem: where it stands in that.
  bool joins(fv_selection selection) {
    if (given_.first_lead < 0 || given_.first_lead > kMaxLength)
      return refuse(FV_VALUE_ERROR, "first_lead: got %lld, wanted a number >= 0", printable(given_.first_lead));
    if (given_.first_key < 0 || given_.first_key > kMaxLength || given_.first_key % kKeysANumber != 0)
      return refuse(FV_VALUE_ERROR, "first_key: got %lld, wanted a multiple of %lld", printable(given_.first_key),
                    printable(kKeysANumber));
    const bool parted = given_.first_key != 0 || given_.before != nullptr || given_.after != nullptr;
    if ((parted || given_.gives_scores != 0) && problem_.edge_begins)
      return refuse(FV_VALUE_ERROR, "edges: got them for a part of the keys, wanted other rules");
    if (given_.before != nullptr && (selection != FV_SAMPLE || given_.after == nullptr))
      return refuse(FV_VALUE_ERROR,
                    "before: got it without `after` or for another selection, wanted FV_SAMPLE with both");
    problem_.first_lead = given_.first_lead;
    problem_.first_key = given_.first_key;
    problem_.gives_scores = given_.gives_scores != 0;
    return sums("before", given_.before, problem_.before) && sums("after", given_.after, problem_.after);
  }

  bool sums(const char* name, const fv_array* array, Operand& to) {
    const int64_t core[2] = {problem_.queries, 3};
    return array == nullptr ||
           (view(name, array) && of_dtype(name, *array, FV_FLOAT64) && place_output(name, *array, core, 2, to));
  }

  // An output (..., length) that may be none.
  bool numbers(const char* name, const fv_array* array, fv_dtype dtype, int64_t length, Operand& to) {
    return array == nullptr ||
           (view(name, array) && of_dtype(name, *array, dtype) && place_output(name, *array, &length, 1, to));
  }
};

}  // namespace foveate
