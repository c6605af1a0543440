// How the gradients of soft attention move when the operands, and the gradients of its answers, do: the second order. With
// P and dS as backward/select.hpp has them, t how the scores move and a prime for how the others do,
//   P' = P (t - lse'),  dS' = P' (F dP - delta) + P (F dP' - delta'),  dP' = dO' V^T + dO V'^T
//   dV' = (F P')^T dO + (F P)^T dO',   dQ' = dS' K + dS K',   dK' = dS'^T Q + dS^T Q'
// and so on for what no product is. It is cut up, and its tasks run, as those of the gradients. 16-bit operands are widened
// tile by tile: a difference of products of bfloat16 pairs would have few digits left.
#include <cmath>
#include <limits>

#include "drivers/backward/run.hpp"
#include "operands.hpp"

namespace foveate {
namespace {

template <class T>
class MovingWorker : public BackwardWorker<T> {
  using Base = BackwardWorker<T>;
  using Base::arithmetic_, Base::bits_, Base::block_, Base::blocks_, Base::d_scores_, Base::finite_, Base::link_kept_;
  using Base::p_, Base::pass_, Base::plan_, Base::query_sum_, Base::row_, Base::rows_, Base::score_, Base::select_;
  using Base::stride_, Base::weights_, Base::width_;

 public:
  MovingWorker(const Plan& plan, const QueryBlocks& blocks, const Pass& pass, Carver& carver) noexcept
      : Base(plan, blocks, pass, carver),
        moves_(plan, blocks, carver, /*always=*/true),
        t_rows_(plan, plan.problem.t_query, plan.problem.t_d_out, blocks, carver),
        inner_(!plan.scoring.gradients) {
    const int64_t cells = plan.tile_keys * width_, both = p_.t_d_out && p_.t_value ? cells : 0;
    moved_ = carver.take<T>(cells);
    more_ = carver.take<T>(both);
    t_weights_ = carver.take(plan.tile_keys * stride_ * arithmetic_.cell_size);
    t_d_scores_ = carver.take(plan.tile_keys * stride_ * arithmetic_.cell_size);
    values_ = carver.take(p_.t_value ? plan.tile_keys * arithmetic_.inner.row_size(p_.value_size) : 0);
    keys_ = carver.take<T>(inner_ && p_.t_key ? plan.tile_keys * p_.head_size : 0);
    inputs_ = carver.take(plan.links.has_gradient() ? plan.links.count * block_.link_bytes() : 0);
    ones_ = carver.take<T>(width_);
    spare_ = carver.take<T>(inner_ ? 0 : width_ * p_.head_size);
    spare_factors_ = carver.take<T>(inner_ ? 0 : padded(plan, 1) * p_.head_size);
    t_row_ = carver.take<T>(2 * padded(plan, p_.value_size));
  }

  void prepare() noexcept {
    Base::prepare();
    std::fill_n(ones_, width_, T(1));
    if (!inner_) std::fill_n(spare_factors_, padded(plan_, 1) * p_.head_size, T(0));
  }

  // lse and delta of some queries of a batch, and how they move.
  void start_rows(int64_t batch, Interval queries) noexcept {
    Base::start_rows(batch, queries);
    if (asked_to_stop(8.0 * double(queries.high - queries.low) * double(p_.value_size))) return;
    const RowSums<T> moved = moved_rows_of(batch);
    for (int64_t group = 0; group < plan_.groups; ++group) {
      for (int64_t i = queries.low; i < queries.high; ++i) {
        const int64_t r = i * plan_.groups + group;
        moved.lse_high[r] = T(number(p_.t_lse, batch, group, i));
        moved.delta[r] = T(t_delta_of(batch, group, i));
      }
    }
  }

