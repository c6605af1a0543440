// Statistics of the weights, none of which is stored: for each query the entropy and the largest weight, for each key the
// sum over the queries. One pass over the tiles of keys for the softmax, a second for the sums. Weights of the first, beside
// the m of their tile, are kept for the second where those of a panel stay in a cache; else they are made again.
//
// A sum over queries is made of parts: a panel's in the accumulator's type, those of a chunk of queries in float64, and the
// chunks one after the other. Chunks depend on the shape of one leading index alone, and so do the bits.
#include <algorithm>
#include <limits>

#include "drivers/common/query_block.hpp"
#include "drivers/drivers.hpp"
#include "drivers/edges/along_edges.hpp"
#include "summary.hpp"

namespace foveate {
namespace {

constexpr int64_t most_chunks = 16;  // of a leading index
// Of a panel: 18,000 keys with AVX-512. Read back from L2 the second pass takes a tenth of the first one's time; from L3, at
// 16,384 keys, a third, where making the weights again takes as long as the first (heads of 64; two threads share L3).
constexpr int64_t most_kept_bytes = 2304 << 10;

int64_t tiles_of(const Plan& plan) { return (plan.problem.keys + plan.tile_keys - 1) / plan.tile_keys; }

// The bytes of weights that are kept for each query, or 0.
int64_t kept_bytes_a_query(const Plan& plan) {
  const int64_t bytes = tiles_of(plan) * plan.tile_keys * plan.arithmetic.element_size;
  const int64_t width = int64_t(plan.arithmetic.lanes) * plan.arithmetic.max_vectors;
  return !wants_sums(plan.problem) || bytes > most_kept_bytes / width ? 0 : bytes;
}

template <class T>
class Statistics {
 public:
  Statistics(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan),
        plain_(plain_arithmetic(plan)),
        block_(plan, blocks, carver),
        width_(blocks.width),
        sums_(wants_sums(plan.problem)),
        keeps_(kept_bytes_a_query(plan) > 0),
        tiles_(tiles_of(plan)) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    t_ = carver.take<T>(queries);
    share_ = carver.take<T>(queries);
    counted_ = carver.take<T>(width_);
    found_ = carver.take<int32_t>(width_);
    place_ = carver.take<int64_t>(queries);
    spoilt_ = carver.take<uint32_t>(blocks.panels);
    kept_ = carver.take<T>(keeps_ ? queries * tiles_ * plan.tile_keys : 0);
    kept_m_ = carver.take<T>(keeps_ ? queries * tiles_ : 0);
    kept_ranges_ = carver.take<KeyRange>(keeps_ ? blocks.panels * tiles_ : 0);
  }

  // A block of queries. sums: one a key, to which theirs are added.
  void run(int64_t task, int64_t next, double* sums) noexcept {
    block_.start(task, next);
    while (block_.next_panels()) {
      const int count = block_.panels();
      weigh(count);
      if (block_.stopped()) return;
      bool counts = false, spoilt = false;
      for (int p = 0; p < count; ++p) {
        counts |= finish(p);
        spoilt |= spoilt_[p] != 0;
      }
      if (counts && keeps_) add_kept(count, sums);
      if (counts && !keeps_) add_again(count, sums);
      if (spoilt) spoil(count, sums);
    }
  }

 private:
  // Keys before the first tile have no weight: the sink, which is no key, comes in at the end.
  void weigh(int count) noexcept {
    std::fill_n(m_, count * width_, -std::numeric_limits<T>::infinity());
    std::fill_n(l_, count * width_, T(0));
    std::fill_n(t_, count * width_, T(0));
    std::fill_n(place_, count * width_, int64_t(-1));
    for (Traversal tiles = block_.tiles(0, count); block_.open(tiles); tiles.next())
      for (int p = 0; p < count; ++p) weigh(p, tiles.tile());
  }

  void weigh(int p, KeyTile tile) noexcept {
    const KeyRange range = block_.score(p, false);
    if (keeps_) kept_range(p, tile) = range;
    if (range.empty()) return;
    const int32_t vectors = block_.vectors(p);
    const int64_t count = range.count(), first = block_.key_of(range);
    T* const m = m_ + p * width_;
    uint32_t found = plain_.argmax_place(block_.scores(), vectors, count, block_.row_max(), m, found_);
    for (found &= low_bits(block_.panel(p).live); found; found &= found - 1) {
      const int i = __builtin_ctz(found);
      place_[p * width_ + i] = first + found_[i];
    }
    void* const weights = keeps_ ? static_cast<void*>(kept(p, tile)) : block_.scores();
    plain_.soft_entropy(block_.scores(), vectors, count, block_.softmax_scale(), block_.row_max(), m, l_ + p * width_,
                        t_ + p * width_, weights);
    if (keeps_) std::copy_n(m, width_, kept_m(p, tile));
  }

  T* kept(int p, KeyTile tile) const { return kept_ + (p * tiles_ * plan_.tile_keys + tile.first) * width_; }
  T* kept_m(int p, KeyTile tile) const { return kept_m_ + (p * tiles_ + tile.first / plan_.tile_keys) * width_; }
  KeyRange& kept_range(int p, KeyTile tile) const { return kept_ranges_[p * tiles_ + tile.first / plan_.tile_keys]; }

