// Numbers for every kind of score but the inner product: of a magnitude for each way through the additive family (a
// polynomial, shared divisions, tanh of the sum), and distances near, far, and on a grid.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "plain.hpp"

namespace kernel_tests {

struct Numbers {
  ScoreKind kind;
  std::string name;
  std::function<void(Case&, uint64_t seed)> fill;  // query, key, weights and scale
  double formulas = 2;                             // as compare() takes it
};

std::vector<Numbers> additive_numbers();
std::vector<Numbers> distance_numbers();

// Of the additive family: queries about center, keys about -0.99 center.
std::function<void(Case&, uint64_t seed)> about(double center, double spread);

}  // namespace kernel_tests
