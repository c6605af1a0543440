// What a query's softmax comes to, and how numbers are written.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "drivers/common/lse.hpp"

namespace foveate {

// Whether sums over queries are wanted, of some queries.
inline bool wants_sums(const Problem& p) { return p.key_sum && p.first_query < p.end_query; }

// To an element of the accumulator's type.
inline void write_number(const Operand& x, char* to, double value) {
  if (x.dtype == FV_FLOAT64) {
    std::memcpy(to, &value, sizeof value);
  } else {
    const float rounded = float(value);
    std::memcpy(to, &rounded, sizeof rounded);
  }
}

// Of the largest score m of the keys, in units of the scores, the sum l of the weights beside it, and t as soft_entropy has
// it. A sink takes its share of the weights, and is no key.
struct Summary {
  double entropy, largest;  // both NaN where there is no distribution

  Summary(const Plan& plan, double m, double l, double t, int64_t batch, int64_t group) noexcept {
    const double infinity = std::numeric_limits<double>::infinity();
    const double above =  // m, in natural units
        plan.problem.sink ? (sink_score_of(plan, batch, group) - m) * plan.softmax_scale() * ln_2 : -infinity;
    if (above <= 0) {  // weights are beside m
      const double all = l + std::exp(above);
      entropy = (l * std::log(all) - ln_2 * t) / all;
      largest = 1 / all;
    } else {  // beside the sink
      const double r = std::exp(-above), all = r * l + 1;
      entropy = r > 0 ? r * (l * (above + std::log(all)) - ln_2 * t) / all : 0 * l;
      largest = r / all;
    }
    if (!(std::isfinite(entropy) && std::isfinite(largest)))
      entropy = largest = std::numeric_limits<double>::quiet_NaN();
  }
  bool valid() const { return entropy == entropy; }
};

// Writes it for a query, of which at(x) is the element of an operand, and the place, which a valid one has.
template <class At>
void write_summary(const Problem& p, const Summary& summary, bool seen, int64_t place, At&& at) {
  if (p.entropy) write_number(p.entropy, at(p.entropy), seen ? summary.entropy : 0);
  if (p.largest) write_number(p.largest, at(p.largest), seen ? summary.largest : 0);
  if (!p.place) return;
  if (!seen || !summary.valid()) place = -1;
  std::memcpy(at(p.place), &place, sizeof place);
}

fv_status statistics_of_one(const Problem&, fv_error*) noexcept;  // one_query.cpp

}  // namespace foveate
