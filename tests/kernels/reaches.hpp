// Variants of a case: every part of a reach, what happens to a logit, and layouts.
#pragma once
#include <functional>
#include <vector>

#include "plain.hpp"

namespace kernel_tests {

struct Variant {
  const char* name;
  std::function<void(Case&)> apply;
  bool of_logits = false;  // not for compact kernels
};

const std::vector<Variant>& variants();

// The n-th of them, round and round, or the next that goes with the case; a scale that does.
void apply_in_turn(Case&, size_t n);

}  // namespace kernel_tests
