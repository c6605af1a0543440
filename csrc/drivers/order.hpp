// The order of a batch's rows on the key axis: neighbours on the lanes of a panel then see nearly the same
// keys, whatever the centres, and a pass over all panels costs one pass over the keys and a window for each query.
#pragma once
#include "plan.hpp"

namespace foveate {

// Bytes that order_rows needs beside its result, for one thread.
int64_t order_scratch(const Plan&);

// The rows of one batch, those that stand at one key in the order that they come in: order[i] is the i-th.
void order_rows(const Plan&, int64_t batch, void* scratch, int64_t* order) noexcept;

}  // namespace foveate
