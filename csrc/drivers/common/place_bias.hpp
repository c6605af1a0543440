// A bias by place: query i and key j add table[clip(query_places[i] - key_places[j], 0, n - 1)] to their score. Before the
// first task the table is laid out in lines of T, in base 2, the groups of queries that share keys side by side: the cell of
// row r of a batch and key j is line[r's start - step of j], and rows that stand side by side read neighbors.
#pragma once
#include "plan.hpp"
#include "reach.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

class PlaceBias {
 public:
  PlaceBias(const Plan& plan, int64_t keys, Carver& carver) noexcept;

  // The steps of the keys of a tile of a batch.
  void open(int64_t batch, KeyTile tile) noexcept;

  // Adds the biases of keys of the open tile, from key `begin` of it, to the scores of a panel.
  template <class T>
  void add(const Panel& panel, int64_t begin, int64_t count, int32_t vectors, T* scores) noexcept;
  // The same of scores [key][query] of so many queries.
  template <class T>
  void add_to_few(const Panel& panel, int64_t begin, int64_t count, int32_t queries, T* scores) noexcept;
  // Adds the gradients of scores to the sums of a line.
  template <class T>
  void add_gradient(const Panel& panel, int64_t begin, int64_t count, int32_t vectors, const T* d_scores,
                    double* sums) noexcept;

 private:
  bool find_runs(const Panel& panel, int64_t begin, int64_t count) noexcept;
  int64_t at(const Panel& panel, int32_t lane, int64_t key) const noexcept;

  const Plan& plan_;
  int64_t last_ = 0;  // the last cell of a line
  const char* line_ = nullptr;
  int64_t* steps_;
  PlaceRun runs_[most_lanes];
  int32_t run_count_ = 0;
};

// Where the row of a batch starts in its line.
int64_t place_start(const Plan&, int64_t batch, int64_t group, int64_t query) noexcept;

// Lays out the table; the memory is of place_bytes(). False where the call was told to stop.
int64_t place_bytes(const Plan&) noexcept;
bool prepare_places(const Plan&, int threads, char* lines) noexcept;

// The cells of a line.
inline int64_t line_cells(const Plan& plan) { return plan.problem.table_size * plan.groups; }

}  // namespace foveate