  // How the gradients of a batch's sinks move.
  void add_sinks(int64_t batch) noexcept {
    const RowSums<T> rows = Base::rows_of(batch), moved = moved_rows_of(batch);
    for (int64_t group = 0; group < plan_.groups; ++group) {
      double t_d_sink = 0;
      const double sink = sink_score_of(plan_, batch, group);
      const double t_sink = p_.t_sink && p_.sink ? plan_.template value<double>(p_.t_sink, batch, group) : 0.0;
      for (int64_t i = 0; i < p_.queries; ++i) {
        const int64_t r = i * plan_.groups + group;
        if (rows.lse_low[r] == std::numeric_limits<T>::infinity()) continue;
        const double above = (sink - double(rows.lse_high[r])) * plan_.softmax_scale();
        const double share = std::exp2(above - double(rows.lse_low[r]));
        if (share > 0)
          t_d_sink -=
              share * ((t_sink - double(moved.lse_high[r])) * double(rows.delta[r]) + t_delta_of(batch, group, i));
      }
      std::memcpy(plan_.row(p_.d_sink, batch, group, 0), &t_d_sink, sizeof t_d_sink);
    }
  }

  void run(int64_t batch, int64_t chunk, int64_t column, int64_t run_of_blocks, T* partial_sum,
           const ChunkSums<T>& sums) noexcept {
    Base::run_with(batch, chunk, column, run_of_blocks, partial_sum, sums, /*any=*/true,
                   [&](int64_t b, Interval keys, T* d_query) { add_block(batch, b, keys, d_query, sums); });
  }

 private:
  RowSums<T> moved_rows_of(int64_t batch) const {
    const auto of = [&](void* all) { return static_cast<T*>(all) + batch * plan_.rows; };
    return {of(pass_.t_lse), of(pass_.t_lse), of(pass_.t_delta)};
  }

  double t_delta_of(int64_t batch, int64_t group, int64_t i) noexcept {
    return dot(p_.d_out, p_.t_out, batch, group, i) + dot(p_.t_d_out, p_.out, batch, group, i) -
           number(p_.t_d_lse, batch, group, i);
  }
  // An element of a row, 0 where there is none.
  double number(const Operand& x, int64_t batch, int64_t group, int64_t row) const {
    T number = 0;
    if (x) std::memcpy(&number, plan_.row(x, batch, group, row), sizeof number);
    return double(number);
  }
  double dot(const Operand& a, const Operand& b, int64_t batch, int64_t group, int64_t row) noexcept {
    if (!a || !b) return 0;
    T *const x = t_row_, *const y = t_row_ + padded(plan_, p_.value_size);
    rows_.load_row(plan_.row(a, batch, group, row), a, p_.value_size, x);
    rows_.load_row(plan_.row(b, batch, group, row), b, p_.value_size, y);
    double sum = 0;
    for (int64_t d = 0; d < p_.value_size; ++d) sum += double(x[d]) * double(y[d]);
    return sum;
  }

  void add_block(int64_t batch, int64_t b, Interval keys, T* d_query, const ChunkSums<T>& sums) noexcept {
    block_.see(batch * blocks_.per_batch + b);
    Traversal tiles = block_.tiles(0, block_.panels(), keys);
    if (tiles.done()) return;  // rules left out all of them
    block_.pack();
    moves_.pack(block_);
    rows_.load(block_, Base::rows_of(batch), true, select_.factor());
    t_rows_.load(block_, moved_rows_of(batch), true, select_.factor());
    for (; block_.open(tiles); tiles.next()) {
      moves_.open();
      load_tile(tiles.tile());
      const int64_t place = tiles.tile().first - keys.low;
      add_tile(tiles.tile(), finite_[place / plan_.tile_keys], d_query, sums, place);
    }
  }

  // What moves of the open tile, as the products take it.
  void load_tile(const KeyTile& tile) noexcept {
    if (p_.t_value) arithmetic_.inner.load_keys(moves_.value_rows(block_, 0), tile.count, p_.value_size, values_);
    t_keys_finite_ = true;
    if (!inner_ || !p_.t_key) return;
    const Rows rows = moves_.key_rows(block_, 0);
    arithmetic_.load_values(rows, tile.count, p_.head_size, false, keys_);
    t_keys_finite_ = all_finite(keys_, tile.count * p_.head_size);
    if (!t_keys_finite_) arithmetic_.load_values(rows, tile.count, p_.head_size, true, keys_);
  }

