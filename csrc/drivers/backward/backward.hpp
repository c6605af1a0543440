// How the backward pass is cut up.
//
//                 keys of a batch
//                 |     chunk 0     |     chunk 1     |     a chunk has a partial sum of dQ of its own
//                 | column | column | column | column |     a column: a few tiles, whose sums of dK and dV stay in a cache
//      block 0    |########|        |########|        |
//      block 1    |########|        |########|        |     ####: two tasks, each one column of a chunk against a run of
//      block 2    |        |        |        |        |           `task_blocks` blocks of queries
//
// Which sums there are, and in which order each is added to, is by shapes and the reach alone, and so are the bits: chunks,
// whose partial sums of dQ are added up in order when all are done; of a chunk the tiles, one after the other, for each
// block; and of a tile the blocks, one after the other. How tasks are cut out of that, and what runs side by side, is free:
// a task waits for those before it and above it in its chunk (runtime/wavefront.hpp), and where threads are many, columns are
// narrow, several of a chunk are in work, and runs are short. Batches that are in work at the same time, as many as keep
// the threads busy, are a batch group.
#pragma once
#include <algorithm>

#include "drivers/common/query_block.hpp"

namespace foveate {

// Tiles of a group, which a column has unless threads are many: its sums stay in a part of a small L2. In float32 3 and 6
// tiles, as 128 and 256 queries a block, are within the noise of each other, 5%; 7 lose 2 to 5% to the cache. Products of
// bfloat16 pairs have half the cells, and rows that are laid out once a group cost them twice as much: 4 tiles are 2% over
// 3 at 1024 keys, 7 no more. With AMX, where memory is what counts, as many as have sums of 400 KB: at head size 64, 8 are
// a tenth over 3.
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
// With several threads, for each of them: columns that could be in work, or they are made narrower, and that may be; tasks,
// at most; and bytes of partial sums of dQ, where they are more than those of one batch and than least_bytes.
constexpr int64_t columns_a_thread = 2, open_a_thread = 4, tasks_a_thread = 32, bytes_a_thread = 4 << 20,
                  least_bytes = 64 << 20;
// A cell of a column of the scores that are no inner product counts as so many flops of a product.
constexpr double column_flops = 16;

// What a chunk adds up before it is written: the gradients of its present column's keys and values, and those of the
// score's factors and of biases by place.
template <class T>
struct ChunkSums {
  T *key, *value;   // [key of the column][column, whole vectors]
  double* factors;  // [column]
  double* places;   // a line of biases by place, with a panel's room on both sides
};

struct Pass {
  // in_one_chain: sums of a whole chunk are added to, task after task, so that what a task is may not depend on the threads.
  Pass(const Plan& p, const QueryBlocks& blocks, bool in_one_chain) noexcept
      : plan(p),
        tiles((p.problem.keys + p.tile_keys - 1) / p.tile_keys),
        groups(std::max<int64_t>(1, (tiles + group_tiles_of(p) - 1) / group_tiles_of(p))),
        chunks(std::min(groups, most_chunks)),
        column_tiles(group_tiles_of(p)),
        moments(p.problem.d_centers || p.problem.d_sigma ? 2 : 0),
        panel_size(p.problem.d_query || moments ? int64_t(blocks.width) * (p.problem.head_size + moments) : 0),
        partial_size(panel_size * blocks.panels * blocks.per_batch),
        per_batch(blocks.per_batch),
        in_one_chain_(in_one_chain) {
    const Problem& problem = plan.problem;
    const double columns = plan.scoring.gradients ? column_flops * double(problem.head_size) : 0;
    const double a_query = double(column_keys()) * (10.0 * double(problem.head_size + problem.value_size) + columns);
    const double fitting = task_flops / (a_query * double(blocks.rows) + 1);
    task_blocks = std::clamp<int64_t>(int64_t(fitting), 1, per_batch);
  }

  // Batches whose partial sums are held at once: enough for all threads.
  int64_t batches_at_once(int threads) const {
    const int64_t enough = (8 * int64_t(threads) + chunks - 1) / chunks;
    const double bytes = double(chunks) * double(partial_size) * plan.arithmetic.element_size;
    const double fitting = double(std::max(least_bytes, bytes_a_thread * threads)) / std::max(1.0, bytes);
    const int64_t most = std::min(enough, std::max<int64_t>(1, int64_t(std::min(fitting, 1e9))));
    const int64_t times = (plan.batches + most - 1) / most;
    return (plan.batches + times - 1) / times;
  }

