// Few queries against many keys, bound by memory: all rows that share their keys are handled together, four at a time,
// so that keys and values are read once; the keys are split into chunks of fixed size, whose answers are merged in
// order, so that any number of threads gives the same bits.
#include "decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../parallel.hpp"
#include "../workspace.hpp"
#include "reach.hpp"

namespace foveate {
namespace {

constexpr int64_t chunk_keys = 2048;  // a unit of work for a thread
constexpr int64_t decode_tile = 256;  // keys whose scores are held at once
constexpr int64_t sum_keys = 32;      // sums run over so many keys, from a multiple: at least a vector's lanes
constexpr int64_t quad = 4;           // queries that share a load
constexpr int64_t task_quads = 8;     // of a task: further queries of a group read the keys again

const Kernels without_pairs(Kernels kernels) {
  kernels.bfloat16 = nullptr;  // 16-bit keys are widened to float32 in registers here
  return kernels;
}

template <class T>
class Decode {
 public:
  explicit Decode(Plan& plan) noexcept
      : plan_(plan),
        p_(plan.problem),
        family_(plan.family),
        scoring_(plan.scoring),
        direct_(plan.problem.kind == FV_DOT),
        width_(int64_t(plan.family.lanes) * plan.family.max_vectors) {
    chunks_ = std::max<int64_t>(1, (p_.keys + chunk_keys - 1) / chunk_keys);
    row_blocks_ = (plan.rows + quad * task_quads - 1) / (quad * task_quads);
    query_stride_ = padded(p_.head_size);
    value_stride_ = padded(p_.value_size);
    keys_contiguous_ = p_.key.column_stride == item(p_.key) || p_.head_size <= 1;
    values_contiguous_ = p_.value.column_stride == item(p_.value) || p_.value_size <= 1;
  }

  fv_status run(fv_error* error) noexcept {
    const int64_t tasks = plan_.batches * row_blocks_ * chunks_;
    const double cells = double(plan_.batches) * double(plan_.rows) * double(p_.keys);
    const int threads = threads_for(tasks, 2.0 * cells * double(p_.head_size + p_.value_size));
    const size_t prepared = round_up(size_t(plan_.prepared_size()));
    const int64_t partial = chunks_ > 1 ? plan_.batches * plan_.rows * chunks_ : 0;
    Carver size(nullptr);
    Scratch(*this, size);
    const size_t part = size.used();
    Carver shared_size(nullptr);
    carve_partial(shared_size, partial);
    const size_t shared = prepared + shared_size.used();
    const Workspace workspace(shared + part * size_t(threads));
    if (!workspace.data()) return no_memory(error, double(shared) + double(part) * threads);
    plan_.prepare(workspace.data());
    Carver shared_carver(workspace.data() + prepared);
    carve_partial(shared_carver, partial);

    bool done = run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
      Carver carver(workspace.data() + shared + part * size_t(task.thread));
      Scratch scratch(*this, carver);
      chunk(task.index, scratch);
    });
    if (done && chunks_ > 1)
      done =
          run_tasks(plan_.batches * plan_.rows, threads, Order::by_ranges, [&](const Task& row) { merge(row.index); });
    return done ? FV_OK : FV_INTERRUPTED;
  }

 private:
  // A score that is no inner product has keys on the lanes, as panels, and the queries as rows.
  struct Swapped {
    Swapped(const Decode& d, Carver& carver) {
      if (d.direct_) return;
      const int64_t width = d.width_, columns = d.p_.head_size;
      rows = carver.take(quad * task_quads * d.scoring_.row_size(columns));
      panel = carver.take(width * d.scoring_.panel_size(columns));
      scores = carver.take<T>(width * quad);
      top = carver.take<T>(width);
      scratch = carver.take<T>(width * columns);
    }
    char *rows, *panel;
    T *scores, *top, *scratch;
  };

  struct Scratch {
    Scratch(const Decode& d, Carver& carver)
        : queries(carver.take<T>(quad * task_quads * d.query_stride_)),
          outputs(carver.take<T>(quad * task_quads * d.value_stride_)),
          s(carver.take<T>(decode_tile * quad)),
          m(carver.take<T>(quad * task_quads)),
          l(carver.take<T>(quad * task_quads)),
          keys(carver.take<T>(d.keys_contiguous_ ? 0 : decode_tile * d.p_.head_size)),
          values(carver.take<T>(decode_tile * d.p_.value_size)),
          bits(carver.take<uint32_t>(decode_tile)),
          swapped(d, carver),
          panels(carver.take<Panel>(task_quads)) {}
    T *queries, *outputs, *s, *m, *l, *keys, *values;
    uint32_t* bits;
    Swapped swapped;
    Panel* panels;
  };

