// The C ABI of attention: validates, then hands a Problem to its driver. What has no element to compute ends here.
#include <initializer_list>

#include "drivers/drivers.hpp"
#include "drivers/neighborhood/as_intervals.hpp"
#include "validate_backward.hpp"
#include "validate_forward.hpp"
#include "validate_tangents.hpp"

namespace foveate {
namespace {

fv_status missing_problem(fv_error* error) {
  return refuse(error, FV_VALUE_ERROR, "problem: got none, wanted a problem");
}

fv_status missing_gradients(fv_error* error) {
  return refuse(error, FV_VALUE_ERROR, "gradients: got none, wanted arrays to write them into");
}

fv_status missing_tangents(fv_error* error) {
  return refuse(error, FV_VALUE_ERROR, "tangents: got none, wanted those of the operands");
}

bool no_lead(const Problem& problem) {
  for (int axis = 0; axis < problem.lead_ndim; ++axis) {
    if (problem.lead_shape[axis] == 0) return true;
  }
  return false;
}

// No row, or rows of no element whose lse nobody asks for.
bool nothing_to_compute(const Problem& problem, int64_t columns) {
  return no_lead(problem) || problem.queries == 0 || (columns == 0 && !problem.lse);
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
    return refuse(error, FV_VALUE_ERROR, "%s: got none, wanted an array to write it into",
                  ndim == nullptr ? "ndim" : "shape");
  }
  Problem problem;
  const bool weights = given->value == nullptr;
  Validator validator(*given, problem, error);
  if (!validator.inputs(weights)) return validator.status();
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
  ForwardValidator validator(*given, problem, error);
  if (!(validator.inputs(/*weights=*/false) && validator.output(out, problem.value_size) && validator.lse(lse))) {
    return validator.status();
  }
  poison_all({out, lse});
  return nothing_to_compute(problem, problem.value_size) ? FV_OK : attention(problem, error);
}

fv_status fv_attention_jvp(const fv_problem* given, const fv_tangents* tangents, const fv_array* out,
                           const fv_array* lse, const fv_array* t_out, const fv_array* t_lse,
                           fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (tangents == nullptr) return missing_tangents(error);
  Problem problem;
  TangentValidator<ForwardValidator> validator(*given, problem, error);
  if (!(validator.takes_derivatives() && validator.takes_no_edges() && validator.inputs(/*weights=*/false) &&
        validator.output(out, problem.value_size) && validator.lse(lse) && validator.tangents(*tangents) &&
        validator.moved(t_out, t_lse))) {
    return validator.status();
  }
  poison_all({out, lse, t_out, t_lse});
  const int64_t columns = problem.value_size + (problem.t_lse ? 1 : 0);
  return nothing_to_compute(problem, columns) ? FV_OK : with_intervals(problem, error, attention_tangent);
}

fv_status fv_attention_tangent(const fv_problem* given, const fv_tangents* tangents, const fv_array* out,
                               const fv_array* t_out, const fv_array* t_lse, fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (tangents == nullptr) return missing_tangents(error);
  Problem problem;
  AnsweredValidator validator(*given, problem, error);
  if (!(validator.takes_derivatives() && validator.takes_no_edges() && validator.inputs(/*weights=*/false) &&
        validator.answer(out) && validator.tangents(*tangents) && validator.moved(t_out, t_lse))) {
    return validator.status();
  }
  poison_all({t_out, t_lse});
  const int64_t columns = problem.value_size + (problem.t_lse ? 1 : 0);
  return nothing_to_compute(problem, columns) ? FV_OK : with_intervals(problem, error, attention_tangent);
}

fv_status fv_attention_weights(const fv_problem* given, const fv_array* out, fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  Problem problem;
  ForwardValidator validator(*given, problem, error);
  if (!(validator.inputs(/*weights=*/true) && validator.output(out, problem.keys))) return validator.status();
  poison_all({out});
  return nothing_to_compute(problem, problem.keys) ? FV_OK : with_intervals(problem, error, attention_weights);
}

fv_status fv_attention_statistics(const fv_problem* given, int64_t first_query, int64_t end_query,
                                  const fv_array* key_sum, const fv_array* entropy, const fv_array* largest,
                                  const fv_array* place, fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  Problem problem;
  ForwardValidator validator(*given, problem, error);
  if (!(validator.inputs(/*weights=*/true) &&
        validator.statistics(first_query, end_query, key_sum, entropy, largest, place))) {
    return validator.status();
  }
  poison_all({key_sum, entropy, largest, place});
  return no_lead(problem) ? FV_OK : with_intervals(problem, error, attention_statistics);
}

fv_status fv_attention_backward(const fv_problem* given, const fv_array* out, const fv_array* lse,
                                const fv_array* d_out, const fv_array* d_lse, const fv_gradients* gradients,
                                fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (gradients == nullptr) return missing_gradients(error);
  Problem problem;
  BackwardValidator validator(*given, problem, error);
  if (!(validator.takes_derivatives() && validator.inputs(/*weights=*/false) &&
        validator.forward(out, lse, d_out, d_lse) && validator.gradients(*gradients))) {
    return validator.status();
  }
  poison_all(*gradients);
  return attention_backward(problem, error);
}

fv_status fv_attention_backward_jvp(const fv_problem* given, const fv_tangents* tangents, const fv_array* out,
                                    const fv_array* lse, const fv_array* d_out, const fv_array* d_lse,
                                    const fv_array* t_out, const fv_array* t_lse, const fv_array* t_d_out,
                                    const fv_array* t_d_lse, const fv_gradients* gradients, fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (tangents == nullptr) return missing_tangents(error);
  if (gradients == nullptr) return missing_gradients(error);
  Problem problem;
  GradientTangentValidator validator(*given, problem, error);
  if (!(validator.takes_derivatives() && validator.takes_no_edges() && validator.inputs(/*weights=*/false) &&
        validator.forward(out, lse, d_out, d_lse) && validator.gradients(*gradients) &&
        validator.have_tangents(*gradients) && validator.tangents(*tangents) &&
        validator.moving(t_out, t_lse, t_d_out, t_d_lse))) {
    return validator.status();
  }
  poison_all(*gradients);
  return with_intervals(problem, error, attention_backward_tangent);
}

fv_status fv_hard_attention_backward(const fv_problem* given, int64_t draws, const fv_array* index, const fv_array* lse,
                                     const fv_array* d_out, const fv_array* advantage, const fv_gradients* gradients,
                                     fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  if (gradients == nullptr) return missing_gradients(error);
  Problem problem;
  BackwardValidator validator(*given, problem, error);
  if (!(validator.takes_derivatives() && validator.inputs(/*weights=*/false) &&
        validator.hard_forward(draws, index, lse, d_out, advantage) && validator.gradients(*gradients))) {
    return validator.status();
  }
  poison_all(*gradients);
  return attention_backward(problem, error);
}

fv_status fv_hard_attention(const fv_problem* given, fv_selection selection, const fv_random* random, int64_t draws,
                            const fv_array* out, const fv_array* index, const fv_array* log_prob,
                            fv_error* error) noexcept {
  using namespace foveate;
  if (given == nullptr) return missing_problem(error);
  Problem problem;
  ForwardValidator validator(*given, problem, error);
  if (!(validator.inputs(/*weights=*/false) && validator.hard(selection, random, draws) &&
        validator.hard_outputs(out, index, log_prob))) {
    return validator.status();
  }
  poison_all({out, index, log_prob});
  return draws == 0 || nothing_to_compute(problem, 1) ? FV_OK : with_intervals(problem, error, hard_attention);
}
