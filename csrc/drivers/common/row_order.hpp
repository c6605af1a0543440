// The order of a batch's rows on the key axis: neighbors on the lanes of a panel then see nearly the same
// keys, whatever the centers, and a pass over all panels costs one pass over the keys and a window for each query.
#pragma once
#include "plan.hpp"

namespace foveate {

// Bytes of the room to find it, for one thread.
size_t order_scratch(const Plan&) noexcept;

// Finds the order of every batch's rows, those that stand at one key in the order that they come in. scratch: of each
// thread. False: the interrupt check said stop.
bool order_rows(const Plan&, int threads, int64_t* order, char* scratch) noexcept;

}  // namespace foveate
