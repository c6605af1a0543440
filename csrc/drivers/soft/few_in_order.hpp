// Up to query_group queries whose sums run in the order of panels.
#pragma once
#include "drivers/common/plan.hpp"

namespace foveate {

bool takes_few_in_order(const Plan&) noexcept;
fv_status decode_in_order(const Problem&, fv_error*) noexcept;

}  // namespace foveate