  // place: of the tile in its column
  void add_tile(KeyTile tile, bool keys_finite, T* d_query, const ChunkSums<T>& sums, int64_t place) noexcept {
    const int64_t key = tile.first, count = tile.count;
    const bool careful = !(keys_finite && t_keys_finite_ && rows_.finite() && t_rows_.finite());
    const SeenCells seen = {bits_, width_, plan_.tile_keys};
    T* const d_key = sums.key ? sums.key + place * padded(plan_, p_.head_size) : nullptr;
    int64_t low = count, high = 0;
    Interval scored[most_panels];
    for (int p = 0; p < block_.panels(); ++p) {
      const KeyRange s = block_.score(p, careful, plan_.links.has_gradient() ? link_kept_ : nullptr);
      scored[p] = s.empty() ? Interval{0, 0} : Interval{s.begin, s.end};
      if (careful) Base::keep_bits(p, s, count);
      if (s.empty()) continue;
      low = std::min(low, s.begin);
      high = std::max(high, s.end);
      T *const cells = select_.cells(), *const panel = d_query ? d_query + p * pass_.panel_size : nullptr;
      select(p, s, key);
      if (p_.d_mask) Base::add_to_mask(p, s, key, moved_);
      if (sums.places) block_.add_place_gradient(p, s, moved_, sums.places + most_lanes);
      if (plan_.links.has_gradient())
        plan_.links.pull_back_moving(link_kept_, inputs_, block_.link_bytes(), cells, moved_, block_.vectors(p),
                                     s.count());
      arithmetic_.store_cells(cells, block_.vectors(p), s.count(), Base::cell(d_scores_, s.begin, p), stride_);
      arithmetic_.store_cells(moved_, block_.vectors(p), s.count(), Base::cell(t_d_scores_, s.begin, p), stride_);
      T* const of_query = p_.d_query ? panel : nullptr;
      T* const of_key = d_key ? d_key + s.begin * padded(plan_, p_.head_size) : nullptr;
      score_.add(block_, p, s, place / plan_.tile_keys, moved_, keys_finite, seen, of_query, of_key);
      add_scores(p, s, cells, seen, of_query, of_key);
    }
    if (low >= high) return;
    for (int p = 0; p < block_.panels(); ++p) {
      for (char* cells : {weights_, d_scores_, t_weights_, t_d_scores_}) {
        Base::clear(cells, p, low, scored[p].low);
        Base::clear(cells, p, std::max(low, scored[p].high), high);
      }
    }
    const auto add = [&](const char* cells, const BlockRows<T>& rows, const Summands& of, T* to) {
      query_sum_.add(cells, stride_, {low, high}, {0, rows.count()}, rows, of, seen, to);
    };
    if (p_.d_value) {
      T* const d_value = sums.value + place * padded(plan_, p_.value_size);
      add(t_weights_, rows_, rows_.d_out(), d_value);
      if (p_.t_d_out) add(weights_, t_rows_, t_rows_.d_out(), d_value);
    }
    if (p_.d_key && inner_) {
      add(t_d_scores_, rows_, rows_.query(), d_key);
      if (p_.t_query) add(d_scores_, t_rows_, t_rows_.query(), d_key);
    }
  }

