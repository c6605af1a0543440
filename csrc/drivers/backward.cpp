// The gradients of soft attention, from its output and lse alone: tiles of weights are made again. With dP = dO V^T,
// delta = rowsum(dO O) and dlse the gradient of lse,
//   dS = P (dP - delta + dlse),  dV = P^T dO,  dQ = scale dS K,  dK = scale dS^T Q,
// five products a tile: S, dP and dQ are those of the forward pass, dV and dK sum over a block of queries.
#include "backward.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "drivers.hpp"

namespace foveate {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
bool all_finite(const T* x, int64_t count) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits exponent = sizeof(T) == 4 ? Bits(0x7f800000u) : Bits(0x7ff0000000000000u);
  Bits any = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, x + i, sizeof bits);
    any |= Bits((bits & exponent) == exponent);
  }
  return any == 0;
}

template <class T>
class Backward {
 public:
  Backward(const Plan& plan, const Blocks& blocks, const Pass& pass, Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        family_(plan.family),
        blocks_(blocks),
        pass_(pass),
        block_(plan, blocks, carver),
        width_(blocks.width),
        scored_(p_.d_query || p_.d_key || p_.d_mask),
        stride_(blocks.rows + plan.family.lanes),  // rows a power of 2 apart would share few sets of the cache
        keys_(std::min(most_group_tiles, pass.tiles) * tile_keys) {
    const int64_t cells = tile_keys * width_;
    const int64_t longest = std::max({p_.head_size, p_.value_size, tile_keys});
    weights_ = carver.take<T>(tile_keys * stride_);
    d_scores_ = carver.take<T>(tile_keys * stride_);
    cells_ = carver.take<T>(cells);
    bent_ = carver.take<T>(p_.softcap > 0 ? cells : 0);
    top_ = carver.take<T>(width_);
    ones_ = carver.take<T>(width_);
    query_ = carver.take<T>(blocks.rows * padded(p_.head_size));
    d_out_ = carver.take<T>(blocks.rows * padded(p_.value_size));
    panels_ = carver.take<T>(blocks.rows * p_.value_size);
    finite_keys_ = carver.take<T>(tile_keys * p_.head_size);
    d_key_ = carver.take<T>(keys_ * padded(p_.head_size));
    d_value_ = carver.take<T>(keys_ * padded(p_.value_size));
    scratch_ = carver.take<T>(width_ * longest);
    finite_rows_ = carver.take<T>(blocks.rows * padded(std::max(p_.head_size, p_.value_size)));
    bits_ = carver.take<uint32_t>(blocks.panels * tile_keys);
  }

  // Once for all tasks of a worker.
  void prepare() noexcept {
    std::fill_n(ones_, width_, T(1));
    std::fill_n(query_, blocks_.rows * padded(p_.head_size), T(0));
    std::fill_n(d_out_, blocks_.rows * padded(p_.value_size), T(0));
  }

  // lse and shift of a batch's rows, and the gradient of the sink.
  void start_batch(int64_t batch) noexcept {
    T* const lse = static_cast<T*>(pass_.lse) + batch * plan_.rows;
    T* const shift = static_cast<T*>(pass_.shift) + batch * plan_.rows;
    const int64_t columns = padded(p_.value_size), half = width_ / 2;
    T *const out = scratch_, *const d_out = scratch_ + half * columns;
    std::fill_n(scratch_, 2 * half * columns, T(0));
    for (int64_t group = 0; group < plan_.groups; ++group) {
      double d_sink = 0;
      for (int64_t first = 0; first < p_.queries; first += half) {
        const int64_t count = std::min(half, p_.queries - first);
        for (int64_t i = 0; i < count; ++i) {
          load_row(p_.out, batch, group, first + i, p_.value_size, out + i * columns);
          load_row(p_.d_out, batch, group, first + i, p_.value_size, d_out + i * columns);
        }
        family_.row_products(out, d_out, count, columns, top_);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t r = (first + i) * plan_.groups + group;
          T natural, d_lse = 0;
          std::memcpy(&natural, at(p_.lse, batch, group, first + i), sizeof natural);
          if (p_.d_lse) std::memcpy(&d_lse, at(p_.d_lse, batch, group, first + i), sizeof d_lse);
          shift[r] = top_[i] - d_lse;
          // a row that sees nothing has an lse of -inf, and no weight
          lse[r] = natural == -infinity ? T(infinity) : T(double(natural) * log2_e);
          const double sink = p_.d_sink ? sink_of(plan_, batch, group) : -infinity;
          if (sink != -infinity) d_sink -= std::exp(sink - double(natural)) * double(shift[r]);
        }
      }
      if (p_.d_sink) std::memcpy(at(p_.d_sink, batch, group, 0), &d_sink, sizeof d_sink);
    }
  }

