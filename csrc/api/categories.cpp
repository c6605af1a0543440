// The C ABI of draws from categories: validates, then hands a Sampling to its driver.
#include <cmath>
#include <cstring>

#include "categories/sampling.hpp"
#include "views.hpp"

namespace foveate {
namespace {

class SamplingValidator : private Views<Sampling> {
 public:
  SamplingValidator(Sampling& problem, fv_error* error) : Views(problem, error) {}
  using Views::status;

  bool categories(const fv_array* p, const fv_random* random, int64_t draws) {
    if (!cpu() || !view("p", p) || !of_operand("p", *p)) return false;
    if (p->ndim < 1) return refuse(FV_VALUE_ERROR, "p: got shape (), wanted one axis or more, (..., K)");
    if (random == nullptr) return refuse(FV_VALUE_ERROR, "random: got none, wanted a key");
    if (draws < 0) return refuse(FV_VALUE_ERROR, "draws: got %lld, wanted 0 or more", printable(draws));
    problem_.lead_ndim = p->ndim - 1;
    problem_.rows = 1;
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) {
      problem_.lead_shape[axis] = p->shape[axis];
      if (__builtin_mul_overflow(problem_.rows, p->shape[axis], &problem_.rows)) {
        return refuse(FV_NO_MEMORY, "p: got shape %s, which is too large", ShapeText(*p).c_str());
      }
    }
    problem_.categories = p->shape[p->ndim - 1];
    problem_.draws = draws;
    problem_.key[0] = random->key[0];
    problem_.key[1] = random->key[1];
    place(*p, 1, problem_.p);
    problem_.p.column_stride = p->strides[p->ndim - 1];
    return true;
  }

  // (..., *core) of int64
  bool output(const char* name, const fv_array* array, const int64_t* core, int core_ndim, Operand& operand) {
    if (!view(name, array) || !of_dtype(name, *array, FV_INT64) ||
        !place_output(name, *array, core, core_ndim, operand)) {
      return false;
    }
    operand.column_stride = array->strides[array->ndim - 1];
    return true;
  }

  bool trials(const fv_array* array) {
    if (!view("trials", array) || !of_dtype("trials", *array, FV_INT64)) return false;
    if (!broadcasts(*array, 0)) {
      return refuse(FV_VALUE_ERROR, "trials: got shape %s, wanted one that broadcasts into the leading axes, %s",
                    ShapeText(*array).c_str(), ShapeText(problem_.lead_shape, problem_.lead_ndim).c_str());
    }
    place(*array, 0, problem_.trials);
    if (problem_.rows == 0) return true;
    int64_t number = 0;
    const bool all = each_part(problem_.trials, problem_.lead_ndim, problem_.lead_shape, [&](const char* at) {
      std::memcpy(&number, at, sizeof number);
      if (number > problem_.most_trials) problem_.most_trials = number;
      return number >= 0;
    });
    return all || refuse(FV_VALUE_ERROR, "trials: got %lld, wanted 0 or more", printable(number));
  }

  bool filters(const fv_filters& given, int32_t distinct, Filters& filters) {
    if (!(given.temperature > 0 && std::isfinite(given.temperature)))
      return refuse(FV_VALUE_ERROR, "temperature: got %g, wanted a positive number", given.temperature);
    if (given.top_k < 0) return refuse(FV_VALUE_ERROR, "top_k: got %lld, wanted 0 or more", printable(given.top_k));
    if (!(given.top_p > 0 && given.top_p <= 1))
      return refuse(FV_VALUE_ERROR, "top_p: got %g, wanted a number in (0, 1]", given.top_p);
    if (!(given.min_p >= 0 && given.min_p < 1))
      return refuse(FV_VALUE_ERROR, "min_p: got %g, wanted a number in [0, 1)", given.min_p);
    if (given.first_row < 0)
      return refuse(FV_VALUE_ERROR, "first_row: got %lld, wanted 0 or more", printable(given.first_row));
    problem_.first_row = given.first_row;
    if (given.bias != nullptr && !bias(*given.bias, filters.bias)) return false;
    filters.temperature = given.temperature;
    filters.top_k = given.top_k;
    filters.top_p = given.top_p;
    filters.min_p = given.min_p;
    filters.distinct = distinct != 0;
    return true;
  }

