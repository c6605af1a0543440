// The flat index over the leading axes of a problem, the last one fastest: what random numbers are counted by, so that the
// draws of a leading index do not depend on how the plan divides the axes into batches and groups.
#pragma once
#include "plan.hpp"

namespace foveate {

class LeadingIndex {
 public:
  explicit LeadingIndex(const Plan& plan) noexcept : plan_(plan) {
    int64_t step = 1;  // as if it were an offset
    for (int axis = plan.problem.lead_ndim - 1; axis >= 0; --axis) {
      flat_.lead[axis] = step;
      step *= plan.problem.lead_shape[axis];
    }
  }
  int64_t of(int64_t batch, int64_t group) const {
    return plan_.problem.first_lead + plan_.batch_offset(flat_, batch) +
           (plan_.groups > 1 ? plan_.group_offset(flat_, group) : 0);
  }

 private:
  const Plan& plan_;
  Operand flat_;
};

}  // namespace foveate
