// The work of one thread on the backward pass: a column of keys against a run of query blocks, tile by tile, with what each
// tile adds to the gradients. With P the weights, dS the gradient of the logits (select.hpp),
//   dV = P^T dO,  dQ and dK by the score (score.hpp): five products a tile, where it is an inner product.
// S, dP and dQ are products of the forward pass, dV and dK sum over a block of queries.
#pragma once
#include <cmath>
#include <cstring>

#include "backward.hpp"
#include "drivers/common/lse.hpp"
#include "score.hpp"
#include "select.hpp"

namespace foveate {

// Gradients beyond those of the values are wanted.
inline bool is_scored(const Problem& p) {
  return p.d_query || p.d_key || p.d_mask || p.d_table || p.d_factors || p.d_centers || p.d_sigma;
}

// query_sum may look at so many rows of cells beyond the last.
constexpr int64_t most_rows_beyond = 15;

template <class T>
class BackwardWorker {
 public:
  BackwardWorker(const Plan& plan, const QueryBlocks& blocks, const Pass& pass, Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        arithmetic_(plan.arithmetic),
        blocks_(blocks),
        pass_(pass),
        block_(plan, blocks, carver),
        rows_(plan, blocks, carver),
        width_(blocks.width),
        // whole lines; rows a power of 2 apart would share few sets of the cache
        stride_(blocks.rows + 64 / plan.arithmetic.cell_size),
        scored_(is_scored(p_)),
        changed_(plan.links.has_gradient() || p_.d_mask || p_.d_table),
        select_(plan, blocks, stride_, scored_, carver),
        score_(plan, blocks, carver),
        query_sum_(plan, blocks, carver) {
    const int64_t longest = std::max({p_.head_size, padded(plan, p_.value_size), plan_.tile_keys, int64_t(1)});
    const int64_t rows = plan_.tile_keys + (arithmetic_.pairs ? most_rows_beyond : 0);
    weights_ = carver.take(rows * stride_ * arithmetic_.cell_size);
    d_scores_ = carver.take(rows * stride_ * arithmetic_.cell_size);
    link_kept_ = carver.take(plan.links.has_gradient() ? plan.links.count * block_.link_bytes() : 0);
    row_ = carver.take<T>(width_);
    scratch_ = carver.take<T>(width_ * longest);
    zeros_ = carver.take<T>(pass.panel_size);
    mask_sum_ = carver.take<double>(p_.d_mask ? plan_.tile_keys : 0);
    bits_ = carver.take<uint32_t>(blocks.panels * plan_.tile_keys);
  }

  // Once for all tasks of a worker.
  void prepare() noexcept { score_.prepare(blocks_); }

  // lse and delta of some queries of a batch.
  void start_rows(int64_t batch, Interval queries) noexcept {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    const RowSums<T> rows = rows_of(batch);
    const bool unshifted = plan_.normalizer != Normalizer::none && !plan_.has_threshold();
    for (int64_t group = 0; group < plan_.groups; ++group) {
      for (int64_t first = queries.low; first < queries.high; first += width_ / 2) {
        const int64_t count = std::min<int64_t>(width_ / 2, queries.high - first);
        if (asked_to_stop(4.0 * double(count) * double(p_.value_size))) return;
        sum_rows(batch, group, first, count);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t r = (first + i) * plan_.groups + group;
          const Lse lse = read_lse(plan_, plan_.row(p_.lse, batch, group, first + i));
          T d_lse = 0;
          if (p_.d_lse) std::memcpy(&d_lse, plan_.row(p_.d_lse, batch, group, first + i), sizeof d_lse);
          rows.delta[r] = unshifted ? T(0) : row_[i] - d_lse;
          // a row that sees nothing has an lse of -inf, and no weight
          const bool nothing = lse.lse == -infinity;
          rows.lse_high[r] = nothing || plan_.compact ? T(0) : T(lse.high);
          rows.lse_low[r] = T(nothing ? infinity : (plan_.compact ? lse.lse : lse.low) * log2_e);
        }
      }
    }
  }

  // The keys that some blocks of a batch may see.
  void see_blocks(int64_t batch, Interval blocks) noexcept {
    for (int64_t b = blocks.low; b < blocks.high; ++b) {
      const int64_t block = batch * blocks_.per_batch + b;
      block_.see(block);
      pass_.seen_keys[block] = block_.keys_seen(0, block_.panels());
      if (!plan_.holes) continue;
      pass_.seen_tiles[block] = 0;
      for (Traversal tiles = block_.tiles(0, block_.panels()); !tiles.done(); tiles.next())
        pass_.seen_tiles[block] |= uint64_t(1) << pass_.bit_of(tiles.tile().first / plan_.tile_keys);
    }
  }