  // (..., draws) of the accumulator's dtype
  bool log_prob(const fv_array& array, int64_t draws, Operand& operand) {
    const fv_dtype dtype = problem_.p.dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32;
    if (!view("log_prob", &array) || !of_dtype("log_prob", array, dtype) ||
        !place_output("log_prob", array, &draws, 1, operand))
      return false;
    operand.column_stride = array.strides[array.ndim - 1];
    return true;
  }

  // Something is to be drawn, and there is no category.
  fv_status no_category(const fv_array& p) {
    refuse(FV_VALUE_ERROR, "p: got shape %s, wanted at least one category to draw", ShapeText(p).c_str());
    return status();
  }

 private:
  bool bias(const fv_array& array, Operand& operand) {
    if (!view("bias", &array) || !of_float("bias", array)) return false;
    if (!problem_.logits) return refuse(FV_VALUE_ERROR, "bias: got an array beside weights, wanted logits");
    const int64_t last = array.ndim > 0 ? array.shape[array.ndim - 1] : 1;
    if ((last != 1 && last != problem_.categories) || !broadcasts(array, array.ndim > 0)) {
      return refuse(FV_VALUE_ERROR, "bias: got shape %s, wanted one that broadcasts into that of p, %s",
                    ShapeText(array).c_str(),
                    ShapeText(problem_.lead_shape, problem_.lead_ndim, &problem_.categories, 1).c_str());
    }
    place(array, array.ndim > 0, operand);
    operand.column_stride = array.ndim > 0 && last > 1 ? array.strides[array.ndim - 1] : 0;
    return true;
  }
};

}  // namespace
}  // namespace foveate

fv_status fv_multinoulli(const fv_array* p, int32_t logits, const fv_random* random, int64_t draws,
                         const fv_array* index, fv_error* error) noexcept {
  using namespace foveate;
  Sampling problem;
  SamplingValidator validator(problem, error);
  if (!(validator.categories(p, random, draws) && validator.output("index", index, &draws, 1, problem.index))) {
    return validator.status();
  }
  poison(index);
  if (problem.rows == 0 || draws == 0) return FV_OK;
  if (problem.categories == 0) return validator.no_category(*p);
  problem.logits = logits != 0;
  return multinoulli(problem, error);
}

fv_status fv_filtered_multinoulli(const fv_array* p, int32_t logits, const fv_filters* given, int32_t distinct,
                                  const fv_random* random, int64_t draws, const fv_array* index,
                                  const fv_array* log_prob, fv_error* error) noexcept {
  using namespace foveate;
  constexpr fv_filters none = {1, 0, 1, 0, nullptr, 0};
  Sampling problem;
  Filters filters;
  problem.logits = logits != 0;
  SamplingValidator validator(problem, error);
  if (!(validator.categories(p, random, draws) && validator.output("index", index, &draws, 1, problem.index) &&
        validator.filters(given != nullptr ? *given : none, distinct, filters) &&
        (log_prob == nullptr || validator.log_prob(*log_prob, draws, filters.log_prob)))) {
    return validator.status();
  }
  poison(index);
  poison(log_prob);
  if (problem.rows == 0 || draws == 0) return FV_OK;
  if (problem.categories == 0) return validator.no_category(*p);
  return filtered_multinoulli(problem, filters, error);
}

fv_status fv_multinomial(const fv_array* trials, const fv_array* p, const fv_random* random, int64_t draws,
                         const fv_array* counts, fv_error* error) noexcept {
  using namespace foveate;
  Sampling problem;
  SamplingValidator validator(problem, error);
  if (!validator.categories(p, random, draws)) return validator.status();
  const int64_t core[2] = {draws, problem.categories};
  if (!(validator.output("counts", counts, core, 2, problem.counts) && validator.trials(trials))) {
    return validator.status();
  }
  if (problem.rows == 0 || draws == 0) return FV_OK;
  if (problem.categories == 0) return problem.most_trials > 0 ? validator.no_category(*p) : FV_OK;
  return multinomial(problem, error);
}
