// Distances: keys too far away to matter are left out, tile by tile, by the boxes round tiles and panels.
#pragma once
#include "drivers/common/plan.hpp"

namespace foveate {

// Whether it may leave out anything.
bool skips_far_keys(const Plan&) noexcept;
fv_status attention_to_near_keys(Plan&, fv_error*) noexcept;

}  // namespace foveate
