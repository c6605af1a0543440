// How the backward pass is cut up, by shapes alone, so that the bits depend on nothing else. Keys in tiles, a few tiles a
// group, whose gradients one worker holds while all queries go by; groups in chunks, each with its own part of the
// gradient of the queries. The parts are summed in order: nothing is added to by two threads.
#pragma once
#include <algorithm>

#include "block.hpp"

namespace foveate {

// 2 to 4 tiles, and 128 queries, are within 1% of each other.
constexpr int64_t group_tiles = 3, most_group_tiles = group_tiles;
constexpr int64_t most_chunks = 16;
constexpr int64_t backward_queries = 128;

struct Pass {
  Pass(const Plan& plan, const Blocks& blocks) noexcept
      : tiles((plan.problem.keys + tile_keys - 1) / tile_keys),
        groups(std::max<int64_t>(1, (tiles + group_tiles - 1) / group_tiles)),
        chunks(std::min(groups, most_chunks)),
        panel(int64_t(blocks.width) * plan.problem.head_size),
        part(panel * blocks.panels * blocks.per_batch) {}

  int64_t first_key(int64_t group) const { return group * tiles / groups * tile_keys; }
  int64_t first_group(int64_t chunk) const { return chunk * groups / chunks; }

  int64_t tiles, groups, chunks;
  int64_t panel, part;  // elements of a panel of the queries' gradient, and of a whole part

  // Of all rows, batch after batch: lse in base 2, and what is taken off the gradients of the weights.
  void *lse = nullptr, *shift = nullptr;
  void* parts =
      nullptr;  // [batch of a wave][chunk][panel][column][query]; null where no gradient of the query is wanted
};

}  // namespace foveate
