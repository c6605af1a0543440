// Panels and what they see: intervals of each query first, then the words of bits where a mask, ids or a query's own key
// hide single cells.
#include "reach.hpp"

#include <algorithm>
#include <cstring>
#include <optional>

#include "place_bias.hpp"
#include "runtime/poison.hpp"

namespace foveate {
namespace {

void start_masks(const Plan& plan, int64_t batch, Panel& panel) noexcept {
  const Problem& p = plan.problem;
  panel.seen = 0;  // known only when the masks are read
  const auto base = [&](const Operand& x, int64_t group) {
    return x.data + plan.batch_offset(x, batch) + (group ? plan.group_offset(x, group) : 0);
  };
  panel.one_segment_row = true;
  for (int32_t i = 0; i < panel.live; ++i) {
    const int64_t group = panel.group[i];
    if (p.mask) panel.mask[i] = base(p.mask, group) + panel.row[i] * p.mask.row_stride;
    if (!plan.by_ids) continue;
    std::memcpy(&panel.segment[i], base(p.query_segments, group) + panel.row[i] * p.query_segments.row_stride,
                sizeof(int64_t));
    panel.key_segments[i] = base(p.key_segments, group);
    panel.one_segment_row = panel.one_segment_row && panel.key_segments[i] == panel.key_segments[0];
    panel.segment_first = i ? std::min(panel.segment_first, panel.segment[i]) : panel.segment[i];
    panel.segment_last = i ? std::max(panel.segment_last, panel.segment[i]) : panel.segment[i];
  }
}

// No query of the panel has an id between the smallest and the largest of the tile's keys.
bool segments_miss(const Plan& plan, const Panel& panel, KeyTile tile, TileIds& ids) noexcept {
  if (!panel.one_segment_row) return false;
  if (!ids.ready) {
    const int64_t stride = plan.problem.key_segments.row_stride;
    for (int64_t j = 0; j < tile.count; ++j) {
      int64_t id;
      std::memcpy(&id, panel.key_segments[0] + (tile.first + j) * stride, sizeof id);
      ids.first = j ? std::min(ids.first, id) : id;
      ids.last = j ? std::max(ids.last, id) : id;
    }
    ids.ready = true;
  }
  return panel.segment_last < ids.first || panel.segment_first > ids.last;
}

// The keys from the first to the last that some query sees, as far as intervals go, of this tile where they may be anywhere.
Interval span_of(const Plan& plan, const Panel& panel, KeyTile tile) noexcept {
  if (!plan.problem.low) return {panel.low_first, panel.high_last};
  const int64_t end = tile.first + tile.count;
  Interval span = {end, tile.first};
  for (int32_t i = 0; i < panel.live; ++i) {
    const int64_t low = std::max(panel.low[i], tile.first), high = std::min(panel.high[i], end);
    if (low >= high) continue;
    span.low = std::min(span.low, low);
    span.high = std::max(span.high, high);
  }
  return span;
}

// Clears the bits of the cells outside each query's interval.
void clear_outside(const Panel& panel, KeyTile tile, const KeyRange& range, uint32_t* bits) {
  for (int32_t i = 0; i < panel.live; ++i) {
    const uint32_t others = ~(uint32_t(1) << i);
    const int64_t low = std::clamp(panel.low[i] - tile.first, range.begin, range.end);
    const int64_t high = std::clamp(panel.high[i] - tile.first, low, range.end);
    for (int64_t j = range.begin; j < low; ++j) bits[j - range.begin] &= others;
    for (int64_t j = high; j < range.end; ++j) bits[j - range.begin] &= others;
  }
}

// Clears the bit of the key at each query's own position.
void clear_own(const Panel& panel, KeyTile tile, const KeyRange& range, uint32_t* bits) {
  for (int32_t i = 0; i < panel.live; ++i) {
    const int64_t own = panel.own[i] - tile.first;
    if (range.begin <= own && own < range.end) bits[own - range.begin] &= ~(uint32_t(1) << i);
  }
}

// The intervals of a panel's queries within a tile, where a query has several: from the first to the last key, counted from
// the tile's start, and whether keys between are left out.
struct Pieces {
  Pieces(const Plan& plan, const Panel& panel, KeyTile tile) noexcept : live(panel.live) {
    for (int32_t i = 0; i < live; ++i) {
      const Interval seen = common({tile.first, tile.first + tile.count}, {panel.low[i], panel.high[i]});
      Interval all = {0, 0};
      for (int64_t m = 0; m < plan.problem.intervals && seen.low < seen.high; ++m) {
        const Interval one = common(seen, Given::at(plan.problem, panel.intervals[i], m));
        if (one.low >= one.high) continue;
        if (all.low >= all.high) {
          all = one;
          continue;
        }
        // apart from those before; one that follows may fill the gap, which is found when bits are made
        if (one.low > all.high || one.high < all.low) gaps |= uint32_t(1) << i;
        all = {std::min(all.low, one.low), std::max(all.high, one.high)};
      }
      from[i] = all.low < all.high ? all.low - tile.first : 0;
      to[i] = all.low < all.high ? all.high - tile.first : 0;
    }
  }
  Interval span(KeyTile tile) const {
    Interval span = {tile.count, 0};
    for (int32_t i = 0; i < live; ++i) {
      if (from[i] >= to[i]) continue;
      span.low = std::min(span.low, from[i]);
      span.high = std::max(span.high, to[i]);
    }
    return {tile.first + span.low, tile.first + span.high};
  }
  bool cover(const KeyRange& range) const {
    for (int32_t i = 0; i < live; ++i)
      if (from[i] > range.begin || to[i] < range.end) return false;
    return gaps == 0;
  }

