// Few queries in the order of sums that panels of queries have (kernels/decode/in_order.hpp): tiles of the grid from key 0,
// one after the other. Keys stand on the lanes, as the queries of a panel do elsewhere, so that a score is the same chain.
//
// Where there are fewer rows than threads the tiles are computed apart, in three passes with the same bits: scores and the
// largest of each tile; weights by the largest so far, and a part of the sum for each tile; and the parts, folded in order.
#include "few_in_order.hpp"

#include "few_softmax.hpp"

namespace foveate {
namespace {

constexpr int64_t span_tiles = 6;                 // whose keys are read before their values: a stream begins slowly
constexpr int64_t part_tiles = 2 * span_tiles;    // a unit of work for a thread
constexpr int64_t most_kept = int64_t{64} << 20;  // bytes of scores that a call keeps to compute its tiles apart

template <class T>
class FewInOrder : private FewSoftmax<T> {
 public:
  explicit FewInOrder(Plan& plan) noexcept
      : Base(plan, span_tiles * plan.tile_keys, false), plan_(plan), grid_(plan.tile_keys) {
    tiles_ = (p_.keys + grid_ - 1) / grid_;
    parts_ = std::max<int64_t>(1, (tiles_ + part_tiles - 1) / part_tiles);
    values_in_place_ = size_of(dtype_of(p_.value)) == sizeof(T) && p_.value.column_stride == int64_t(sizeof(T));
    groups_a_batch_ = (plan.rows + query_group - 1) / query_group;
  }

  fv_status run(fv_error* error) noexcept {
    const int64_t blocks = plan_.batches * row_blocks_;
    const double flops =
        2.0 * double(plan_.batches) * double(plan_.rows) * double(p_.keys) * double(p_.head_size + p_.value_size);
    const int most = threads_for(blocks * parts_, flops);
    const int64_t groups = plan_.batches * groups_a_batch_;
    const bool apart = most > 1 && blocks < 2 * most && parts_ > 1 && kept_bytes(groups) <= most_kept;
    const int threads = apart ? most : threads_for(blocks, flops);
    return this->with_scratch(
        plan_, threads, error, [&](Carver& carver) { carve(carver, apart ? groups : 0); },
        [&](Carver& carver) { return Scratch(*this, carver); },
        [&](auto&& scratch_of) {
          const auto each = [&](int64_t tasks, auto&& f) {
            return run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
              const KernelSession session(arithmetic_);
              Scratch scratch = scratch_of(task);
              f(task.index, scratch);
            });
          };
          if (!apart) return each(blocks, [&](int64_t block, Scratch& scratch) { whole(block, scratch); });
          return each(blocks * parts_, [&](int64_t task, Scratch& scratch) { score_part(task, scratch); }) &&
                 each(blocks * parts_, [&](int64_t task, Scratch& scratch) { sum_part(task, scratch); }) &&
                 each(blocks, [&](int64_t block, Scratch& scratch) { fold(block, scratch); });
        });
  }

 private:
  using Base = FewSoftmax<T>;
  using Base::arithmetic_;
  using Base::p_;
  using Base::row_blocks_;
  using Base::tile_;
  using Base::value_stride_;

  // The keys of a tile that a group has scores of; none: it sees none of the tile.
  struct Range {
    int64_t begin, count;
  };

  struct Scratch : Base::Scratch {
    Scratch(const FewInOrder& d, Carver& carver)
        : Base::Scratch(d, carver),
          part(carver.take<T>(query_group * d.value_stride_)),
          cells(carver.take<T>(d.slot())) {}
    T *part, *cells;
  };

  // ---- a row block at once

  void whole(int64_t block, Scratch& scratch) noexcept {
    const int64_t batch = block / row_blocks_, first_row = block % row_blocks_ * task_rows;
    const int groups = this->start(batch, first_row, scratch);
    pass(batch, 0, groups, false, scratch);
    for (int i = 0; i < groups; ++i) finish(batch, i, scratch);
  }

