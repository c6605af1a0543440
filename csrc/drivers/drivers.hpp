// What the C ABI calls: attention over a validated problem.
#pragma once
#include "../problem.hpp"

namespace foveate {

fv_status attention(const Problem&, fv_error*) noexcept;           // forward.cpp, or decode.cpp for few queries
fv_status attention_weights(const Problem&, fv_error*) noexcept;   // weights.cpp
fv_status attention_backward(const Problem&, fv_error*) noexcept;  // backward.cpp
fv_status hard_attention(const Problem&, fv_error*) noexcept;      // hard.cpp

}  // namespace foveate