  // The gradients of a batch's sinks, from the sums of its rows.
  void add_sinks(int64_t batch) const noexcept {
    const RowSums<T> rows = rows_of(batch);
    for (int64_t group = 0; group < plan_.groups; ++group) {
      double d_sink = 0;
      const double sink = sink_score_of(plan_, batch, group);
      for (int64_t i = 0; i < p_.queries; ++i) {
        const int64_t r = i * plan_.groups + group;
        if (read_lse(plan_, plan_.row(p_.lse, batch, group, i)).lse == -std::numeric_limits<double>::infinity())
          continue;
        const double above = (sink - double(rows.lse_high[r])) * plan_.softmax_scale();
        d_sink -= std::exp2(above - double(rows.lse_low[r])) * double(rows.delta[r]);
      }
      std::memcpy(plan_.row(p_.d_sink, batch, group, 0), &d_sink, sizeof d_sink);
    }
  }

  // A task: a column of a chunk against a run of the blocks of its batch. partial_sum: of the chunk, or null.
  void run(int64_t batch, int64_t chunk, int64_t column, int64_t run_of_blocks, T* partial_sum,
           const ChunkSums<T>& sums) noexcept {
    run_with(batch, chunk, column, run_of_blocks, partial_sum, sums, scored_ || !p_.advantage,
             [&](int64_t b, Interval keys, T* d_query) { add_block(batch, b, keys, d_query, sums); });
  }

  // The rows of a panel of a batch's queries: the sum over the chunks, in order.
  void finish(int64_t batch, int64_t panel, T* partial_sums) noexcept {
    const int64_t first = panel * width_;
    const int32_t live = int32_t(std::min<int64_t>(plan_.rows - first, width_));
    const int32_t vectors = live <= arithmetic_.lanes ? 1 : arithmetic_.max_vectors;
    T* sum = nullptr;
    for (int64_t c = 0; c < pass_.chunks; ++c) {
      if (!pass_.sees(batch, panel / blocks_.panels, c)) continue;
      T* const partial_sum = partial_sums + c * pass_.partial_size + panel * pass_.panel_size;
      for (int64_t i = 0; sum && i < pass_.panel_size; ++i) sum[i] += partial_sum[i];
      if (!sum) sum = partial_sum;
    }
    if (!sum) std::fill_n(sum = zeros_, pass_.panel_size, T(0));
    const int64_t width = vectors * arithmetic_.lanes;
    for (int64_t d = 0; d < p_.head_size; ++d)
      for (int64_t i = 0; i < width; ++i) sum[d * width + i] *= T(score_.query_factor(d));
    char* rows[most_lanes];
    const double unit = plan_.gaussian_unit(), sigma = p_.sigma / unit;
    for (int32_t i = 0; i < live; ++i) {
      const int64_t r = plan_.order ? plan_.order[batch * plan_.rows + first + i] : first + i;
      const int64_t group = r % plan_.groups, query = r / plan_.groups;
      if (p_.d_query) rows[i] = plan_.row(p_.d_query, batch, group, query);
      const T* const moments = sum + p_.head_size * width + i;
      if (p_.d_centers) write(p_.d_centers, batch, group, query, double(moments[0]) / sigma / sigma / unit);
      if (p_.d_sigma) write(p_.d_sigma, batch, group, query, double(moments[width]) / sigma / sigma / sigma / unit);
    }
    std::fill_n(row_, width_, T(1));
    if (p_.d_query && p_.head_size > 0)
      arithmetic_.store_rows(sum, vectors, p_.head_size, row_, live, scratch_, rows, dtype_of(p_.d_query),
                             p_.d_query.column_stride);
  }

  const ScoreGradient<T>& score() const { return score_; }

