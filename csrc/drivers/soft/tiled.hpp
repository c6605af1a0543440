// Soft attention: for every block of queries, one pass over the tiles of keys that it sees, an online softmax (or the
// weights of a compact kernel), and the weighted sum of the values. Scratch is a block's queries and outputs and one
// tile, for each thread.
#pragma once
#include <algorithm>
#include <cstring>

#include "drivers/common/dropout.hpp"
#include "drivers/common/lse.hpp"
#include "drivers/common/query_block.hpp"
#include "thresholds.hpp"

namespace foveate {

template <class T>
class Forward {
 public:
  Forward(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan), block_(plan, blocks, carver), dropout_(plan, carver), width_(blocks.width) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    outputs_ = carver.take<T>(queries * plan.problem.value_size);
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    exact_ = carver.take<T>(with_exact() ? queries : 0);
    alpha_ = carver.take<T>(width_);
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    while (block_.next_panels()) {
      const int count = block_.panels();
      pass(0, count, false);
      if (block_.stopped()) return;
      for (int p = 0; p < count; ++p) {
        if (finish(p) || !block_.panel(p).hidden) continue;
        // inf or NaN: perhaps of a value that is not seen, times its weight of 0; again, leaving such values out
        pass(p, p + 1, true);
        finish(p);
      }
    }
  }

 protected:
  // The open tile, for a panel: scores, weights, and their sum of the values. exact: values that are not finite are
  // left out of the sum, and added for the queries that see them.
  void add_tile(int p, bool exact) noexcept {
    const int64_t value_size = plan_.problem.value_size;
    const KeyRange range = block_.score(p, exact);
    if (range.empty()) return;
    const int32_t vectors = block_.vectors(p);
    const int64_t count = range.count();
    const bool careful = exact && range.hidden;
    const LoadedRows values = block_.values(range.begin, careful);
    select(p, range, values);
    if (plan_.problem.moments > 0)
      plan_.arithmetic.moments(block_.scores(), vectors, block_.packed(p), block_.keys(range.begin), values, count,
                               plan_.problem.head_size, plan_.problem.moments, alpha_, output(p), block_.partial());
    else
      plan_.arithmetic.weighted_sum(block_.scores(), vectors, values, count, value_size, alpha_, output(p),
                                    block_.partial(), block_.values_ahead(p));
    if (!careful) return;
    const int32_t width = vectors * plan_.arithmetic.lanes;
    plan_.arithmetic.add_not_finite(block_.scores(), width, block_.value_rows(range.begin), count, value_size,
                                    range.bits, output(p), width, 1);
  }

  T* output(int p) { return outputs_ + int64_t(p) * width_ * plan_.problem.value_size; }

  const T* m(int p) const { return m_ + p * width_; }
  const T* l(int p) const { return l_ + p * width_; }

  void reset(int p) noexcept {
    std::fill_n(output(p), block_.vectors(p) * plan_.arithmetic.lanes * plan_.problem.value_size, T(0));
    block_.start_softmax(p, m_ + p * width_, l_ + p * width_);
    if (with_exact()) std::copy_n(l_ + p * width_, width_, exact_ + p * width_);
  }

  // Whether lse needs a sum of its own: of weights that are not rounded.
  bool with_exact() const { return plan_.arithmetic.pairs && (plan_.problem.lse || plan_.problem.t_lse); }

  void pass(int first, int last, bool exact) noexcept {
    for (int p = first; p < last; ++p) reset(p);
    for (Traversal tiles = block_.tiles(first, last); block_.open(tiles); tiles.next())
      for (int p = first; p < last; ++p) add_tile(p, exact);
  }