  // The keys of a group against all queries of its batch. part: of this chunk; first: nothing is in it yet.
  void run(int64_t batch, int64_t group, T* part, bool first) noexcept {
    const int64_t first_key = pass_.first_key(group), end = std::min(p_.keys, pass_.first_key(group + 1));
    std::fill_n(d_key_, (end - first_key) * padded(p_.head_size), T(0));
    std::fill_n(d_value_, (end - first_key) * padded(p_.value_size), T(0));
    const char* const keys = at(p_.key, batch, 0, 0);
    for (int64_t key = first_key; key < end; key += tile_keys) {
      const Rows rows = {keys + key * p_.key.row_stride, dtype_of(p_.key), p_.key.row_stride, p_.key.column_stride};
      finite_[(key - first_key) / tile_keys] = are_finite(rows, std::min(tile_keys, end - key), p_.head_size);
    }
    for (int64_t b = 0; b < blocks_.per_batch; ++b) {
      T* const d_query = part ? part + b * blocks_.panels * pass_.panel : nullptr;
      if (d_query && first) std::fill_n(d_query, blocks_.panels * pass_.panel, T(0));
      block_.look_at(batch * blocks_.per_batch + b);
      const int count = block_.panels();
      const int64_t low = std::max(first_key, block_.first_key(0, count)),
                    high = std::min(end, block_.end_key(0, count));
      if (low >= high) continue;
      load_block(batch, b);
      for (int64_t key = first_key; key < end; key += tile_keys)
        if (key < high && key + tile_keys > low) add_tile(key, end, d_query, key - first_key);
    }
    if (p_.d_key) store(p_.d_key, batch, first_key, end - first_key, d_key_, p_.head_size, p_.scale);
    if (p_.d_value) store(p_.d_value, batch, first_key, end - first_key, d_value_, p_.value_size, 1.0);
  }

  // The rows of a panel of a batch's queries: the sum over the chunks, in order.
  void finish(int64_t batch, int64_t panel, T* parts) noexcept {
    const int64_t row = panel * width_;
    const int32_t live = int32_t(std::min<int64_t>(plan_.rows - row, width_));
    T* const sum = parts + panel * pass_.panel;
    const int32_t vectors = live <= family_.lanes ? 1 : family_.max_vectors;
    for (int64_t c = 1; c < pass_.chunks; ++c) {
      const T* const more = sum + c * pass_.part;
      for (int64_t i = 0; i < pass_.panel; ++i) sum[i] += more[i];
    }
    T* const factor = top_;
    std::fill_n(factor, width_, T(p_.scale));
    char* rows[most_lanes];
    for (int32_t i = 0; i < live; ++i)
      rows[i] = at(p_.d_query, batch, (row + i) % plan_.groups, (row + i) / plan_.groups);
    family_.store_rows(sum, vectors, p_.head_size, factor, live, scratch_, rows, dtype_of(p_.d_query),
                       p_.d_query.column_stride);
  }

 private:
  int64_t padded(int64_t columns) const { return (columns + family_.lanes - 1) / family_.lanes * family_.lanes; }

  char* at(const Operand& x, int64_t batch, int64_t group, int64_t row) const {
    return x.data + plan_.batch_offset(x, batch) + (group ? plan_.group_offset(x, group) : 0) + row * x.row_stride;
  }

  void load_row(const Operand& x, int64_t batch, int64_t group, int64_t row, int64_t columns, T* to) const {
    family_.load_values({at(x, batch, group, row), dtype_of(x), 0, x.column_stride}, 1, columns, false, to);
  }

  // Rows of the block's queries and of dO, as they stand and, for dP, as panels.
  void load_block(int64_t batch, int64_t b) noexcept {
    block_.pack_all();
    const int64_t query_row = padded(p_.head_size), value_row = padded(p_.value_size);
    rows_ = 0;
    first_row_ = batch * plan_.rows + b * blocks_.rows;
    for (int p = 0; p < block_.panels(); ++p) {
      const Panel& panel = block_.panel(p);
      const char* d_out[most_lanes];
      for (int32_t i = 0; i < panel.live; ++i, ++rows_) {
        load_row(p_.query, batch, panel.group[i], panel.row[i], p_.head_size, query_ + rows_ * query_row);
        T* const row = d_out_ + rows_ * value_row;
        load_row(p_.d_out, batch, panel.group[i], panel.row[i], p_.value_size, row);
        d_out[i] = reinterpret_cast<const char*>(row);
      }
      if (scored_)
        family_.inner.pack_queries(d_out, sizeof(T) == 8 ? Dtype::float64 : Dtype::float32, sizeof(T), panel.live,
                                   block_.vectors(p), p_.value_size, 1.0, nullptr, scratch_,
                                   panels_ + p * width_ * p_.value_size);
    }
    query_finite_ = all_finite(query_, rows_ * query_row);
    d_out_finite_ = all_finite(d_out_, rows_ * value_row);
  }