 protected:
  // add(block, keys, d_query): what a block adds, where any adds something.
  template <class Add>
  void run_with(int64_t batch, int64_t chunk, int64_t column, int64_t run_of_blocks, T* partial_sum,
                const ChunkSums<T>& sums, bool any, Add&& add) noexcept {
    const Interval keys = pass_.keys_of(chunk, column);
    if (keys.low >= keys.high && column > 0) return;
    const int64_t first = run_of_blocks * pass_.task_blocks;
    const int64_t last = std::min(first + pass_.task_blocks, blocks_.per_batch);
    if (first == 0) clear(sums, keys.high - keys.low, column == 0);
    if (any) {
      bool ready = false;  // for the first block that sees some of the keys
      for (int64_t b = first; b < last; ++b) {
        T* const d_query = partial_sum ? partial_sum + b * blocks_.panels * pass_.panel_size : nullptr;
        if (d_query && column == 0 && pass_.sees(batch, b, chunk))
          std::fill_n(d_query, blocks_.panels * pass_.panel_size, T(0));
        if (!pass_.sees(batch, b, keys)) continue;
        if (!ready) {
          look_at_keys(batch, keys);
          score_.start();
        }
        ready = true;
        add(b, keys, d_query);
      }
      if (ready && sums.factors) score_.add_factors(sums.factors);
    }
    if (last < blocks_.per_batch) return;
    if (p_.advantage && p_.d_value) add_chosen(batch, keys, sums.value);
    if (p_.d_key) store(p_.d_key, batch, keys, sums.key, p_.head_size, [&](int64_t d) { return score_.key_factor(d); });
    if (p_.d_value)
      store(p_.d_value, batch, keys, sums.value, p_.value_size, [&](int64_t) { return select_.factor(); });
  }

  void write(const Operand& x, int64_t batch, int64_t group, int64_t row, double value) const noexcept {
    std::memcpy(plan_.row(x, batch, group, row), &value, sizeof value);
  }

  RowSums<T> rows_of(int64_t batch) const {
    const auto of = [&](void* all) { return static_cast<T*>(all) + batch * plan_.rows; };
    return {of(pass_.lse_high), of(pass_.lse_low), of(pass_.delta)};
  }

  // To row_[i]: what is taken off the gradients of the weights of query first + i, except that of lse.
  void sum_rows(int64_t batch, int64_t group, int64_t first, int64_t count) noexcept {
    if (p_.advantage) {
      for (int64_t i = 0; i < count; ++i) {
        const char* const advantage = plan_.row(p_.advantage, batch, group, first + i);
        double sum = 0;
        each_choice(plan_, batch, group, first + i, [&](int64_t draw, int64_t key) {
          T one;
          std::memcpy(&one, advantage + draw * p_.advantage.column_stride, sizeof one);
          if (key >= 0) sum += double(one);
        });
        row_[i] = T(sum);
      }
      return;
    }
    const int64_t columns = padded(plan_, p_.value_size);
    T *const out = scratch_, *const d_out = scratch_ + width_ / 2 * columns;
    std::fill_n(scratch_, width_ / 2 * 2 * columns, T(0));
    for (int64_t i = 0; i < count; ++i) {
      rows_.load_row(plan_.row(p_.out, batch, group, first + i), p_.out, p_.value_size, out + i * columns);
      rows_.load_row(plan_.row(p_.d_out, batch, group, first + i), p_.d_out, p_.value_size, d_out + i * columns);
    }
    arithmetic_.dot_rows(out, d_out, count, columns, row_);
  }

  void clear(const ChunkSums<T>& sums, int64_t keys, bool factors) const noexcept {
    if (sums.key) std::fill_n(sums.key, keys * padded(plan_, p_.head_size), T(0));
    if (sums.value) std::fill_n(sums.value, keys * padded(plan_, p_.value_size), T(0));
    if (sums.factors && factors) std::fill_n(sums.factors, p_.head_size, 0.0);
    if (sums.places && factors) std::fill_n(sums.places, line_cells(plan_) + 2 * most_lanes, 0.0);
  }

  void look_at_keys(int64_t batch, Interval keys) noexcept {
    const Operand& x = p_.key;
    for (Traversal tiles = Traversal::grid(keys, plan_.tile_keys, keys.high); !tiles.done(); tiles.next()) {
      const KeyTile tile = tiles.tile();
      const int64_t n = (tile.first - keys.low) / plan_.tile_keys;
      finite_[n] = score_.look_at({plan_.row(x, batch, 0, tile.first), dtype_of(x), x.row_stride, x.column_stride},
                                  tile.count, n);
    }
  }

  void add_block(int64_t batch, int64_t b, Interval keys, T* d_query, const ChunkSums<T>& sums) noexcept {
    block_.see(batch * blocks_.per_batch + b);
    Traversal tiles = block_.tiles(0, block_.panels(), keys);
    if (tiles.done()) return;  // rules left out all of them
    block_.pack();
    rows_.load(block_, rows_of(batch), scored_, select_.factor());
    for (; block_.open(tiles); tiles.next()) {
      const int64_t place = tiles.tile().first - keys.low;
      add_tile(tiles.tile(), finite_[place / plan_.tile_keys], d_query, sums, place);
    }
  }

