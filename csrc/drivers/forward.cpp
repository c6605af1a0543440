// Which driver serves a problem of soft attention.
#include "forward.hpp"

#include "decode.hpp"
#include "drivers.hpp"
#include "near.hpp"

namespace foveate {

fv_status attention(const Problem& problem, fv_error* error) noexcept {
  const bool compact = is_compact(problem.kind);
  if (problem.queries <= decode_queries && !compact && !(problem.negligible > 0)) return decode(problem, error);
  Plan plan(problem, kernels());
  if (skips_far_keys(plan)) return attention_to_near_keys(plan, error);
  return run_forward<Forward>(plan, error);
}

}  // namespace foveate