  // inf and NaN of keys and of rows are left out of the products where they may meet cells that are not seen, and added
  // for those that are.
  void add_tile(int64_t key, int64_t end, T* d_query, int64_t place) noexcept {
    block_.open_tile(key, end);
    const int64_t count = std::min(tile_keys, end - key);
    const bool keys_finite = finite_[place / tile_keys];
    const bool careful = !(keys_finite && query_finite_ && d_out_finite_);
    int64_t low = count, high = 0;
    for (int p = 0; p < block_.panels(); ++p) {
      const Stretch s = block_.score(p, careful, p_.softcap > 0 ? bent_ : nullptr);
      const int64_t width = block_.vectors(p) * family_.lanes, column = p * width_;
      const int64_t begin = s.empty() ? 0 : s.begin, stop = s.empty() ? 0 : s.end;
      clear(0, begin, column, width);
      clear(stop, count, column, width);
      if (careful) keep_bits(p, s, count);
      if (s.empty()) continue;
      low = std::min(low, begin);
      high = std::max(high, stop);
      differentiate(p, s, column);
      if (p_.d_mask) add_to_mask(p, s, key);
      if (p_.softcap > 0)
        family_.bend_gradient(bent_, cells_, block_.vectors(p), s.count(), p_.softcap,
                              d_scores_ + s.begin * stride_ + column, stride_);
      if (d_query) add_to_query(p, s, keys_finite, d_query + p * pass_.panel);
    }
    if (low >= high) return;
    if (p_.d_value)
      sum_over_queries(weights_, low, high, d_out_, padded(p_.value_size), d_out_finite_, d_value_, place);
    if (p_.d_key) sum_over_queries(d_scores_, low, high, query_, padded(p_.head_size), query_finite_, d_key_, place);
  }

  void clear(int64_t begin, int64_t end, int64_t column, int64_t width) noexcept {
    for (int64_t j = begin; j < end; ++j) {
      std::fill_n(weights_ + j * stride_ + column, width, T(0));
      std::fill_n(d_scores_ + j * stride_ + column, width, T(0));
    }
  }

  void keep_bits(int p, const Stretch& s, int64_t count) noexcept {
    uint32_t* const bits = bits_ + p * tile_keys;
    const int32_t live = block_.panel(p).live;
    std::fill_n(bits, count, 0u);
    for (int64_t j = s.begin; j < s.end; ++j)
      bits[j] = s.bits ? s.bits[j - s.begin] : live >= 32 ? ~0u : (1u << live) - 1;
  }

  bool are_finite(const Rows& rows, int64_t count, int64_t columns) noexcept {
    family_.load_values(rows, count, columns, false, finite_keys_);
    return all_finite(finite_keys_, count * columns);
  }

  // Scores become the weights, and the gradients of the weights those of the scores.
  void differentiate(int p, const Stretch& s, int64_t column) noexcept {
    const int32_t vectors = block_.vectors(p);
    const int64_t rows = first_row_ + p * width_;
    const T* const lse = static_cast<const T*>(pass_.lse) + rows;
    const T* const shift = static_cast<const T*>(pass_.shift) + rows;
    if (scored_)
      family_.inner.scores(panels_ + p * width_ * p_.value_size, vectors, block_.values(s.begin, false), s.count(),
                           p_.value_size, nullptr, cells_, top_, block_.corners(), Ahead{});
    family_.soft_gradient(block_.scores(), cells_, vectors, s.count(), lse, shift,
                          weights_ + s.begin * stride_ + column, d_scores_ + s.begin * stride_ + column, stride_);
  }

  void add_to_query(int p, const Stretch& s, bool keys_finite, T* d_query) noexcept {
    const int32_t vectors = block_.vectors(p);
    Tile keys = block_.keys(s.begin);
    if (!keys_finite) {
      family_.load_values(block_.key_rows(s.begin), s.count(), p_.head_size, true, finite_keys_);
      keys = {finite_keys_, p_.head_size * int64_t(sizeof(T))};
    }
    family_.weighted_sum(cells_, vectors, keys, s.count(), p_.head_size, ones_, d_query, block_.corners(), Ahead{});
    if (keys_finite) return;
    const int32_t width = vectors * family_.lanes;
    family_.add_not_finite(cells_, width, block_.key_rows(s.begin), s.count(), p_.head_size,
                           bits_ + p * tile_keys + s.begin, d_query, width, 1);
  }

