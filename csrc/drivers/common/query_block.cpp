// A block of queries: packing its panels, opening a tile of keys (loaded, or in place), and scoring it. What is read next
// is prefetched by the products.
#include "query_block.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace foveate {
namespace {

// A mask's bits are kept from head to head up to this many keys: 1 MB a thread for blocks of 8 panels.
constexpr int64_t most_kept_keys = 32768;

// Few keys are seen of many, and the heads of a key stand side by side: what the same queries of all heads see is in the same
// pages.
bool heads_share_pages(const Plan& plan) noexcept {
  return plan.apart && std::abs(plan.batch_offset(plan.problem.key, 1)) < std::abs(plan.problem.key.row_stride);
}

}  // namespace

QueryBlocks::QueryBlocks(const Plan& plan, int64_t bytes_a_query, int threads, bool even) noexcept {
  width = plan.arithmetic.lanes * plan.arithmetic.max_vectors;
  batches = plan.batches;
  const int64_t all = (plan.rows + width - 1) / width;
  int64_t fitting = std::clamp<int64_t>(block_bytes / std::max<int64_t>(1, bytes_a_query * width), 1, most_panels);
  // where blocks are few, smaller ones keep all threads busy to the end
  if (threads > 1) fitting = std::clamp<int64_t>(all * batches / (int64_t(threads) * 8), 1, fitting);
  const int64_t least_blocks = (all + fitting - 1) / fitting;
  panels = int32_t(even ? (all + least_blocks - 1) / least_blocks : std::min(all, fitting));
  per_batch = (all + panels - 1) / panels;
  count = per_batch * batches;
  batch_innermost = batches > 1 && !plan.narrow() && (plan.problem.mask || heads_share_pages(plan));
  rows = int64_t(panels) * width;
  last_first = !plan.narrow();
  if (plan.own_tiles) panels = 1;
}

// Within a batch the last rows come first: where a reach is causal they are the heaviest. Windows are all alike.
int64_t QueryBlocks::row_of(int64_t task) const {
  const int64_t block = batch_innermost ? task / batches : task % per_batch;
  return (last_first ? per_batch - 1 - block : block) * rows;
}

