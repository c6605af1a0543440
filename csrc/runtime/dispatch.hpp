// Which ISA runs: the best that this CPU has, unless fv_isa_select says another.
#pragma once
#include "kernels/table.hpp"

namespace foveate { const Kernels& kernels() noexcept; }  // namespace foveate