  void sum_over_queries(const T* cells, int64_t low, int64_t high, const T* rows, int64_t columns, bool finite, T* sum,
                        int64_t place) noexcept {
    sum += place * columns;
    if (!finite)
      for (int64_t i = 0; i < rows_ * columns; ++i) finite_rows_[i] = std::isfinite(rows[i]) ? rows[i] : T(0);
    family_.query_sum(cells + low * stride_, stride_, high - low, rows_, finite ? rows : finite_rows_, columns,
                      sum + low * columns);
    if (finite) return;
    for (int64_t q = 0; q < rows_; ++q)
      for (int64_t d = 0; d < columns; ++d) {
        const T x = rows[q * columns + d];
        if (std::isfinite(x)) continue;
        for (int64_t j = low; j < high; ++j)
          if (bits_[q / width_ * tile_keys + j] >> (q % width_) & 1) sum[j * columns + d] += cells[j * stride_ + q] * x;
      }
  }

  void add_to_mask(int p, const Stretch& s, int64_t key) noexcept {
    const Panel& panel = block_.panel(p);
    char* rows[most_lanes];
    for (int32_t i = 0; i < panel.live; ++i) rows[i] = reinterpret_cast<char*>(scratch_ + i * s.count());
    family_.store_rows(cells_, block_.vectors(p), s.count(), ones_, panel.live, scratch_, rows,
                       sizeof(T) == 8 ? Dtype::float64 : Dtype::float32, sizeof(T));
    for (int32_t i = 0; i < panel.live; ++i) {
      char* to =
          at(p_.d_mask, block_.batch(), panel.group[i], panel.row[i]) + (key + s.begin) * p_.d_mask.column_stride;
      const T* const row = scratch_ + i * s.count();
      for (int64_t j = 0; j < s.count(); ++j, to += p_.d_mask.column_stride) {
        T sum;
        std::memcpy(&sum, to, sizeof sum);
        sum += row[j];
        std::memcpy(to, &sum, sizeof sum);
      }
    }
  }

  void store(const Operand& x, int64_t batch, int64_t key, int64_t count, T* sum, int64_t columns,
             double factor) noexcept {
    for (int64_t j = 0; j < count; ++j, sum += padded(columns)) {
      for (int64_t d = 0; d < columns; ++d) sum[d] *= T(factor);
      family_.store_row(sum, columns, at(x, batch, 0, key + j), dtype_of(x), x.column_stride);
    }
  }

  const Plan& plan_;
  const Problem& p_;
  const Family& family_;
  const Blocks& blocks_;
  const Pass& pass_;
  Block block_;
  int64_t width_;
  bool scored_;  // gradients of the scores are wanted, not those of the values alone
  int64_t stride_, keys_;
  T *weights_, *d_scores_, *cells_, *bent_, *top_, *ones_, *query_, *d_out_, *panels_, *finite_keys_, *d_key_,
      *d_value_, *scratch_, *finite_rows_;
  bool finite_[most_group_tiles];  // the keys of each tile
  uint32_t* bits_;
  int64_t rows_ = 0, first_row_ = 0;
  bool query_finite_ = true, d_out_finite_ = true;
};

// Zeros in a gradient of the keys or the values, where there is no query.
void clear(const Plan& plan, const Operand& x, int64_t columns) noexcept {
  if (!x) return;
  const double zeros[1] = {0};
  for (int64_t batch = 0; batch < plan.batches; ++batch)
    for (int64_t j = 0; j < plan.problem.keys; ++j)
      for (int64_t d = 0; d < columns; ++d)
        plan.family.store_row(zeros, 1, x.data + plan.batch_offset(x, batch) + j * x.row_stride + d * x.column_stride,
                              dtype_of(x), x.column_stride);
}

// Whether batches add to the same cells of the mask's gradient.
bool share_mask(const Problem& p) {
  if (!p.d_mask) return false;
  for (int a = 0; a < p.lead_ndim; ++a)
    if (p.lead_shape[a] > 1 && (p.key.lead[a] || p.value.lead[a]) && p.d_mask.lead[a] == 0) return true;
  return false;
}