QueryBlock::QueryBlock(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
    : plan_(plan), blocks_(blocks), arithmetic_(plan.arithmetic), places_(plan, plan.most_tile_keys(), carver) {
  const Problem& p = plan.problem;
  const int64_t key_row = plan.scoring.row_size(p.head_size);
  const int64_t keys = plan.most_tile_keys();
  const int64_t longest = std::max({p.head_size, p.value_size, keys}) + 1;
  const bool load_values =
      p.value && (!plan.values_in_place || p.value_table || plan.bits || plan.ranges || p.left >= 0 || p.right >= 0 ||
                  p.key_lengths || p.low || p.blocks || p.centers || p.leave_one_out || plan.groups > 1);
  panel_bytes_ = int64_t(round_up(size_t(blocks.width * plan.scoring.panel_size(p.head_size))));
  panels_ = carver.take<Panel>(blocks.panels);
  queries_ = carver.take(blocks.panels * panel_bytes_);
  scores_ = carver.take(keys * blocks.width * arithmetic_.element_size);
  row_max_ = carver.take(blocks.width * arithmetic_.element_size);
  keys_ = carver.take(plan.keys_in_place && !p.key_table ? 0 : keys * key_row);
  const int64_t groups = (keys + arithmetic_.group - 1) / arithmetic_.group;
  const int64_t values = load_values ? groups * arithmetic_.value_size(p.value_size) : 0;
  const int64_t as_keys =
      p.d_out && !plan.values_as_keys_in_place ? keys * arithmetic_.inner.row_size(p.value_size) : 0;
  values_ = carver.take(std::max(values, as_keys));
  scratch_ = carver.take(blocks.width * longest * arithmetic_.element_size);
  bits_ = carver.take<uint32_t>(keys);
  key_rows_ = TileRows(stored_keys(p), keys, carver);
  value_rows_ = TileRows(stored_values(p), keys, carver);
  wants_row_max_ = !p.d_out || plan.scoring.gradients;
  const double flops_a_cell = is_additive(p.family) ? 40.0 : 2.0;  // of a column: a division among them
  flops_a_key_ = double(blocks.width) * (flops_a_cell * double(p.head_size) + 2.0 * double(p.value_size));
  if (p.t_out) flops_a_key_ *= 3;  // with its tangents
  tiles_ = (p.keys + plan_.tile_keys - 1) / plan_.tile_keys;
  keeps_ = p.mask && p.keys <= most_kept_keys && !plan.narrow() && !plan.scattered;
  kept_bits_ = carver.take<uint32_t>(keeps_ ? tiles_ * plan_.tile_keys * blocks.panels : 0);
  kept_ready_ = carver.take<uint8_t>(keeps_ ? tiles_ * blocks.panels : 0);
  if (plan.holes && !plan.own_tiles) {
    tile_marks_ = carver.take<uint8_t>(tiles_ * blocks.panels);
    listed_tiles_ = carver.take<int64_t>(tiles_);
  }
}

void QueryBlock::start_rows(int64_t task) noexcept {
  batch_ = blocks_.batch_of(task);
  first_row_ = blocks_.row_of(task);
  end_row_ = std::min(plan_.rows, first_row_ + blocks_.rows);
  next_task_ = next_key_ = -1;
  key_rows_.start();
  value_rows_.start();
}

void QueryBlock::see(int64_t task) noexcept {
  start_rows(task);
  see_all();
}

void QueryBlock::see_all() noexcept {
  const int64_t rows = end_row_ - first_row_;
  count_ = int((rows + blocks_.width - 1) / blocks_.width);
  for (int i = 0; i < count_; ++i) {
    const int64_t done = int64_t(i) * blocks_.width;
    start_panel(plan_, batch_, first_row_ + done, int32_t(std::min<int64_t>(rows - done, blocks_.width)), panels_[i]);
  }
  if (keeps_ && (kept_mask_ != panels_[0].mask[0] || kept_row_ != first_row_)) {
    kept_mask_ = panels_[0].mask[0];
    kept_row_ = first_row_;
    std::memset(kept_ready_, 0, size_t(tiles_ * blocks_.panels));
  }
  first_row_ = end_row_;
  mark_tiles();
}

void QueryBlock::mark_tiles() noexcept {
  for (int p = 0; tile_marks_ && p < count_; ++p) foveate::mark_tiles(plan_, panels_[p], tile_marks_ + p * tiles_);
}

void QueryBlock::start(int64_t task, int64_t next) noexcept {
  start_rows(task);
  next_task_ = next;
}

bool QueryBlock::next_panels() noexcept {
  if (first_row_ >= end_row_) return false;
  if (plan_.narrow() || plan_.apart) {
    const auto start = plan_.narrow() ? start_window : start_apart;
    for (count_ = 0; count_ < blocks_.panels && first_row_ < end_row_; ++count_) {
      const int32_t rows = int32_t(std::min<int64_t>(end_row_ - first_row_, blocks_.width));
      first_row_ = start(plan_, batch_, first_row_, rows, panels_[count_]);
    }
    mark_tiles();
  } else {
    see_all();
  }
  if (!plan_.narrow() && next_task_ >= 0) guess_next();
  pack();
  return true;
}

// The first key of the next task, where it is none of this one.
void QueryBlock::guess_next() noexcept {
  const Problem& p = plan_.problem;
  next_batch_ = blocks_.batch_of(next_task_);
  const int64_t query = blocks_.row_of(next_task_) / plan_.groups;
  int64_t first = reach_of(plan_, next_batch_, 0).of(query, p.left, p.right).low;
  if (plan_.ranges) first = std::max(first, Ranges(plan_, next_batch_).of(0, query).low);
  if (p.low) first = std::max(first, Given(plan_, next_batch_).of(0, query, {0, p.keys}).low);
  first = first / plan_.tile_keys * plan_.tile_keys;
  if (next_batch_ != batch_ || first < keys_seen(0, count_).low / plan_.tile_keys * plan_.tile_keys) next_key_ = first;
}

void QueryBlock::pack(int i) noexcept {
  const Operand& query = plan_.problem.query;
  char* const queries_base = base(query);
  const char* queries[most_lanes];
  for (int32_t lane = 0; lane < panels_[i].live; ++lane) queries[lane] = row(query, queries_base, i, lane);
  plan_.scoring.pack_queries(queries, dtype_of(query), query.column_stride, panels_[i].live, vectors(i),
                             plan_.problem.head_size, plan_.query_factor, plan_.factors, scratch_,
                             queries_ + i * panel_bytes_);
}

void QueryBlock::add_ahead(Prefetch& ahead, const Operand& x, int64_t batch, int64_t row, int64_t rows,
                           int64_t columns) const {
  if (rows <= 0 || columns <= 0) return;
  if (x.dtype == FV_INT4) columns = (columns + 1) / 2;  // bytes
  const char* first = x.data + plan_.batch_offset(x, batch) + row * x.row_stride;
  if (x.page_rows > 0) {
    const bool keys = &x == &plan_.problem.key;
    const Rows listed = batch == batch_ ? (keys ? key_rows_ : value_rows_).next(row, rows) : Rows{};
    if (listed.list) {
      Prefetch::Part part = lines_of(listed.row(0), {columns, x.column_stride}, item_size(x));
      part.rows = rows;
      part.list = listed.list;
      ahead.parts[ahead.count++] = part;
      return;
    }
    // those of the page that the first one stands in
    const StoredRows stored(plan_, keys ? stored_keys(plan_.problem) : stored_values(plan_.problem), batch);
    first = stored.row(row).data;
    rows = stored.together(row, rows);
  }
  ahead.parts[ahead.count++] = lines_of(first, {rows, x.row_stride}, {columns, x.column_stride}, item_size(x));
}

Prefetch QueryBlock::ahead_of_panel(const Operand& x, int64_t columns, int p, bool keys) {
  const Problem& problem = plan_.problem;
  Prefetch ahead{};
  // the next panel's windows begin as many keys farther on as it has queries, where windows move with the queries
  const int64_t next = std::min(tile_.first + tile_.count, panels_[p].high_last);
  add_ahead(ahead, x, batch_, next, std::min<int64_t>(problem.keys - next, blocks_.width), columns);
  if (plan_.groups > 1) return ahead;
  const Operand& of = keys ? problem.query : problem.out;
  const int64_t rows = keys ? std::min<int64_t>(end_row_ - first_row_, blocks_.width) : panels_[p].live;
  ahead.write = !keys;
  if (!plan_.order) {
    add_ahead(ahead, of, batch_, keys ? first_row_ : panels_[p].row[0], rows, columns);
  } else if (rows > 0 && columns > 0) {
    const int64_t* const order = plan_.order + batch_ * plan_.rows + first_row_ - (keys ? 0 : rows);
    char* const first = base(of);
    for (int64_t i = 0; i < rows; ++i) ahead_rows_[i] = first + order[i] * of.row_stride;
    Prefetch::Part part = lines_of(ahead_rows_[0], {columns, of.column_stride}, item_size(of));
    part.rows = rows;
    part.list = ahead_rows_;
    ahead.parts[ahead.count++] = part;
  }
  return ahead;
}

Prefetch QueryBlock::next_tile_of(const Operand& x, int64_t columns, int p) const {
  Prefetch ahead{};
  const int64_t rows = plan_.narrow() ? 0 : next_tile_.count;
  add_ahead(ahead, x, batch_, next_tile_.first + rows * p / count_, rows * (p + 1) / count_ - rows * p / count_,
            columns);
  return ahead;
}

Prefetch QueryBlock::ahead(const Operand& x, int64_t columns, int p, bool keys) {
  if (plan_.narrow()) return ahead_of_panel(x, columns, p, keys);
  const Problem& problem = plan_.problem;
  Prefetch ahead{};
  // so many share a tile, of which one takes the n-th part
  const auto share = [&](int64_t batch, int64_t first, int64_t end, int64_t n, int64_t count) {
    const int64_t rows = std::min(plan_.tile_keys, end - first);
    add_ahead(ahead, x, batch, first + rows * n / count, rows * (n + 1) / count - rows * n / count, columns);
  };
  if (next_tile_.count > 0) {
    int64_t before = 0, here = 0;  // panels that are at work on this tile
    for (int i = 0; i < count_; ++i) {
      const Panel& panel = panels_[i];
      if (panel.high_last <= tile_.first || panel.low_first >= tile_.first + tile_.count) continue;
      if (!is_marked(i, tile_)) continue;
      before += i < p;
      ++here;
    }
    share(batch_, next_tile_.first, next_tile_.first + next_tile_.count, before, here);
  }
  if (tile_.first + tile_.count < panels_[p].high_last) return ahead;
  if (next_key_ >= 0) share(next_batch_, next_key_, problem.keys, p, count_);
  if (plan_.groups > 1 || plan_.order) return ahead;
  if (keys) {
    const int64_t row = blocks_.row_of(next_task_) + int64_t(p) * blocks_.width;
    if (next_task_ >= 0)
      add_ahead(ahead, problem.query, next_batch_, row, std::min<int64_t>(problem.queries - row, blocks_.width),
                columns);
  } else {
    ahead.write = true;
    add_ahead(ahead, problem.out, batch_, panels_[p].row[0], panels_[p].live, columns);
  }
  return ahead;
}

Interval QueryBlock::keys_seen(int first, int last) const {
  Interval keys = {plan_.problem.keys, 0};
  for (int p = first; p < last; ++p) {
    keys.low = std::min(keys.low, panels_[p].low_first);
    keys.high = std::max(keys.high, panels_[p].high_last);
  }
  return keys;
}

Traversal QueryBlock::tiles(int first, int last, Interval among) const {
  const Interval seen = keys_seen(first, last);
  const int64_t all = plan_.problem.keys, step = plan_.key_step;
  if (plan_.own_tiles) return Traversal::one({seen.low & -step, std::min(all, (seen.high + step - 1) & -step)});
  const Interval keys = {std::max(seen.low, among.low), std::min(seen.high, among.high)};
  if (!tile_marks_) return Traversal::grid(keys, plan_.tile_keys, all);
  int64_t count = 0;
  const int64_t end = (keys.high + plan_.tile_keys - 1) / plan_.tile_keys;
  for (int64_t t = keys.low / plan_.tile_keys; t < end; ++t) {
    uint8_t any = 0;
    for (int p = first; p < last; ++p) any |= tile_marks_[p * tiles_ + t];
    listed_tiles_[count] = t;
    count += any;
  }
  return Traversal::list(listed_tiles_, count, plan_.tile_keys, all);
}

KeyTile QueryBlock::seen_of(KeyTile tile) const noexcept {
  Interval all = {tile.first + tile.count, tile.first};
  for (int p = 0; p < count_ && tile.count > 0; ++p) {
    if (!is_marked(p, tile)) continue;
    const Interval span = span_of_rules(plan_, panels_[p], tile);
    if (span.low >= span.high) continue;
    all = {std::min(all.low, span.low), std::max(all.high, span.high)};
  }
  return {all.low, std::max<int64_t>(0, all.high - all.low)};
}

bool QueryBlock::open(const Traversal& tiles) noexcept {
  if (stopped_ || tiles.done()) return false;
  const KeyTile tile = tiles.tile();
  insist(tile.count <= plan_.most_tile_keys(), "a tile fits into the room for its scores");
  next_tile_ = tile_marks_ ? seen_of(tiles.following()) : tiles.following();
  const Problem& p = plan_.problem;
  tile_ = tile;
  tile_ids_ = {};
  values_ready_ = Values::not_loaded;
  key_rows_.open({plan_, stored_keys(p), batch_}, tile, next_tile_);
  if (p.value) value_rows_.open({plan_, stored_values(p), batch_}, tile, next_tile_);
  if (p.table) places_.open(batch_, tile);
  key_tile_ = {};
  const Rows& keys = key_rows_.tile();
  if (plan_.keys_in_place && !keys.list) key_tile_ = {keys.data, keys.row_stride};
  return true;
}

LoadedRows QueryBlock::values(int64_t begin, bool finite) noexcept {
  const int64_t size = plan_.problem.value_size;
  if (plan_.values_in_place && !finite && !value_rows_.tile().list) {
    const Rows rows = value_rows(begin);
    return {rows.data, rows.row_stride};
  }
  const Values wanted = finite ? Values::finite : Values::as_they_are;
  if (values_ready_ != wanted) {
    arithmetic_.load_values(value_rows(0), tile_.count, size, finite, values_);
    values_ready_ = wanted;
  }
  const int64_t row = arithmetic_.value_size(size);  // of a key, or of a group of keys
  return {values_ + begin / arithmetic_.group * row, row};
}

LoadedRows QueryBlock::values_as_keys(int64_t begin) noexcept {
  const Rows rows = value_rows(plan_.values_as_keys_in_place ? begin : 0);
  if (plan_.values_as_keys_in_place) return {rows.data, rows.row_stride};
  const int64_t size = plan_.problem.value_size, row = arithmetic_.inner.row_size(size);
  if (values_ready_ != Values::as_keys) {
    arithmetic_.inner.load_keys(rows, tile_.count, size, values_);
    values_ready_ = Values::as_keys;
  }
  return {values_ + begin * row, row};
}

// Only where windows or ends move with the lanes is there something to leave out.
PartialKeys QueryBlock::partial_keys_of(int p, const KeyRange& s) const {
  const Panel& panel = panels_[p];
  const int64_t count = s.count();
  PartialKeys partial = PartialKeys::none(count);
  if ((!plan_.narrow() && !s.hidden) || panel.live <= arithmetic_.lanes) return partial;
  const int32_t halves = 2 * arithmetic_.max_vectors, width = arithmetic_.lanes / 2;
  const int64_t step = plan_.key_step, origin = tile_.first + s.begin;
  int64_t begin[most_lanes], end[most_lanes];  // of half a vector
  for (int32_t h = 0; h < halves; ++h) {
    int64_t low = origin + count, high = origin;
    for (int32_t lane = h * width; lane < (h + 1) * width; ++lane) {
      const int32_t i = std::min(lane, panel.live - 1);  // what is not live has scores, too
      if (panel.low[i] >= panel.high[i]) continue;
      low = std::min(low, panel.low[i]);
      high = std::max(high, panel.high[i]);
    }
    begin[h] = low - origin;
    end[h] = high - origin;
  }
  for (int32_t h = halves - 2; h >= 0; --h) begin[h] = std::min(begin[h], begin[h + 1]);
  for (int32_t h = 1; h < halves; ++h) end[h] = std::max(end[h], end[h - 1]);
  for (int32_t h = 0; h < halves; ++h) {
    begin[h] = std::max<int64_t>(0, begin[h]) & -step;
    end[h] = std::clamp((end[h] + step - 1) & -step, int64_t(0), count);
  }
  partial.last = end[halves - 3];
  partial.first = std::min(begin[2], partial.last);
  for (int32_t v = 0; v < 2; ++v) {
    const int32_t lower = v * (halves - 2);
    partial.upper_begin[v] = std::max(end[lower], v ? partial.first : 0);
    partial.lower_end[v] = std::clamp(begin[lower + 1], v ? partial.first : 0, partial.upper_begin[v]);
  }
  return partial;
}

KeyRange QueryBlock::score(int p, bool want_bits, char* link_kept) noexcept {
  if (!is_marked(p, tile_)) return {};
  stopped_ = stopped_ || asked_to_stop(flops_a_key_ * double(tile_.count));
  if (stopped_) return {};
  Panel& panel = panels_[p];
  const Problem& problem = plan_.problem;
  KeptBits kept;
  if (keeps_)
    kept = {kept_bits_ + p * tiles_ * plan_.tile_keys + tile_.first,
            kept_ready_ + p * tiles_ + tile_.first / plan_.tile_keys};
  const KeyRange s = visible_keys(plan_, panel, tile_, plan_.key_step, want_bits, bits_, kept, tile_ids_);
  if (s.empty()) return s;
  if (!key_tile_.data) {
    plan_.scoring.load_keys(key_rows(0), tile_.count, problem.head_size, keys_);
    key_tile_ = {keys_, plan_.scoring.row_size(problem.head_size)};
  }

  const int32_t v = vectors(p);
  const int64_t count = s.count();
  partial_ = partial_keys_of(p, s);
  plan_.scoring.scores(queries_ + p * panel_bytes_, v, keys(s.begin), count, problem.head_size, plan_.factors, scores_,
                       wants_row_max_ ? row_max_ : nullptr, partial_, ahead(problem.key, problem.head_size, p, true));
  plan_.links.apply(scores_, v, count, link_kept, link_bytes());
  if (plan_.biased) {
    const char* rows[most_lanes];
    for (int32_t i = 0; i < panel.live; ++i)
      rows[i] = panel.mask[i] + (tile_.first + s.begin) * problem.mask.column_stride;
    arithmetic_.add_bias(scores_, v, count, rows, dtype_of(problem.mask), problem.mask.column_stride, panel.live);
  }
  if (problem.table) {
    if (arithmetic_.element_size == 8)
      places_.add(panel, s.begin, count, v, reinterpret_cast<double*>(scores_));
    else
      places_.add(panel, s.begin, count, v, reinterpret_cast<float*>(scores_));
  }
  if (s.bits) {
    arithmetic_.hide_unset(scores_, v, count, s.bits);
  } else if (s.hidden) {
    int32_t low[most_lanes], high[most_lanes];
    for (int i = 0; i < most_lanes; ++i) {
      low[i] = int32_t(std::clamp(panel.low[i] - tile_.first - s.begin, int64_t(0), count));
      high[i] = int32_t(std::clamp(panel.high[i] - tile_.first - s.begin, int64_t(0), count));
    }
    arithmetic_.hide_outside(scores_, v, 0, s.full_begin - s.begin, low, high);
    arithmetic_.hide_outside(scores_, v, s.full_end - s.begin, count, low, high);
  }
  if (wants_row_max_ && (plan_.links.count || plan_.any_bias() || s.hidden))
    arithmetic_.find_top(scores_, v, count, row_max_);
  return s;
}

Gaussian QueryBlock::gaussian(int p, const KeyRange& range) const {
  const Panel& panel = panels_[p];
  const double first = double(tile_.first + range.begin);
  Gaussian gaussian;
  const double unit = plan_.gaussian_unit();
  gaussian.rate = std::sqrt(log2_e / 2) / (plan_.problem.sigma / unit);  // 2^-(rate x)^2 = exp(-x^2 / (2 sigma^2))
  // so far beyond the last key no weight is left, and float32 has room for the distance
  const double beyond = double(plan_.problem.keys) + 64 / gaussian.rate;
  for (int i = 0; i < most_lanes; ++i) {
    const double center = std::clamp(panel.center[i] / unit, -beyond, beyond);
    // the nearest key; from 2^52 on every number is whole
    const bool whole = std::fabs(center) >= 0x1p52;
    const double nearest = whole ? center : double(int64_t(center < 0 ? center - 0.5 : center + 0.5));
    gaussian.whole[i] = nearest - first;
    gaussian.rest[i] = center - nearest;
  }
  return gaussian;
}

}  // namespace foveate
