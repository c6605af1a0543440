// A block of queries, in panels, against the keys: what every driver of queries-on-lanes shares. It holds the packed
// queries and makes the scores of one tile of keys for one panel, -inf where they are not seen; a driver then selects.
#pragma once
#include <algorithm>
#include <limits>
#include <new>

#include "lse.hpp"
#include "place_bias.hpp"
#include "prefetch.hpp"
#include "reach.hpp"
#include "rows.hpp"
#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

// Blocks: as many panels as share a tile while their queries and outputs stay within a part of a small L2.
constexpr int64_t block_bytes = 256 << 10;
constexpr int64_t most_panels = 16;

// How a plan is cut into blocks of panels.
struct QueryBlocks {
  // even: all of about one size; else as large as they may be, so that where they are cut does not depend on the rows.
  QueryBlocks(const Plan&, int64_t bytes_a_query, int threads, bool even = true) noexcept;
  int64_t row_of(int64_t task) const;
  int64_t batch_of(int64_t task) const { return batch_innermost ? task % batches : task / per_batch; }

  int64_t batches;
  int32_t width;         // queries in a panel
  int32_t panels;        // panels in a block, held at once
  int64_t rows;          // queries in a block
  int64_t per_batch;     // blocks in a batch
  int64_t count;         // in all
  bool last_first;       // the last rows of a batch come first
  bool batch_innermost;  // blocks that may share a mask follow each other, so that its bits are made once; or pages
};

class QueryBlock {
 public:
  // Carves its scratch out of a thread's part; with a null base it only counts.
  QueryBlock(const Plan&, const QueryBlocks&, Carver&) noexcept;

  // Takes the rows of a task; next: the task that follows, a guess, or -1.
  void start(int64_t task, int64_t next) noexcept;
  // Makes the next panels of them, their queries packed: all that are left, or as many narrow ones as there is room for.
  // False: there are none left.
  bool next_panels() noexcept;
  // All panels of a task at once, whatever the windows: what they see, and where that matters the packing.
  void see(int64_t task) noexcept;
  void pack() noexcept {
    for (int p = 0; p < count_; ++p) pack(p);
  }
  int panels() const { return count_; }
  int together() const { return plan_.narrow() ? 1 : count_; }  // so many go over the keys in one pass
  Panel& panel(int p) { return panels_[p]; }
  const Panel& panel(int p) const { return panels_[p]; }
  int32_t vectors(int p) const { return panels_[p].live <= arithmetic_.lanes ? 1 : arithmetic_.max_vectors; }
  int64_t batch() const { return batch_; }

  // The keys that queries of the panels first..last-1 may see; and how a pass goes over them, or over those of some keys
  // from one multiple of the tile to another. A rule that names the blocks of keys that a query sees has its list here.
  Interval keys_seen(int first, int last) const;
  Traversal tiles(int first, int last) const { return tiles(first, last, {0, plan_.problem.keys}); }
  Traversal tiles(int first, int last, Interval among) const;

  const KeyTile& tile() const { return tile_; }  // the open one
  // The first key of a range of it.
  int64_t key_of(const KeyRange& range) const { return tile_.first + range.begin; }

  // Opens the tile that the traversal is at. Keys that cannot be read in place are loaded for the first panel that sees some
  // of them. False: there is none left, or the call was told to stop.
  bool open(const Traversal&) noexcept;

  // Whether the call was told to stop: from then on no tile has a key.
  bool stopped() const { return stopped_; }

  // Scores of the open tile for a panel, in scores(). want_bits: the bits of hidden cells are wanted, even where the
  // reach is plain intervals. link_kept: room for what the gradients of the links need, of each `link_bytes`; or null.
  KeyRange score(int p, bool want_bits, char* link_kept = nullptr) noexcept;
  int64_t link_bytes() const { return plan_.tile_keys * blocks_.width * arithmetic_.element_size; }
  // With a sigma: what multiplies the weights of a range, round each query's center.
  Gaussian gaussian(int p, const KeyRange&) const;
  char* scores() { return scores_; }
  // Adds the gradients of the scores of a range to the sums of a bias by place.
  template <class T>
  void add_place_gradient(int p, const KeyRange& s, const T* d_scores, double* sums) noexcept {
    places_.add_gradient(panels_[p], s.begin, s.count(), vectors(p), d_scores, sums);
  }
  const PartialKeys& partial() const { return partial_; }  // of the range that was scored
  const char* row_max() const { return row_max_; }         // the largest of them, of each query
  double softmax_scale() const { return plan_.softmax_scale(); }

  // Values of the open tile from key `begin`, the first of a group; finite: with 0 for inf and NaN.
  LoadedRows values(int64_t begin, bool finite) noexcept;
  // What a product will read of them.
  Prefetch values_next(const LoadedRows& values, int64_t count) const {
    const int64_t groups = arithmetic_.pairs ? (count + arithmetic_.group - 1) / arithmetic_.group : 0;
    const Elements lines{groups * values.row_stride / line_bytes, line_bytes};
    return {{lines_of(static_cast<const char*>(values.data), lines, line_bytes), {}, {}}, 1, false};
  }
  LoadedRows values_as_keys(int64_t begin) noexcept;  // as an inner product takes keys
  Prefetch values_ahead(int p) { return ahead(plan_.problem.value, plan_.problem.value_size, p, false); }
  // Panel p's share of an operand like the keys or the values, in the next tile of all panels.
  Prefetch next_tile_of(const Operand&, int64_t columns, int p) const;
  Rows value_rows(int64_t begin) const { return value_rows_.tile().from(begin); }
  // The queries of a panel as the scores read them.
  const void* packed(int p) const { return queries_ + p * panel_bytes_; }
  // Keys of the open tile as the scores read them, and as they lie in memory.
  LoadedRows keys(int64_t begin) const {
    return {static_cast<const char*>(key_tile_.data) + begin * key_tile_.row_stride, key_tile_.row_stride};
  }
  Rows key_rows(int64_t begin) const { return key_rows_.tile().from(begin); }

