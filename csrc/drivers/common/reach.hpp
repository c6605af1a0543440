// Reach: which keys each query of a panel sees, by arithmetic on intervals first and bit by bit where there is a mask
// or segments whose keys are not in order. A tile of keys that no query sees is skipped, one that all see costs nothing.
#pragma once
#include "intervals.hpp"

namespace foveate {

// Up to most_lanes queries of a batch, and what they see.
struct Panel {
  int32_t live;
  uint32_t seen;  // bit i: query i has seen a key; with masks, as far as tiles were looked at
  bool hidden;    // some tile that was looked at held cells that are not seen
  int64_t low_first, low_last, high_first, high_last;  // extremes over the queries' intervals
  int64_t low[most_lanes], high[most_lanes];
  int64_t row[most_lanes];  // query index
  int64_t own[most_lanes];  // the query's own position, for leave-one-out
  int64_t own_first, own_last;
  int64_t group[most_lanes];
  int64_t place[most_lanes];  // where a bias by place starts in its line
  double center[most_lanes];
  char* mask[most_lanes];  // row of the mask
  const char* key_segments[most_lanes];
  int64_t segment[most_lanes];
  int64_t segment_first, segment_last;  // extremes over the queries' own
  bool one_segment_row;                 // all queries share their key ids
  Given::Row intervals[most_lanes];     // where a query has several
  int32_t block_rows;  // of a mask of blocks: how many rows of it the queries have, and which of them each
  const char* block_row[most_lanes];
  uint32_t block_lanes[most_lanes];
};

// Rows row..row + live - 1 of a batch, in the plan's order: all of them.
void start_panel(const Plan&, int64_t batch, int64_t row, int32_t live, Panel&) noexcept;
// As many of them, one at least, as see no more than window_tile_keys together. Returns the row behind the last of these,
// where the caller begins the next panel.
[[nodiscard]] int64_t start_window(const Plan&, int64_t batch, int64_t row, int32_t live, Panel&) noexcept;

// As many of them, one at least, as see keys near each other: once they see least_apart of them, a query ends the panel that
// sees none of these, nor keys between them. Such a panel would go over the keys of both. Returns the row behind the last.
constexpr int64_t least_apart = 32;
[[nodiscard]] int64_t start_apart(const Plan&, int64_t batch, int64_t row, int32_t live, Panel&) noexcept;

// Where a query's row of an operand stands.
char* row_of(const Plan&, const Operand&, int64_t batch, const Panel&, int lane) noexcept;

// The part of a tile that a panel has to look at, in keys from the tile's start, `begin` even. Every query sees all of
// full_begin..full_end, as far as intervals go. bits: some cell is hidden, and there is one word of bits a key from `begin`.
struct KeyRange {
  int64_t begin = 0, end = 0;
  int64_t full_begin = 0, full_end = 0;
  bool hidden = false;             // some cell is not seen
  const uint32_t* bits = nullptr;  // set where no interval says what is hidden, or where bits were wanted
  bool empty() const { return begin >= end; }
  int64_t count() const { return end - begin; }
};

// A mask's bits for a block's panels and all keys, kept from one head to the next that shares the mask.
struct KeptBits {
  uint32_t* bits = nullptr;  // [panel][keys], null: not kept
  uint8_t* ready = nullptr;  // [panel][tile]
};

// Smallest and largest segment id of a tile's keys, found once.
struct TileIds {
  bool ready = false;
  int64_t first = 0, last = 0;
};

// The range begins at a multiple of `align`, a power of 2, even. bits: room for a word a key. kept: the panel's own part, from this tile on.
KeyRange visible_keys(const Plan&, Panel&, KeyTile, int64_t align, bool want_bits, uint32_t* bits, KeptBits kept,
                      TileIds&) noexcept;

// seen[t] = 1 where intervals and blocks leave the panel some key of tile t of the grid, else 0.
void mark_tiles(const Plan&, const Panel&, uint8_t* seen) noexcept;
// From the first to the last of these keys that they leave it.
[[nodiscard]] Interval span_of_rules(const Plan&, const Panel&, KeyTile) noexcept;

}  // namespace foveate
