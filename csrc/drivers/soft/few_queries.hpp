// Few queries against many keys: up to query_group of them, of Lq alone, so that grouping heads changes no bits.
#pragma once
#include "drivers/common/problem.hpp"

namespace foveate { fv_status decode(const Problem&, fv_error*) noexcept; }  // namespace foveate
