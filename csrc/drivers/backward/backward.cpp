// The gradients of attention, soft and hard, from its answers alone: tiles of weights are computed again. run.hpp holds
// the memory and the order of the tasks; backward.hpp says how the work is cut up, worker.hpp what a task does.
#include "drivers/edges/along_edges.hpp"
#include "drivers/neighborhood/as_intervals.hpp"
#include "drivers/neighborhood/neighborhood.hpp"
#include "run.hpp"

namespace foveate {

namespace {

// An array like the output, in one piece, of the accumulator's type.
Operand like_out(const Problem& p, char* data) {
  Operand made = p.out;
  made.data = data;
  made.dtype = p.query.dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32;
  made.column_stride = size_of(made.dtype);
  made.row_stride = made.column_stride * p.value_size;
  int64_t stride = made.row_stride * p.queries;
  for (int axis = p.lead_ndim - 1; axis >= 0; --axis) {
    made.lead[axis] = stride;
    stride *= std::max<int64_t>(p.lead_shape[axis], 1);
  }
  return made;
}

fv_status backward_of(const Problem& problem, fv_error* error) noexcept {
  // 16-bit operands are widened tile by tile, but where all five products are of bfloat16
  const bool pairs = !problem.advantage && problem.d_out.dtype == FV_BFLOAT16;
  Plan plan(problem, kernels(), {.whole_weights = !pairs, .windows = Windows::on_grid});
  if (plan.batches == 0 || plan.rows == 0) {
    clear_all(plan);
    return FV_OK;
  }
  return plan.arithmetic.element_size == 8 ? run_backward<double, BackwardWorker>(plan, false, error)
                                           : run_backward<float, BackwardWorker>(plan, false, error);
}

}  // namespace

fv_status attention_backward(const Problem& problem, fv_error* error) noexcept {
  if (backward_by_stencil(problem)) return neighborhood_attention_backward(problem, error);
  if (problem.neighbor_axes > 0) return with_intervals(problem, error, attention_backward);
  if (problem.edge_begins) return gradients_along_edges(problem, error);
  if (!has_threshold(problem.weighing)) return backward_of(problem, error);
  // what is taken off the gradients of the weights comes of another mean of the values than the output
  double bytes =
      double(size_of(like_out(problem, nullptr).dtype)) * double(problem.queries) * double(problem.value_size);
  for (int axis = 0; axis < problem.lead_ndim; ++axis) bytes *= double(problem.lead_shape[axis]);
  const Workspace workspace{size_t(bytes)};
  if (!workspace.data()) return no_memory(error, bytes);
  Problem mean = problem, with_mean = problem;
  with_mean.out = mean.out = like_out(problem, workspace.data());
  mean.d_out = {};
  if (const fv_status status = mean_by_slopes(mean, error)) return status;
  return backward_of(with_mean, error);
}

}  // namespace foveate