  static int64_t item(const Operand& x) { return x.dtype == FV_FLOAT64 ? 8 : x.dtype == FV_FLOAT32 ? 4 : 2; }
  int64_t padded(int64_t columns) const {
    return std::max<int64_t>(1, (columns + family_.lanes - 1) / family_.lanes) * family_.lanes;
  }
  // A quad of 3 is handled as 4, one of its rows being zero.
  static int32_t width(const Panel& panel) { return panel.live > 2 ? 4 : panel.live; }

  void carve_partial(Carver& carver, int64_t count) {
    partial_ = carver.take<T>(count * value_stride_);
    partial_m_ = carver.take<T>(count);
    partial_l_ = carver.take<T>(count);
    partial_seen_ = carver.take<uint8_t>(count);
  }

  Rows rows_of(const Operand& x, int64_t batch, int64_t key) const {
    return {x.data + plan_.batch_offset(x, batch) + key * x.row_stride, dtype_of(x), x.row_stride, x.column_stride};
  }

  void chunk(int64_t task, Scratch& scratch) noexcept {
    const int64_t chunk = task % chunks_;
    const int64_t batch = task / chunks_ / row_blocks_;
    const int64_t first_row = task / chunks_ % row_blocks_ * quad * task_quads;
    const int64_t rows = std::min(plan_.rows - first_row, quad * task_quads);
    const int quads = int((rows + quad - 1) / quad);
    for (int i = 0; i < quads; ++i) {
      start_panel(plan_, batch, first_row + i * quad, int32_t(std::min(rows - i * quad, quad)), scratch.panels[i]);
      load_queries(batch, i, scratch);
    }
    pass(batch, chunk, 0, quads, false, scratch);
    for (int i = 0; i < quads; ++i) {
      if (scratch.panels[i].hidden && !all_finite(i, scratch)) pass(batch, chunk, i, i + 1, true, scratch);
      for (int32_t q = 0; q < scratch.panels[i].live; ++q)
        finish(batch, chunk, first_row + i * quad + q, i, q, scratch);
    }
  }

  void load_queries(int64_t batch, int i, Scratch& scratch) noexcept {
    const Panel& panel = scratch.panels[i];
    if (!direct_) {
      const int64_t size = scoring_.row_size(p_.head_size);
      for (int32_t q = 0; q < quad; ++q)  // of three, the last one twice
        scoring_.load_keys({row_of(plan_, p_.query, batch, panel, std::min(q, panel.live - 1)), dtype_of(p_.query), 0,
                            p_.query.column_stride},
                           1, p_.head_size, scratch.swapped.rows + (i * quad + q) * size);
      return;
    }
    T* to = scratch.queries + i * quad * query_stride_;
    std::fill_n(to, quad * query_stride_, T(0));
    for (int32_t q = 0; q < panel.live; ++q)
      family_.load_values({row_of(plan_, p_.query, batch, panel, q), dtype_of(p_.query), 0, p_.query.column_stride}, 1,
                          p_.head_size, false, to + q * query_stride_);
    for (int64_t d = 0; d < panel.live * query_stride_; ++d) to[d] *= T(plan_.query_factor);
  }

