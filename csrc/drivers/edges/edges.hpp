// Attention along the edges of a graph: a query at a time against the rows of its keys, wherever these stand, for some heads
// together while those rows are in a cache. What a query does not see is left out of its list of edges before anything is
// read of it. All sums of a query run over its own edges alone, in their order.
//
// Tasks are runs of queries with about as many edges each, by the graph alone. Heads that are taken together are a block: as
// many as stand side by side in a row of the keys.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "drivers/common/dropout.hpp"
#include "drivers/common/intervals.hpp"
#include "drivers/common/lse.hpp"
#include "drivers/common/rows.hpp"
#include "drivers/common/workers.hpp"
#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"

namespace foveate {

// The plan of all passes: single rows have accumulators of the plain arithmetics.
constexpr Needs needs_of_edges = {.whole_weights = true, .windows = Windows::shared};

// Rows whose kernels want T in whole vectors are copied so many at a time.
constexpr int64_t edge_tile = 256;

// The edges of all queries, sorted by key within each. What was validated may change while it is read: each number is
// brought within its bounds.
struct Graph {
  explicit Graph(const Problem& p) noexcept : p(p) {}
  int64_t begin(int64_t query) const { return read(p.edge_begins, query, p.edges); }
  int64_t key(int64_t edge) const { return read(p.edge_keys, edge, p.keys - 1); }
  int64_t most_edges() const noexcept {
    int64_t most = 0;
    for (int64_t i = 0, first = begin(0); i < p.queries; ++i) {
      const int64_t end = begin(i + 1);
      most = std::max(most, end - first);
      first = end;
    }
    return most;
  }

  const Problem& p;

 private:
  static int64_t read(const Operand& x, int64_t index, int64_t most) {
    int64_t number;
    std::memcpy(&number, x.data + index * x.row_stride, sizeof number);
    return std::clamp<int64_t>(number, 0, std::max<int64_t>(most, 0));
  }
};

// Cuts rows, whose edges begin where begin(row) says, into runs of about as much work.
constexpr double work_of_row = 4;     // in edges
constexpr double work_of_run = 2048;  // at least
constexpr int64_t most_runs = 1024;
template <class Begin>
class Runs {
 public:
  Runs(int64_t rows, Begin begin) noexcept : rows_(rows), begin_(begin) {
    const double all = rows > 0 ? work(rows) : 0;
    count_ = std::clamp<int64_t>(int64_t(all / work_of_run), 1, most_runs);
    each_ = all / double(count_);
  }
  int64_t count() const { return count_; }
  Interval of(int64_t run) const noexcept { return {first(run), first(run + 1)}; }

 private:
  double work(int64_t row) const { return double(begin_(row)) + work_of_row * double(row); }
  // The first row before which there is as much work as there is in the runs before.
  int64_t first(int64_t run) const noexcept {
    if (run >= count_) return rows_;
    int64_t low = 0, high = rows_;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (work(middle) >= each_ * double(run))
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
  int64_t rows_;
  Begin begin_;
  int64_t count_;
  double each_;
};

// Which heads are taken together: whole batches, with all groups of their queries.
struct HeadBlocks {
  explicit HeadBlocks(const Plan& plan) noexcept : plan(plan) {
    const Problem& p = plan.problem;
    int64_t step = std::numeric_limits<int64_t>::max();
    for (int a = 0; a < p.lead_ndim; ++a)
      if (p.lead_shape[a] > 1 && p.key.moves(a)) step = std::min(step, std::abs(p.key.lead[a]));
    const bool beside = step < std::abs(p.key.row_stride);
    each = beside ? std::clamp<int64_t>(most_together / std::max<int64_t>(1, plan.groups), 1, plan.batches) : 1;
    count = plan.batches > 0 ? (plan.batches + each - 1) / each : 0;
  }
  Interval batches(int64_t block) const { return {block * each, std::min((block + 1) * each, plan.batches)}; }
  int64_t heads() const { return each * plan.groups; }  // at most

  static constexpr int64_t most_together = 16;
  const Plan& plan;
  int64_t each, count;
};

// Where the rows of an operand begin that kernels read, T in whole vectors: where they stand, or copied to a tile.
template <class T>
class GatheredRows {
 public:
  GatheredRows(const Plan& plan, const Stored& x, int64_t columns, Carver& carver) noexcept
      : plan_(plan), x_(x), columns_(columns) {
    const int64_t lanes = plan.arithmetic.lanes;
    padded_ = (columns + lanes - 1) / lanes * lanes;
    const fv_dtype own = sizeof(T) == 8 ? FV_FLOAT64 : FV_FLOAT32;
    in_place_ = x.rows && x.rows.dtype == own && !x.table &&
                (columns <= 1 || x.rows.column_stride == item_size(x.rows)) && columns % lanes == 0;
    tile_ = carver.take<T>(in_place_ ? 0 : edge_tile * padded_);
    offsets_ = carver.take<int64_t>(in_place_ ? 0 : edge_tile);
  }
  // Once for a thread.
  void prepare() noexcept {
    if (in_place_) return;
    std::fill_n(tile_, edge_tile * padded_, T(0));
    for (int64_t e = 0; e < edge_tile; ++e) offsets_[e] = e * padded_ * int64_t(sizeof(T));
  }
  bool in_place() const { return in_place_; }
  int64_t columns() const { return padded_; }

