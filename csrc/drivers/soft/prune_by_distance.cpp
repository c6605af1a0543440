// Kernel regression whose far keys cost nothing. Every tile of keys, and every 32 tiles together, have a box; so has a
// panel of queries. Between two boxes there is a least squared distance d, so that no weight of the tile exceeds
// 2^(-scale d), in base 2 as everywhere (or 2^-sqrt(2 scale d) log2(e), of a root). A panel takes the tiles that it stands
// in, then others from the nearest to the farthest, and stops where
//
//   sum over the tiles left of count 2^(-scale d)  <=  negligible * the least sum of weights so far of its queries.
//
// Weights are positive and sums only grow, so each query's keys left out weigh less than `negligible` of the others.
// A compact kernel has no tail: its tiles beyond the radius weigh exactly 0. The order depends on the data alone: the
// same bits for any number of threads. NaN makes a distance NaN, which is never far.
#include "prune_by_distance.hpp"

#include <cmath>

#include "runtime/refuse.hpp"
#include "tiled.hpp"

namespace foveate {

// Boxes of the keys of every batch, [low, high] of each dimension, tiles first and then groups of tiles.
class Boxes {
 public:
  static constexpr int64_t group_tiles = 32;

  Boxes(const Plan& plan, Carver& carver) noexcept
      : plan_(plan),
        size_(plan.problem.head_size),
        tiles_((plan.problem.keys + plan.tile_keys - 1) / plan.tile_keys),
        groups_((tiles_ + group_tiles - 1) / group_tiles) {
    boxes_ = carver.take<double>(plan.batches * (tiles_ + groups_) * 2 * size_);
    bias_ = carver.take<double>(plan.batches * (tiles_ + groups_));
    rows_ = carver.take<double>(plan.tile_keys * std::max<int64_t>(1, size_));
    list_ = RowList(stored_keys(plan.problem), plan.tile_keys, carver);
  }

  int64_t tiles() const { return tiles_; }
  int64_t groups() const { return groups_; }
  int64_t size() const { return size_; }
  const double* tile(int64_t batch, int64_t t) const { return box(batch, t); }
  const double* group(int64_t batch, int64_t g) const { return box(batch, tiles_ + g); }
  // log2 of what a mask multiplies the tile's weights by at most, times their number
  double tile_bias(int64_t batch, int64_t t) const { return bias_[batch * (tiles_ + groups_) + t]; }
  double group_bias(int64_t batch, int64_t g) const { return bias_[batch * (tiles_ + groups_) + tiles_ + g]; }

  // False: told to stop.
  template <class T>
  bool measure() noexcept {
    return run_tasks(plan_.batches, 1, Order::in_order, [&](const Task& task) {
      const int64_t batch = task.index;
      for (int64_t t = 0; t < tiles_; ++t) {
        if (asked_to_stop(4.0 * double(plan_.tile_keys) * double(size_))) return;
        measure_tile<T>(batch, t);
      }
      for (int64_t g = 0; g < groups_; ++g) {
        double* all = box(batch, tiles_ + g);
        double& bias = bias_[batch * (tiles_ + groups_) + tiles_ + g];
        const int64_t first = g * group_tiles, end = std::min(tiles_, first + group_tiles);
        std::copy_n(box(batch, first), 2 * size_, all);
        bias = 0;
        for (int64_t t = first; t < end; ++t) {
          for (int64_t d = 0; d < size_; ++d) {
            widen(all + 2 * d, box(batch, t)[2 * d]);
            widen(all + 2 * d, box(batch, t)[2 * d + 1]);
          }
          bias += std::exp2(tile_bias(batch, t));
        }
        bias = std::log2(bias);
      }
    });
  }

  // NaN, once in, stays.
  static void widen(double* interval, double x) {
    if (x != x) interval[0] = interval[1] = x;
    if (x < interval[0]) interval[0] = x;
    if (x > interval[1]) interval[1] = x;
  }

 private:
  double* box(int64_t batch, int64_t index) const { return boxes_ + (batch * (tiles_ + groups_) + index) * 2 * size_; }