  // Cuts tasks for so many threads, which take those of so many batches at a time.
  void share(int threads, int64_t some) noexcept {
    if (in_one_chain_) return;
    // where reaches are triangles, a column may have as much as two
    const int64_t uneven = (plan.problem.left >= 0) != (plan.problem.right >= 0) ? 2 : 1;
    const int64_t grids = some * chunks, wanted = columns_a_thread * uneven * threads;
    while (column_tiles > 1 && grids * columns() < wanted) --column_tiles;
    open = std::clamp<int64_t>((open_a_thread * uneven * threads + grids - 1) / grids, 1, columns());
    const int64_t least_runs =
        std::max(std::min<int64_t>(tasks_a_thread, 4 * threads) * threads / (grids * columns()), 4 * (open - 1));
    task_blocks = std::clamp<int64_t>(per_batch / std::max<int64_t>(1, least_runs), 1, task_blocks);
  }

  bool in_one_chain() const { return in_one_chain_; }
  // Columns of a chunk, at most; and the tasks of one.
  int64_t columns() const {
    int64_t most = 1;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) most = std::max(most, columns_of(chunk));
    return most;
  }
  int64_t runs() const { return (per_batch + task_blocks - 1) / task_blocks; }
  int64_t column_keys() const { return std::min(column_tiles, tiles) * plan.tile_keys; }

  // The keys of a column; of the last ones of a chunk there may be none.
  Interval keys_of(int64_t chunk, int64_t column) const {
    const int64_t first = first_tile(chunk), count = first_tile(chunk + 1) - first;
    const int64_t parts = columns_of(chunk);
    if (column >= parts) return {0, 0};
    return {(first + column * count / parts) * plan.tile_keys,
            std::min(plan.problem.keys, (first + (column + 1) * count / parts) * plan.tile_keys)};
  }

  // Whether a block of a batch may see keys of a chunk: else its part is neither set to 0 nor summed.
  bool sees(int64_t batch, int64_t block, int64_t chunk) const {
    return sees(batch, block, {first_tile(chunk) * plan.tile_keys, first_tile(chunk + 1) * plan.tile_keys});
  }
  // Whether it may see some keys, of whole tiles.
  bool sees(int64_t batch, int64_t block, Interval keys) const {
    const Interval seen = seen_keys[batch * per_batch + block];
    if (seen.low >= seen.high || seen.low >= keys.high || seen.high <= keys.low) return false;
    if (!plan.holes) return true;
    for (int64_t key = keys.low; key < keys.high; key += plan.tile_keys)
      if (seen_tiles[batch * per_batch + block] >> bit_of(key / plan.tile_keys) & 1) return true;
    return false;
  }
  uint64_t bit_of(int64_t tile) const { return uint64_t(tiles <= 64 ? tile : tile * 64 / tiles); }

  // About how long a task takes.
  double weight(int64_t batch, int64_t chunk, int64_t column, int64_t run) const {
    const Interval keys = keys_of(chunk, column);
    int64_t pairs = 0;
    for (int64_t b = run * task_blocks; b < std::min((run + 1) * task_blocks, per_batch); ++b) {
      if (!sees(batch, b, keys)) continue;
      const Interval seen = seen_keys[batch * per_batch + b];
      pairs += std::min(seen.high, keys.high) - std::max(seen.low, keys.low);
    }
    return double(pairs);
  }

  const Plan& plan;
  int64_t tiles, groups, chunks;
  int64_t column_tiles;              // at most
  int64_t open = 1;                  // columns of a chunk that may be in work at the same time
  int64_t moments;                   // columns beside those of the queries' gradient: of centers and sigma
  int64_t panel_size, partial_size;  // elements of a panel of the queries' gradient, and of a whole part
  int64_t per_batch, task_blocks;

  void *lse_high = nullptr, *lse_low = nullptr, *delta = nullptr;  // RowSums of all rows, batch after batch
  void *t_lse = nullptr, *t_delta = nullptr;                       // of the second order: how lse and delta move
  Interval* seen_keys = nullptr;                                   // of every block: the keys that it may see
  uint64_t* seen_tiles = nullptr;  // where rules have holes: bit bit_of(tile) is set where it may see keys of the tile
  void* partial_sums = nullptr;    // [batch of a batch group][chunk][panel][column of Q][query]; null: not wanted

 private:
  int64_t columns_of(int64_t chunk) const {
    return (first_tile(chunk + 1) - first_tile(chunk) + column_tiles - 1) / column_tiles;
  }
  int64_t first_tile(int64_t chunk) const { return chunk * groups / chunks * tiles / groups; }
  bool in_one_chain_;
};

}  // namespace foveate
