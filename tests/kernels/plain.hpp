// The formula of attention, written plainly: every score, every weight, one after the other; of every kind.
//   exact()  in double, or long double for float64: the truth, as good as makes no difference
//   plain()  in the dtype itself: scores, weights and output rounded to it, sums in float32 (float64): the yardstick
#pragma once
#include <string>
#include <vector>

#include "tensor.hpp"

namespace kernel_tests {

// A family of scores, and what weights are made of.
struct ScoreKind {
  fv_family family;
  fv_weighing weighing = FV_SOFTMAX;
  bool operator==(ScoreKind other) const { return family == other.family && weighing == other.weighing; }
  bool operator!=(ScoreKind other) const { return !(*this == other); }
};
constexpr ScoreKind kDot{FV_INNER}, kTanh{FV_TANH}, kRelu{FV_RELU}, kLeakyRelu{FV_LEAKY_RELU}, kGaussian{FV_DISTANCE},
    kBoxcar{FV_DISTANCE, FV_BOXCAR}, kEpanechnikov{FV_DISTANCE, FV_EPANECHNIKOV},
    kTriangular{FV_DISTANCE, FV_TRIANGULAR}, kBiweight{FV_DISTANCE, FV_BIWEIGHT}, kTriweight{FV_DISTANCE, FV_TRIWEIGHT},
    kTricube{FV_DISTANCE, FV_TRICUBE}, kCosine{FV_DISTANCE, FV_COSINE};
const char* name_of(ScoreKind);

// query (heads, groups, Lq, D), key (heads, 1, Lk, D), value (heads, 1, Lk, Dv): grouped queries.
struct Case {
  fv_dtype dtype = FV_FLOAT32;
  int64_t heads = 1, groups = 1, queries = 1, keys = 1, head_size = 1, value_size = 1;
  double scale = 1.0, softcap = 0.0, slope = 0.0;
  ScoreKind kind = kDot;
  double negligible = 0.0;  // the formula knows nothing of it
  int64_t left = -1, right = -1;
  bool offset_at_end = false, leave_one_out = false;
  double half_width = 0.0, sigma = 0.0;  // with centers
  double dropout = 0.0;                  // the formula knows nothing of it
  int32_t one_order = 0;                 // nor of this
  Tensor query, key, value, factors, sink, mask, offset, key_lengths, query_segments, key_segments, low, high, centers;

  Case(fv_dtype, int64_t heads, int64_t groups, int64_t queries, int64_t keys, int64_t head_size, int64_t value_size,
       uint64_t seed);
  fv_problem problem() const;
  bool sees(int64_t head, int64_t query, int64_t key) const;
  bool compact() const { return kind.weighing != FV_SOFTMAX; }
  std::string shape() const;
};

// Where a query sees no key, 0 and an lse of -inf; where all its weights are 0, NaN and an lse of -inf.
struct Answer {
  std::vector<double> output, lse, weights;
};

Answer exact(const Case&);
Answer plain(const Case&);

}  // namespace kernel_tests