  template <class T>
  void measure_tile(int64_t batch, int64_t t) noexcept {
    const Problem& p = plan_.problem;
    const int64_t first = t * plan_.tile_keys, count = std::min(plan_.tile_keys, p.keys - first);
    T* rows = reinterpret_cast<T*>(rows_);
    const Rows keys = StoredRows(plan_, stored_keys(p), batch).at(first, count, list_);
    plan_.arithmetic.load_values(keys, count, size_, false, rows);
    double* at = box(batch, t);
    for (int64_t d = 0; d < size_; ++d) {
      double interval[2] = {double(rows[d]), double(rows[d])};
      for (int64_t j = 1; j < count; ++j) widen(interval, double(rows[j * size_ + d]));
      at[2 * d] = interval[0];
      at[2 * d + 1] = interval[1];
    }
    double& bias = bias_[batch * (tiles_ + groups_) + t];
    bias = std::log2(double(count));
    if (!plan_.biased) return;
    const Operand& mask = p.mask;
    plan_.arithmetic.load_values({mask.data + plan_.batch_offset(mask, batch) + first * mask.column_stride,
                                  dtype_of(mask), mask.column_stride, 0},
                                 count, 1, false, rows);
    double largest[2] = {double(rows[0]), double(rows[0])};
    for (int64_t j = 1; j < count; ++j) widen(largest, double(rows[j]));
    bias += largest[1] * log2_e;
  }

  const Plan& plan_;
  int64_t size_, tiles_, groups_;
  double *boxes_, *bias_, *rows_;
  RowList list_;
};

namespace {

// A tile that a panel may need, and log2 of the most that all of it can weigh.
struct Candidate {
  double most;
  int64_t tile;
};

template <class T>
class Near : public Forward<T> {
 public:
  Near(const Plan& plan, const QueryBlocks& blocks, Carver& carver, const Boxes& boxes) noexcept
      : Forward<T>(plan, blocks, carver), boxes_(boxes) {
    box_ = carver.take<double>(2 * std::max<int64_t>(1, boxes_.size()));
    row_ = carver.take<T>(std::max<int64_t>(1, boxes_.size()));
    candidates_ = carver.take<Candidate>(boxes_.tiles());
    tiles_ = carver.take<int64_t>(boxes_.tiles());
    left_ = carver.take<double>(boxes_.tiles() + 1);
    group_distances_ = carver.take<double>(boxes_.groups());
    factors_ = carver.take<double>(std::max<int64_t>(1, boxes_.size()));
  }

  void run(int64_t task, int64_t next) noexcept {
    for (int64_t d = 0; d < boxes_.size(); ++d) {
      const double w = plan_.factors ? double(static_cast<const T*>(plan_.factors)[d]) : 1;
      factors_[d] = w * w;
    }
    block_.start(task, next);
    while (block_.next_panels())
      for (int p = 0; p < block_.panels(); ++p) {
        pass(p, false);
        if (this->finish(p) || !block_.panel(p).hidden) continue;
        pass(p, true);
        this->finish(p);
      }
  }

 private:
  using Forward<T>::block_;
  using Forward<T>::plan_;

  void pass(int p, bool exact) noexcept {
    this->reset(p);
    measure(p);
    if (plan_.compact)
      take_inside(p, exact);
    else
      take_nearest_first(p, exact);
  }

  // The first `count` of tiles_, until enough(how many were taken) says so.
  template <class Enough>
  void take(int p, int64_t count, bool exact, Enough&& enough) noexcept {
    Traversal tiles = Traversal::list(tiles_, count, plan_.tile_keys, plan_.problem.keys);
    for (int64_t i = 0; !enough(i) && block_.open(tiles); ++i, tiles.next()) this->add_tile(p, exact);
  }
  void take(int p, int64_t count, bool exact) noexcept {
    take(p, count, exact, [](int64_t) { return false; });
  }

