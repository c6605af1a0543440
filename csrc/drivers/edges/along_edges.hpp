// Problems whose reach has the edges of a graph.
#pragma once
#include "drivers/common/problem.hpp"

namespace foveate {

fv_status attention_along_edges(const Problem&, fv_error*) noexcept;   // forward.cpp
fv_status weights_along_edges(const Problem&, fv_error*) noexcept;     // forward.cpp
fv_status choices_along_edges(const Problem&, fv_error*) noexcept;     // forward.cpp
fv_status gradients_along_edges(const Problem&, fv_error*) noexcept;   // backward.cpp
fv_status statistics_along_edges(const Problem&, fv_error*) noexcept;  // statistics.cpp

}  // namespace foveate