  // Writes what each query comes to, and says by which share its weights count in the sums; whether any counts.
  bool finish(int p) noexcept {
    const Problem& problem = plan_.problem;
    const Panel& panel = block_.panel(p);
    const auto base_of = [&](const Operand& x) { return x ? block_.base(x) : nullptr; };
    char *const entropies = base_of(problem.entropy), *const largest = base_of(problem.largest),
                *const places = base_of(problem.place);
    T* const share = share_ + p * width_;
    std::fill_n(share, width_, T(0));
    spoilt_[p] = 0;
    bool counts = false;
    for (int i = 0; i < panel.live; ++i) {
      const int64_t at = p * width_ + i;
      const bool seen = panel.seen >> i & 1;
      const Summary summary(plan_, double(m_[at]), double(l_[at]), double(t_[at]), block_.batch(), panel.group[i]);
      const bool valid = seen && summary.valid();
      write_summary(problem, summary, seen, place_[at], [&](const Operand& x) {
        return block_.row(x, &x == &problem.entropy ? entropies : &x == &problem.largest ? largest : places, p, i);
      });
      if (!sums_ || !seen || panel.row[i] < problem.first_query || panel.row[i] >= problem.end_query) continue;
      if (valid)
        share[i] = T(summary.largest);
      else
        spoilt_[p] |= uint32_t(1) << i;
      counts |= share[i] != T(0);
    }
    return counts;
  }

  void add_kept(int count, double* sums) noexcept {
    for (Traversal tiles = block_.tiles(0, count); !tiles.done(); tiles.next())
      for (int p = 0; p < count; ++p) {
        const KeyTile tile = tiles.tile();
        const KeyRange range = kept_range(p, tile);
        if (range.empty()) continue;
        plain_.key_sums(kept(p, tile), block_.vectors(p), range.count(), block_.softmax_scale(), kept_m(p, tile),
                        m_ + p * width_, share_ + p * width_, sums + tile.first + range.begin);
      }
  }

  void add_again(int count, double* sums) noexcept {
    for (Traversal tiles = block_.tiles(0, count); block_.open(tiles); tiles.next())
      for (int p = 0; p < count; ++p) {
        const KeyRange range = block_.score(p, false);
        if (range.empty()) continue;
        const T *m = m_ + p * width_, *share = share_ + p * width_;
        const double scale = block_.softmax_scale();
        plain_.weigh(block_.scores(), block_.vectors(p), range.count(), scale, m, share);
        for (int64_t i = 0; i < width_; ++i) counted_[i] = T(share[i] != T(0));
        plain_.key_sums(block_.scores(), block_.vectors(p), range.count(), scale, m, m, counted_,
                        sums + block_.key_of(range));
      }
  }

  // A query without a distribution has the weight NaN wherever it sees, and nowhere else.
  void spoil(int count, double* sums) noexcept {
    for (Traversal tiles = block_.tiles(0, count); block_.open(tiles); tiles.next())
      for (int p = 0; p < count; ++p) {
        if (!spoilt_[p]) continue;
        const KeyRange range = block_.score(p, true);
        double* const to = sums + block_.key_of(range);
        for (int64_t j = 0; j < range.count(); ++j)
          if (!range.hidden || (range.bits[j] & spoilt_[p])) to[j] = std::numeric_limits<double>::quiet_NaN();
      }
  }

  const Plan& plan_;
  const Arithmetic& plain_;  // whose weights are T, one a query
  QueryBlock block_;
  int64_t width_;
  bool sums_, keeps_;
  int64_t tiles_;
  T *m_, *l_, *t_, *share_, *counted_;
  int32_t* found_;
  int64_t* place_;
  uint32_t* spoilt_;
  T *kept_, *kept_m_;
  KeyRange* kept_ranges_;
};

// How the blocks of a leading index make chunks.
struct Chunks {
  Chunks(const Plan& plan, const QueryBlocks& by)
      : blocks(by), keys(plan.problem.keys), sums(wants_sums(plan.problem)) {
    count = sums ? std::min(blocks.per_batch, most_chunks) : blocks.per_batch;
  }
  int64_t first_block(int64_t chunk) const { return chunk * blocks.per_batch / count; }

  template <class Worker>
  void run(Worker& worker, int64_t batch, int64_t chunk, double* to) const noexcept {
    if (sums) std::fill_n(to, keys, 0.0);
    const int64_t end = first_block(chunk + 1);
    for (int64_t block = first_block(chunk); block < end; ++block) {
      const int64_t task = batch * blocks.per_batch + block;
      worker.run(task, block + 1 < end ? task + 1 : -1, to);
    }
  }
  void add(const double* chunk, double* to) const {
    for (int64_t j = 0; j < keys; ++j) to[j] += chunk[j];
  }