  // Everything within the radius, and a little more, for the rounding of the kernel's own distances.
  void take_inside(int p, bool exact) noexcept {
    const double radius = 1 + (sizeof(T) == 8 ? 0x1p-40 : 0x1p-16);
    const int64_t batch = block_.batch();
    int64_t count = 0;
    for (int64_t g = 0; g < boxes_.groups(); ++g) {
      if (distance(boxes_.group(batch, g)) > radius) continue;
      for (int64_t t = first_of(g); t < end_of(g); ++t)
        if (!(distance(boxes_.tile(batch, t)) > radius)) tiles_[count++] = t;
    }
    take(p, count, exact);
    if (!plan_.looked_up()) return;
    // masks elsewhere tell a query that sees keys, all of weight 0, from one that sees none
    const uint32_t live = low_bits(block_.panel(p).live);
    const auto all_see = [&](int64_t) { return (block_.panel(p).seen & live) == live; };
    if (all_see(0)) return;
    count = 0;
    for (int64_t t = 0; t < boxes_.tiles(); ++t)
      if (distance(boxes_.tile(batch, t)) > radius) tiles_[count++] = t;
    take(p, count, exact, all_see);
  }

  void take_nearest_first(int p, bool exact) noexcept {
    const int64_t batch = block_.batch();
    const double negligible = std::log2(plan_.problem.negligible);
    for (int64_t g = 0; g < boxes_.groups(); ++g) group_distances_[g] = distance(boxes_.group(batch, g));
    // the tiles that the panel stands in, or the nearest one, say how much a weight has to be worth
    int64_t count = touching(batch);
    const int64_t alone = count > 0 ? -1 : nearest_tile(batch);
    if (alone >= 0) tiles_[count++] = alone;
    take(p, count, exact);
    // half of what may be left out goes to tiles of which even all together, at their nearest, would weigh less
    const double crude = least_sum(p) + negligible - 1 - std::log2(double(boxes_.tiles()));
    count = 0;
    for (int64_t g = 0; g < boxes_.groups(); ++g) {
      if (most(group_distances_[g], boxes_.group_bias(batch, g)) <= crude) continue;
      for (int64_t t = first_of(g); t < end_of(g); ++t) {
        const double d = distance(boxes_.tile(batch, t)), weight = most(d, boxes_.tile_bias(batch, t));
        const bool taken = alone >= 0 ? t == alone : d == 0;
        if (!taken && !(weight <= crude)) candidates_[count++] = {weight, t};
      }
    }
    // NaN first, then the heaviest; of equals the first
    std::sort(candidates_, candidates_ + count, [](const Candidate& a, const Candidate& b) {
      const bool a_nan = a.most != a.most, b_nan = b.most != b.most;
      if (a_nan || b_nan) return a_nan && b_nan ? a.tile < b.tile : a_nan;
      return a.most > b.most || (a.most == b.most && a.tile < b.tile);
    });
    // what is left from each on, over the most of any; a sum that vanishes beside it is no reason to stop
    double heaviest = 0;
    for (int64_t i = count - 1; i >= 0; --i)
      if (candidates_[i].most == candidates_[i].most) heaviest = candidates_[i].most;
    left_[count] = 0;
    for (int64_t i = count - 1; i >= 0; --i) left_[i] = left_[i + 1] + std::exp2(candidates_[i].most - heaviest);
    constexpr int64_t look_every = 4;  // sums of weights grow slowly
    double enough = 0;
    for (int64_t i = 0; i < count; ++i) tiles_[i] = candidates_[i].tile;
    take(p, count, exact, [&](int64_t i) {
      if (i < count && i % look_every == 0) enough = std::exp2(least_sum(p) + negligible - 1 - heaviest);
      return left_[i] < enough;
    });
  }

  // log2 of the least sum of weights so far, of the panel's queries that see any key.
  double least_sum(int p) const {
    const Panel& panel = block_.panel(p);
    const T *m = this->m(p), *l = this->l(p);
    T least_m = std::numeric_limits<T>::infinity(), least_l = least_m;
    for (int i = 0; i < panel.live; ++i) {
      const bool sees = plan_.looked_up() || (panel.seen >> i & 1);
      least_m = sees && m[i] < least_m ? m[i] : least_m;
      least_l = sees && l[i] < least_l ? l[i] : least_l;
    }
    return double(least_m) * plan_.softmax_scale() + std::log2(double(least_l));
  }

