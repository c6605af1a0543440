// The gradients of attention by the formula, written plainly: every cell of weights, one after the other; of every kind.
// With P the weights of the softmax, F the factor after it (a Gaussian, dropout), dP = dO V^T, dlse the gradient of lse:
//   soft   dS = P (F dP - sum P F dP + dlse),   dV = (P F)^T dO
//   hard   dS = sum_s advantage_s ([the key is the s-th choice] - P),   dV: the sum of dO_s of the chosen values
// and by the chain rule to all that the logits are made of.
#pragma once
#include <cfloat>
#include <vector>

#include "plain.hpp"

namespace kernel_tests {

// What the gradients are pulled back from, and the choices of hard attention.
struct Pulled {
  int64_t draws = 0;  // 0: soft attention
  Tensor d_output;    // (heads, groups, Lq, Dv); of hard attention (heads, groups, Lq, draws, Dv)
  Tensor d_lse;       // (heads, groups, Lq), of soft attention; optional
  Tensor index;       // (heads, groups, Lq, draws)
  Tensor advantage;   // likewise
  Tensor kept;        // (heads, groups, Lq, Lk), of dropout: not 0 where a weight stays
};

enum Part { of_query, of_key, of_value, of_mask, of_sink, of_factors, of_centers, of_sigma, part_count };
const char* name_of(Part);
bool has(const Case&, const Pulled&, Part);
Shape shape_of(const Case&, Part);

// size: how large the sums of an element are before terms cancel: of absolute values. An error of a logit, or of lse, is a
// relative one of its weight, so every weight counts 1 + the sizes of these times.
struct Gradients {
  std::vector<double> value[part_count], size[part_count];
};

// exact: in double, or long double for float64. plain: in float32, or double for float64; nothing is rounded to 16 bits.
struct Differentiated {
  Gradients exact, plain;
};
Differentiated differentiate(const Case&, const Pulled&);

constexpr bool long_double_in_hardware = LDBL_MANT_DIG <= 64;
// Whether long double pays. Where not, the formula of float64 is in double, both times.
bool is_long_double_cheap(const Case&);

}  // namespace kernel_tests
