// Which ISA runs: the best one that this CPU has, unless fv_isa_select chose another.
#pragma once
#include "kernels/table.hpp"

namespace foveate { const Kernels& kernels() noexcept; }  // namespace foveate
