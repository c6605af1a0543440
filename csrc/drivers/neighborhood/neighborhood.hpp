// Neighborhood attention by stencils: what route.cpp and the backward pass hand over.
#pragma once
#include "drivers/common/plan.hpp"

namespace foveate {

// Whether there is a neighborhood that stencils serve: nothing else says what is seen, and scores are products.
bool by_stencil(const Problem&) noexcept;
bool backward_by_stencil(const Problem&) noexcept;

fv_status neighborhood_attention(const Problem&, fv_error*) noexcept;           // forward.cpp
fv_status neighborhood_attention_backward(const Problem&, fv_error*) noexcept;  // backward.cpp

}  // namespace foveate
