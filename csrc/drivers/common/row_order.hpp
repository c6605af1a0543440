// The order of a batch's rows on the key axis: neighbours on the lanes of a panel then see nearly the same
// keys, whatever the centres, and a pass over all panels costs one pass over the keys and a window for each query.
#pragma once
#include "plan.hpp"

namespace foveate {

// Bytes of the order of all rows, and of the room to find it, for one thread. 0 where rows come as they stand.
size_t order_size(const Plan&) noexcept;
size_t order_scratch(const Plan&) noexcept;

// Finds the order of every batch's rows, those that stand at one key in the order that they come in; the plan has it
// then. scratch: of each thread. False: the interrupt check said stop.
bool order_all(Plan&, int threads, char* order, char* scratch) noexcept;

}  // namespace foveate