  const QueryBlocks& blocks;
  int64_t keys, count;
  bool sums;
};

void write_sums(const Plan& plan, int64_t batch, const double* sums) {
  const Operand& x = plan.problem.key_sum;
  char* to = x.data + plan.batch_offset(x, batch);
  for (int64_t j = 0; j < plan.problem.keys; ++j, to += x.row_stride) write_number(x, to, sums[j]);
}

// Every leading index is a batch, since sums over queries are of one. A task is a chunk; or all of a batch, one after the
// other with the same sums, where there are batches enough.
template <class T>
fv_status run(Plan& plan, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  const int64_t kept = kept_bytes_a_query(plan);
  QueryBlocks blocks(plan, plan.scoring.panel_size(p.head_size) + kept, 1, false);
  blocks.last_first = blocks.batch_innermost = false;
  const Chunks chunks(plan, blocks);
  const bool sums = chunks.sums;
  const double products = sums && kept == 0 ? 4 : 2;
  const double flops = products * double(plan.batches) * double(plan.rows) * double(p.keys) * double(p.head_size);
  const int threads = threads_for(plan.batches * chunks.count, flops);
  const bool whole = chunks.count == 1 || plan.batches >= int64_t(threads) * 8;

  Carver size(nullptr);
  size.take<Statistics<T>>(1);
  Statistics<T>(plan, blocks, size);
  size.take<double>(sums && whole ? 2 * p.keys : 0);
  const size_t part = size.used();
  const int64_t parts_of_sums = sums && !whole ? plan.batches * chunks.count * p.keys : 0;
  const size_t prepared = size_t(plan.prepared_size(threads)),
               shared = prepared + size_t(parts_of_sums) * sizeof(double);
  const Workspace workspace(shared + part * size_t(threads));
  if (!workspace.data()) return no_memory(error, double(shared) + double(part) * threads);
  if (!plan.prepare(threads, workspace.data())) return FV_INTERRUPTED;
  double* const all_sums = reinterpret_cast<double*>(workspace.data() + prepared);
  char* const parts = workspace.data() + shared;
  double* own[FV_MAX_THREADS];
  for (int t = 0; t < threads; ++t) {
    Carver carver(parts + part * size_t(t));
    Statistics<T>* worker = carver.take<Statistics<T>>(1);
    new (worker) Statistics<T>(plan, blocks, carver);
    own[t] = carver.take<double>(sums && whole ? 2 * p.keys : 0);
  }
  const auto worker_of = [&](const Task& task) -> Statistics<T>& {
    return *reinterpret_cast<Statistics<T>*>(parts + part * size_t(task.thread));
  };
  if (whole) {
    return run_tasks(plan.batches, threads, Order::by_ranges,
                     [&](const Task& task) {
                       const KernelSession session(plan.arithmetic);
                       double *total = own[task.thread], *one = total + p.keys;
                       for (int64_t c = 0; c < chunks.count; ++c) {
                         chunks.run(worker_of(task), task.index, c, c == 0 ? total : one);
                         if (sums && c > 0) chunks.add(one, total);
                       }
                       if (sums) write_sums(plan, task.index, total);
                     })
               ? FV_OK
               : FV_INTERRUPTED;
  }
  const auto sums_of = [&](int64_t batch, int64_t chunk) {
    return all_sums + (sums ? (batch * chunks.count + chunk) * p.keys : 0);
  };
  // the last chunk of a batch, which is the heaviest where a reach is causal, comes first
  const Order order = plan.batches >= threads ? Order::by_ranges : Order::in_order;
  bool done = run_tasks(plan.batches * chunks.count, threads, order, [&](const Task& task) {
    const KernelSession session(plan.arithmetic);
    const int64_t batch = task.index / chunks.count, chunk = chunks.count - 1 - task.index % chunks.count;
    chunks.run(worker_of(task), batch, chunk, sums_of(batch, chunk));
  });
  if (done && sums)
    done = run_tasks(plan.batches, threads, Order::by_ranges, [&](const Task& task) {
      double* const total = sums_of(task.index, 0);
      for (int64_t c = 1; c < chunks.count; ++c) chunks.add(sums_of(task.index, c), total);
      write_sums(plan, task.index, total);
    });
  return done ? FV_OK : FV_INTERRUPTED;
}

// Sums over no queries.
void clear_sums(const Problem& p) noexcept {
  each_address(p.key_sum.data, p.lead_ndim, p.lead_shape, p.key_sum.lead, [&](char* to) {
    for (int64_t j = 0; j < p.keys; ++j) write_number(p.key_sum, to + j * p.key_sum.row_stride, 0);
    return true;
  });
}

}  // namespace

fv_status attention_statistics(const Problem& problem, fv_error* error) noexcept {
  if (problem.key_sum && !wants_sums(problem)) clear_sums(problem);
  if (problem.queries == 0) return FV_OK;
  if (problem.edge_begins) return statistics_along_edges(problem, error);
  if (problem.queries == 1) return statistics_of_one(problem, error);
  Plan plan(problem, kernels(), {.windows = Windows::shared, .grouped = false});
  return plan.arithmetic.element_size == 8 ? run<double>(plan, error) : run<float>(plan, error);
}

}  // namespace foveate