  // place: of the tile in its column
  void add_tile(KeyTile tile, bool keys_finite, T* d_query, const ChunkSums<T>& sums, int64_t place) noexcept {
    const int64_t key = tile.first, count = tile.count;
    const bool careful = !(keys_finite && rows_.finite());
    const SeenCells seen = {bits_, width_, plan_.tile_keys};
    T* const d_key = sums.key ? sums.key + place * padded(plan_, p_.head_size) : nullptr;
    int64_t low = count, high = 0;
    Interval scored[most_panels];
    for (int p = 0; p < block_.panels(); ++p) {
      const KeyRange s = block_.score(p, careful, plan_.links.has_gradient() ? link_kept_ : nullptr);
      const int64_t width = block_.vectors(p) * arithmetic_.lanes;
      scored[p] = s.empty() ? Interval{0, 0} : Interval{s.begin, s.end};
      if (careful) keep_bits(p, s, count);
      if (s.empty()) continue;
      low = std::min(low, s.begin);
      high = std::max(high, s.end);
      T* const panel = d_query ? d_query + p * pass_.panel_size : nullptr;
      T* const cells = select_.cells();
      char* const d_scores = scored_ && !plan_.scoring.gradients ? cell(d_scores_, s.begin, p) : nullptr;
      select_.run(block_, rows_, p, s, key, cell(weights_, s.begin, p), changed_ ? nullptr : d_scores,
                  panel && pass_.moments ? panel + p_.head_size * width : nullptr);
      if (!scored_) continue;
      if (p_.d_mask) add_to_mask(p, s, key, cells);
      if (sums.places) block_.add_place_gradient(p, s, cells, sums.places + most_lanes);
      if (plan_.links.has_gradient())
        plan_.links.pull_back(link_kept_, block_.link_bytes(), cells, block_.vectors(p), s.count());
      if (changed_ && d_scores) arithmetic_.store_cells(cells, block_.vectors(p), s.count(), d_scores, stride_);
      score_.add(block_, p, s, place / plan_.tile_keys, cells, keys_finite, seen, p_.d_query ? panel : nullptr,
                 d_key ? d_key + s.begin * padded(plan_, p_.head_size) : nullptr);
    }
    if (low >= high) return;
    for (int p = 0; p < block_.panels(); ++p) {
      for (char* cells : {weights_, d_scores_}) {
        clear(cells, p, low, scored[p].low);
        clear(cells, p, std::max(low, scored[p].high), high);
      }
    }
    const auto add = [&](Interval keys, Interval rows) {
      if (p_.d_value && !p_.advantage)
        query_sum_.add(weights_, stride_, keys, rows, rows_, rows_.d_out(), seen,
                       sums.value + place * padded(plan_, p_.value_size));
      if (p_.d_key && !plan_.scoring.gradients)
        query_sum_.add(d_scores_, stride_, keys, rows, rows_, rows_.query(), seen, d_key);
    };
    // Keys that the same panels see, with the rows from the first of these to the last: the weights of others are 0. Whole
    // tiles of AMX take all at once, unless much is left out.
    if (arithmetic_.tile_keys > 0 && !plan_.apart && !plan_.holes) return add({low, high}, {0, rows_.count()});
    for (int64_t next; low < high; low = next) {
      int first = -1, last = -1;
      next = high;
      for (int p = 0; p < block_.panels(); ++p) {
        const bool sees = scored[p].low <= low && low < scored[p].high;
        if (scored[p].low > low) next = std::min(next, scored[p].low);
        if (!sees) continue;
        next = std::min(next, scored[p].high);
        if (first < 0) first = p;
        last = p;
      }
      if (first >= 0) add({low, next}, {first * width_, std::min((last + 1) * width_, rows_.count())});
    }
  }

  char* cell(char* cells, int64_t key, int p) const {
    return cells + (key * stride_ + p * width_) * arithmetic_.cell_size;
  }

  void clear(char* cells, int p, int64_t begin, int64_t end) noexcept {
    for (int64_t j = begin; j < end; ++j) std::memset(cell(cells, j, p), 0, size_t(width_ * arithmetic_.cell_size));
  }

