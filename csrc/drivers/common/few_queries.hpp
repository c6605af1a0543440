// Few queries against many keys: rows that share their keys are handled together, four at a time, so that keys are read
// once, and scored tile by tile, [key][query], -inf where they are not seen. A driver then selects.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>

#include "place_bias.hpp"
#include "reach.hpp"
#include "rows.hpp"
#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

constexpr int64_t task_groups = 8;  // of a task: further queries of a group read the keys again
constexpr int64_t task_rows = query_group * task_groups;
constexpr int64_t sum_keys = 64;  // sums run over at most so many keys, from a multiple: at least a vector's lanes

// 16-bit keys are widened to float32 in registers here. Ranges begin at a multiple of sum_keys, and may end anywhere.
constexpr Needs needs_of_few = {.whole_weights = true, .windows = Windows::shared, .key_step = 1};

constexpr int64_t most_of_digits = 32768;  // columns whose products of bytes have a sum of 32 bits

template <class T>
class FewQueries {
 protected:
  // tile: keys whose scores are held at once, of so many query groups. narrow_products: whether scores may be sums of products
  // of bytes, or of pairs of bfloat16, which are as exact, but other bits than those of floats.
  FewQueries(const Plan& plan, int64_t tile, int64_t groups, bool narrow_products) noexcept
      : plan_(plan),
        p_(plan.problem),
        arithmetic_(plan.arithmetic),
        scoring_(plan.scoring),
        direct_(plan.problem.family == FV_INNER && !plan.problem.one_order),
        width_(int64_t(plan.arithmetic.lanes) * plan.arithmetic.max_vectors),
        tile_(tile),
        groups_(std::clamp<int64_t>((plan.rows + query_group - 1) / query_group, 1, groups)) {
    row_blocks_ = (plan.rows + task_rows - 1) / task_rows;
    query_stride_ = padded(p_.head_size);
    // 16 bits of a fixed point are exact enough for queries of 16 bits
    if (sizeof(T) == 4 && narrow_products) digits_ = plan.kernels.digits;
    if (size_of(p_.query.dtype) == 4) count_of_digits_ = 3;
    const Dtype keys = dtype_of(p_.key);
    keys_by_digits_ =
        digits_ && direct_ && p_.head_size <= most_of_digits && (keys == Dtype::int8 || keys == Dtype::int4);
    if (sizeof(T) == 4 && narrow_products && p_.query.dtype == FV_BFLOAT16) pairs_ = plan.kernels.few_pairs;
    keys_by_pairs_ = pairs_ && direct_ && keys == Dtype::bfloat16;
    keys_contiguous_ = is_contiguous(p_.key) && (direct_ || !is_few_bits(dtype_of(p_.key)));
  }

  // A score that is not direct has keys on the lanes, as panels, and the queries as rows.
  struct Swapped {
    Swapped(const FewQueries& d, Carver& carver) {
      if (d.direct_) return;
      const int64_t width = d.width_, columns = d.p_.head_size;
      rows = carver.take(task_rows * d.scoring_.row_size(columns));
      panel = carver.take(width * d.scoring_.panel_size(columns));
      scores = carver.take<T>(width * query_group);
      row_max = carver.take<T>(width);
      scratch = carver.take<T>(width * columns);
    }
    char *rows = nullptr, *panel = nullptr;
    T *scores = nullptr, *row_max = nullptr, *scratch = nullptr;
  };

  struct QueryScratch {
    QueryScratch(const FewQueries& d, Carver& carver)
        : queries(carver.take<T>(task_rows * d.query_stride_)),
          digits(carver.take(d.keys_by_digits_ ? task_groups * d.digit_queries_size() : 0)),
          pairs(carver.take(d.keys_by_pairs_ ? task_rows * d.pairs_->query_size(d.p_.head_size) : 0)),
          s(carver.take<T>(d.groups_ * d.score_stride())),
          keys(carver.take<T>(d.keys_contiguous_ ? 0 : d.tile_ * d.p_.head_size)),
          bits(carver.take<uint32_t>(d.tile_)),
          key_list(RowList::of_pages(stored_keys(d.p_), d.tile_, carver)),
          places(d.plan_, d.tile_, carver),
          swapped(d, carver),
          panels(carver.take<Panel>(task_groups)) {}
    T* queries;
    char *digits, *pairs;  // of the queries
    T *s, *keys;
    uint32_t* bits;
    RowList key_list;
    PlaceBias places;
    Swapped swapped;
    Panel* panels;
  };

