// The attention weights themselves: one pass for the softmax's maximum and sum, a second that writes 2^(x - m) / l. The
// scores of the first are kept for the second where a few panels of them stay in a cache; else they are made again. Of the
// weights that are no softmax's, thresholds are found first, where there are any, and the second pass is the only one.
#include <algorithm>
#include <cstring>

#include "drivers/common/query_block.hpp"
#include "drivers/drivers.hpp"
#include "drivers/edges/along_edges.hpp"
#include "thresholds.hpp"

namespace foveate {
namespace {

// Of a panel; read back from a cache of this size they cost a third of what they cost to make, for heads of 64.
constexpr int64_t most_kept_bytes = 512 << 10;

// The bytes of scores that are kept for each query, or 0. A factor for what a query is near needs its tile open.
int64_t kept_bytes_a_query(const Plan& plan) {
  const int64_t bytes =
      (plan.problem.keys + plan.tile_keys - 1) / plan.tile_keys * plan.tile_keys * plan.arithmetic.element_size;
  const int64_t width = int64_t(plan.arithmetic.lanes) * plan.arithmetic.max_vectors;
  return plan.problem.sigma > 0 || plan.normalizer != Normalizer::none || bytes > most_kept_bytes / width ? 0 : bytes;
}

template <class T>
class Weights {
 public:
  Weights(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan),
        block_(plan, blocks, carver),
        width_(blocks.width),
        keeps_(kept_bytes_a_query(plan) > 0),
        thresholds_(plan, blocks, block_, true, carver) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    alpha_ = carver.take<T>(width_);
    tiles_ = keeps_ ? (plan.problem.keys + plan.tile_keys - 1) / plan.tile_keys : 0;
    kept_ = carver.take<T>(queries * tiles_ * plan.tile_keys);
    kept_ranges_ = carver.take<KeyRange>(blocks.panels * tiles_);
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    while (block_.next_panels() && !block_.stopped()) weigh();
  }

 private:
  void weigh() noexcept {
    const int count = block_.panels();
    if (plan_.normalizer == Normalizer::none)
      sum(count);
    else
      compare_with(count);
    if (block_.stopped()) return;
    const int64_t keys = plan_.problem.keys;
    Traversal seen = block_.tiles(0, count);
    for (Traversal all = Traversal::grid({0, keys}, plan_.tile_keys, keys); !all.done(); all.next()) {
      const KeyTile tile = all.tile();
      const bool any = !seen.done() && seen.tile().first == tile.first;
      if (!any && asked_to_stop(double(count) * double(width_) * double(tile.count))) return;  // zeros alone
      if (any) {
        if (!keeps_) block_.open(seen);
        seen.next();
      }
      for (int p = 0; p < count; ++p) write(p, tile, any ? again(p, tile) : KeyRange{});
      if (block_.stopped()) return;
    }
  }

  // m and 1 / l of the softmax.
  void sum(int count) noexcept {
    for (int p = 0; p < count; ++p) block_.start_softmax(p, m_ + p * width_, l_ + p * width_);
    for (Traversal tiles = block_.tiles(0, count); block_.open(tiles); tiles.next())
      for (int p = 0; p < count; ++p) {
        const KeyRange range = block_.score(p, false);
        if (keeps_) keep(p, tiles.tile(), range);
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
  }
  // m, and in the place of l the threshold.
  void compare_with(int count) noexcept {
    std::fill_n(m_, count * width_, T(0));
    std::fill_n(l_, count * width_, T(0));
    if (plan_.has_threshold()) thresholds_.find(m_, l_);
  }

  char* kept(int p, KeyTile tile) const {
    return reinterpret_cast<char*>(kept_ + (p * tiles_ * plan_.tile_keys + tile.first) * width_);
  }
  KeyRange& kept_range(int p, KeyTile tile) const { return kept_ranges_[p * tiles_ + tile.first / plan_.tile_keys]; }

  void keep(int p, KeyTile tile, const KeyRange& range) noexcept {
    kept_range(p, tile) = range;
    const int64_t lanes = int64_t(block_.vectors(p)) * plan_.arithmetic.lanes;
    if (!range.empty()) std::memcpy(kept(p, tile), block_.scores(), size_t(range.count() * lanes) * sizeof(T));
  }

  KeyRange again(int p, KeyTile tile) noexcept { return keeps_ ? kept_range(p, tile) : block_.score(p, false); }

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
    char* const scores = keeps_ ? kept(p, tile) : block_.scores();
    if (plan_.normalizer == Normalizer::none)
      plan_.arithmetic.weigh(scores, block_.vectors(p), end - begin, block_.softmax_scale(), m_ + p * width_,
                             l_ + p * width_);
    else
      plan_.arithmetic.normalize(scores, block_.vectors(p), end - begin, block_.softmax_scale(), plan_.normalizer,
                                 m_ + p * width_, l_ + p * width_, alpha_);
    if (problem.sigma > 0) {
      const Gaussian gaussian = block_.gaussian(p, range);
      plan_.arithmetic.multiply_gaussian(scores, block_.vectors(p), end - begin, gaussian);
    }
    for (int64_t i = 0; i < width_; ++i) {
      const T threshold = plan_.has_threshold() ? l_[p * width_ + i] : T(0);
      alpha_[i] = threshold == threshold ? T(1) : threshold;
    }
    plan_.arithmetic.store_rows(scores, block_.vectors(p), end - begin, alpha_, panel.live, block_.scratch(), rows,
                                dtype_of(problem.out), step);
  }

  void zero(char* to, int64_t count) const {
    const Dtype dtype = dtype_of(plan_.problem.out);
    const int64_t item = size_of(dtype);
    for (int64_t j = 0; j < count; ++j) std::fill_n(to + j * plan_.problem.out.column_stride, item, char(0));
  }

  const Plan& plan_;
  QueryBlock block_;
  int64_t width_;
  bool keeps_;
  T *m_, *l_, *alpha_, *kept_;
  int64_t tiles_;
  KeyRange* kept_ranges_;
  Thresholds<T> thresholds_;
};

}  // namespace

fv_status attention_weights(const Problem& problem, fv_error* error) noexcept {
  if (problem.edge_begins) return weights_along_edges(problem, error);
  // pairs would round the weights before they are divided
  Plan plan(problem, kernels(), {.whole_weights = true, .windows = Windows::shared});
  const double flops =
      4.0 * double(plan.batches) * double(plan.rows) * double(problem.keys) * double(problem.head_size);
  const int64_t bytes =
      plan.scoring.panel_size(problem.head_size) + kept_bytes_a_query(plan) + kept_for_threshold(plan);
  return plan.arithmetic.element_size == 8 ? run_blocks<double, Weights>(plan, bytes, flops, error)
                                           : run_blocks<float, Weights>(plan, bytes, flops, error);
}

}  // namespace foveate