  void keep_bits(int p, const KeyRange& s, int64_t count) noexcept {
    uint32_t* const bits = bits_ + p * plan_.tile_keys;
    const uint32_t live = low_bits(block_.panel(p).live);
    std::fill_n(bits, count, 0u);
    for (int64_t j = s.begin; j < s.end; ++j) bits[j] = s.bits ? s.bits[j - s.begin] : live;
  }

  // Cells that share a bias are summed in float64 first: the gradient is rounded once a panel, not once a cell.
  void add_to_mask(int p, const KeyRange& s, int64_t key, const T* cells) noexcept {
    const Panel& panel = block_.panel(p);
    char* rows[most_lanes];
    for (int32_t i = 0; i < panel.live; ++i) rows[i] = reinterpret_cast<char*>(scratch_ + i * s.count());
    std::fill_n(row_, width_, T(1));
    arithmetic_.store_rows(cells, block_.vectors(p), s.count(), row_, panel.live, scratch_, rows,
                           sizeof(T) == 8 ? Dtype::float64 : Dtype::float32, sizeof(T));
    const int64_t columns = p_.d_mask.column_stride == 0 ? 1 : s.count();
    for (int32_t i = 0; i < panel.live; ++i) rows[i] = mask_row(panel, i, key + s.begin);
    for (int32_t i = 0; i < panel.live; ++i) {
      if (!rows[i]) continue;  // was added with an earlier one
      std::fill_n(mask_sum_, columns, 0.0);
      for (int32_t other = panel.live - 1; other >= i; --other) {
        if (rows[other] != rows[i]) continue;
        const T* const row = scratch_ + other * s.count();
        if (columns == s.count()) {
          for (int64_t j = 0; j < columns; ++j) mask_sum_[j] += double(row[j]);
        } else {
          for (int64_t j = 0; j < s.count(); ++j) mask_sum_[0] += double(row[j]);
        }
        if (other > i) rows[other] = nullptr;
      }
      add_at(rows[i], columns);
    }
  }

  char* mask_row(const Panel& panel, int32_t i, int64_t key) const noexcept {
    return row_of(plan_, p_.d_mask, block_.batch(), panel, i) + key * p_.d_mask.column_stride;
  }

  // Adds the first of mask_sum_ to the mask's gradient.
  void add_at(char* to, int64_t columns) const noexcept {
    for (int64_t j = 0; j < columns; ++j, to += p_.d_mask.column_stride) {
      T sum;
      std::memcpy(&sum, to, sizeof sum);
      sum = T(double(sum) + mask_sum_[j]);
      std::memcpy(to, &sum, sizeof sum);
    }
  }

  // The gradients of the chosen values: that of what was made of them.
  void add_chosen(int64_t batch, Interval keys, T* sum) noexcept {
    const int64_t columns = padded(plan_, p_.value_size);
    for (int64_t r = 0; r < plan_.rows; ++r) {
      const int64_t group = r % plan_.groups, query = r / plan_.groups;
      const char* const d_out = plan_.row(p_.d_out, batch, group, query);
      each_choice(plan_, batch, group, query, [&](int64_t draw, int64_t key) {
        if (key < keys.low || key >= keys.high) return;
        rows_.load_row(d_out + draw * p_.d_out_draw_stride, p_.d_out, p_.value_size, scratch_);
        T* const to = sum + (key - keys.low) * columns;
        for (int64_t d = 0; d < p_.value_size; ++d) to[d] += scratch_[d];
      });
    }
  }

  template <class Factor>
  void store(const Operand& x, int64_t batch, Interval keys, T* sum, int64_t columns, Factor&& factor) noexcept {
    for (int64_t key = keys.low; key < keys.high; ++key, sum += padded(plan_, columns)) {
      for (int64_t d = 0; d < columns; ++d) sum[d] *= T(factor(d));
      arithmetic_.store_row(sum, columns, plan_.row(x, batch, 0, key), dtype_of(x), x.column_stride);
    }
  }

  const Plan& plan_;
  const Problem& p_;
  const Arithmetic& arithmetic_;
  const QueryBlocks& blocks_;
  const Pass& pass_;
  QueryBlock block_;
  BlockRows<T> rows_;
  int64_t width_, stride_;
  bool scored_, changed_;  // changed: dS becomes another after the softmax's
  SelectGradient<T> select_;
  ScoreGradient<T> score_;
  QuerySum<T> query_sum_;
  char *weights_, *d_scores_;
  char* link_kept_;
  T *row_, *scratch_, *zeros_;
  double* mask_sum_;               // [key of a tile]
  bool finite_[most_group_tiles];  // the keys of each tile
  uint32_t* bits_;
};

}  // namespace foveate
