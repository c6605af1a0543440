// The C ABI of attention: validates, then hands a Problem to its driver. What has no element to compute ends here.
#include <initializer_list>

#include "drivers/drivers.hpp"
#include "validate.hpp"
#include "validate_backward.hpp"

namespace foveate {
namespace {

fv_status missing_problem(fv_error* error) {
  return refuse(error, FV_VALUE_ERROR, "problem: got none, wanted a problem");
}

fv_status missing_gradients(fv_error* error) {
  return refuse(error, FV_VALUE_ERROR, "gradients: got none, wanted where they are written");
}

// No row, or rows of no element whose lse nobody asks for.
bool nothing_to_compute(const Problem& problem, int64_t columns) {
  for (int axis = 0; axis < problem.lead_ndim; ++axis) {
    if (problem.lead_shape[axis] == 0) return true;
  }
  return problem.queries == 0 || (columns == 0 && !problem.lse);
}

void poison_all(std::initializer_list<const fv_array*> outputs) {
  for (const fv_array* output : outputs) poison(output);
}

void poison_all(const fv_gradients& g) {  // the mask's is added to
  poison_all({g.query, g.key, g.value, g.sink, g.factors, g.centers, g.sigma});
}

}  // namespace
}  // namespace foveate

fv_status fv_output_shape(const fv_problem* given, int32_t* ndim, int64_t shape[FV_MAX_DIMS],
                          fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (ndim == nullptr || shape == nullptr) {
    return refuse(error, FV_VALUE_ERROR, "%s: got none, wanted where it is written",
                  ndim == nullptr ? "ndim" : "shape");
  }
  Problem problem;
  const bool weights = given->value == nullptr;
  if (const fv_status status = Validator(*given, problem, error).inputs(weights); status != FV_OK) return status;
  *ndim = problem.lead_ndim + 2;
  for (int axis = 0; axis < problem.lead_ndim; ++axis) shape[axis] = problem.lead_shape[axis];
  shape[problem.lead_ndim] = problem.queries;
  shape[problem.lead_ndim + 1] = weights ? problem.keys : problem.value_size;
  return FV_OK;
}

fv_status fv_attention(const fv_problem* given, const fv_array* out, const fv_array* lse, fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  Problem problem;
  Validator validator(*given, problem, error);
  fv_status status = validator.inputs(/*weights=*/false);
  if (status == FV_OK) status = validator.output(out, problem.value_size);
  if (status == FV_OK) status = validator.lse(lse);
  if (status == FV_OK) poison_all({out, lse});
  if (status != FV_OK || nothing_to_compute(problem, problem.value_size)) return status;
  return attention(problem, error);
}

fv_status fv_attention_weights(const fv_problem* given, const fv_array* out, fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  Problem problem;
  Validator validator(*given, problem, error);
  fv_status status = validator.inputs(/*weights=*/true);
  if (status == FV_OK) status = validator.output(out, problem.keys);
  if (status == FV_OK) poison_all({out});
  if (status != FV_OK || nothing_to_compute(problem, problem.keys)) return status;
  return attention_weights(problem, error);
}

fv_status fv_attention_backward(const fv_problem* given, const fv_array* out, const fv_array* lse,
                                const fv_array* d_out, const fv_array* d_lse, const fv_gradients* gradients,
                                fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (gradients == nullptr) return missing_gradients(error);
  Problem problem;
  BackwardValidator validator(*given, problem, error);
  fv_status status = Validator(*given, problem, error).inputs(/*weights=*/false);
  if (status == FV_OK) status = validator.forward(out, lse, d_out, d_lse);
  if (status == FV_OK) status = validator.gradients(*gradients);
  if (status == FV_OK) poison_all(*gradients);
  return status == FV_OK ? attention_backward(problem, error) : status;
}

fv_status fv_hard_attention_backward(const fv_problem* given, int64_t draws, const fv_array* index, const fv_array* lse,
                                     const fv_array* d_out, const fv_array* advantage, const fv_gradients* gradients,
                                     fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (gradients == nullptr) return missing_gradients(error);
  Problem problem;
  BackwardValidator validator(*given, problem, error);
  fv_status status = Validator(*given, problem, error).inputs(/*weights=*/false);
  if (status == FV_OK) status = validator.hard_forward(draws, index, lse, d_out, advantage);
  if (status == FV_OK) status = validator.gradients(*gradients);
  if (status == FV_OK) poison_all(*gradients);
  return status == FV_OK ? attention_backward(problem, error) : status;
}

fv_status fv_hard_attention(const fv_problem* given, fv_selection selection, const fv_random* random, int64_t draws,
                            const fv_array* out, const fv_array* index, const fv_array* log_prob,
                            fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  Problem problem;
  Validator validator(*given, problem, error);
  fv_status status = validator.inputs(/*weights=*/false);
  if (status == FV_OK) status = validator.hard(selection, random, draws);
  if (status == FV_OK) status = validator.hard_outputs(out, index, log_prob);
  if (status == FV_OK) poison_all({out, index, log_prob});
  if (status != FV_OK || draws == 0 || nothing_to_compute(problem, 1)) return status;
  return hard_attention(problem, error);
}
