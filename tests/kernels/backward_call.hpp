// Calls of the backward pass: what it takes, made for a case, and its outputs.
#pragma once
#include "plain_backward.hpp"

namespace kernel_tests {

// Random gradients, and for draws > 0 the choices of hard attention, drawn by the ISA in use, some of them replaced by -1.
Pulled pulled_for(const Case&, int64_t draws, uint64_t seed);

// What the forward pass gives on the ISA in use; output of dtype `stored`, and lse of its own or float64.
struct Forward {
  Tensor output, lse;
  fv_status status;
};
Forward forward(const Case&, fv_dtype stored, bool wide_lse = false);

constexpr unsigned every_part = (1u << part_count) - 1;

struct Pullback {
  Tensor part[part_count];  // of those that were wanted and that the case has
  fv_status status;
};

// Empty gradients, full of NaN (the mask's of zeros); those of query, key and value of dtype `stored`.
Pullback empty_parts(const Case&, const Pulled&, fv_dtype stored, unsigned wanted = every_part);
fv_gradients views_of(const Pullback&);

// threads: as fv_set_num_threads takes it, for this call. What is refused is printed.
fv_status pull_back(const fv_problem&, const Forward&, const Pulled&, const fv_gradients&, int32_t threads = 0);
Pullback pull_back(const Case&, const Forward&, const Pulled&, fv_dtype stored, unsigned wanted = every_part,
                   int32_t threads = 0);

// Both were done, and the parts that both have are the same, bit for bit.
bool same(const Pullback&, const Pullback&);

}  // namespace kernel_tests
