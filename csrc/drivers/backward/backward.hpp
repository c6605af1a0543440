// How the backward pass is cut up: by shapes and the reach alone, so that the bits depend on nothing else.
//
//                 keys of a batch
//                 |     chunk 0     |     chunk 1     |     a chunk: a few groups, taken one after the other
//                 | group  | group  | group  | group  |     a group: a few tiles, whose sums of dK and dV stay in a cache
//      block 0    |########|        |########|        |
//      block 1    |########|        |########|        |     ####: two tasks, each one group of a chunk against a run of
//      block 2    |        |        |        |        |           `task_blocks` blocks of queries
//
// The tasks of a turn, the n-th group of every chunk against the same run of blocks, run side by side. Each adds to the sums
// of its group, dK and dV (ChunkSums), and to its chunk's partial sum of dQ. When all groups are done, the partial sums of
// the chunks are added up in order. So nothing is added to by two threads. Batches that are in work at the same time, as
// many as keep the threads busy, are a batch group.
#pragma once
#include <algorithm>

#include "drivers/common/query_block.hpp"

namespace foveate {

// Tiles of a group: its sums stay in a part of a small L2. In float32 3 and 6 tiles, as 128 and 256 queries a block, are
// within the noise of each other, 5%; 7 lose 2 to 5% to the cache. Products of bfloat16 pairs have half the cells, and rows
// that are laid out once a group cost them twice as much: 4 tiles are 2% over 3 at 1024 keys, 7 no more. With AMX, where
// memory is what counts, as many as have sums of 400 KB: at head size 64, 8 are a tenth over 3.
constexpr int64_t group_tiles = 3, pair_group_tiles = 4, most_group_tiles = 8;
inline int64_t group_tiles_of(const Plan& plan) {
  if (plan.scoring.gradients)
    return 1;  // a cell costs more than what a group reads again: more chunks, for the threads
  if (plan.arithmetic.tile_keys == 0) return plan.arithmetic.pairs ? pair_group_tiles : group_tiles;
  const int64_t bytes =
      plan.tile_keys * (plan.problem.head_size + plan.problem.value_size) * plan.arithmetic.element_size;
  return std::clamp((int64_t(400) << 10) / std::max<int64_t>(1, bytes), group_tiles, most_group_tiles);
}
// Queries of a block, a panel at least. Where windows are narrow, keys that all its panels see are few: with 257 keys, 64
// queries are 1.3% over a panel alone in float32 and 2.6% in bfloat16, and 128 are no more; with 33, 64 lose half a percent.
// With AMX the sums of a tile's keys are loaded and stored as often as there are blocks: 256 are 3 to 5% over 128.
inline int64_t backward_queries(const Plan& plan) {
  if (plan.arithmetic.tile_keys > 0) return plan.narrow() ? 128 : 256;
  return !plan.narrow() ? 128 : plan.widest_window >= 128 ? 64 : 1;
}
constexpr int64_t most_chunks = 16;
// Of a task, about: an interrupt is looked for between tasks.
constexpr double task_flops = 1e9;
// A cell of a column of the scores that are no inner product counts as so many flops of a product.
constexpr double column_flops = 16;

// What a chunk adds up before it is written: the gradients of its present group's keys and values, and those of the
// score's factors and of biases by place.
template <class T>
struct ChunkSums {
  T *key, *value;   // [key of the group][column, whole vectors]
  double* factors;  // [column]
  double* places;   // a line of biases by place, with a panel's room on both sides
};

struct Pass {
  Pass(const Plan& p, const QueryBlocks& blocks) noexcept
      : plan(p),
        tiles((p.problem.keys + p.tile_keys - 1) / p.tile_keys),
        groups(std::max<int64_t>(1, (tiles + group_tiles_of(p) - 1) / group_tiles_of(p))),
        chunks(std::min(groups, most_chunks)),
        steps((groups + chunks - 1) / chunks),
        group_keys(std::min(group_tiles_of(p), tiles) * p.tile_keys),
        moments(p.problem.d_centers || p.problem.d_sigma ? 2 : 0),
        panel_size(p.problem.d_query || moments ? int64_t(blocks.width) * (p.problem.head_size + moments) : 0),
        partial_size(panel_size * blocks.panels * blocks.per_batch),
        per_batch(blocks.per_batch) {
    const Problem& problem = plan.problem;
    const double columns = plan.scoring.gradients ? column_flops * double(problem.head_size) : 0;
    const double a_query = double(group_keys) * (10.0 * double(problem.head_size + problem.value_size) + columns);
    const double fitting = task_flops / (a_query * double(blocks.rows) + 1);
    task_blocks = std::clamp<int64_t>(int64_t(fitting), 1, per_batch);
  }

  Interval keys_of(int64_t group) const {
    return {first_key(group), std::min(plan.problem.keys, first_key(group + 1))};
  }
  int64_t first_group(int64_t chunk) const { return chunk * groups / chunks; }

  // Whether a block of a batch may see keys of a chunk: else its part is neither set to 0 nor summed.
  bool sees(int64_t batch, int64_t block, int64_t chunk) const {
    const Interval seen = seen_keys[batch * per_batch + block];
    if (seen.low >= seen.high || seen.low >= first_key(first_group(chunk + 1)) ||
        seen.high <= first_key(first_group(chunk)))
      return false;
    if (!plan.holes) return true;
    for (int64_t group = first_group(chunk); group < first_group(chunk + 1); ++group)
      if (sees_group(batch, block, group)) return true;
    return false;
  }
  // Whether it may see keys of a group, among those from the first to the last that it sees.
  bool sees_group(int64_t batch, int64_t block, int64_t group) const {
    return !plan.holes || (seen_groups[batch * per_batch + block] >> bit_of(group) & 1);
  }
  uint64_t bit_of(int64_t group) const { return uint64_t(groups <= 64 ? group : group * 64 / groups); }

  const Plan& plan;
  int64_t tiles, groups, chunks, steps;
  int64_t group_keys;                // at most
  int64_t moments;                   // columns beside those of the queries' gradient: of centers and sigma
  int64_t panel_size, partial_size;  // elements of a panel of the queries' gradient, and of a whole part
  int64_t per_batch, task_blocks;

  void *lse_high = nullptr, *lse_low = nullptr, *delta = nullptr;  // RowSums of all rows, batch after batch
  void *t_lse = nullptr, *t_delta = nullptr;                       // of the second order: how lse and delta move
  Interval* seen_keys = nullptr;                                   // of every block: the keys that it may see
  uint64_t* seen_groups =
      nullptr;                   // where rules have holes: bit bit_of(group) is set where it may see keys of the group
  void* partial_sums = nullptr;  // [batch of a batch group][chunk][panel][column][query]; null: not wanted

 private:
  int64_t first_key(int64_t group) const { return group * tiles / groups * plan.tile_keys; }
};

}  // namespace foveate
