// Weights that are a function of a score and a threshold of its query, and not a share of a sum of exponentials:
//   x = scale (s - m) - t, in base 2,   P = f(x),   l' = l + sum_j P_j
// m is a score near all that weigh, or 0, so that the difference comes before the scale. A function is a policy: `weight`;
// `grown`, the weight and what it grows by with a score in natural units; `sums`, what finds a threshold (drivers/soft).
// A cell that is not seen (-inf) weighs 0, whatever the threshold. NaN stays NaN.
// Backward, with dP the gradients of the weights and g what they grow by:
//   dS_j = g_j (dP_j - shift),   shift = 0, or with a threshold sum_j g_j dP_j / sum_j g_j
// Sums run over the tile's keys in four chains from 0, as those of the softmax do.
#pragma once
#include "../math.hpp"
#include "../table.hpp"
#include "cells.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr double ln_2 = 0.693147180559945309417;

template <class T>
struct Grown {
  Vec<T> weight, slope;
};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