  // The tiles that the panel stands in, to tiles_: how many.
  int64_t touching(int64_t batch) noexcept {
    int64_t count = 0;
    for (int64_t g = 0; g < boxes_.groups(); ++g)
      for (int64_t t = first_of(g); t < end_of(g) && group_distances_[g] == 0; ++t) {
        if (distance(boxes_.tile(batch, t)) == 0) tiles_[count++] = t;
      }
    return count;
  }

  int64_t nearest_tile(int64_t batch) const {
    int64_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int64_t g = 0; g < boxes_.groups(); ++g) {
      if (!(group_distances_[g] < least)) continue;
      for (int64_t t = first_of(g); t < end_of(g); ++t) {
        const double d = distance(boxes_.tile(batch, t));
        if (!(d < least)) continue;
        least = d;
        best = t;
      }
    }
    return best;
  }

  int64_t first_of(int64_t g) const { return g * Boxes::group_tiles; }
  int64_t end_of(int64_t g) const { return std::min(boxes_.tiles(), (g + 1) * Boxes::group_tiles); }

  // of a squared distance, or of its root where the score has that for a link
  double most(double distance, double bias) const {
    if (plan_.problem.link < 0) return bias - plan_.scale * distance;
    return bias - log2_e * std::sqrt(2 * plan_.scale * distance);
  }

  // The least squared distance between the panel's queries and a box.
  double distance(const double* box) const {
    double sum = 0;
    for (int64_t d = 0; d < boxes_.size(); ++d) {
      const double below = box[2 * d] - box_[2 * d + 1], above = box_[2 * d] - box[2 * d + 1];
      const double gap = below > above ? below : above;
      sum += gap < 0 ? 0 : gap * gap * factors_[d];
    }
    return sum;
  }

  // The box round a panel's queries.
  void measure(int p) noexcept {
    const Problem& problem = plan_.problem;
    const Panel& panel = block_.panel(p);
    char* const base = block_.base(problem.query);
    for (int i = 0; i < panel.live; ++i) {
      plan_.arithmetic.load_values(
          {block_.row(problem.query, base, p, i), dtype_of(problem.query), 0, problem.query.column_stride}, 1,
          boxes_.size(), false, row_);
      for (int64_t d = 0; d < boxes_.size(); ++d) {
        if (i == 0) box_[2 * d] = box_[2 * d + 1] = double(row_[d]);
        Boxes::widen(box_ + 2 * d, double(row_[d]));
      }
    }
  }

  const Boxes& boxes_;
  double* box_;
  T* row_;
  Candidate* candidates_;
  int64_t* tiles_;  // to take, in this order
  double *left_, *group_distances_;
  double* factors_;  // squares of the weights
};

}  // namespace

bool skips_far_keys(const Plan& plan) noexcept {
  const Problem& p = plan.problem;
  if (plan.narrow() || p.keys <= plan.tile_keys || p.head_size == 0 || plan.groups > 1) return false;
  if (plan.compact) return true;
  // weights that grow with the distance, or a bias of each query's own, leave nothing to bound; a sink is no key
  return p.family == FV_DISTANCE && !plan.compact && p.negligible > 0 && p.softcap == 0 && plan.scale > 0 && !p.sink &&
         !(plan.biased && p.mask.row_stride != 0) && !p.table;
}

fv_status attention_to_near_keys(Plan& plan, fv_error* error) noexcept {
  Carver size(nullptr);
  Boxes(plan, size);
  const Workspace workspace(size.used());
  if (!workspace.data()) return no_memory(error, double(size.used()));
  Carver carver(workspace.data());
  Boxes boxes(plan, carver);
  if (!(plan.arithmetic.element_size == 8 ? boxes.measure<double>() : boxes.measure<float>())) return FV_INTERRUPTED;
  return run_forward<Near>(plan, error, boxes);
}

}  // namespace foveate
