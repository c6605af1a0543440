// One call of fv_attention, its outputs made for it.
#pragma once
#include "plain.hpp"

namespace kernel_tests {

struct Result {
  Tensor output, lse;
  fv_status status;
};

// threads: as fv_set_num_threads takes it, for this call. What is refused is printed.
Result run(const Case&, int32_t threads = 0);

// Both were done, and gave the same bits.
bool same(const Result&, const Result&);

}  // namespace kernel_tests
