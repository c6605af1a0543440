// What the C ABI calls: attention over a validated problem.
#pragma once
#include "drivers/common/problem.hpp"

namespace foveate {

fv_status attention(const Problem&, fv_error*) noexcept;  // soft/route.cpp
// The mean of the values by what weights with a threshold, in the lse, grow by with a score: soft/route.cpp.
fv_status mean_by_slopes(const Problem&, fv_error*) noexcept;
fv_status attention_tangent(const Problem&, fv_error*) noexcept;           // tangent/forward.cpp
fv_status attention_weights(const Problem&, fv_error*) noexcept;           // soft/weights.cpp
fv_status attention_statistics(const Problem&, fv_error*) noexcept;        // statistics/statistics.cpp
fv_status attention_backward(const Problem&, fv_error*) noexcept;          // backward/backward.cpp
fv_status attention_backward_tangent(const Problem&, fv_error*) noexcept;  // tangent/backward.cpp
fv_status hard_attention(const Problem&, fv_error*) noexcept;              // hard/tiled.cpp, the choice too

}  // namespace foveate
