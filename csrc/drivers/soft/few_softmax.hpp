// Soft attention of few queries: what its orders of sums share. How a softmax begins, values that are not finite, and what is
// written. A driver goes over the keys.
#pragma once
#include <algorithm>
#include <limits>

#include "drivers/common/few_queries.hpp"
#include "drivers/common/lse.hpp"

namespace foveate {

template <class T>
class FewSoftmax : protected FewQueries<T> {
 protected:
  using Base = FewQueries<T>;
  using Base::arithmetic_;
  using Base::p_;
  using Base::plan_;

  FewSoftmax(const Plan& plan, int64_t tile, bool narrow_products) noexcept
      : Base(plan, tile, task_groups, narrow_products), value_stride_(this->padded(plan.problem.value_size)) {}

  struct Scratch : Base::QueryScratch {
    Scratch(const FewSoftmax& d, Carver& carver)
        : Base::QueryScratch(d, carver),
          outputs(carver.take<T>(task_rows * d.value_stride_)),
          m(carver.take<T>(task_rows)),
          l(carver.take<T>(task_rows)),
          values(carver.take<T>(d.tile_ * d.p_.value_size)),
          value_list(RowList::of_pages(stored_values(d.p_), d.tile_, carver)) {}
    T *outputs, *m, *l, *values;
    RowList value_list;
  };

  T* output_of(int i, const Scratch& scratch) const { return scratch.outputs + i * query_group * value_stride_; }

  // m and l of a group before the first key. with_sink: these keys are the first.
  void start_softmax(int64_t batch, int i, bool with_sink, const Scratch& scratch) const noexcept {
    const Panel& panel = scratch.panels[i];
    for (int32_t q = 0; q < query_group; ++q) {
      const bool sink = p_.sink && with_sink && q < panel.live;
      scratch.m[i * query_group + q] =
          T(sink ? sink_score_of(plan_, batch, panel.group[q]) : -std::numeric_limits<double>::infinity());
      scratch.l[i * query_group + q] = T(sink ? 1 : 0);
    }
  }
  void reset(int64_t batch, int i, bool with_sink, const Scratch& scratch) const noexcept {
    std::fill_n(output_of(i, scratch), query_group * value_stride_, T(0));
    start_softmax(batch, i, with_sink, scratch);
  }

  // Values that were left out of the sum of some keys, as they are not finite, for the queries that see them. bits: which do,
  // or null for all.
  void add_not_finite(int i, const T* weights, uint32_t* bits, const Rows& stored, int64_t count,
                      const Scratch& scratch) const noexcept {
    const Panel& panel = scratch.panels[i];
    if (!bits) std::fill_n(bits = scratch.bits, count, (uint32_t(1) << panel.live) - 1);
    arithmetic_.add_not_finite(weights, this->width(panel), stored, count, p_.value_size, bits, output_of(i, scratch),
                               1, value_stride_);
  }

  bool all_finite(int i, const Scratch& scratch) const {
    const T* output = output_of(i, scratch);
    T probe = 0;
    for (int64_t d = 0; d < scratch.panels[i].live * value_stride_; ++d) probe += output[d] * T(0);
    return probe == T(0);
  }

  // Divides by l and writes: query q of a panel.
  void write(int64_t batch, const Panel& panel, int32_t q, bool seen, T m, T l, T* output) const noexcept {
    const T factor = seen ? T(1) / l : T(0);
    for (int64_t d = 0; d < p_.value_size; ++d) output[d] *= factor;
    char* const to = row_of(plan_, p_.out, batch, panel, q);
    arithmetic_.store_row(output, p_.value_size, to, dtype_of(p_.out), p_.out.column_stride);
    if (!p_.lse) return;
    write_lse(p_.lse, row_of(plan_, p_.lse, batch, panel, q),
              seen ? lse_of(plan_, double(m), double(l)) : lse_of_nothing(plan_, batch, panel.group[q]));
  }

  const int64_t value_stride_;
};

}  // namespace foveate
