// The attention weights themselves: one pass for the softmax's maximum and sum, a second that writes 2^(x - m) / l.
#include <algorithm>

#include "drivers/common/query_block.hpp"
#include "drivers/drivers.hpp"

namespace foveate {
namespace {

template <class T>
class Weights {
 public:
  Weights(const Plan& plan, const Blocks& blocks, Carver& carver) noexcept
      : plan_(plan), block_(plan, blocks, carver), width_(blocks.width) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    alpha_ = carver.take<T>(width_);
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    const int count = block_.panels();
    for (int p = 0; p < count; ++p) block_.start_softmax(p, m_ + p * width_, l_ + p * width_);
    const int64_t first = block_.first_key(0, count), end = block_.end_key(0, count);
    for (int64_t key = first; key < end; key += tile_keys) {
      block_.open_tile(key, end);
      for (int p = 0; p < count; ++p) {
        const Stretch stretch = block_.score(p, false);
        if (!stretch.empty())
          plan_.arithmetic.soft(block_.scores(), block_.vectors(p), stretch.count(), block_.softmax_scale(),
                                block_.top(), m_ + p * width_, l_ + p * width_, nullptr, alpha_, nullptr, Prefetch{});
      }
      if (block_.stopped()) return;
    }
    for (int p = 0; p < count; ++p)
      for (int i = 0; i < width_; ++i) {
        T& l = l_[p * width_ + i];
        l = block_.panel(p).seen >> i & 1 ? T(1) / l : T(0);
      }
    for (int64_t key = 0; key < plan_.problem.keys; key += tile_keys) {
      const bool any = key >= first && key < end;
      if (!any && asked_to_stop(double(count) * double(width_) * double(tile_keys))) return;  // zeros alone
      if (any) block_.open_tile(key, end);
      for (int p = 0; p < count; ++p) write(p, key, any ? block_.score(p, false) : Stretch{});
      if (block_.stopped()) return;
    }
  }

 private:
  // A tile's columns of the panel's rows: zeros around the stretch that was looked at.
  void write(int p, int64_t key, const Stretch& stretch) noexcept {
    const Problem& problem = plan_.problem;
    const Panel& panel = block_.panel(p);
    const int64_t count = std::min(tile_keys, problem.keys - key);
    const int64_t step = problem.out.column_stride;
    const int64_t begin = stretch.empty() ? 0 : stretch.begin, end = stretch.empty() ? 0 : stretch.end;
    char* const out = block_.base(problem.out);
    char* rows[most_lanes];
    for (int i = 0; i < panel.live; ++i) {
      rows[i] = block_.row(problem.out, out, p, i) + key * step;
      zero(rows[i], begin);
      zero(rows[i] + end * step, count - end);
      rows[i] += begin * step;
    }
    if (stretch.empty()) return;
    plan_.arithmetic.weigh(block_.scores(), block_.vectors(p), end - begin, block_.softmax_scale(), m_ + p * width_,
                           l_ + p * width_);
    if (problem.sigma > 0) {
      const Gaussian gaussian = block_.gaussian(p, stretch);
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
  Block block_;
  int64_t width_;
  T *m_, *l_, *alpha_;
};

}  // namespace

fv_status attention_weights(const Problem& problem, fv_error* error) noexcept {
  // bfloat16 pairs would round the weights before they are divided: they are computed in float32
  Kernels plain = kernels();
  plain.bfloat16 = nullptr;
  Plan plan(problem, plain);
  plan.share_tiles();
  const double flops =
      4.0 * double(plan.batches) * double(plan.rows) * double(problem.keys) * double(problem.head_size);
  const int64_t bytes = plan.scoring.panel_size(problem.head_size);
  return plan.arithmetic.element_size == 8 ? run_blocks<double, Weights>(plan, bytes, flops, error)
                                           : run_blocks<float, Weights>(plan, bytes, flops, error);
}

}  // namespace foveate
