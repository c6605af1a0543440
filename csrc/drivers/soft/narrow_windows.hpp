// Narrow windows, of a window or of centres: every panel's keys are one tile of its own, without an online softmax over
// tiles that straddle it. A query's answer is one chain over its own keys, in whole steps of an absolute position; keys
// that it does not see add zeros, so that the bits do not tell which queries share its panel.
#pragma once
#include "drivers/common/plan.hpp"

namespace foveate {

fv_status attention_in_windows(Plan&, fv_error*) noexcept;  // plan.span > 0

}  // namespace foveate