  // The scores of a panel become its weights.
  void select(int p, const KeyRange& range, const LoadedRows& values) noexcept {
    const int64_t count = range.count();
    Gaussian gaussian;
    if (plan_.problem.sigma > 0) gaussian = block_.gaussian(p, range);
    T *m = m_ + p * width_, *l = l_ + p * width_;
    if (!plan_.compact) {
      plan_.arithmetic.soft(block_.scores(), block_.vectors(p), count, block_.softmax_scale(), block_.row_max(), m, l,
                            with_exact() ? exact_ + p * width_ : nullptr, alpha_,
                            plan_.problem.sigma > 0 ? &gaussian : nullptr, block_.values_next(values, count));
      if (dropout_.any()) drop(p, range);
      return;
    }
    plan_.arithmetic.compact(block_.scores(), block_.vectors(p), count, plan_.profile, l);
    if (plan_.problem.sigma > 0)
      plan_.arithmetic.multiply_gaussian(block_.scores(), block_.vectors(p), count, gaussian);
    std::fill_n(m, width_, T(0));
    std::fill_n(alpha_, width_, T(1));
  }

  void drop(int p, const KeyRange& range) noexcept {
    const int64_t count = range.count();
    const uint32_t* const kept = dropout_.kept(block_.panel(p), block_.batch(), block_.key_of(range), count);
    plan_.arithmetic.clear_unset(block_.scores(), block_.vectors(p), count, kept);
  }

  // Divides by l and writes; whether the outputs are all finite.
  bool finish(int p) noexcept {
    const T *m = m_ + p * width_, *l = l_ + p * width_, factor = T(dropout_.factor());
    const T* const exact = with_exact() ? exact_ + p * width_ : l;
    return write(
        p, [&](int i) { return factor / l[i]; }, [&](int i) { return lse_of(plan_, double(m[i]), double(exact[i])); });
  }

  // Writes the outputs times a factor, and the lse, of the queries that see something; whether the outputs are all finite.
  template <class FactorOf, class LseOf>
  bool write(int p, FactorOf&& factor_of, LseOf&& lse_of_seen, bool with_lse = true) noexcept {
    const Problem& problem = plan_.problem;
    const Panel& panel = block_.panel(p);
    char* const out = block_.base(problem.out);
    char* const lses = with_lse && problem.lse ? block_.base(problem.lse) : nullptr;
    char* rows[most_lanes];
    for (int i = 0; i < panel.live; ++i) {
      const bool seen = panel.seen >> i & 1;
      alpha_[i] = seen ? factor_of(i) : T(0);
      rows[i] = block_.row(problem.out, out, p, i);
      if (lses) {
        write_lse(problem.lse, block_.row(problem.lse, lses, p, i),
                  seen ? lse_of_seen(i) : lse_of_nothing(plan_, block_.batch(), panel.group[i]));
      }
    }
    for (int i = panel.live; i < width_; ++i) alpha_[i] = T(0);
    return plan_.arithmetic.store_rows(output(p), block_.vectors(p), problem.value_size, alpha_, panel.live,
                                       block_.scratch(), rows, dtype_of(problem.out), problem.out.column_stride);
  }

  const Plan& plan_;
  QueryBlock block_;
  Dropout dropout_;
  int64_t width_;
  T *outputs_, *m_, *l_, *exact_, *alpha_;
};

// Runs Worker<T>, a Forward or one that does its own passes, over a plan.
template <template <class> class Worker, class... With>
fv_status run_forward(Plan& plan, fv_error* error, const With&... with) noexcept {
  const Problem& p = plan.problem;
  const double cells = double(plan.batches) * double(plan.rows) * double(plan.widest_window);
  const double flops = 2.0 * cells * double(p.head_size + p.value_size);
  const int64_t bytes =
      plan.scoring.panel_size(p.head_size) + p.value_size * plan.arithmetic.element_size + kept_for_threshold(plan);
  return plan.arithmetic.element_size == 8 ? run_blocks<double, Worker>(plan, bytes, flops, error, with...)
                                           : run_blocks<float, Worker>(plan, bytes, flops, error, with...);
}

}  // namespace foveate
