// Hard attention of few queries against many keys, bound by memory: the keys are read once, in chunks that any thread may
// take, and of each tile only its largest score m_t and its sum of weights l_t are kept. From these follows the tile of
// each choice, by the rule of the reservoir in select/sample.hpp, or the first with the largest score; the few tiles that
// were chosen are scored once more, to find the key. So the choices are those of tiled.cpp, up to rounding.
#include <algorithm>

#include "choices.hpp"
#include "drivers/common/few_queries.hpp"

namespace foveate {
namespace {

constexpr int64_t chunk_tiles = 12;  // a unit of work for a thread: 2,016 keys
constexpr int64_t chunk_keys = chunk_tiles * default_tile_keys;
constexpr double flops_a_tile = 16;  // of a draw: a random number, which costs as much

template <class T>
class HardOfFew : private FewQueries<T> {
 public:
  explicit HardOfFew(Plan& plan) noexcept : Base(plan, default_tile_keys, 1, false), plan_(plan), draws_(p_.draws) {
    tiles_ = (p_.keys + default_tile_keys - 1) / default_tile_keys;
    chunks_ = std::max<int64_t>(1, (tiles_ + chunk_tiles - 1) / chunk_tiles);
  }

  fv_status run(fv_error* error) noexcept {
    const int64_t blocks = plan_.batches * row_blocks_, rows = plan_.batches * plan_.rows;
    const double flops = 2.0 * double(rows) * double(p_.keys) * double(p_.head_size);
    const int threads = threads_for(blocks * chunks_, flops);
    return this->in_two_passes(
        plan_, threads, error, [&](Carver& carver) { carve_sums(carver, rows); },
        [&](Carver& carver) { return Scratch(*this, carver); },                         //
        blocks * chunks_, [&](int64_t task, Scratch& scratch) { sum(task, scratch); },  //
        blocks, [&](int64_t task, Scratch& scratch) { choose(task, scratch); });
  }

 private:
  using Base = FewQueries<T>;
  using Base::arithmetic_;
  using Base::p_;
  using Base::row_blocks_;

  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  struct Scratch : Base::QueryScratch {
    Scratch(const HardOfFew& d, Carver& carver)
        : Base::QueryScratch(d, carver),
          choices(d.plan_, carver),
          m(carver.take<double>(task_rows)),
          log_l(carver.take<double>(task_rows)),
          so_far(carver.take<T>(d.tiles_)),
          own(carver.take<T>(d.tiles_)),
          first(carver.take<int64_t>(d.tiles_)),
          next(carver.take<int64_t>(task_rows * d.draws_)),
          share(carver.take<T>(task_rows * d.draws_)) {}
    Choices<T> choices;
    double *m, *log_l;  // of each row of the task: of all keys
    T *so_far, *own;    // of each tile, for one row: the sum of weights up to it, and its own
    int64_t *first,
        *next;  // the choices (row * draws + draw) that fell on a tile: a chain from first[tile], -1 its end
    T* share;   // of a choice: the share of its tile's weights that stands before the key
  };

  void carve_sums(Carver& carver, int64_t rows) {
    tile_m_ = carver.take<T>(rows * tiles_);
    tile_l_ = carver.take<T>(rows * tiles_);
    chunk_seen_ = carver.take<uint8_t>(rows * chunks_);
  }

  KeyTile tile_at(int64_t t) const {
    const int64_t first = t * default_tile_keys;
    return {first, std::min(default_tile_keys, p_.keys - first)};
  }

  // s becomes the weights of query group i, which start anew: their maximum m and sum l, one a query.
  void weigh(int i, const KeyRange& range, Scratch& scratch, T* m, T* l) const noexcept {
    std::fill_n(m, query_group, lowest);
    std::fill_n(l, query_group, T(0));
    arithmetic_.decode_soft(scratch.s, this->width(scratch.panels[i]), range.count(), plan_.softmax_scale(), m, l,
                            nullptr, 0, 0);
  }

