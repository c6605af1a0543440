// The gradients of attention, soft and hard, from its answers alone: tiles of weights are computed again. run.hpp holds
// the memory and the order of the tasks; backward.hpp says how the work is cut up, worker.hpp what a task does.
#include "drivers/edges/along_edges.hpp"
#include "run.hpp"

namespace foveate {

fv_status attention_backward(const Problem& problem, fv_error* error) noexcept {
  if (problem.edge_begins) return gradients_along_edges(problem, error);
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

}  // namespace foveate