  // Row of a query of an operand like the output; `base`: of its batch.
  char* row(const Operand& x, char* base, int p, int lane) const {
    const Panel& panel = panels_[p];
    return base + panel.row[lane] * x.row_stride + (plan_.groups > 1 ? plan_.group_offset(x, panel.group[lane]) : 0);
  }
  char* base(const Operand& x) const { return x.data + plan_.batch_offset(x, batch_); }

  void* scratch() { return scratch_; }  // a panel of rows as long as any

  // A softmax's m, in units of the scores, and l before the first tile: nothing, or the sink.
  template <class T>
  void start_softmax(int p, T* m, T* l) noexcept {
    for (int i = 0; i < blocks_.width; ++i) {
      const bool sink = plan_.problem.sink && i < panels_[p].live;
      m[i] = T(sink ? sink_score_of(plan_, batch_, panels_[p].group[i]) : -std::numeric_limits<double>::infinity());
      l[i] = T(sink ? 1 : 0);
    }
  }

 private:
  void start_rows(int64_t task) noexcept;
  void see_all() noexcept;
  void mark_tiles() noexcept;
  KeyTile seen_of(KeyTile) const noexcept;  // what rules leave of it for some panel, to prefetch
  bool is_marked(int p, KeyTile tile) const {
    return !tile_marks_ || tile_marks_[p * tiles_ + tile.first / plan_.tile_keys];
  }
  void guess_next() noexcept;
  void pack(int p) noexcept;
  PartialKeys partial_keys_of(int p, const KeyRange&) const;
  // What to prefetch while keys or values are at work on panel p: its share of the next tile; and in the panel's last
  // tile its share of the next task's first one, with the next queries or the rows that it is about to write.
  Prefetch ahead(const Operand&, int64_t columns, int p, bool keys);
  Prefetch ahead_of_panel(const Operand&, int64_t columns, int p, bool keys);
  void add_ahead(Prefetch&, const Operand&, int64_t batch, int64_t row, int64_t rows, int64_t columns) const;

  const Plan& plan_;
  const QueryBlocks& blocks_;
  const Arithmetic& arithmetic_;
  Panel* panels_;
  char *queries_, *scores_, *row_max_, *keys_, *values_, *scratch_;
  int64_t panel_bytes_;
  uint32_t* bits_;
  uint32_t* kept_bits_;
  uint8_t* kept_ready_;
  int64_t tiles_;
  uint8_t* tile_marks_ = nullptr;    // [panel][tile]: whether rules leave it some key; null: no rule has holes
  int64_t* listed_tiles_ = nullptr;  // of a traversal
  bool keeps_, wants_row_max_;       // gradients of inner products do without: they know lse
  const char* kept_mask_ = nullptr;  // whose bits are kept: the mask's row, and the first query
  int64_t kept_row_ = -1;

  int count_ = 0;
  int64_t batch_ = 0, first_row_ = 0, end_row_ = 0;
  int64_t next_task_ = 0, next_batch_ = 0, next_key_ = 0;  // a guess; its first key, or none
  bool stopped_ = false;
  double flops_a_key_;  // of a panel
  TileRows key_rows_, value_rows_;
  PlaceBias places_;
  KeyTile tile_{}, next_tile_{};  // the open one, and what will be read of the next one of the pass
  TileIds tile_ids_{};
  LoadedRows key_tile_{};
  PartialKeys partial_{};
  const char* ahead_rows_[most_lanes];
  enum class Values { not_loaded, as_they_are, finite, as_keys } values_ready_ = Values::not_loaded;
};

// Runs Worker<T> over all blocks: made once for each thread, it takes task after task. bytes_a_query: of what a worker
// keeps for each query of a block. with: what else it is made of.
template <class T, template <class> class Worker, class... With>
fv_status run_blocks(Plan& plan, int64_t bytes_a_query, double flops, fv_error* error, const With&... with) noexcept {
  const int threads = threads_for(plan.batches * plan.rows, flops);
  const QueryBlocks blocks(plan, bytes_a_query, threads);
  Carver size(nullptr);
  size.take<Worker<T>>(1);
  Worker<T>(plan, blocks, size, with...);
  const size_t part = size.used();
  const size_t shared = size_t(plan.prepared_size(threads));
  const Workspace workspace(shared + part * size_t(threads));
  if (!workspace.data()) return no_memory(error, double(shared) + double(part) * threads);
  if (!plan.prepare(threads, workspace.data())) return FV_INTERRUPTED;
  char* const parts = workspace.data() + shared;
  for (int t = 0; t < threads; ++t) {
    Carver carver(parts + part * size_t(t));
    Worker<T>* worker = carver.take<Worker<T>>(1);
    new (worker) Worker<T>(plan, blocks, carver, with...);
  }
  // heads apart, each thread with its own; but where there is one head, all take its heaviest blocks first
  const bool ranges = (blocks.batches >= threads && !blocks.batch_innermost) || plan.narrow();
  const bool done =
      run_tasks(blocks.count, threads, ranges ? Order::by_ranges : Order::in_order, [&](const Task& task) {
        const KernelSession session(plan.arithmetic);
        reinterpret_cast<Worker<T>*>(parts + part * size_t(task.thread))->run(task.index, task.next);
      });
  return done ? FV_OK : FV_INTERRUPTED;
}

}  // namespace foveate