  // Weights and how they move, in rows for query_sum; dS in select_.cells(), and dS' in moved_.
  void select(int p, const KeyRange& s, int64_t key) noexcept {
    const int32_t vectors = block_.vectors(p);
    const int64_t count = s.count(), cells = count * vectors * arithmetic_.lanes;
    moves_.score_whole(block_, p, s, link_kept_, inputs_);
    const auto product = [&](const void* panel, const LoadedRows& values, T* to) {
      arithmetic_.inner.scores(panel, vectors, values, count, p_.value_size, nullptr, to, nullptr, block_.partial(),
                               Prefetch{});
    };
    const int64_t row = arithmetic_.inner.row_size(p_.value_size);
    const LoadedRows t_values = {values_ + s.begin * row, row};
    T* const d_weights = select_.cells();
    product(rows_.d_out_panel(p), block_.values_as_keys(s.begin), d_weights);
    if (p_.t_d_out) product(t_rows_.d_out_panel(p), block_.values_as_keys(s.begin), moved_);
    if (p_.t_value) product(rows_.d_out_panel(p), t_values, p_.t_d_out ? more_ : moved_);
    for (int64_t i = 0; p_.t_d_out && p_.t_value && i < cells; ++i) moved_[i] += more_[i];
    if (!p_.t_d_out && !p_.t_value) std::fill_n(moved_, cells, T(0));

    const auto factors = select_.factors_of(block_, p, s, key);
    for (T* x : {d_weights, moved_}) select_.multiply(factors, vectors, count, x);
    T *const weights = reinterpret_cast<T*>(Base::cell(weights_, s.begin, p)), *const t_weights = reinterpret_cast<T*>(
                                                                                   Base::cell(t_weights_, s.begin, p));
    arithmetic_.soft_gradient_tangent(block_.scores(), d_weights, moved_, moves_.tangents(), vectors, count,
                                      block_.softmax_scale(), rows_.lse_high(p), rows_.lse_low(p), rows_.delta(p),
                                      t_rows_.lse_high(p), t_rows_.delta(p), weights, t_weights, stride_);
    if (!select_.any_factors()) return;
    for (T* x : {weights, t_weights}) select_.multiply_rows(factors, vectors, count, x);
  }

  // What dS adds where the operands of the scores move: dS K' to d_query; of a distance, whose slope is linear in
  // differences, the sums of the columns of theirs.
  void add_scores(int p, const KeyRange& s, T* d_scores, const SeenCells& seen, T* d_query, T* d_key) noexcept {
    const int32_t vectors = block_.vectors(p), width = vectors * arithmetic_.lanes;
    if (!inner_) {
      if (!p_.t_query && !p_.t_key) return;
      plan_.scoring.gradients(moves_.panel(p), vectors, moves_.keys(block_, s.begin), s.count(), p_.head_size,
                              p_.factors, d_scores, d_query ? d_query : spare_, d_key, spare_factors_);
      return;
    }
    if (!d_query || !p_.t_key) return;
    const int64_t row = arithmetic_.value_size(p_.head_size);
    const LoadedRows keys = {reinterpret_cast<const char*>(keys_) + s.begin * row, row};
    arithmetic_.weighted_sum(d_scores, vectors, keys, s.count(), p_.head_size, ones_, d_query, block_.partial(),
                             Prefetch{});
    if (!t_keys_finite_)
      arithmetic_.add_not_finite(d_scores, width, moves_.key_rows(block_, s.begin), s.count(), p_.head_size,
                                 seen.bits + p * plan_.tile_keys + s.begin, d_query, width, 1);
  }

  TangentOperands<T> moves_;
  BlockRows<T> t_rows_;
  bool inner_, t_keys_finite_ = true;
  T *moved_, *more_;
  char *t_weights_, *t_d_scores_, *values_;
  T* keys_;
  char* inputs_;
  T *ones_, *spare_, *spare_factors_, *t_row_;
};

}  // namespace

fv_status attention_backward_tangent(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), {.whole_weights = true, .windows = Windows::on_grid});
  if (plan.batches == 0 || plan.rows == 0) {
    clear_all(plan);
    return FV_OK;
  }
  return plan.arithmetic.element_size == 8 ? run_backward<double, MovingWorker>(plan, true, error)
                                           : run_backward<float, MovingWorker>(plan, true, error);
}

}  // namespace foveate