  // The keys that query groups first..last-1 see. exact: values that are not finite are left out of the sum, and added for
  // the queries that see them.
  void pass(int64_t batch, int first, int last, bool exact, Scratch& scratch) noexcept {
    for (int i = first; i < last; ++i) this->reset(batch, i, true, scratch);
    const StoredRows stored_rows(plan_, stored_values(p_), batch);
    for (Traversal tiles = tiles_of(first, last, {0, p_.keys}, scratch); !tiles.done(); tiles.next()) {
      const KeyTile span = tiles.tile();
      if (!this->sees_some(span, first, last, scratch)) continue;
      const Rows keys = this->keys_of(batch, span, scratch);
      TileIds ids;
      KeyRange seen[task_groups];
      for (int i = first; i < last; ++i) seen[i] = this->scores(i, span, keys, ids, scratch);
      for (int64_t t = span.first / grid_; t * grid_ < span.first + span.count; ++t) {
        Rows stored, values;
        bool ready = false;
        for (int i = first; i < last; ++i) {
          const Range range = range_of(seen[i], span, t);
          if (range.count <= 0) continue;
          if (!ready) {
            stored = stored_rows.in_pages(t * grid_, tile_keys(t), scratch.value_list);
            values = values_of(stored, tile_keys(t), exact, scratch);
          }
          ready = true;
          const int32_t queries = this->width(scratch.panels[i]);
          const int64_t before = t * grid_ + range.begin - span.first - seen[i].begin;
          std::copy_n(this->scores_of(i, scratch) + before * queries, range.count * queries, scratch.cells);
          add_tile(i, queries, values.from(range.begin), range.count, scratch);
          if (exact)
            this->add_not_finite(i, scratch.cells, seen[i].hidden ? scratch.bits + before : nullptr,
                                 stored.from(range.begin), range.count, scratch);
        }
      }
    }
  }

  // What a tile, whose scores are in scratch.cells, adds to a group's answer.
  void add_tile(int i, int32_t queries, const Rows& values, int64_t count, Scratch& scratch) noexcept {
    T tops[query_group], next[query_group], sums[query_group];
    T* const m = scratch.m + i * query_group;
    arithmetic_.decode_tops(scratch.cells, queries, count, tops);
    for (int32_t q = 0; q < queries; ++q) next[q] = tops[q] > m[q] ? tops[q] : m[q];
    arithmetic_.decode_weights(scratch.cells, queries, count, plan_.softmax_scale(), next, sums);
    sum(scratch.cells, queries, values, count, scratch.part);
    arithmetic_.decode_fold(queries, plan_.softmax_scale(), m, next, sums, scratch.part, value_stride_, p_.value_size,
                            scratch.l + i * query_group, this->output_of(i, scratch));
    std::copy_n(next, queries, m);
  }

  int64_t tile_keys(int64_t t) const { return std::min(grid_, p_.keys - t * grid_); }
  // What a range of a span has of tile t, counted from the tile's first key.
  Range range_of(const KeyRange& range, KeyTile span, int64_t t) const {
    const int64_t begin = std::max(span.first + range.begin - t * grid_, int64_t(0));
    return {begin, std::min(span.first + range.end - t * grid_, grid_) - begin};
  }

  Traversal tiles_of(int first, int last, Interval among, const Scratch& scratch) const noexcept {
    Interval seen = {p_.keys, 0};
    for (int i = first; i < last; ++i) {
      seen.low = std::min(seen.low, scratch.panels[i].low_first);
      seen.high = std::max(seen.high, scratch.panels[i].high_last);
    }
    return Traversal::grid({std::max(seen.low, among.low), std::min(seen.high, among.high)}, tile_, p_.keys);
  }

  // Contiguous columns of T, or a page's.
  Rows values_of(const Rows& stored, int64_t count, bool exact, Scratch& scratch) const noexcept {
    if (values_in_place_ && !exact) return stored;
    return this->loaded(stored, count, p_.value_size, exact, false, scratch.values);
  }

  void sum(const T* weights, int32_t queries, const Rows& values, int64_t count, T* part) const noexcept {
    std::fill_n(part, query_group * value_stride_, T(0));
    for (int64_t j = 0, n; j < count; j += n) {
      n = count - j;
      if (values.list) n = std::min(n, values.page_rows - (values.first + j) % values.page_rows);
      arithmetic_.decode_chain(weights + j * queries, queries, values.row(j), values.row_stride, n, p_.value_size, part,
                               value_stride_);
    }
  }