  // Byte offsets of the rows of a list, which are the same for all heads.
  int64_t offset(int64_t row) const { return row * x_.rows.row_stride; }

  // Calls f(EdgeRows, first, count) for tiles of the rows of a head, listed as they are numbered, and by their offsets.
  // head: where the head's rows begin.
  template <class F>
  void each_tile(const char* head, int64_t batch, int64_t group, const int64_t* rows, const int64_t* offsets,
                 int64_t count, F&& f) noexcept {
    if (in_place_) return f(EdgeRows{head, offsets}, int64_t(0), count);
    const StoredRows stored(plan_, x_, batch, group);
    for (int64_t first = 0; first < count; first += edge_tile) {
      const int64_t some = std::min(edge_tile, count - first);
      for (int64_t e = 0; e < some; ++e)
        plan_.arithmetic.load_values(stored.row(rows[first + e]), 1, columns_, false, tile_ + e * padded_);
      f(EdgeRows{reinterpret_cast<const char*>(tile_), offsets_}, first, some);
    }
  }

  // Asks for a row of a head that will be used soon.
  [[gnu::always_inline]] void prefetch(const char* head, int64_t offset) const {
    if (!in_place_) return;
    for (int64_t at = 0; at < padded_ * int64_t(sizeof(T)) && at < 512; at += 64)
      __builtin_prefetch(head + offset + at);
  }

 private:
  const Plan& plan_;
  Stored x_;
  int64_t columns_, padded_;
  bool in_place_;
  T* tile_;
  int64_t* offsets_;
};

// A row of an operand as T, in whole vectors, times a factor. to: with zeros behind the columns.
template <class T>
void load_row(const Plan& plan, const char* from, const Operand& x, int64_t columns, T factor, T* to) noexcept {
  if (x.dtype == (sizeof(T) == 8 ? FV_FLOAT64 : FV_FLOAT32) && x.column_stride == int64_t(sizeof(T)))
    std::memcpy(to, from, size_t(columns) * sizeof(T));
  else
    plan.arithmetic.load_values({from, dtype_of(x), 0, x.column_stride}, 1, columns, false, to);
  if (factor != T(1))
    for (int64_t d = 0; d < columns; ++d) to[d] *= factor;
}

template <class T>
void store_row(const Plan& plan, const T* row, int64_t columns, char* to, const Operand& x) noexcept {
  if (x.dtype == (sizeof(T) == 8 ? FV_FLOAT64 : FV_FLOAT32) && x.column_stride == int64_t(sizeof(T)))
    std::memcpy(to, row, size_t(columns) * sizeof(T));
  else
    plan.arithmetic.store_row(row, columns, to, dtype_of(x), x.column_stride);
}

inline const EdgeKernels& edge_kernels(const Plan& plan) {
  return plan.arithmetic.element_size == 8 ? *plan.kernels.edges_float64 : *plan.kernels.edges_float32;
}
inline const EdgeScoring& edge_scoring(const Plan& plan) {
  const EdgeKernels& kernels = edge_kernels(plan);
  switch (plan.problem.family) {
    case FV_INNER: return kernels.inner;
    case FV_TANH: return kernels.tanh;
    case FV_RELU: return kernels.relu;
    case FV_LEAKY_RELU: return kernels.leaky_relu;
    case FV_DISTANCE: break;
  }
  return kernels.distance;
}

// The factors of the columns as the kernels take them, made before the first task.
template <class T>
struct EdgeFactors {
  EdgeFactors(const Plan& plan, Carver& carver) noexcept : plan(plan) {
    padded = (plan.problem.head_size + plan.arithmetic.lanes - 1) / plan.arithmetic.lanes * plan.arithmetic.lanes;
    of_scores = carver.take<T>(padded);
    of_gradients = carver.take<T>(padded);
    of_columns = carver.take<double>(padded);
  }
  void prepare() const noexcept {
    const Problem& p = plan.problem;
    const T* const given = static_cast<const T*>(p.factors);
    for (int64_t d = 0; d < padded; ++d) {
      const bool inside = d < p.head_size;
      const T factor = !inside ? T(0) : given ? given[d] : T(1);
      of_scores[d] = factor;
      of_gradients[d] = p.family == FV_LEAKY_RELU ? T(p.slope) : is_additive(p.family) ? T(1) : factor;
      of_columns[d] = p.family == FV_INNER      ? p.scale
                      : p.family == FV_DISTANCE ? -p.scale * double(factor)
                                                : p.scale * double(factor);
    }
  }
  double scale_of_factors() const {
    return plan.problem.family == FV_DISTANCE ? -plan.problem.scale : plan.problem.scale;
  }

