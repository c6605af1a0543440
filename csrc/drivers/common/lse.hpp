// The logarithm of a softmax's denominator, and the sink that is a part of it: how they are held, written and read again.
#pragma once
#include "plan.hpp"

namespace foveate {

// The sink of a leading index, or -inf: in natural units, and in those of the scores of a softmax, of which a finite one
// stays finite as a bias does.
double sink_of(const Plan&, int64_t batch, int64_t group) noexcept;
double sink_score_of(const Plan&, int64_t batch, int64_t group) noexcept;

// The logarithm of a softmax's denominator, natural; and what it is made of, the largest score as the kernels hold it and
// the logarithm of the sum of the weights beside that. Where scores are huge, lse alone has no digits left for the sum.
struct Lse {
  double lse, high, low;
};
// Of the largest score m and the sum l; of a query that sees nothing: the sink, or -inf.
Lse lse_of(const Plan&, double m, double l) noexcept;
Lse lse_of_nothing(const Plan&, int64_t batch, int64_t group) noexcept;

// An element of lse: float32, float64, or all three numbers of float64. Of one number, or beside a high part of NaN, the parts
// are made.
void write_lse(const Operand& lse, char* at, const Lse&) noexcept;
Lse read_lse(const Plan&, const char* at) noexcept;

}  // namespace foveate
