// The thresholds of sparsemax and entmax: for each query the t at which its weights, functions of x = scale (s - m) - t, add
// up to 1, with m its largest score. In base 2, with R = log2(e) for sparsemax and 2 log2(e) for entmax of 1.5,
//   sparsemax  sum(x+) = R,   entmax  sqrt(sum(x+^2)) = R
// Both sides fall with t and are convex, so that Newton's steps from t = -R, where the largest alone has all the weight, never
// go beyond the solution. The product of what is left and of the slope falls to a quarter with each step or below: most_steps
// is enough for any scores. Each query stops by itself: its threshold does not depend on who shares its panel.
//
// A step is a pass over the scores, which are kept where those of a panel stay in a cache, and else made again. From the second
// step on, tiles are left out whose scores are below all thresholds of a panel.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "drivers/common/query_block.hpp"

namespace foveate {

// Of the scores of a panel; read back even from memory they cost a tenth of what they cost to make, for heads of 64.
constexpr int64_t most_kept_for_thresholds = 4 << 20;

// The bytes of scores that are kept for each query, or 0.
inline int64_t kept_for_threshold(const Plan& plan) {
  if (!plan.has_threshold()) return 0;
  const int64_t tiles = (plan.problem.keys + plan.tile_keys - 1) / plan.tile_keys;
  const int64_t bytes = tiles * plan.tile_keys * plan.arithmetic.element_size;
  return bytes * plan.arithmetic.lanes * plan.arithmetic.max_vectors > most_kept_for_thresholds ? 0 : bytes;
}

template <class T>
class Thresholds {
 public:
  // The scores of a tile for a panel.
  struct Scores {
    KeyRange range;
    PartialKeys partial;
    char* at;
  };

  // wanted: find() is called, for a plan that has thresholds.
  Thresholds(const Plan& plan, const QueryBlocks& blocks, QueryBlock& block, bool wanted, Carver& carver) noexcept
      : plan_(plan),
        block_(block),
        width_(blocks.width),
        keeps_(wanted && plan.has_threshold() && kept_for_threshold(plan) > 0) {
    const bool any = wanted && plan.has_threshold();
    tiles_ = any ? (plan.problem.keys + plan.tile_keys - 1) / plan.tile_keys : 0;
    tops_ = carver.take<T>(blocks.panels * tiles_ * width_);
    sums_ = carver.take<T>(any ? blocks.panels * 2 * width_ : 0);
    done_ = carver.take<uint8_t>(any ? blocks.panels * width_ : 0);
    scores_ = carver.take<T>(keeps_ ? blocks.panels * tiles_ * plan.tile_keys * width_ : 0);
    kept_ = carver.take<Scores>(keeps_ ? blocks.panels * tiles_ : 0);
  }

  // Of all panels that go over the keys together: m and t, width_ each.
  void find(T* m, T* t) noexcept {
    const int count = block_.panels();
    std::fill_n(m, count * width_, -std::numeric_limits<T>::infinity());
    for (Traversal tiles = block_.tiles(0, count); block_.open(tiles); tiles.next())
      for (int p = 0; p < count; ++p) look_at(p, tiles.tile(), m + p * width_);
    if (block_.stopped()) return;
    for (int p = 0; p < count; ++p) start(p, m + p * width_, t + p * width_);
    for (int step = 0; step < most_steps && any_left(0, count); ++step) {
      std::fill_n(sums_, count * 2 * width_, T(0));
      Traversal tiles = block_.tiles(0, count);
      for (; keeps_ ? !tiles.done() : block_.open(tiles); tiles.next())
        for (int p = 0; p < count; ++p) {
          if (!any_left(p, p + 1) || (step > 0 && is_below(p, tiles.tile(), m + p * width_, t + p * width_))) continue;
          const Scores scores = again(p, tiles.tile());
          if (scores.range.empty()) continue;
          plan_.arithmetic.threshold_sums(scores.at, block_.vectors(p), scores.range.count(), block_.softmax_scale(),
                                          plan_.normalizer, m + p * width_, t + p * width_, sums_ + p * 2 * width_);
        }
      if (block_.stopped()) return;
      for (int p = 0; p < count; ++p) move(p, t + p * width_);
    }
  }