  // The keys of a chunk against the quads first..last-1. exact: values that are not finite are left out of the sum,
  // and added for the queries that see them.
  void pass(int64_t batch, int64_t chunk, int first, int last, bool exact, Scratch& scratch) noexcept {
    int64_t begin = p_.keys, end = 0;
    for (int i = first; i < last; ++i) {
      begin = std::min(begin, scratch.panels[i].low_first);
      end = std::max(end, scratch.panels[i].high_last);
      std::fill_n(scratch.outputs + i * quad * value_stride_, quad * value_stride_, T(0));
      for (int32_t q = 0; q < quad; ++q) {
        const bool sink = p_.sink && chunk == 0 && q < scratch.panels[i].live;
        scratch.m[i * quad + q] =
            T(sink ? sink_of(plan_, batch, scratch.panels[i].group[q]) * log2_e / plan_.softmax_scale()
                   : -std::numeric_limits<double>::infinity());
        scratch.l[i * quad + q] = T(sink ? 1 : 0);
      }
    }
    begin = std::max(begin / decode_tile * decode_tile, chunk * chunk_keys);
    end = std::min(end, (chunk + 1) * chunk_keys);
    for (int64_t key = begin; key < end; key += decode_tile) {
      const KeyTile tile{key, std::min(decode_tile, p_.keys - key)};
      Rows keys = rows_of(p_.key, batch, key);
      if (!keys_contiguous_) keys = loaded(keys, tile.count, p_.head_size, false, scratch.keys);
      Rows values = rows_of(p_.value, batch, key);
      const bool load = exact || !values_contiguous_;
      if (load) values = loaded(values, tile.count, p_.value_size, exact, scratch.values);
      TileIds ids;
      for (int i = first; i < last; ++i) {
        const Stretch s = look(plan_, scratch.panels[i], tile, sum_keys, true, scratch.bits, {}, ids);
        if (!s.empty()) one_tile(batch, tile, i, s, exact, keys, values, scratch);
      }
    }
  }

  Rows loaded(const Rows& rows, int64_t count, int64_t columns, bool finite, T* to) const {
    family_.load_values(rows, count, columns, finite, to);
    return {reinterpret_cast<const char*>(to), sizeof(T) == 8 ? Dtype::float64 : Dtype::float32,
            columns * int64_t(sizeof(T)), int64_t(sizeof(T))};
  }

  void one_tile(int64_t batch, KeyTile tile, int i, const Stretch& stretch, bool exact, Rows keys, Rows values,
                Scratch& scratch) noexcept {
    const Panel& panel = scratch.panels[i];
    const int32_t queries = width(panel);
    const int64_t count = stretch.count();
    T* s = scratch.s;
    T* output = scratch.outputs + i * quad * value_stride_;
    keys.data += stretch.begin * keys.row_stride;
    values.data += stretch.begin * values.row_stride;
    if (direct_)
      family_.decode_scores(scratch.queries + i * quad * query_stride_, query_stride_, queries, keys, count,
                            p_.head_size, s);
    else
      swapped_scores(i, queries, keys, count, scratch.swapped, s);
    const int64_t vectors = (count * queries + family_.lanes - 1) / family_.lanes;
    if (plan_.bent) family_.bend(s, 1, vectors, plan_.scale, p_.softcap);
    if (plan_.biased) {
      const char* rows[quad];
      for (int32_t q = 0; q < panel.live; ++q)
        rows[q] = panel.mask[q] + (tile.first + stretch.begin) * p_.mask.column_stride;
      family_.decode_bias(s, queries, count, rows, dtype_of(p_.mask), p_.mask.column_stride, panel.live);
    }
    if (stretch.hidden)
      for (int64_t j = 0; j < count; ++j)
        for (int32_t q = 0; q < panel.live; ++q)
          if (!(stretch.bits[j] >> q & 1)) s[j * queries + q] = -std::numeric_limits<T>::infinity();
    family_.decode_soft(s, queries, count, plan_.softmax_scale(), scratch.m + i * quad, scratch.l + i * quad, output,
                        value_stride_, p_.value_size);
    family_.decode_sum(s, queries, values, count, p_.value_size, output, value_stride_);
    if (exact) {
      const uint32_t all = (uint32_t(1) << panel.live) - 1;
      if (!stretch.hidden) std::fill_n(scratch.bits, count, all);
      family_.add_not_finite(s, queries, rows_of(p_.value, batch, tile.first + stretch.begin), count, p_.value_size,
                             scratch.bits, output, 1, value_stride_);
    }
  }

  void swapped_scores(int i, int32_t queries, const Rows& keys, int64_t count, const Swapped& scratch, T* s) noexcept {
    const int64_t size = scoring_.row_size(p_.head_size);
    const Tile rows{scratch.rows + i * quad * size, size};
    for (int64_t first = 0; first < count; first += width_) {
      const int32_t live = int32_t(std::min(width_, count - first));
      const int32_t vectors = live <= family_.lanes ? 1 : family_.max_vectors;
      const char* panel[most_lanes];
      for (int32_t j = 0; j < live; ++j) panel[j] = keys.data + (first + j) * keys.row_stride;
      scoring_.pack_queries(panel, keys.dtype, keys.column_stride, live, vectors, p_.head_size, 1, plan_.weights,
                            scratch.scratch, scratch.panel);
      scoring_.scores(scratch.panel, vectors, rows, queries, p_.head_size, plan_.weights, scratch.scores, scratch.top,
                      {0, queries}, {});
      for (int32_t j = 0; j < live; ++j)
        for (int32_t q = 0; q < queries; ++q)
          s[(first + j) * queries + q] = scratch.scores[q * vectors * family_.lanes + j];
    }
  }

