// Which ISA runs: the best one that this CPU has, unless fv_isa_select chose another.
#pragma once
#include "foveate/foveate.h"
#include "kernels/table.hpp"

namespace foveate {

// Not to be called where check_cpu refuses.
const Kernels& kernels() noexcept;

// Refuses a CPU that runs none of the instruction sets that were compiled.
fv_status check_cpu(fv_error*) noexcept;

}  // namespace foveate
