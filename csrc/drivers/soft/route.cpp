// Which driver serves a problem of soft attention.
#include "tiled.hpp"

#include "drivers/drivers.hpp"
#include "drivers/edges/along_edges.hpp"
#include "few_queries.hpp"
#include "prune_by_distance.hpp"

namespace foveate {

fv_status attention(const Problem& problem, fv_error* error) noexcept {
  if (problem.edge_begins) return attention_along_edges(problem, error);
  const bool dropout = problem.dropout > 0;
  const bool few = problem.queries <= query_group && !problem.centers && !dropout;
  if (few && problem.weighing == FV_SOFTMAX && !(problem.negligible > 0)) return decode(problem, error);
  Plan plan(problem, kernels());
  if (!dropout && skips_far_keys(plan)) return attention_to_near_keys(plan, error);
  return run_forward<Forward>(plan, error);
}

}  // namespace foveate