template <class T>
fv_status run(const Plan& plan, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  Blocks blocks(plan, block_bytes / backward_queries, 1);
  blocks.last_first = blocks.batch_innermost = false;
  Pass pass(plan, blocks);
  const double cells = double(plan.batches) * double(plan.rows) * double(plan.window);
  const int threads = threads_for(plan.batches * pass.chunks, 4.0 * cells * double(p.head_size + p.value_size));
  // batches whose parts are held at once: enough for all threads
  const int64_t enough = (8 * int64_t(threads) + pass.chunks - 1) / pass.chunks;
  const int64_t wave = share_mask(p) ? 1 : std::min(plan.batches, enough);

  Carver size(nullptr);
  size.take<Backward<T>>(1);
  Backward<T>(plan, blocks, pass, size);
  const size_t worker = size.used();
  // a panel at the end of the rows reads a whole vector or two
  const size_t rows = round_up(size_t(plan.batches * plan.rows + most_lanes) * sizeof(T));
  const int64_t part = p.d_query ? pass.part : 0;
  const size_t parts = round_up(size_t(wave * pass.chunks * part) * sizeof(T));
  const Workspace workspace(2 * rows + parts + worker * size_t(threads));
  if (!workspace.data()) return no_memory(error, 2.0 * double(rows) + double(parts) + double(worker) * threads);
  pass.lse = workspace.data();
  pass.shift = workspace.data() + rows;
  std::memset(workspace.data(), 0, 2 * rows);
  pass.parts = workspace.data() + 2 * rows;
  char* const first_worker = workspace.data() + 2 * rows + parts;
  const auto worker_of = [&](int thread) {
    return reinterpret_cast<Backward<T>*>(first_worker + worker * size_t(thread));
  };
  for (int t = 0; t < threads; ++t) {
    Carver carver(first_worker + worker * size_t(t));
    Backward<T>* const place = carver.take<Backward<T>>(1);
    (new (place) Backward<T>(plan, blocks, pass, carver))->prepare();
  }

  const auto each = [&](int64_t tasks, auto&& f) {
    return run_tasks(tasks, threads, Order::by_ranges,
                     [&](const Task& task) { f(*worker_of(task.thread), task.index); });
  };
  if (!each(plan.batches, [](auto& w, int64_t batch) { w.start_batch(batch); })) return FV_INTERRUPTED;
  const int64_t steps = (pass.groups + pass.chunks - 1) / pass.chunks;
  const bool share_columns = p.d_mask && p.d_mask.column_stride == 0;
  const int64_t panels = (plan.rows + blocks.width - 1) / blocks.width;
  for (int64_t first = 0; first < plan.batches; first += wave) {
    const int64_t some = std::min(wave, plan.batches - first);
    const auto parts_of = [&](int64_t batch) { return static_cast<T*>(pass.parts) + batch * pass.chunks * part; };
    // a step at a time, so that no task is long
    for (int64_t step = 0; step < steps; ++step) {
      const auto run = [&](auto& w, int64_t batch, int64_t chunk) {
        const int64_t group = pass.first_group(chunk) + step;
        if (group < pass.first_group(chunk + 1))
          w.run(first + batch, group, part ? parts_of(batch) + chunk * part : nullptr, step == 0);
      };
      const bool done = share_columns ? each(some,
                                             [&](auto& w, int64_t batch) {
                                               for (int64_t c = 0; c < pass.chunks; ++c) run(w, batch, c);
                                             })
                                      : each(some * pass.chunks, [&](auto& w, int64_t task) {
                                          run(w, task / pass.chunks, task % pass.chunks);
                                        });
      if (!done) return FV_INTERRUPTED;
    }
    if (!p.d_query || p.head_size == 0) continue;
    const bool done = each(some * panels, [&](auto& w, int64_t task) {
      w.finish(first + task / panels, task % panels, parts_of(task / panels));
    });
    if (!done) return FV_INTERRUPTED;
  }
  return FV_OK;
}

}  // namespace

fv_status attention_backward(const Problem& problem, fv_error* error) noexcept {
  if (problem.kind != FV_DOT || problem.sigma > 0 || problem.dropout > 0 || problem.advantage) {
    std::snprintf(error->message, sizeof error->message, "problem: no gradients yet");
    return FV_VALUE_ERROR;
  }
  Kernels plain = kernels();
  plain.bfloat16 = nullptr;  // 16-bit operands are widened tile by tile
  Plan plan(problem, plain);
  plan.share_tiles();
  if (plan.rows == 0) {
    clear(plan, problem.d_key, problem.head_size);
    clear(plan, problem.d_value, problem.value_size);
    return FV_OK;
  }
  return plan.family.element_size == 8 ? run<double>(plan, error) : run<float>(plan, error);
}

}  // namespace foveate