  // Takes the memory of a call, the score's weights first, and calls run(scratch_of), scratch_of(task) for a thread's part.
  // carve: lays out what all tasks share; make: the Scratch of a thread. Both count with a null base.
  template <class Carve, class Make, class Run>
  static fv_status with_scratch(Plan& plan, int threads, fv_error* error, Carve&& carve, Make&& make, Run&& run) {
    const size_t prepared = size_t(plan.prepared_size(threads));
    Carver part(nullptr), all(nullptr);
    make(part);
    carve(all);
    const size_t shared = prepared + all.used();
    const Workspace workspace(shared + part.used() * size_t(threads));
    if (!workspace.data()) return no_memory(error, double(shared) + double(part.used()) * threads);
    if (!plan.prepare(threads, workspace.data())) return FV_INTERRUPTED;
    Carver carver(workspace.data() + prepared);
    carve(carver);
    const bool done = run([&](const Task& task) {
      Carver own(workspace.data() + shared + part.used() * size_t(task.thread));
      return make(own);
    });
    return done ? FV_OK : FV_INTERRUPTED;
  }

  // Two passes of so many tasks, the second over what the first left: first(task, scratch), second(task, scratch).
  template <class Carve, class Make, class First, class Second>
  static fv_status in_two_passes(Plan& plan, int threads, fv_error* error, Carve&& carve, Make&& make,
                                 int64_t first_tasks, First&& first, int64_t second_tasks, Second&& second) {
    return with_scratch(plan, threads, error, carve, make, [&](auto&& scratch_of) {
      const auto pass = [&](int64_t tasks, auto&& f) {
        return run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
          const KernelSession session(plan.arithmetic);
          auto scratch = scratch_of(task);
          f(task.index, scratch);
        });
      };
      return pass(first_tasks, first) && pass(second_tasks, second);
    });
  }

  int64_t padded(int64_t columns) const {
    return std::max<int64_t>(1, (columns + arithmetic_.lanes - 1) / arithmetic_.lanes) * arithmetic_.lanes;
  }
  // Kernels take contiguous columns, as those of int4 always are. Few bits are for sums of float32.
  static bool is_contiguous(const Operand& x) {
    if (is_few_bits(dtype_of(x)) && sizeof(T) == 8) return false;
    return dtype_of(x) == Dtype::int4 || x.column_stride == item_size(x);
  }
  // A group of 3 is handled as 4, one of its rows being zero.
  static int32_t width(const Panel& panel) { return panel.live > 2 ? 4 : panel.live; }

  // Loads the queries of a task's rows; returns in how many query groups.
  int start(int64_t batch, int64_t first_row, QueryScratch& scratch) const noexcept {
    const int64_t rows = std::min(plan_.rows - first_row, task_rows);
    const int query_groups = int((rows + query_group - 1) / query_group);
    for (int i = 0; i < query_groups; ++i) {
      start_panel(plan_, batch, first_row + i * query_group, int32_t(std::min(rows - i * query_group, query_group)),
                  scratch.panels[i]);
      load_queries(batch, i, scratch);
    }
    return query_groups;
  }

  void load_queries(int64_t batch, int i, QueryScratch& scratch) const noexcept {
    const Panel& panel = scratch.panels[i];
    if (!direct_) {
      const int64_t size = scoring_.row_size(p_.head_size);
      for (int32_t q = 0; q < query_group; ++q) {  // of three, the last one twice
        char* const to = scratch.swapped.rows + (i * query_group + q) * size;
        scoring_.load_keys({row_of(plan_, p_.query, batch, panel, std::min(q, panel.live - 1)), dtype_of(p_.query), 0,
                            p_.query.column_stride},
                           1, p_.head_size, to);
        if (p_.family != FV_INNER) continue;
        for (int64_t d = 0; d < p_.head_size; ++d) reinterpret_cast<T*>(to)[d] *= T(plan_.query_factor);
      }
      return;
    }
    if (keys_by_pairs_) {
      const int64_t size = pairs_->query_size(p_.head_size);
      char* const rows = scratch.pairs + i * query_group * size;
      std::memset(rows, 0, size_t(query_group * size));
      for (int32_t q = 0; q < panel.live; ++q)
        pairs_->load_query(row_of(plan_, p_.query, batch, panel, q), p_.query.column_stride, p_.head_size,
                           rows + q * size);
      return;
    }
    T* to = scratch.queries + i * query_group * query_stride_;
    std::fill_n(to, query_group * query_stride_, T(0));
    for (int32_t q = 0; q < panel.live; ++q)
      arithmetic_.load_values({row_of(plan_, p_.query, batch, panel, q), dtype_of(p_.query), 0, p_.query.column_stride},
                              1, p_.head_size, false, to + q * query_stride_);
    for (int64_t d = 0; d < panel.live * query_stride_; ++d) to[d] *= T(plan_.query_factor);
    if (keys_by_digits_)
      digits_->load_queries(to, query_stride_, width(panel), count_of_digits_, dtype_of(p_.key), p_.key_block,
                            p_.head_size, scratch.digits + i * digit_queries_size());
  }

  int64_t digit_queries_size() const {
    return int64_t(round_up(size_t(digits_->queries_size(dtype_of(p_.key), p_.key_block, p_.head_size))));
  }

  // The keys of a tile, in contiguous columns.
  Rows keys_of(int64_t batch, KeyTile tile, QueryScratch& scratch) const noexcept {
    if (p_.table) scratch.places.open(batch, tile);
    const Rows keys = StoredRows(plan_, stored_keys(p_), batch).in_pages(tile.first, tile.count, scratch.key_list);
    if (keys_contiguous_) return keys;
    const Rows rows = loaded(keys, tile.count, p_.head_size, false, direct_, scratch.keys);
    return keys_by_pairs_ ? narrowed(rows, tile.count, p_.head_size, scratch.keys) : rows;
  }

  // Loaded rows of what bfloat16 has, as such.
  Rows narrowed(Rows rows, int64_t count, int64_t columns, T* at) const {
    pairs_->narrow(at, count * columns);
    rows.dtype = Dtype::bfloat16;
    rows.row_stride = columns * 2;
    rows.column_stride = 2;
    return rows;
  }

  // Rows with contiguous columns. finite: with 0 for what is not. stored: few bits may stay such.
  Rows loaded(const Rows& rows, int64_t count, int64_t columns, bool finite, bool stored, T* to) const {
    if (stored && sizeof(T) == 4 && is_few_bits(rows.dtype)) return copied(rows, count, columns, to);
    arithmetic_.load_values(rows, count, columns, finite, to);
    return {reinterpret_cast<const char*>(to), sizeof(T) == 8 ? Dtype::float64 : Dtype::float32,
            columns * int64_t(sizeof(T)), int64_t(sizeof(T))};
  }

  // What is stored of rows of bytes, with their scales where they are.
  static Rows copied(Rows rows, int64_t count, int64_t columns, T* to) {
    char* const bytes = reinterpret_cast<char*>(to);
    for (int64_t j = 0; j < count; ++j)
      for (int64_t d = 0; d < columns; ++d) bytes[j * columns + d] = rows.row(j)[d * rows.column_stride];
    rows.list = nullptr;
    rows.data = bytes;
    rows.row_stride = columns;
    rows.column_stride = 1;
    return rows;
  }

  // Where the scores of query group i stand: [key][query].
  T* scores_of(int i, const QueryScratch& scratch) const { return scratch.s + i % groups_ * score_stride(); }
  int64_t score_stride() const { return (tile_ + sum_keys) * query_group; }

  // Whether rules leave some of the query groups first..last-1 a key of a tile.
  bool sees_some(KeyTile tile, int first, int last, const QueryScratch& scratch) const noexcept {
    for (int i = first; i < last && plan_.holes; ++i) {
      const Interval span = span_of_rules(plan_, scratch.panels[i], tile);
      if (span.low < span.high) return true;
    }
    return !plan_.holes;
  }

  // Scores of query group i for a tile, in scores_of(i); with the bits of hidden cells.
  KeyRange scores(int i, KeyTile tile, Rows keys, TileIds& ids, QueryScratch& scratch) const noexcept {
    Panel& panel = scratch.panels[i];
    const KeyRange range = visible_keys(plan_, panel, tile, sum_keys, true, scratch.bits, {}, ids);
    if (range.empty()) return range;
    const int32_t queries = width(panel);
    const int64_t count = range.count();
    T* s = scores_of(i, scratch);
    keys = keys.from(range.begin);
    if (keys_by_digits_)
      digits_->scores(scratch.digits + i * digit_queries_size(), queries, count_of_digits_, keys, count, p_.head_size,
                      s);
    else if (keys_by_pairs_)
      pairs_->scores(scratch.pairs + i * query_group * pairs_->query_size(p_.head_size), queries, keys, count,
                     p_.head_size, plan_.query_factor, s);
    else if (direct_)
      arithmetic_.decode_scores(scratch.queries + i * query_group * query_stride_, query_stride_, queries, keys, count,
                                p_.head_size, s);
    else
      swapped_scores(i, queries, keys, count, scratch.swapped, s);
    const int64_t vectors = (count * queries + arithmetic_.lanes - 1) / arithmetic_.lanes;
    plan_.links.apply(s, 1, vectors, nullptr, 0);
    if (plan_.biased) {
      const char* rows[query_group];
      for (int32_t q = 0; q < panel.live; ++q)
        rows[q] = panel.mask[q] + (tile.first + range.begin) * p_.mask.column_stride;
      arithmetic_.decode_bias(s, queries, count, rows, dtype_of(p_.mask), p_.mask.column_stride, panel.live);
    }
    if (p_.table) scratch.places.add_to_few(panel, range.begin, count, queries, s);
    if (range.hidden)
      for (int64_t j = 0; j < count; ++j)
        for (int32_t q = 0; q < panel.live; ++q)
          if (!(range.bits[j] >> q & 1)) s[j * queries + q] = -std::numeric_limits<T>::infinity();
    return range;
  }

  void swapped_scores(int i, int32_t queries, const Rows& keys, int64_t count, const Swapped& scratch,
                      T* s) const noexcept {
    const int64_t size = scoring_.row_size(p_.head_size);
    const LoadedRows rows{scratch.rows + i * query_group * size, size};
    const int64_t bytes = p_.one_order && !is_few_bits(keys.dtype) ? p_.head_size * size_of(keys.dtype) : 0;
    for (int64_t first = 0; first < count; first += width_) {
      const int32_t live = int32_t(std::min(width_, count - first));
      const int32_t vectors = live <= arithmetic_.lanes ? 1 : arithmetic_.max_vectors;
      const char* panel[most_lanes];
      for (int32_t j = 0; j < live; ++j) panel[j] = keys.row(first + j);
      // rows of a panel are read side by side, which no hardware prefetches as a stream
      for (int64_t j = first + width_, end = std::min(j + width_, count); j < end; ++j)
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(keys.row(j) + at, 0, 2);
      scoring_.pack_queries(panel, keys.dtype, keys.column_stride, live, vectors, p_.head_size, 1, plan_.factors,
                            scratch.scratch, scratch.panel);
      scoring_.scores(scratch.panel, vectors, rows, queries, p_.head_size, plan_.factors, scratch.scores,
                      scratch.row_max, PartialKeys::none(queries), {});
      for (int32_t q = 0; q < queries; ++q) {
        const T* const from = scratch.scores + q * vectors * arithmetic_.lanes;
        T* const to = s + first * queries + q;
        for (int32_t j = 0; j < live; ++j) to[j * queries] = from[j];
      }
    }
  }

  const Plan& plan_;
  const Problem& p_;
  const Arithmetic& arithmetic_;
  const Scoring& scoring_;
  const bool direct_;    // an inner product whose chains are over lanes
  const int64_t width_;  // of a panel
  const int64_t tile_, groups_;
  int64_t row_blocks_, query_stride_;
  bool keys_contiguous_;
  const Digits* digits_ = nullptr;  // where there are products of bytes
  int32_t count_of_digits_ = 2;
  bool keys_by_digits_;
  const FewPairs* pairs_ = nullptr;  // where queries are of bfloat16, and there are products of pairs
  bool keys_by_pairs_;
};

}  // namespace foveate
