// A neighborhood for drivers that know intervals alone: those of each query, one after the other along the last axis.
#pragma once
#include "drivers/common/problem.hpp"

namespace foveate {

// run(problem, error) with intervals in place of the neighborhood, if there is one.
fv_status with_intervals(const Problem&, fv_error*, fv_status (*run)(const Problem&, fv_error*) noexcept) noexcept;

}  // namespace foveate