  bool all_finite(int i, const Scratch& scratch) const {
    const T* output = scratch.outputs + i * quad * value_stride_;
    T probe = 0;
    for (int64_t d = 0; d < scratch.panels[i].live * value_stride_; ++d) probe += output[d] * T(0);
    return probe == T(0);
  }

  // Writes the answer, or keeps the chunk's part of it.
  void finish(int64_t batch, int64_t chunk, int64_t row, int i, int32_t q, const Scratch& scratch) noexcept {
    const Panel& panel = scratch.panels[i];
    const bool seen = panel.seen >> q & 1;
    const T m = scratch.m[i * quad + q], l = scratch.l[i * quad + q];
    T* output = scratch.outputs + (i * quad + q) * value_stride_;
    if (chunks_ == 1) {
      write(batch, panel, q, seen, m, l, output);
      return;
    }
    const int64_t at = (batch * plan_.rows + row) * chunks_ + chunk;
    std::copy_n(output, p_.value_size, partial_ + at * value_stride_);
    partial_m_[at] = m;
    partial_l_[at] = l;
    partial_seen_[at] = seen;
  }

  void write(int64_t batch, const Panel& panel, int32_t q, bool seen, T m, T l, T* output) noexcept {
    const T factor = seen ? T(1) / l : T(0);
    for (int64_t d = 0; d < p_.value_size; ++d) output[d] *= factor;
    char* const to = row_of(plan_, p_.out, batch, panel, q);
    family_.store_row(output, p_.value_size, to, dtype_of(p_.out), p_.out.column_stride);
    if (!p_.lse) return;
    const T lse = T(seen ? log_denominator(m * plan_.softmax_scale(), l) : sink_of(plan_, batch, panel.group[q]));
    std::memcpy(row_of(plan_, p_.lse, batch, panel, q), &lse, sizeof lse);
  }

  // The chunks of one row, in order.
  void merge(int64_t index) noexcept {
    const int64_t batch = index / plan_.rows, row = index % plan_.rows;
    Panel panel;
    start_panel(plan_, batch, row, 1, panel);
    const T* m = partial_m_ + index * chunks_;
    const T* l = partial_l_ + index * chunks_;
    T* parts = partial_ + index * chunks_ * value_stride_;
    bool seen = false;
    T top = -std::numeric_limits<T>::infinity();
    for (int64_t c = 0; c < chunks_; ++c) {
      seen = seen || partial_seen_[index * chunks_ + c];
      top = m[c] > top ? m[c] : top;
    }
    const T offset = top == -std::numeric_limits<T>::infinity() ? T(0) : top;
    T sum = 0;
    for (int64_t c = 0; c < chunks_; ++c) {
      // a chunk of which nothing is seen adds nothing
      if (!partial_seen_[index * chunks_ + c] && l[c] == T(0)) {
        if (c == 0) std::fill_n(parts, p_.value_size, T(0));
        continue;
      }
      const T factor = std::exp2((m[c] - offset) * T(plan_.softmax_scale()));
      sum += l[c] * factor;
      const T* part = parts + c * value_stride_;
      for (int64_t d = 0; d < p_.value_size; ++d) parts[d] = (c == 0 ? T(0) : parts[d]) + part[d] * factor;
    }
    write(batch, panel, 0, seen, top, sum, parts);
  }

  Plan& plan_;
  const Problem& p_;
  const Family& family_;
  const Scoring& scoring_;
  const bool direct_;    // an inner product
  const int64_t width_;  // of a panel
  int64_t chunks_, row_blocks_, query_stride_, value_stride_;
  bool keys_contiguous_, values_contiguous_;
  T *partial_ = nullptr, *partial_m_ = nullptr, *partial_l_ = nullptr;
  uint8_t* partial_seen_ = nullptr;
};

}  // namespace

fv_status decode(const Problem& problem, fv_error* error) noexcept {
  const Kernels plain = without_pairs(kernels());
  Plan plan(problem, plain);
  return plan.family.element_size == 8 ? Decode<double>(plan).run(error) : Decode<float>(plan).run(error);
}

}  // namespace foveate
