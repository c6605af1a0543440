// How the places of a grid are cut up for stencils: rows of places along the last axis into strips, a vector wide; and
// blocks, a few neighboring rows of one chunk of strips. What a block sees are rows too, each seen by some rows of the block
// that follow each other. The same for both parts: queries that see keys, and keys that are seen by queries. What a place
// gets depends on its own cells alone, however the grid is cut.
#pragma once
#include <algorithm>

#include "axis.hpp"
#include "drivers/common/plan.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

// Places along the last axis, on the lanes.
struct Strip {
  int32_t live;
  int32_t run_count;  // 0: all lanes are live, see as many places, and each one more to the right than the lane before
  int64_t window;     // places that a lane sees, at most
  int64_t column;     // the first one that lane 0 sees
  bool hidden;        // some live lane sees fewer
  int64_t place[most_lanes];
  StripRun runs[most_lanes];
  uint32_t* seen;  // [window]: the lanes that see so many
};

struct Chunk {
  int64_t first_strip, strips;
  int64_t column, columns;  // what they see lies in these columns
};

// Rows of a task: of one place of the first axis, the places first_row, first_row + 1, ... of a group of the second one.
struct Block {
  int64_t head;
  const Chunk* chunk;
  int64_t z, group, first_row, rows;
  // what they see: places of the first axis, and of the same group of the second one
  SeenPlaces seen_z;
  int64_t low, high;
};

class Stencil {
 public:
  // columns: of what is seen, in all; extra: bytes of each cell beside its score. With a null base it counts.
  Stencil(const Plan&, bool of_keys, int64_t columns, int64_t extra, Carver&) noexcept;
  void build() noexcept;

  int64_t tasks() const { return heads_ * axis_[0].length * blocks_a_plane_ * chunk_count_; }
  Block block(int64_t task) const noexcept;

  const Strip& strip(int64_t number) const { return strips_[number]; }
  int64_t row_of(int64_t z, int64_t y) const { return (z * axis_[1].length + y) * axis_[2].length; }
  SeenPlaces seen(int axis, int64_t at) const {
    return of_keys_ ? places_that_see(axis_[axis], at) : places_seen(axis_[axis], at);
  }
  const NeighborAxis& axis(int number) const { return axis_[number]; }
  int64_t step() const { return axis_[2].dilation; }
  const SeenPlaces& seen_by(int64_t place) const { return places_[place]; }  // along the last axis

  // The most that a worker has to have room for.
  int64_t most_rows() const { return most_rows_; }            // of a block
  int64_t most_seen_rows() const { return most_seen_rows_; }  // by a block
  int64_t most_cells() const { return most_cells_; }          // of a place
  int64_t most_window() const { return window_[2]; }          // along the last axis
  int64_t most_columns() const { return most_columns_; }      // that a chunk sees
  int64_t row_stride() const { return row_stride_; }          // elements from one column to the next

 private:
  void add_strips(int64_t first, int64_t last) noexcept;
  Strip& add_strip(const int64_t* places, int64_t count) noexcept;
  void set_rows(Block&, int64_t number) const noexcept;  // of block `number` of its group
  int64_t most_seen_in_group() const noexcept;
  int64_t rows_of_group(int64_t group) const { return (axis_[1].length - 1 - group) / axis_[1].dilation + 1; }

  bool of_keys_;
  NeighborAxis axis_[3];
  int64_t window_[3];  // the most places seen along an axis
  int64_t heads_, lanes_, chunk_places_, chunk_count_;
  int64_t most_rows_, most_seen_rows_, most_cells_, most_columns_, row_stride_;
  int64_t blocks_a_plane_, blocks_a_group_;
  SeenPlaces* places_;  // of the last axis
  Strip* strips_;
  Chunk* chunks_;
  uint32_t* seen_;
  int64_t strip_count_ = 0;
};

}  // namespace foveate