  // Writes the answers of a query group.
  void finish(int64_t batch, int i, Scratch& scratch) noexcept {
    if (scratch.panels[i].hidden && !this->all_finite(i, scratch)) pass(batch, i, i + 1, true, scratch);
    const Panel& panel = scratch.panels[i];
    for (int32_t q = 0; q < panel.live; ++q) {
      const int at = i * query_group + q;
      this->write(batch, panel, q, panel.seen >> q & 1, scratch.m[at], scratch.l[at],
                  this->output_of(i, scratch) + q * value_stride_);
    }
  }

  // ---- tiles apart

  struct Place {
    int64_t batch, first_row, part;
  };

  int64_t kept_bytes(int64_t groups) const { return groups * tiles_ * slot() * int64_t(sizeof(T)); }
  int64_t slot() const { return (grid_ + most_lanes) * query_group; }

  void carve(Carver& carver, int64_t groups) {
    kept_scores_ = carver.take<T>(groups * tiles_ * slot());
    kept_parts_ = carver.take<T>(groups * tiles_ * query_group * value_stride_);
    kept_tops_ = carver.take<T>(groups * tiles_ * query_group);
    kept_sums_ = carver.take<T>(groups * tiles_ * query_group);
    kept_ranges_ = carver.take<Range>(groups * tiles_);
    kept_seen_ = carver.take<uint32_t>(groups * parts_);
    kept_hidden_ = carver.take<uint8_t>(groups * parts_);
  }

  Place place(int64_t task) const {
    const int64_t block = task / parts_;
    return {block / row_blocks_, block % row_blocks_ * task_rows, task % parts_};
  }
  int64_t group_of(const Place& at, int i) const { return at.batch * groups_a_batch_ + at.first_row / query_group + i; }
  Interval keys_of_part(const Place& at) const {
    return {at.part * part_tiles * grid_, std::min(p_.keys, (at.part + 1) * part_tiles * grid_)};
  }

  void score_part(int64_t task, Scratch& scratch) noexcept {
    const Place at = place(task);
    const int groups = this->start(at.batch, at.first_row, scratch);
    const int64_t first = at.part * part_tiles, end = std::min(tiles_, first + part_tiles);
    for (int i = 0; i < groups; ++i)
      for (int64_t t = first; t < end; ++t) kept_ranges_[group_of(at, i) * tiles_ + t] = {0, 0};
    for (Traversal tiles = tiles_of(0, groups, keys_of_part(at), scratch); !tiles.done(); tiles.next()) {
      const KeyTile span = tiles.tile();
      if (!this->sees_some(span, 0, groups, scratch)) continue;
      const Rows keys = this->keys_of(at.batch, span, scratch);
      TileIds ids;
      for (int i = 0; i < groups; ++i) {
        const KeyRange seen = this->scores(i, span, keys, ids, scratch);
        if (seen.empty()) continue;
        const int32_t queries = this->width(scratch.panels[i]);
        for (int64_t t = span.first / grid_; t * grid_ < span.first + span.count; ++t) {
          const Range range = range_of(seen, span, t);
          if (range.count <= 0) continue;
          const int64_t cell = group_of(at, i) * tiles_ + t;
          const int64_t before = t * grid_ + range.begin - span.first - seen.begin;
          kept_ranges_[cell] = range;
          T* const kept = kept_scores_ + cell * slot();
          std::copy_n(this->scores_of(i, scratch) + before * queries, range.count * queries, kept);
          arithmetic_.decode_tops(kept, queries, range.count, kept_tops_ + cell * query_group);
        }
      }
    }
    for (int i = 0; i < groups; ++i) {
      kept_seen_[group_of(at, i) * parts_ + at.part] = scratch.panels[i].seen;
      kept_hidden_[group_of(at, i) * parts_ + at.part] = scratch.panels[i].hidden;
    }
  }

  // The largest score up to a tile, the tile's included.
  void add_top(int64_t cell, int32_t queries, T* m) const noexcept {
    if (kept_ranges_[cell].count == 0) return;
    for (int32_t q = 0; q < queries; ++q) {
      const T top = kept_tops_[cell * query_group + q];
      m[q] = top > m[q] ? top : m[q];
    }
  }

