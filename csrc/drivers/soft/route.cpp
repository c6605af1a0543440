// Which driver serves a problem of soft attention.
#include "drivers/drivers.hpp"
#include "drivers/edges/along_edges.hpp"
#include "drivers/neighborhood/as_intervals.hpp"
#include "drivers/neighborhood/neighborhood.hpp"
#include "few_in_order.hpp"
#include "few_queries.hpp"
#include "normalized.hpp"
#include "prune_by_distance.hpp"
#include "tiled.hpp"

namespace foveate {

namespace {

// Tiles of the grid, whatever the call: lanes do not see each other, and a key that a query does not see adds zeros.
fv_status in_one_order(const Problem& problem, bool few, fv_error* error) noexcept {
  Plan plan(problem, kernels(), {.windows = has_threshold(problem.weighing) ? Windows::shared : Windows::on_grid});
  if (plan.normalizer != Normalizer::none) return run_forward<Normalized>(plan, error);
  if (few && !plan.compact && takes_few_in_order(plan)) return decode_in_order(problem, error);
  return run_forward<Forward>(plan, error);
}

}  // namespace

fv_status attention(const Problem& problem, fv_error* error) noexcept {
  if (!problem.one_order && by_stencil(problem)) return neighborhood_attention(problem, error);
  if (problem.neighbor_axes > 0) return with_intervals(problem, error, attention);
  if (problem.edge_begins) return attention_along_edges(problem, error);
  const bool dropout = problem.dropout > 0;
  const bool few = problem.queries <= query_group && !problem.centers && !dropout && problem.moments == 0;
  if (problem.one_order) return in_one_order(problem, few, error);
  if (few && problem.weighing == FV_SOFTMAX && !(problem.negligible > 0)) return decode(problem, error);
  if (has_threshold(problem.weighing)) {
    Plan plan(problem, kernels(), {.windows = Windows::shared});
    return run_forward<Normalized>(plan, error);
  }
  Plan plan(problem, kernels());
  if (plan.normalizer != Normalizer::none) return run_forward<Normalized>(plan, error);
  if (!dropout && skips_far_keys(plan)) return attention_to_near_keys(plan, error);
  return run_forward<Forward>(plan, error);
}

fv_status mean_by_slopes(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels());
  return run_forward<Normalized>(plan, error, true);
}

}  // namespace foveate