  bool keeps() const { return keeps_; }
  // The scores of a tile, kept, or of the open tile made again.
  Scores again(int p, KeyTile tile) noexcept {
    if (keeps_) return kept(p, tile);
    const KeyRange range = block_.score(p, false);
    return {range, block_.partial(), block_.scores()};
  }

 private:
  static constexpr int most_steps = 64;

  double right_side() const { return plan_.problem.weighing == FV_SPARSEMAX ? log2_e : 2 * log2_e; }
  Scores& kept(int p, KeyTile tile) const { return kept_[p * tiles_ + tile.first / plan_.tile_keys]; }
  T* top(int p, KeyTile tile) const { return tops_ + (p * tiles_ + tile.first / plan_.tile_keys) * width_; }
  int64_t lanes(int p) const { return int64_t(block_.vectors(p)) * plan_.arithmetic.lanes; }

  void look_at(int p, KeyTile tile, T* m) noexcept {
    const KeyRange range = block_.score(p, false);
    T* const largest = top(p, tile);
    std::fill_n(largest, width_, -std::numeric_limits<T>::infinity());
    if (!range.empty()) std::memcpy(largest, block_.row_max(), size_t(lanes(p)) * sizeof(T));
    for (int64_t i = 0; i < lanes(p); ++i) m[i] = largest[i] > m[i] ? largest[i] : m[i];
    if (!keeps_) return;
    T* const at = scores_ + (p * tiles_ * plan_.tile_keys + tile.first) * width_;
    kept(p, tile) = {range, block_.partial(), reinterpret_cast<char*>(at)};
    if (!range.empty()) std::memcpy(at, block_.scores(), size_t(range.count() * lanes(p)) * sizeof(T));
  }

  // Scores that are seen and all -inf leave no distribution; a query that sees nothing has no weight.
  void start(int p, T* m, T* t) noexcept {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < width_; ++i) {
      const bool seen = i < block_.panel(p).live && (block_.panel(p).seen >> i & 1);
      done_[p * width_ + i] = !seen || m[i] == -infinity;
      t[i] = !seen ? infinity : m[i] == -infinity ? std::numeric_limits<T>::quiet_NaN() : T(-right_side());
      if (m[i] == -infinity) m[i] = 0;
    }
  }

  bool any_left(int first, int last) const {
    for (int64_t i = first * width_; i < last * width_; ++i)
      if (!done_[i]) return true;
    return false;
  }

  bool is_below(int p, KeyTile tile, const T* m, const T* t) const {
    const T scale = T(block_.softmax_scale());
    for (int64_t i = 0; i < block_.panel(p).live; ++i)
      if (!done_[p * width_ + i] && (top(p, tile)[i] - m[i]) * scale > t[i]) return false;
    return true;
  }

  // A step of Newton for each query that has not come to its threshold.
  void move(int p, T* t) noexcept {
    const double right = right_side(), least = right * (sizeof(T) == 4 ? 0x1p-23 : 0x1p-51);
    const T* const sums = sums_ + p * 2 * width_;
    for (int64_t i = 0; i < lanes(p); ++i) {
      if (done_[p * width_ + i]) continue;
      const double sum = double(sums[i]), slope = double(sums[lanes(p) + i]);
      const double root = std::sqrt(sum);
      const double step =
          plan_.problem.weighing == FV_SPARSEMAX ? (sum - right) / slope : (root - right) * root / slope;
      t[i] = T(double(t[i]) + step);
      done_[p * width_ + i] = !(step > least);  // a NaN is its own answer
    }
  }

  const Plan& plan_;
  QueryBlock& block_;
  int64_t width_, tiles_;
  bool keeps_;
  T *tops_, *sums_, *scores_;
  uint8_t* done_;
  Scores* kept_;
};

}  // namespace foveate
