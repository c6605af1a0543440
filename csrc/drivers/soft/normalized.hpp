// Soft attention whose weights are no shares of a softmax, but a function of a score and a threshold of its query (see
// kernels/select/normalizers.hpp): thresholds first, where there are any, then one pass as that of tiled.hpp.
// For gradients also the mean of the values by what their weights grow by: dO of that is what is taken off the gradients of
// the weights.
#pragma once
#include "thresholds.hpp"
#include "tiled.hpp"

namespace foveate {

// of_slopes: the mean by what weights grow by; thresholds are in the lse then.
template <class T>
class Normalized : public Forward<T> {
  using Base = Forward<T>;
  using Base::alpha_;
  using Base::block_;
  using Base::dropout_;
  using Base::l_;
  using Base::m_;
  using Base::plan_;
  using Base::width_;

 public:
  Normalized(const Plan& plan, const QueryBlocks& blocks, Carver& carver, bool of_slopes = false) noexcept
      : Base(plan, blocks, carver), of_slopes_(of_slopes), thresholds_(plan, blocks, block_, !of_slopes, carver) {
    t_ = carver.take<T>(int64_t(blocks.panels) * width_);
    by_ = plan.normalizer;
    if (of_slopes)
      by_ = plan.normalizer == Normalizer::sparsemax ? Normalizer::sparsemax_slopes : Normalizer::entmax15_slopes;
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    while (block_.next_panels()) {
      const int count = block_.panels();
      start(count);
      if (block_.stopped()) return;
      pass(0, count, false);
      if (block_.stopped()) return;
      for (int p = 0; p < count; ++p) {
        if (finish(p) || !block_.panel(p).hidden) continue;
        pass(p, p + 1, true);
        finish(p);
      }
    }
  }

 private:
  // What scores are compared with.
  void start(int count) noexcept {
    std::fill_n(m_, count * width_, T(0));
    std::fill_n(t_, count * width_, T(0));
    if (of_slopes_)
      read_thresholds(count);
    else if (plan_.has_threshold())
      thresholds_.find(m_, t_);
  }

  void read_thresholds(int count) noexcept {
    char* const base = block_.base(plan_.problem.lse);
    for (int p = 0; p < count; ++p)
      for (int i = 0; i < block_.panel(p).live; ++i) {
        const Lse lse = read_lse(plan_, block_.row(plan_.problem.lse, base, p, i));
        const bool nothing = lse.lse == -std::numeric_limits<double>::infinity();
        m_[p * width_ + i] = nothing ? T(0) : T(lse.high);
        t_[p * width_ + i] = nothing ? std::numeric_limits<T>::infinity() : T(lse.low * log2_e);
      }
  }

  void pass(int first, int last, bool exact) noexcept {
    for (int p = first; p < last; ++p) {
      std::fill_n(this->output(p), block_.vectors(p) * plan_.arithmetic.lanes * plan_.problem.value_size, T(0));
      std::fill_n(l_ + p * width_, width_, T(0));
    }
    for (Traversal tiles = block_.tiles(first, last); block_.open(tiles); tiles.next())
      for (int p = first; p < last; ++p) add_tile(p, tiles.tile(), exact);
  }

  void add_tile(int p, KeyTile tile, bool exact) noexcept {
    const int64_t value_size = plan_.problem.value_size;
    const bool again = thresholds_.keeps() && !exact;
    typename Thresholds<T>::Scores scores;
    if (again) {
      scores = thresholds_.again(p, tile);
    } else {
      const KeyRange range = block_.score(p, exact);
      scores = {range, block_.partial(), block_.scores()};
    }
    const KeyRange& range = scores.range;
    if (range.empty()) return;
    const int32_t vectors = block_.vectors(p);
    const int64_t count = range.count();
    const bool careful = exact && range.hidden;
    const LoadedRows values = block_.values(range.begin, careful);
    plan_.arithmetic.normalize(scores.at, vectors, count, block_.softmax_scale(), by_, m_ + p * width_, t_ + p * width_,
                               l_ + p * width_);
    if (dropout_.any())
      plan_.arithmetic.clear_unset(scores.at, vectors, count,
                                   dropout_.kept(block_.panel(p), block_.batch(), block_.key_of(range), count));
    std::fill_n(alpha_, width_, T(1));
    plan_.arithmetic.weighted_sum(scores.at, vectors, values, count, value_size, alpha_, this->output(p),
                                  scores.partial, block_.values_ahead(p));
    if (!careful) return;
    plan_.arithmetic.add_not_finite(scores.at, vectors * plan_.arithmetic.lanes, block_.value_rows(range.begin), count,
                                    value_size, range.bits, this->output(p), vectors * plan_.arithmetic.lanes, 1);
  }

  bool finish(int p) noexcept {
    const T factor = T(dropout_.factor());
    const T *m = m_ + p * width_, *t = t_ + p * width_, *l = l_ + p * width_;
    return this->write(
        p, [&](int i) { return of_slopes_     ? factor / l[i]
                               : t[i] == t[i] ? factor
                                              : t[i]; },  // NaN: no threshold
        [&](int i) {
          const double high = double(m[i]), low = double(t[i]) * ln_2;
          return Lse{high * plan_.softmax_scale() * ln_2 + low, high, low};
        },
        !of_slopes_);
  }

  bool of_slopes_;
  Thresholds<T> thresholds_;
  T* t_;
  Normalizer by_;
};

}  // namespace foveate
