// The attention weights themselves: one pass for the softmax's maximum and sum, a second that writes 2^(x - m) / l.
#include <algorithm>

#include "drivers/common/query_block.hpp"
#include "drivers/drivers.hpp"

namespace foveate {
namespace {

template <class T>
class Weights {
 public:
  Weights(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan), block_(plan, blocks, carver), width_(blocks.width) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    alpha_ = carver.take<T>(width_);
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    while (block_.next_panels() && !block_.stopped()) weigh();
  }

 private:
  void weigh() noexcept {
    const int count = block_.panels();
    for (int p = 0; p < count; ++p) block_.start_softmax(p, m_ + p * width_, l_ + p * width_);
    for (Traversal tiles = block_.tiles(0, count); block_.open(tiles); tiles.next())
      for (int p = 0; p < count; ++p) {
        const KeyRange range = block_.score(p, false);
        if (!range.empty())
          plan_.arithmetic.soft(block_.scores(), block_.vectors(p), range.count(), block_.softmax_scale(),
                                block_.row_max(), m_ + p * width_, l_ + p * width_, nullptr, alpha_, nullptr,
                                Prefetch{});
      }
    if (block_.stopped()) return;
    for (int p = 0; p < count; ++p)
      for (int i = 0; i < width_; ++i) {
        T& l = l_[p * width_ + i];
        l = block_.panel(p).seen >> i & 1 ? T(1) / l : T(0);
      }
    const int64_t keys = plan_.problem.keys;
    Traversal seen = block_.tiles(0, count);
    for (Traversal all = Traversal::grid({0, keys}, plan_.tile_keys, keys); !all.done(); all.next()) {
      const KeyTile tile = all.tile();
      const bool any = !seen.done() && seen.tile().first == tile.first;
      if (!any && asked_to_stop(double(count) * double(width_) * double(tile.count))) return;  // zeros alone
      if (any) {
        block_.open(seen);
        seen.next();
      }
      for (int p = 0; p < count; ++p) write(p, tile, any ? block_.score(p, false) : KeyRange{});
      if (block_.stopped()) return;
    }
  }

  // A tile's columns of the panel's rows: zeros around the range that was looked at.
  void write(int p, KeyTile tile, const KeyRange& range) noexcept {
    const Problem& problem = plan_.problem;
    const Panel& panel = block_.panel(p);
    const int64_t step = problem.out.column_stride;
    const int64_t begin = range.empty() ? 0 : range.begin, end = range.empty() ? 0 : range.end;
    char* const out = block_.base(problem.out);
    char* rows[most_lanes];
    for (int i = 0; i < panel.live; ++i) {
      rows[i] = block_.row(problem.out, out, p, i) + tile.first * step;
      zero(rows[i], begin);
      zero(rows[i] + end * step, tile.count - end);
      rows[i] += begin * step;
    }
    if (range.empty()) return;
    plan_.arithmetic.weigh(block_.scores(), block_.vectors(p), end - begin, block_.softmax_scale(), m_ + p * width_,
                           l_ + p * width_);
    if (problem.sigma > 0) {
      const Gaussian gaussian = block_.gaussian(p, range);
      plan_.arithmetic.multiply_gaussian(block_.scores(), block_.vectors(p), end - begin, gaussian);
    }
    std::fill_n(alpha_, width_, T(1));
    plan_.arithmetic.store_rows(block_.scores(), block_.vectors(p), end - begin, alpha_, panel.live, block_.scratch(),
                                rows, dtype_of(problem.out), step);
  }

  void zero(char* to, int64_t count) const {
    const Dtype dtype = dtype_of(plan_.problem.out);
    const int64_t item = size_of(dtype);
    for (int64_t j = 0; j < count; ++j) std::fill_n(to + j * plan_.problem.out.column_stride, item, char(0));
  }

  const Plan& plan_;
  QueryBlock block_;
  int64_t width_;
  T *m_, *l_, *alpha_;
};

}  // namespace

fv_status attention_weights(const Problem& problem, fv_error* error) noexcept {
  // pairs would round the weights before they are divided
  Plan plan(problem, kernels(), {.whole_weights = true, .windows = Windows::shared});
  const double flops =
      4.0 * double(plan.batches) * double(plan.rows) * double(problem.keys) * double(problem.head_size);
  const int64_t bytes = plan.scoring.panel_size(problem.head_size);
  return plan.arithmetic.element_size == 8 ? run_blocks<double, Weights>(plan, bytes, flops, error)
                                           : run_blocks<float, Weights>(plan, bytes, flops, error);
}

}  // namespace foveate
