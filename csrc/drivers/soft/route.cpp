// Which driver serves a problem of soft attention.
#include "drivers/drivers.hpp"
#include "drivers/edges/along_edges.hpp"
#include "drivers/neighborhood/as_intervals.hpp"
#include "drivers/neighborhood/neighborhood.hpp"
#include "few_queries.hpp"
#include "normalized.hpp"
#include "prune_by_distance.hpp"
#include "tiled.hpp"

namespace foveate {

fv_status attention(const Problem& problem, fv_error* error) noexcept {
  if (by_stencil(problem)) return neighborhood_attention(problem, error);
  if (problem.neighbor_axes > 0) return with_intervals(problem, error, attention);
  if (problem.edge_begins) return attention_along_edges(problem, error);
  const bool dropout = problem.dropout > 0;
  const bool few = problem.queries <= query_group && !problem.centers && !dropout && problem.moments == 0;
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