  // The sums of a chunk's tiles.
  void sum(int64_t task, Scratch& scratch) noexcept {
    const int64_t chunk = task % chunks_, batch = task / chunks_ / row_blocks_;
    const int64_t first_row = task / chunks_ % row_blocks_ * task_rows;
    const int query_groups = this->start(batch, first_row, scratch);
    int64_t begin = p_.keys, end = 0;
    for (int i = 0; i < query_groups; ++i) {
      begin = std::min(begin, scratch.panels[i].low_first);
      end = std::max(end, scratch.panels[i].high_last);
    }
    const Interval all = {chunk * chunk_keys, std::min(p_.keys, (chunk + 1) * chunk_keys)};
    for (Traversal tiles = Traversal::grid(all, default_tile_keys, p_.keys); !tiles.done(); tiles.next()) {
      const KeyTile tile = tiles.tile();
      const int64_t t = tile.first / default_tile_keys;
      const bool any =
          tile.first < end && tile.first + tile.count > begin && this->sees_some(tile, 0, query_groups, scratch);
      const Rows keys = any ? this->keys_of(batch, tile, scratch) : Rows{};
      TileIds ids;
      for (int i = 0; i < query_groups; ++i) {
        T m[query_group], l[query_group];
        const KeyRange range = any ? this->scores(i, tile, keys, ids, scratch) : KeyRange{};
        if (range.empty()) {
          std::fill_n(m, query_group, lowest);
          std::fill_n(l, query_group, T(0));
        } else {
          weigh(i, range, scratch, m, l);
        }
        for (int32_t q = 0; q < scratch.panels[i].live; ++q) {
          const int64_t at = (batch * plan_.rows + first_row + i * query_group + q) * tiles_ + t;
          tile_m_[at] = m[q];
          tile_l_[at] = l[q];
        }
      }
    }
    for (int i = 0; i < query_groups; ++i)
      for (int32_t q = 0; q < scratch.panels[i].live; ++q)
        chunk_seen_[(batch * plan_.rows + first_row + i * query_group + q) * chunks_ + chunk] =
            scratch.panels[i].seen >> q & 1;
  }

  void choose(int64_t task, Scratch& scratch) noexcept {
    const int64_t batch = task / row_blocks_, first_row = task % row_blocks_ * task_rows;
    const int query_groups = this->start(batch, first_row, scratch);
    std::fill_n(scratch.first, tiles_, int64_t(-1));
    for (int i = 0; i < query_groups; ++i)
      for (int32_t q = 0; q < scratch.panels[i].live; ++q) choose_tiles(batch, first_row, i, q, scratch);
    for (int64_t t = 0; t < tiles_; ++t) {
      if (scratch.first[t] < 0) continue;
      if (asked_to_stop(double(query_groups * query_group * default_tile_keys) * 2.0 * double(p_.head_size))) return;
      const Rows keys = this->keys_of(batch, tile_at(t), scratch);
      TileIds ids;
      for (int i = 0; i < query_groups; ++i) find_keys(batch, i, t, keys, ids, scratch);
    }
  }

  // The tiles of a row's choices, or what stands for none.
  void choose_tiles(int64_t batch, int64_t first_row, int i, int32_t q, Scratch& scratch) noexcept {
    const int64_t row = i * query_group + q, at = batch * plan_.rows + first_row + row;
    const T *m = tile_m_ + at * tiles_, *l = tile_l_ + at * tiles_;
    bool seen = false;
    for (int64_t c = 0; c < chunks_; ++c) seen = seen || chunk_seen_[at * chunks_ + c];
    T top = lowest, total = 0;
    int64_t best = -1;
    for (int64_t t = 0; t < tiles_; ++t)
      if (m[t] > top) {
        top = m[t];
        best = t;
      }
    const T offset = best < 0 ? T(0) : top;
    for (int64_t t = 0; t < tiles_; ++t) {
      // a tile of which nothing is seen adds nothing, and its maximum is no number to subtract
      scratch.own[t] = l[t] == T(0) ? T(0) : l[t] * T(std::exp2((m[t] - offset) * T(plan_.softmax_scale())));
      total += scratch.own[t];
      scratch.so_far[t] = total;
    }
    scratch.m[row] = double(offset);
    scratch.log_l[row] = std::log(double(total));
    if (p_.after) {
      char* const after = row_of(plan_, p_.after, batch, scratch.panels[i], q);
      scratch.choices.write_sums(after, double(offset), double(total));
    }

    const Panel& panel = scratch.panels[i];
    const int64_t lead = scratch.choices.lead(batch, panel.group[q]);
    for (int64_t draw = 0; draw < draws_ && !asked_to_stop(flops_a_tile * double(tiles_)); ++draw) {
      int64_t chosen = scratch.choices.sampled() ? -1 : best;
      T share = 0;
      RandomBlock random{};
      for (int64_t t = 0; scratch.choices.sampled() && t < tiles_; ++t) {
        const int64_t number = scratch.choices.counted(t);
        if (t == 0 || number % random_words == 0)
          random = scratch.choices.numbers(number / random_words, draw, panel.row[q], lead);
        const T target = uniform<T>(random.words[number % random_words]) * scratch.so_far[t];
        if (!(target < scratch.own[t])) continue;
        chosen = t;
        share = target / scratch.own[t];
      }
      if (chosen < 0 || total != total) {
        scratch.choices.write(cells_of(batch, panel, q), draw, -1, 0, 0, 0, scratch.log_l[row], seen);
        continue;
      }
      const int64_t choice = row * draws_ + draw;
      scratch.share[choice] = share;
      scratch.next[choice] = scratch.first[chosen];
      scratch.first[chosen] = choice;
    }
  }