  void sum_part(int64_t task, Scratch& scratch) noexcept {
    const Place at = place(task);
    const int64_t rows = std::min(plan_.rows - at.first_row, task_rows);
    const int groups = int((rows + query_group - 1) / query_group);
    const int64_t first = at.part * part_tiles, end = std::min(tiles_, first + part_tiles);
    const StoredRows stored_rows(plan_, stored_values(p_), at.batch);
    for (int i = 0; i < groups; ++i) {
      start_panel(plan_, at.batch, at.first_row + i * query_group,
                  int32_t(std::min(rows - i * query_group, query_group)), scratch.panels[i]);
      T* const m = scratch.m + i * query_group;
      this->start_softmax(at.batch, i, true, scratch);
      for (int64_t t = 0; t < first; ++t) add_top(group_of(at, i) * tiles_ + t, this->width(scratch.panels[i]), m);
    }
    for (int64_t t = first; t < end; ++t) {
      const int64_t key = t * grid_, count = tile_keys(t);
      bool ready = false;
      Rows values;
      for (int i = 0; i < groups; ++i) {
        const int64_t cell = group_of(at, i) * tiles_ + t;
        const Range range = kept_ranges_[cell];
        if (range.count == 0) continue;
        if (!ready) values = values_of(stored_rows.in_pages(key, count, scratch.value_list), count, false, scratch);
        ready = true;
        const int32_t queries = this->width(scratch.panels[i]);
        add_top(cell, queries, scratch.m + i * query_group);
        T* const s = kept_scores_ + cell * slot();
        arithmetic_.decode_weights(s, queries, range.count, plan_.softmax_scale(), scratch.m + i * query_group,
                                   kept_sums_ + cell * query_group);
        sum(s, queries, values.from(range.begin), range.count, kept_parts_ + cell * query_group * value_stride_);
      }
    }
  }

  void fold(int64_t block, Scratch& scratch) noexcept {
    const Place at = {block / row_blocks_, block % row_blocks_ * task_rows, 0};
    const int groups = this->start(at.batch, at.first_row, scratch);
    for (int i = 0; i < groups; ++i) {
      Panel& panel = scratch.panels[i];
      const int64_t group = group_of(at, i);
      this->reset(at.batch, i, true, scratch);
      T* const m = scratch.m + i * query_group;
      for (int64_t part = 0; part < parts_; ++part) {
        panel.seen |= kept_seen_[group * parts_ + part];
        panel.hidden = panel.hidden || kept_hidden_[group * parts_ + part];
      }
      for (int64_t t = 0; t < tiles_; ++t) {
        const int64_t cell = group * tiles_ + t;
        if (kept_ranges_[cell].count == 0) continue;
        T next[query_group];
        std::copy_n(m, query_group, next);
        add_top(cell, this->width(panel), next);
        arithmetic_.decode_fold(this->width(panel), plan_.softmax_scale(), m, next, kept_sums_ + cell * query_group,
                                kept_parts_ + cell * query_group * value_stride_, value_stride_, p_.value_size,
                                scratch.l + i * query_group, this->output_of(i, scratch));
        std::copy_n(next, query_group, m);
      }
      finish(at.batch, i, scratch);
    }
  }

  Plan& plan_;
  const int64_t grid_;  // keys of a tile
  int64_t tiles_, parts_, groups_a_batch_;
  bool values_in_place_;
  T *kept_scores_ = nullptr, *kept_parts_ = nullptr, *kept_tops_ = nullptr, *kept_sums_ = nullptr;
  Range* kept_ranges_ = nullptr;
  uint32_t* kept_seen_ = nullptr;
  uint8_t* kept_hidden_ = nullptr;
};

}  // namespace

bool takes_few_in_order(const Plan& plan) noexcept {
  const Problem& p = plan.problem;
  // terms of tanh divide by what belongs to the query; a few last columns of values have chains of their own
  return !plan.arithmetic.pairs && p.family != FV_TANH && p.value_size > 0 && p.value_size % 4 == 0 && p.keys > 0;
}

fv_status decode_in_order(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), needs_of_few);
  return plan.arithmetic.element_size == 8 ? FewInOrder<double>(plan).run(error) : FewInOrder<float>(plan).run(error);
}

}  // namespace foveate