  int32_t live;
  uint32_t gaps = 0;  // bit i: of query i
  int64_t from[most_lanes], to[most_lanes];
};

// Clears the bits of the cells outside of each query's intervals.
void clear_outside(const Plan& plan, const Panel& panel, KeyTile tile, const Pieces& pieces, const KeyRange& range,
                   uint32_t* bits) {
  constexpr int64_t word = 64;
  for (int32_t i = 0; i < panel.live; ++i) {
    const uint32_t others = ~(uint32_t(1) << i);
    const int64_t low = std::clamp(pieces.from[i], range.begin, range.end);
    const int64_t high = std::clamp(pieces.to[i], low, range.end);
    for (int64_t j = range.begin; j < low; ++j) bits[j - range.begin] &= others;
    for (int64_t j = high; j < range.end; ++j) bits[j - range.begin] &= others;
    if (!(pieces.gaps >> i & 1)) continue;
    for (int64_t first = low; first < high; first += word) {
      const Interval here = {tile.first + first, tile.first + std::min(high, first + word)};
      uint64_t seen = 0;
      for (int64_t m = 0; m < plan.problem.intervals; ++m) {
        const Interval one = common(here, Given::at(plan.problem, panel.intervals[i], m));
        if (one.low < one.high) seen |= ~uint64_t(0) >> (word - (one.high - one.low)) << (one.low - here.low);
      }
      for (int64_t j = 0; j < here.high - here.low; ++j)
        if (!(seen >> j & 1)) bits[first + j - range.begin] &= others;
    }
  }
}

// The keys of a block, as far as they are among these.
Interval keys_of_block(const Problem& p, int64_t block, Interval among) {
  return {std::max(among.low, block * p.block_keys), std::min(among.high, (block + 1) * p.block_keys)};
}

bool is_seen(const Problem& p, const char* row, int64_t block) { return row[block * p.blocks.column_stride] != 0; }

// From the first to the last of these keys that stand in a block which some query sees.
Interval span_of_blocks(const Problem& p, const Panel& panel, Interval keys) noexcept {
  if (keys.low >= keys.high) return {0, 0};
  const int64_t first = keys.low / p.block_keys, last = (keys.high - 1) / p.block_keys;
  int64_t low = last + 1, high = first - 1;
  for (int32_t r = 0; r < panel.block_rows; ++r) {
    int64_t b = first;
    while (b < low && !is_seen(p, panel.block_row[r], b)) ++b;
    low = std::min(low, b);
    b = last;
    while (b > high && !is_seen(p, panel.block_row[r], b)) --b;
    high = std::max(high, b);
  }
  if (low > high) return {0, 0};
  return {keys_of_block(p, low, keys).low, keys_of_block(p, high, keys).high};
}

// Whether all queries see the blocks of all of these keys.
bool blocks_cover(const Problem& p, const Panel& panel, Interval keys) noexcept {
  for (int32_t r = 0; r < panel.block_rows; ++r)
    for (int64_t b = keys.low / p.block_keys; b * p.block_keys < keys.high; ++b)
      if (!is_seen(p, panel.block_row[r], b)) return false;
  return true;
}

// Clears the bits of the cells in blocks that are not seen.
void clear_blocks(const Problem& p, const Panel& panel, KeyTile tile, const KeyRange& range, uint32_t* bits) {
  const Interval keys = {tile.first + range.begin, tile.first + range.end};
  for (int32_t r = 0; r < panel.block_rows; ++r)
    for (int64_t b = keys.low / p.block_keys; b * p.block_keys < keys.high; ++b) {
      if (is_seen(p, panel.block_row[r], b)) continue;
      const Interval hidden = keys_of_block(p, b, keys);
      for (int64_t j = hidden.low; j < hidden.high; ++j) bits[j - keys.low] &= ~panel.block_lanes[r];
    }
}

void start_holes(const Plan& plan, int64_t batch, const Given& given, Panel& panel) noexcept {
  const Problem& p = plan.problem;
  panel.seen = 0;  // known only when tiles are looked at
  panel.block_rows = 0;
  for (int32_t i = 0; i < panel.live; ++i) {
    if (p.intervals > 1) panel.intervals[i] = given.row(panel.group[i], panel.row[i]);
    if (!p.blocks) continue;
    const char* const row = plan.row(p.blocks, batch, panel.group[i], panel.row[i] / p.block_queries);
    int32_t r = panel.block_rows - 1;  // mostly that of the query before
    while (r >= 0 && panel.block_row[r] != row) --r;
    if (r < 0) {
      r = panel.block_rows++;
      panel.block_row[r] = row;
      panel.block_lanes[r] = 0;
    }
    panel.block_lanes[r] |= uint32_t(1) << i;
  }
}

// The bits of a mask: of bools those set, of a float mask those that are not -inf.
void read_mask(const Plan& plan, const Panel& panel, int64_t first, int64_t count, uint32_t* bits) {
  const Operand& mask = plan.problem.mask;
  const int64_t stride = mask.column_stride;
  std::fill_n(bits, count, plan.biased ? low_bits(panel.live) : 0);
  for (int32_t i = 0; i < panel.live; ++i) {
    const char* row = panel.mask[i] + first * stride;
    if (plan.biased)
      plan.kernels.clear_minus_infinity(row, dtype_of(mask), stride, count, i, bits);
    else
      plan.kernels.bits_of_bools(row, stride, count, i, bits);
  }
}

// The bits of the mask and the segments.
void read_bits(const Plan& plan, const Panel& panel, KeyTile tile, const KeyRange& range, uint32_t* bits,
               KeptBits kept) {
  const Problem& p = plan.problem;
  if (!p.mask) {
    std::fill_n(bits, range.count(), low_bits(panel.live));
  } else if (!kept.bits) {
    read_mask(plan, panel, tile.first + range.begin, range.count(), bits);
  } else {
    if (!*kept.ready) read_mask(plan, panel, tile.first, tile.count, kept.bits);
    *kept.ready = 1;
    std::copy_n(kept.bits + range.begin, range.count(), bits);
  }
  if (!plan.by_ids) return;
  const int64_t stride = p.key_segments.row_stride;
  for (int32_t i = 0; i < panel.live; ++i)
    plan.kernels.clear_other_segments(panel.key_segments[i] + (tile.first + range.begin) * stride, stride,
                                      panel.segment[i], range.count(), i, bits);
}

// What ends a panel before it has all rows: more than most_keys that they see together; or, once there are `apart` of these,
// a row that sees none of them, nor keys between them. 0: nothing.
struct Ends {
  int64_t most_keys = 0, apart = 0;
};

// Rows that follow each other, with nothing but windows, lengths and offsets: they see neighboring keys, so that no end is
// to be looked for. Narrow windows have few products a panel, and the general loop takes 1% of their time.
bool are_plain(const Plan& plan) noexcept {
  const Problem& p = plan.problem;
  return !plan.order && plan.groups == 1 && !p.centers && !plan.ranges && !p.low && !p.table && !p.leave_one_out;
}

void fill_plain_panel(const Plan& plan, int64_t batch, int64_t row, int32_t live, Panel& panel) noexcept {
  const Problem& p = plan.problem;
  const Reach reach = reach_of(plan, batch, 0);
  const int64_t left = p.left, right = p.right;
  uint32_t seen = 0;
  int64_t low_first = p.keys, low_last = 0, high_first = p.keys, high_last = 0;
  for (int32_t i = 0; i < live; ++i) {
    const Interval keys = reach.of(row + i, left, right);
    const bool any = keys.low < keys.high;
    panel.row[i] = row + i;
    panel.group[i] = 0;
    panel.low[i] = keys.low;
    panel.high[i] = keys.high;
    panel.own[i] = row + i + reach.offset;
    seen |= uint32_t(any) << i;
    low_first = std::min(low_first, any ? keys.low : p.keys);
    low_last = std::max(low_last, keys.low);
    high_first = std::min(high_first, keys.high);
    high_last = std::max(high_last, keys.high);
  }
  for (int32_t i = live; i < most_lanes; ++i) panel.low[i] = panel.high[i] = 0;
  panel.live = live;
  panel.seen = seen;
  panel.hidden = false;
  panel.low_first = low_first;
  panel.low_last = low_last;
  panel.high_first = high_first;
  panel.high_last = high_last;
  panel.own_first = panel.own[0];
  panel.own_last = panel.own[live - 1];
  if (plan.bits) start_masks(plan, batch, panel);
  if (plan.holes) start_holes(plan, batch, Given(plan, batch), panel);
}

void fill_panel(const Plan& plan, int64_t batch, int64_t row, int32_t live, Ends ends, Panel& panel) noexcept {
  insist(!plan.scattered || plan.order, "rows that come in an order of their own have one");
  if (are_plain(plan)) return fill_plain_panel(plan, batch, row, live, panel);
  const Problem& p = plan.problem;
  panel.seen = 0;
  panel.hidden = false;
  panel.low_first = panel.high_first = p.keys;
  panel.low_last = panel.high_last = 0;
  Reach reach = reach_of(plan, batch, 0);
  const Centers centers(plan, batch);
  Ranges ranges(plan, batch);
  const Given given(plan, batch);
  int64_t first = p.keys, end = 0;  // of the keys that the rows see together
  int32_t i = 0;
  for (; i < live; ++i) {
    const int64_t r = plan.order ? plan.order[batch * plan.rows + row + i] : row + i;
    const int64_t group = plan.groups == 1 ? 0 : r % plan.groups;
    const int64_t index = plan.groups == 1 ? r : r / plan.groups;
    if (plan.groups > 1 && (p.offset || p.key_lengths)) reach = reach_of(plan, batch, group);
    Interval keys = reach.of(index, p.left, p.right);
    if (p.centers) {
      panel.center[i] = centers.of(group, index);
      keys = common(keys, round_center(panel.center[i], p.half_width, reach.keys));
    }
    if (plan.ranges) keys = common(keys, ranges.of(group, index));
    if (p.low) keys = given.of(group, index, keys);
    if (keys.low < keys.high) {
      const int64_t low = std::min(first, keys.low), high = std::max(end, keys.high);
      if (ends.most_keys > 0 && i > 0 && high + plan.key_step - 1 - (low & -plan.key_step) > ends.most_keys) break;
      if (ends.apart > 0 && end - first >= ends.apart && (keys.low >= end || keys.high <= first)) break;
      first = low;
      end = high;
    }
    panel.row[i] = index;
    panel.group[i] = group;
    panel.low[i] = keys.low;
    panel.high[i] = keys.high;
    panel.own[i] = index + reach.offset;
    if (p.table) panel.place[i] = place_start(plan, batch, group, index);
    const bool own_alone = p.leave_one_out && panel.own[i] == keys.low && keys.high == keys.low + 1;
    if (keys.low < keys.high && !own_alone) {
      panel.seen |= uint32_t(1) << i;
      panel.low_first = std::min(panel.low_first, keys.low);
    }
    panel.low_last = std::max(panel.low_last, keys.low);
    panel.high_first = std::min(panel.high_first, keys.high);
    panel.high_last = std::max(panel.high_last, keys.high);
  }
  panel.live = live = i;
  for (; i < most_lanes; ++i) {  // a lane without a query sees nothing
    panel.low[i] = panel.high[i] = 0;
    panel.center[i] = 0;
  }
  panel.own_first = *std::min_element(panel.own, panel.own + live);
  panel.own_last = *std::max_element(panel.own, panel.own + live);
  if (plan.bits) start_masks(plan, batch, panel);
  if (plan.holes) start_holes(plan, batch, given, panel);
}

}  // namespace

void start_panel(const Plan& plan, int64_t batch, int64_t row, int32_t live, Panel& panel) noexcept {
  fill_panel(plan, batch, row, live, {}, panel);
}

int64_t start_window(const Plan& plan, int64_t batch, int64_t row, int32_t live, Panel& panel) noexcept {
  fill_panel(plan, batch, row, live, {plan.window_tile_keys, 0}, panel);
  return row + panel.live;
}

int64_t start_apart(const Plan& plan, int64_t batch, int64_t row, int32_t live, Panel& panel) noexcept {
  fill_panel(plan, batch, row, live, {0, least_apart}, panel);
  return row + panel.live;
}

char* row_of(const Plan& plan, const Operand& x, int64_t batch, const Panel& panel, int lane) noexcept {
  return plan.row(x, batch, panel.group[lane], panel.row[lane]);
}

void mark_tiles(const Plan& plan, const Panel& panel, uint8_t* seen) noexcept {
  const Problem& p = plan.problem;
  const int64_t size = plan.tile_keys, tiles = (p.keys + size - 1) / size;
  const auto mark = [&](Interval keys) {
    const int64_t first = keys.low / size, last = (keys.high - 1) / size;
    // neighbors see the same tiles
    if (last - first <= 1 && seen[first] && seen[last]) return;
    std::memset(seen + first, 1, size_t(last + 1 - first));
  };
  std::memset(seen, 0, size_t(tiles));
  for (int32_t i = 0; i < panel.live; ++i) {
    const Interval all = {panel.low[i], panel.high[i]};
    if (all.low >= all.high) continue;
    if (p.intervals <= 1) mark(all);
    for (int64_t m = 0; m < p.intervals && p.intervals > 1; ++m) {
      const Interval one = common(all, Given::at(p, panel.intervals[i], m));
      if (one.low < one.high) mark(one);
    }
  }
  if (!p.blocks) return;
  for (int64_t t = 0; t < tiles; ++t) {
    if (!seen[t]) continue;
    const Interval keys = span_of_blocks(p, panel, {t * size, std::min(p.keys, (t + 1) * size)});
    seen[t] = keys.low < keys.high;
  }
}

Interval span_of_rules(const Plan& plan, const Panel& panel, KeyTile tile) noexcept {
  Interval span = span_of(plan, panel, tile);
  if (plan.problem.intervals > 1) span = Pieces(plan, panel, tile).span(tile);
  span = common(span, {tile.first, tile.first + tile.count});
  return plan.problem.blocks ? span_of_blocks(plan.problem, panel, span) : span;
}

KeyRange visible_keys(const Plan& plan, Panel& panel, KeyTile tile, int64_t align, bool want_bits, uint32_t* bits,
                      KeptBits kept, TileIds& ids) noexcept {
  const bool several = plan.problem.intervals > 1, blocks = bool(plan.problem.blocks);
  KeyRange s;
  Interval span = span_of(plan, panel, tile);
  if (span.low >= span.high) return s;
  std::optional<Pieces> pieces;
  if (several) span = pieces.emplace(plan, panel, tile).span(tile);
  span = common(span, {tile.first, tile.first + tile.count});
  if (blocks) span = span_of_blocks(plan.problem, panel, span);
  if (span.low >= span.high) return s;
  s.begin = (span.low - tile.first) & -align;
  s.end = span.high - tile.first;
  // the key that shares a pair with the last one seen is hidden, not forgotten: its value may be NaN
  s.end = std::min(tile.count, (s.end + plan.key_step - 1) & -plan.key_step);
  if (s.empty()) return s;
  s.full_begin = std::clamp(panel.low_last - tile.first, s.begin, s.end);
  s.full_end = std::clamp(panel.high_first - tile.first, s.full_begin, s.end);
  const bool partial = s.full_begin > s.begin || s.full_end < s.end;
  const bool own =
      plan.problem.leave_one_out && panel.own_first < tile.first + s.end && tile.first + s.begin <= panel.own_last;
  const bool gaps = several && !pieces->cover(s);
  const bool out_of_blocks = blocks && !blocks_cover(plan.problem, panel, {tile.first + s.begin, tile.first + s.end});
  const auto clear = [&] {
    if (partial) clear_outside(panel, tile, s, bits);
    if (own) clear_own(panel, tile, s, bits);
    if (gaps) clear_outside(plan, panel, tile, *pieces, s, bits);
    if (out_of_blocks) clear_blocks(plan.problem, panel, tile, s, bits);
  };

  if (!plan.bits && !gaps && !out_of_blocks) {
    s.hidden = partial || own;
    if (own || (partial && (want_bits || plan.holes))) {
      std::fill_n(bits, s.count(), low_bits(panel.live));
      clear();
      s.bits = bits;
    }
    if (!s.bits) {
      if (plan.holes) panel.seen |= low_bits(panel.live);
    } else if (plan.holes) {
      for (int64_t j = 0; j < s.count(); ++j) panel.seen |= bits[j];
    }
  } else {
    if (plan.by_ids && segments_miss(plan, panel, tile, ids)) return {};
    if (plan.bits)
      read_bits(plan, panel, tile, s, bits, kept);
    else
      std::fill_n(bits, s.count(), low_bits(panel.live));
    clear();
    uint32_t any = 0, every = low_bits(panel.live);
    for (int64_t j = 0; j < s.count(); ++j) {
      any |= bits[j];
      every &= bits[j];
    }
    if (any == 0) return {};
    panel.seen |= any;
    s.hidden = every != low_bits(panel.live);
    if (s.hidden) s.bits = bits;
  }
  panel.hidden = panel.hidden || s.hidden;
  return s;
}

}  // namespace foveate
