// The C ABI of draws from categories: validates, then hands a Sampling to its driver.
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

  // Something is to be drawn, and there is no category.
  fv_status no_category(const fv_array& p) {
    refuse(FV_VALUE_ERROR, "p: got shape %s, wanted at least one category to draw", ShapeText(p).c_str());
    return status();
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