  const Plan& plan;
  int64_t padded;
  T *of_scores, *of_gradients;
  double* of_columns;  // what the gradients of a column lack
};

// A query against its keys: which edges it sees, and their scores.
template <class T>
class EdgeRow {
 public:
  EdgeRow(const Plan& plan, const EdgeFactors<T>& factors, int64_t most_edges, Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        graph_(plan.problem),
        factors_(factors),
        scoring_(edge_scoring(plan)),
        keys_(plan, stored_keys(plan.problem), plan.problem.head_size, carver),
        dropout_(plan, carver),
        most_edges_(most_edges),
        room_((most_edges + most_lanes - 1) / most_lanes * most_lanes + most_lanes) {
    key_ = carver.take<int64_t>(room_);
    edge_ = carver.take<int64_t>(room_);
    offset_ = carver.take<int64_t>(room_);
    value_offset_ = carver.take<int64_t>(room_);
    bits_ = carver.take<uint32_t>(p_.edge_bias ? room_ : 0);
    raw_bias_ = carver.take(p_.edge_bias ? room_ * 8 : 0);
    query_ = carver.take<T>(keys_.columns());
    scores_ = carver.take<T>(room_);
    link_bytes_ = room_ * int64_t(sizeof(T));
    const auto moves = [&](const Operand& x) { return x && x.moving != 0; };
    varies_ = moves(p_.offset) || moves(p_.key_lengths) || moves(p_.query_segments) || moves(p_.key_segments) ||
              moves(p_.low) || moves(p_.high) || moves(p_.edge_bias);
    restricted_ = p_.left >= 0 || p_.right >= 0 || p_.key_lengths || p_.query_segments || p_.low || p_.leave_one_out;
  }
  void prepare() noexcept {
    keys_.prepare();
    std::fill_n(query_, keys_.columns(), T(0));
  }

  // Before the first head of a query.
  void start(int64_t query) noexcept {
    i_ = query;
    listed_ = false;
  }

  // The edges that a head's query sees; how many.
  int64_t list(int64_t batch, int64_t group) noexcept {
    if (listed_ && !varies_) return count_;
    listed_ = true;
    const int64_t begin = graph_.begin(i_), end = std::min(graph_.begin(i_ + 1), begin + most_edges_);
    first_ = begin;
    all_ = end - begin;
    count_ = 0;
    for (int64_t e = begin; e < end; ++e) {
      edge_[count_] = e;
      key_[count_++] = graph_.key(e);
    }
    if (restricted_) keep_seen(batch, group);
    if (p_.edge_bias) keep_finite(batch, group);
    for (int64_t e = 0; e < count_; ++e) offset_[e] = keys_.offset(key_[e]);
    for (int64_t e = 0; e < count_; ++e) value_offset_[e] = key_[e] * value_stride_;
    return count_;
  }
  void set_value_stride(int64_t stride) { value_stride_ = stride; }

  // All edges of the query, seen or not.
  int64_t begin() const { return first_; }
  int64_t all() const { return all_; }
  int64_t count() const { return count_; }
  const int64_t* keys() const { return key_; }
  const int64_t* edges() const { return edge_; }
  const int64_t* offsets() const { return offset_; }
  const int64_t* value_offsets() const { return value_offset_; }
  const T* query() const { return query_; }
  const Graph& graph() const { return graph_; }
  const GatheredRows<T>& key_rows() const { return keys_; }
  int64_t vectors() const { return (count_ + plan_.arithmetic.lanes - 1) / plan_.arithmetic.lanes; }
  int64_t room() const { return room_; }
  int64_t link_bytes() const { return link_bytes_; }

  // The scores of what was listed, in scores(). kept: for the gradients of links, or null.
  T* score(const char* query, const char* keys, int64_t batch, int64_t group, char* kept) noexcept {
    load_row(plan_, query, p_.query, p_.head_size, T(plan_.query_factor), query_);
    keys_.each_tile(keys, batch, group, key_, offset_, count_, [&](const EdgeRows& rows, int64_t first, int64_t some) {
      scoring_.scores(query_, rows, some, keys_.columns(), factors_.of_scores, p_.slope, scores_ + first);
    });
    plan_.links.apply(scores_, 1, vectors(), kept, link_bytes_);
    if (p_.edge_bias) {
      const int64_t item = item_size(p_.edge_bias);
      const char* const rows[1] = {raw_bias_};
      plan_.arithmetic.decode_bias(scores_, 1, count_, rows, dtype_of(p_.edge_bias), item, 1);
    }
    return scores_;
  }

  // Calls f(EdgeRows, first, count) for tiles of the keys that were listed.
  template <class F>
  void each_key_tile(const char* keys, int64_t batch, int64_t group, F&& f) noexcept {
    keys_.each_tile(keys, batch, group, key_, offset_, count_, f);
  }

  // Calls f(edge in the list) for those that dropout drops.
  template <class F>
  void each_dropped(int64_t batch, int64_t group, F&& f) noexcept {
    Panel panel;
    panel.live = 1;
    panel.row[0] = i_;
    panel.group[0] = group;
    for (int64_t e = 0; e < count_; ++e)
      if (!(*dropout_.kept(panel, batch, key_[e], 1) & 1)) f(e);
  }
  bool drops() const { return dropout_.any(); }
  double kept_factor() const { return dropout_.factor(); }

  // Asks for the rows of a later query's keys, of a head.
  [[gnu::always_inline]] void prefetch(int64_t query, const char* keys, const char* values,
                                       const GatheredRows<T>* value_rows) const {
    if (query >= p_.queries) return;
    const int64_t begin = graph_.begin(query), end = std::min(graph_.begin(query + 1), begin + most_prefetched);
    for (int64_t e = begin; e < end; ++e) {
      const int64_t key = graph_.key(e);
      keys_.prefetch(keys, keys_.offset(key));
      if (value_rows) value_rows->prefetch(values, key * value_stride_);
    }
  }

 private:
  static constexpr int64_t most_prefetched = 32;

  int64_t element(const Operand& x, int64_t batch, int64_t group, int64_t index) const {
    int64_t number;
    std::memcpy(&number, plan_.row(x, batch, group, index), sizeof number);
    return number;
  }

  template <class Sees>
  void keep(Sees&& sees) noexcept {
    int64_t kept = 0;
    for (int64_t e = 0; e < count_; ++e) {
      if (!sees(e)) continue;
      key_[kept] = key_[e];
      edge_[kept++] = edge_[e];
    }
    count_ = kept;
  }

  void keep_seen(int64_t batch, int64_t group) noexcept {
    const Reach reach = reach_of(plan_, batch, group);
    const Interval keys = reach.of(i_, p_.left, p_.right);
    const int64_t own = p_.leave_one_out ? i_ + reach.offset : -1;
    keep([&](int64_t e) { return keys.low <= key_[e] && key_[e] < keys.high && key_[e] != own; });
    if (p_.low) {
      const char *low = plan_.row(p_.low, batch, group, i_), *high = plan_.row(p_.high, batch, group, i_);
      keep([&](int64_t e) {
        for (int64_t m = 0; m < p_.intervals; ++m) {
          int64_t first, last;
          std::memcpy(&first, low + m * p_.low.column_stride, sizeof first);
          std::memcpy(&last, high + m * p_.high.column_stride, sizeof last);
          if (first <= key_[e] && key_[e] < last) return true;
        }
        return false;
      });
    }
    if (p_.query_segments) {
      const int64_t id = element(p_.query_segments, batch, group, i_);
      keep([&](int64_t e) { return element(p_.key_segments, batch, group, key_[e]) == id; });
    }
  }

  // The bias of what is seen, side by side, and nothing of -inf.
  void keep_finite(int64_t batch, int64_t group) noexcept {
    const int64_t item = item_size(p_.edge_bias);
    const char* const bias = plan_.row(p_.edge_bias, batch, group, 0);
    for (int64_t e = 0; e < count_; ++e)
      std::memcpy(raw_bias_ + e * item, bias + edge_[e] * p_.edge_bias.row_stride, size_t(item));
    std::fill_n(bits_, count_, 1u);
    plan_.kernels.clear_minus_infinity(raw_bias_, dtype_of(p_.edge_bias), item, count_, 0, bits_);
    int64_t kept = 0;
    for (int64_t e = 0; e < count_; ++e) {
      if (!bits_[e]) continue;
      std::memmove(raw_bias_ + kept++ * item, raw_bias_ + e * item, size_t(item));
    }
    keep([&](int64_t e) { return bits_[e] != 0; });
  }

  const Plan& plan_;
  const Problem& p_;
  const Graph graph_;
  const EdgeFactors<T>& factors_;
  const EdgeScoring& scoring_;
  GatheredRows<T> keys_;
  Dropout dropout_;
  int64_t most_edges_, room_, link_bytes_;
  int64_t *key_, *edge_, *offset_, *value_offset_;
  uint32_t* bits_;
  char* raw_bias_;
  T *query_, *scores_;
  bool varies_, restricted_;
  int64_t value_stride_ = 0;
  int64_t i_ = 0, first_ = 0, all_ = 0, count_ = 0;
  bool listed_ = false;
};

}  // namespace foveate
