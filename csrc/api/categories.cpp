// The C ABI of draws from categories: validates, then hands a Sampling to its driver.
#include <cstring>

#include "categories/sampling.hpp"
#include "views.hpp"

namespace foveate {
namespace {

class SamplingValidator : private Views<Sampling> {
 public:
  SamplingValidator(Sampling& problem, fv_error* error) : Views(problem, error) {}

  fv_status categories(const fv_array* p, const fv_random* random, int64_t draws) {
    if (const fv_status status = view("p", p); status != FV_OK) return status;
    if (!is_float(p->dtype)) return wrong_dtype("p", *p, "float16, bfloat16, float32 or float64");
    if (p->ndim < 1) return refuse(error_, FV_VALUE_ERROR, "p: got shape (), wanted one axis or more, (..., K)");
    if (random == nullptr) return refuse(error_, FV_VALUE_ERROR, "random: got none, wanted a key");
    if (draws < 0) {
      return refuse(error_, FV_VALUE_ERROR, "draws: got %lld, wanted 0 or more", static_cast<long long>(draws));
    }
    problem_.lead_ndim = p->ndim - 1;
    problem_.rows = 1;
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) {
      problem_.lead_shape[axis] = p->shape[axis];
      if (__builtin_mul_overflow(problem_.rows, p->shape[axis], &problem_.rows)) {
        return refuse(error_, FV_NO_MEMORY, "p: got shape %s, which is too large", ShapeText(*p).c_str());
      }
    }
    problem_.categories = p->shape[p->ndim - 1];
    problem_.draws = draws;
    problem_.key[0] = random->key[0];
    problem_.key[1] = random->key[1];
    place(*p, 1, problem_.p);
    problem_.p.column_stride = p->strides[p->ndim - 1];
    return FV_OK;
  }

  // (..., *core) of int64
  fv_status output(const char* name, const fv_array* array, const int64_t* core, int core_ndim, Operand& operand) {
    if (const fv_status status = view(name, array); status != FV_OK) return status;
    if (array->dtype != FV_INT64) return wrong_dtype(name, *array, dtype_name(FV_INT64));
    if (const fv_status status = place_output(name, *array, core, core_ndim, operand); status != FV_OK) return status;
    operand.column_stride = array->strides[array->ndim - 1];
    return FV_OK;
  }

  fv_status trials(const fv_array* array) {
    if (const fv_status status = view("trials", array); status != FV_OK) return status;
    if (array->dtype != FV_INT64) return wrong_dtype("trials", *array, dtype_name(FV_INT64));
    if (!broadcasts(*array, 0)) {
      return refuse(error_, FV_VALUE_ERROR,
                    "trials: got shape %s, wanted one that broadcasts into the leading axes, %s",
                    ShapeText(*array).c_str(), ShapeText(problem_.lead_shape, problem_.lead_ndim).c_str());
    }
    place(*array, 0, problem_.trials);
    for (int64_t row = 0; row < problem_.rows; ++row) {
      int64_t number, at = row, bytes = 0;
      for (int axis = problem_.lead_ndim - 1; axis >= 0; --axis) {
        bytes += at % problem_.lead_shape[axis] * problem_.trials.lead[axis];
        at /= problem_.lead_shape[axis];
      }
      std::memcpy(&number, problem_.trials.data + bytes, sizeof number);
      if (number < 0) {
        return refuse(error_, FV_VALUE_ERROR, "trials: got %lld, wanted 0 or more", static_cast<long long>(number));
      }
      if (number > problem_.most_trials) problem_.most_trials = number;
    }
    return FV_OK;
  }

  // Something is to be drawn, and there is no category.
  fv_status no_category(const fv_array& p) {
    return refuse(error_, FV_VALUE_ERROR, "p: got shape %s, wanted at least one category to draw",
                  ShapeText(p).c_str());
  }
};

}  // namespace
}  // namespace foveate

fv_status fv_multinoulli(const fv_array* p, int32_t logits, const fv_random* random, int64_t draws,
                         const fv_array* index, fv_error* error) noexcept {
  using namespace foveate;
  Sampling problem;
  SamplingValidator validator(problem, error);
  fv_status status = validator.categories(p, random, draws);
  if (status == FV_OK) status = validator.output("index", index, &draws, 1, problem.index);
  if (status == FV_OK) poison(index);
  if (status != FV_OK || problem.rows == 0 || draws == 0) return status;
  if (problem.categories == 0) return validator.no_category(*p);
  problem.logits = logits != 0;
  return multinoulli(problem, error);
}

fv_status fv_multinomial(const fv_array* trials, const fv_array* p, const fv_random* random, int64_t draws,
                         const fv_array* counts, fv_error* error) noexcept {
  using namespace foveate;
  Sampling problem;
  SamplingValidator validator(problem, error);
  fv_status status = validator.categories(p, random, draws);
  const int64_t core[2] = {draws, problem.categories};
  if (status == FV_OK) status = validator.output("counts", counts, core, 2, problem.counts);
  if (status == FV_OK) status = validator.trials(trials);
  if (status != FV_OK || problem.rows == 0 || draws == 0) return status;
  if (problem.categories == 0) return problem.most_trials > 0 ? validator.no_category(*p) : FV_OK;
  return multinomial(problem, error);
}
