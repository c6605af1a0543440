// Soft attention: for every block of queries, one pass over the tiles of keys that it sees, an online softmax, and the
// weighted sum of the values. Scratch is a block's queries and outputs and one tile, for each thread.
#include <algorithm>
#include <cstring>

#include "block.hpp"
#include "decode.hpp"
#include "drivers.hpp"

namespace foveate {
namespace {

template <class T>
class Forward {
 public:
  Forward(const Plan& plan, const Blocks& blocks, Carver& carver) noexcept
      : plan_(plan), block_(plan, blocks, carver), width_(blocks.width) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    outputs_ = carver.take<T>(queries * plan.problem.value_size);
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    alpha_ = carver.take<T>(width_);
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    const int count = block_.panels();
    pass(0, count, false);
    for (int p = 0; p < count; ++p) {
      if (finish(p) || !block_.panel(p).hidden) continue;
      // inf or NaN: perhaps of a value that is not seen, times its weight of 0; again, leaving such values out
      pass(p, p + 1, true);
      finish(p);
    }
  }

 private:
  T* output(int p) { return outputs_ + int64_t(p) * width_ * plan_.problem.value_size; }

  void reset(int p) noexcept {
    std::fill_n(output(p), block_.vectors(p) * plan_.family.lanes * plan_.problem.value_size, T(0));
    block_.start_softmax(p, m_ + p * width_, l_ + p * width_);
  }

  void pass(int first, int last, bool exact) noexcept {
    const Family& family = plan_.family;
    const int64_t value_size = plan_.problem.value_size;
    for (int p = first; p < last; ++p) reset(p);
    const int64_t end = block_.end_key(first, last);
    for (int64_t key = block_.first_key(first, last); key < end; key += tile_keys) {
      block_.open_tile(key, end);
      for (int p = first; p < last; ++p) {
        const Stretch stretch = block_.score(p, exact);
        if (stretch.empty()) continue;
        const int32_t vectors = block_.vectors(p);
        const int64_t count = stretch.count();
        family.soft(block_.scores(), vectors, count, block_.softmax_scale(), block_.top(), m_ + p * width_,
                    l_ + p * width_, alpha_);
        const bool careful = exact && stretch.hidden;
        family.weighted_sum(block_.scores(), vectors, block_.values(stretch.begin, careful), count, value_size, alpha_,
                            output(p), block_.values_ahead(p));
        if (careful) {
          const int32_t width = vectors * family.lanes;
          family.add_not_finite(block_.scores(), width, block_.value_rows(stretch.begin), count, value_size,
                                stretch.bits, output(p), width, 1);
        }
      }
    }
  }

  // Divides by l and writes; whether the outputs are all finite.
  bool finish(int p) noexcept {
    const Problem& problem = plan_.problem;
    const Panel& panel = block_.panel(p);
    const T *m = m_ + p * width_, *l = l_ + p * width_;
    char* const out = block_.base(problem.out);
    char* const lses = problem.lse ? block_.base(problem.lse) : nullptr;
    char* rows[most_lanes];
    for (int i = 0; i < panel.live; ++i) {
      const bool seen = panel.seen >> i & 1;
      alpha_[i] = seen ? T(1) / l[i] : T(0);
      rows[i] = block_.row(problem.out, out, p, i);
      if (problem.lse) {
        // a query that sees nothing has the sink's own value, which need not be rounded
        const T lse = T(seen ? log_denominator(m[i], l[i]) : sink_of(plan_, block_.batch(), panel.group[i]));
        std::memcpy(block_.row(problem.lse, lses, p, i), &lse, sizeof lse);
      }
    }
    for (int i = panel.live; i < width_; ++i) alpha_[i] = T(0);
    return plan_.family.store_rows(output(p), block_.vectors(p), problem.value_size, alpha_, panel.live,
                                   block_.scratch(), rows, dtype_of(problem.out), problem.out.column_stride);
  }

  const Plan& plan_;
  Block block_;
  int64_t width_;
  T *outputs_, *m_, *l_, *alpha_;
};

}  // namespace

fv_status attention(const Problem& problem, fv_error* error) noexcept {
  if (problem.queries <= decode_queries) return decode(problem, error);
  const Plan plan(problem, kernels());
  const int64_t columns = problem.head_size + problem.value_size;
  const double flops = 2.0 * double(plan.batches) * double(plan.rows) * double(problem.keys) * double(columns);
  const int64_t bytes = columns * plan.family.element_size;
  return plan.family.element_size == 8 ? run_blocks<double, Forward>(plan, bytes, flops, error)
                                       : run_blocks<float, Forward>(plan, bytes, flops, error);
}

}  // namespace foveate