  // Scores a tile again for query group i, where a choice of its rows fell on it, and writes these.
  void find_keys(int64_t batch, int i, int64_t t, const Rows& keys, TileIds& ids, Scratch& scratch) noexcept {
    bool any = false;
    for (int64_t c = scratch.first[t]; c >= 0 && !any; c = scratch.next[c]) any = c / draws_ / query_group == i;
    if (!any) return;
    const KeyRange range = this->scores(i, tile_at(t), keys, ids, scratch);
    const Panel& panel = scratch.panels[i];
    if (range.empty()) {  // of a reach that was another one when the tile was chosen
      for (int64_t c = scratch.first[t]; c >= 0; c = scratch.next[c])
        if (c / draws_ / query_group == i)
          scratch.choices.write(cells_of(batch, panel, int(c / draws_ % query_group)), c % draws_, -1, 0, 0, 0, 0,
                                false);
      return;
    }
    const int32_t queries = this->width(panel);
    int64_t best[query_group];
    for (int32_t q = 0; q < queries; ++q) best[q] = first_of_largest(scratch.s + q, queries, range.count());
    T m[query_group], l[query_group];
    weigh(i, range, scratch, m, l);
    for (int64_t c = scratch.first[t]; c >= 0; c = scratch.next[c]) {
      const int64_t row = c / draws_, q = row % query_group;
      if (row / query_group != i) continue;
      const T* weights = scratch.s + q;
      const int64_t place =
          scratch.choices.sampled() ? first_beyond(weights, queries, range.count(), scratch.share[c]) : best[q];
      scratch.choices.write(cells_of(batch, panel, int(q)), c % draws_, t * default_tile_keys + range.begin + place,
                            double(weights[place * queries]), double(m[q]), scratch.m[row], scratch.log_l[row], true);
    }
  }

  static int64_t first_of_largest(const T* s, int64_t step, int64_t count) {
    int64_t best = 0;
    T top = lowest;
    for (int64_t j = 0; j < count; ++j)
      if (s[j * step] > top) {
        top = s[j * step];
        best = j;
      }
    return best;
  }

  // The first key at which the running sum exceeds this share of the whole: at most the last one that has weight.
  static int64_t first_beyond(const T* weights, int64_t step, int64_t count, T share) {
    T sum = 0;
    int64_t last = 0;
    for (int64_t j = 0; j < count; ++j) {
      const T before = sum;
      sum += weights[j * step];
      if (sum > before) last = j;
    }
    const T target = sum * share;
    T running = 0;
    for (int64_t j = 0; j < last; ++j) {
      running += weights[j * step];
      if (running > target) return j;
    }
    return last;
  }

  Cells cells_of(int64_t batch, const Panel& panel, int q) const {
    const auto at = [&](const Operand& x) { return row_of(plan_, x, batch, panel, q); };
    return {at(p_.index), at(p_.log_prob), at(p_.out), {plan_, stored_choices(p_), batch, panel.group[q]}};
  }

  Plan& plan_;
  int64_t draws_, tiles_, chunks_;
  T *tile_m_ = nullptr, *tile_l_ = nullptr;  // of each row and tile
  uint8_t* chunk_seen_ = nullptr;            // of each row and chunk: whether a key of it is seen
};

}  // namespace

fv_status hard_attention_of_few(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), needs_of_few);
  return plan.arithmetic.element_size == 8 ? HardOfFew<double>(plan).run(error) : HardOfFew<float>(plan).run(error);
}

}  // namespace foveate
