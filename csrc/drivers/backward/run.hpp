// How a backward pass runs: the memory and the order of the tasks; backward.hpp says how the work is cut up, a worker what a
// task does.
#pragma once
#include "drivers/drivers.hpp"
#include "runtime/refuse.hpp"
#include "runtime/wavefront.hpp"
#include "worker.hpp"

namespace foveate {

constexpr int64_t started_together = 512;  // queries whose sums are made by one task
constexpr int64_t most_summed = 4096;      // cells of a table of biases that are added up by one task

// Zeros in a gradient of the keys or the values, where nothing is summed.
inline void clear(const Plan& plan, const Operand& x, int64_t columns) noexcept {
  const Problem& p = plan.problem;
  if (!x) return;
  const double zeros[1] = {0};
  each_part(x, p.lead_ndim, p.lead_shape, [&](char* part) {
    for (int64_t j = 0; j < p.keys; ++j)
      for (int64_t d = 0; d < columns; ++d)
        plan.arithmetic.store_row(zeros, 1, part + j * x.row_stride + d * x.column_stride, dtype_of(x),
                                  x.column_stride);
    return true;
  });
}

inline void clear_sink(const Plan& plan) noexcept {
  const double zero = 0;
  for (int64_t batch = 0; batch < plan.batches; ++batch)
    for (int64_t group = 0; group < plan.groups; ++group)
      std::memcpy(plan.row(plan.problem.d_sink, batch, group, 0), &zero, sizeof zero);
}

// Whether batches add to the same cells of the mask's gradient.
inline bool share_mask(const Problem& p) {
  if (!p.d_mask) return false;
  for (int a = 0; a < p.lead_ndim; ++a)
    if (p.lead_shape[a] > 1 && (p.key.moves(a) || p.value.moves(a)) && p.d_mask.lead[a] == 0) return true;
  return false;
}

inline void write_factors(const Problem& p, const double* sum, double factor) noexcept {
  for (int64_t h = 0; h < p.head_size; ++h) {
    const double value = sum ? sum[h] * factor : 0;
    std::memcpy(p.d_factors.data + h * p.d_factors.row_stride, &value, sizeof value);
  }
}

// Adds a line of gradients, of the cells begin..end - 1 of the table, to that of a batch.
inline void add_to_table(const Plan& plan, int64_t batch, const double* line, int64_t begin, int64_t end) noexcept {
  const Operand& x = plan.problem.d_table;
  for (int64_t group = 0; group < plan.groups; ++group) {
    char* const to = plan.row(x, batch, group, 0);
    for (int64_t i = begin; i < end; ++i) {
      double sum;
      std::memcpy(&sum, to + i * x.row_stride, sizeof sum);
      sum += line[i * plan.groups + group];
      std::memcpy(to + i * x.row_stride, &sum, sizeof sum);
    }
  }
}

// What there is where nothing is summed: no query, or no leading index at all.
inline void clear_all(const Plan& plan) noexcept {
  clear(plan, plan.problem.d_key, plan.problem.head_size);
  clear(plan, plan.problem.d_value, plan.problem.value_size);
  if (plan.problem.d_factors) write_factors(plan.problem, nullptr, 0);
  if (plan.problem.d_sink) clear_sink(plan);
}

// Runs Worker<T>, a BackwardWorker or one that adds other tiles, over a plan. `moving`: with the sums of the second order.
template <class T, template <class> class Worker>
fv_status run_backward(Plan& plan, bool moving, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  QueryBlocks blocks(plan, block_bytes / backward_queries(plan), 1, /*even=*/false);
  blocks.last_first = blocks.batch_innermost = false;
  const bool share_columns = p.d_mask && p.d_mask.column_stride == 0;
  Pass pass(plan, blocks, /*in_one_chain=*/p.d_factors || p.d_table || share_columns);
  const double cells = double(plan.batches) * double(plan.rows) * double(plan.widest_window);
  const int64_t side_by_side = pass.in_one_chain() ? pass.chunks : std::max<int64_t>(1, pass.tiles);
  const int threads = threads_for(plan.batches * side_by_side, 4.0 * cells * double(p.head_size + p.value_size));
  const int64_t batch_group = share_mask(p) ? 1 : pass.batches_at_once(threads);
  // A few threads that have many chunks each go through them in turns, the same run of blocks against a column of each: the
  // rows of the run stay in a cache (2 threads: 4 to 8% over a queue of smaller tasks).
  const bool in_turns = threads <= 4 && batch_group * pass.chunks >= 8 * threads;
  const bool queued = threads > 1 && !in_turns && !share_columns;
  if (queued) pass.share(threads, batch_group);
  Grids grids = {batch_group * pass.chunks, pass.columns(), pass.runs(), pass.open};
  const bool by_columns = plan.scoring.gradients != nullptr;

  // what is shared, and then the workers; counted first
  char *prepared, *first_worker;
  double* d_factors;
  ChunkSums<T> sums;
  char* queue_memory;
  size_t worker = 0;
  const int64_t key_sums = p.d_key || by_columns ? pass.column_keys() * padded(plan, p.head_size) : 0;
  const int64_t value_sums = p.d_value ? pass.column_keys() * padded(plan, p.value_size) : 0;
  const int64_t factor_sums = p.d_factors ? p.head_size : 0;
  const int64_t place_sums = p.d_table ? line_cells(plan) + 2 * most_lanes : 0;
  const auto lay_out = [&](char* base) {
    Carver carver(base);
    prepared = carver.take(plan.prepared_size(threads));
    pass.lse_high = carver.take<T>(plan.batches * plan.rows);
    pass.lse_low = carver.take<T>(plan.batches * plan.rows);
    pass.delta = carver.take<T>(plan.batches * plan.rows);
    pass.t_lse = carver.take<T>(moving ? plan.batches * plan.rows : 0);
    pass.t_delta = carver.take<T>(moving ? plan.batches * plan.rows : 0);
    pass.seen_keys = carver.take<Interval>(plan.batches * blocks.per_batch);
    pass.seen_tiles = carver.take<uint64_t>(plan.holes ? plan.batches * blocks.per_batch : 0);
    d_factors = carver.take<double>(factor_sums);
    sums.key = carver.take<T>(grids.count * grids.open * key_sums);
    sums.value = carver.take<T>(grids.count * grids.open * value_sums);
    sums.factors = carver.take<double>(grids.count * factor_sums);
    sums.places = carver.take<double>(grids.count * place_sums);
    pass.partial_sums = carver.take<T>(grids.count * pass.partial_size);
    queue_memory = carver.take(queued ? int64_t(GridQueue::size_of(grids)) : 0);
    first_worker = carver.take(int64_t(worker) * threads);
    return carver.used();
  };
  Carver size(nullptr);
  size.take<Worker<T>>(1);
  Worker<T>(plan, blocks, pass, size);
  worker = size.used();
  const size_t bytes = lay_out(nullptr);
  const Workspace workspace(bytes);
  if (!workspace.data()) return no_memory(error, double(bytes));
  lay_out(workspace.data());
  const auto worker_of = [&](int thread) {
    return reinterpret_cast<Worker<T>*>(first_worker + worker * size_t(thread));
  };
  if (!plan.prepare(threads, prepared)) return FV_INTERRUPTED;
  for (int t = 0; t < threads; ++t) {
    Carver carver(first_worker + worker * size_t(t));
    Worker<T>* const place = carver.take<Worker<T>>(1);
    (new (place) Worker<T>(plan, blocks, pass, carver))->prepare();
  }
  std::fill_n(d_factors, factor_sums, 0.0);

  const auto each = [&](int64_t tasks, auto&& f) {
    return run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
      const KernelSession session(plan.arithmetic);
      f(*worker_of(task.thread), task.index);
    });
  };
  const int64_t parts = (p.queries + started_together - 1) / started_together;
  const bool started = each(plan.batches * parts, [&](auto& w, int64_t task) {
    const int64_t batch = task / parts, part = task % parts;
    w.start_rows(batch, {part * p.queries / parts, (part + 1) * p.queries / parts});
    w.see_blocks(batch, {part * pass.per_batch / parts, (part + 1) * pass.per_batch / parts});
  });
  if (!started) return FV_INTERRUPTED;
  if (p.d_sink && !each(plan.batches, [](auto& w, int64_t batch) { w.add_sinks(batch); })) return FV_INTERRUPTED;
  T* const partial_sums = static_cast<T*>(pass.partial_sums);
  const auto run = [&](auto& w, int64_t first, int64_t batch, int64_t chunk, int64_t column, int64_t run_of_blocks) {
    const int64_t grid = batch * pass.chunks + chunk, slot = grid * grids.open + column % grids.open;
    w.run(first + batch, chunk, column, run_of_blocks,
          pass.partial_size ? partial_sums + grid * pass.partial_size : nullptr,
          {key_sums ? sums.key + slot * key_sums : nullptr, value_sums ? sums.value + slot * value_sums : nullptr,
           factor_sums ? sums.factors + grid * factor_sums : nullptr,
           place_sums ? sums.places + grid * place_sums : nullptr});
  };
  const int64_t panels = (plan.rows + blocks.width - 1) / blocks.width;
  for (int64_t first = 0; first < plan.batches; first += batch_group) {
    const int64_t some = std::min(batch_group, plan.batches - first);
    grids.count = some * pass.chunks;
    bool done = true;
    if (!queued) {
      for (int64_t turn = 0; turn < grids.columns * grids.rows && done; ++turn) {
        const int64_t column = turn / grids.rows, row = turn % grids.rows;
        done = share_columns ? each(some,
                                    [&](auto& w, int64_t batch) {
                                      for (int64_t c = 0; c < pass.chunks; ++c) run(w, first, batch, c, column, row);
                                    })
                             : each(grids.count, [&](auto& w, int64_t grid) {
                                 run(w, first, grid / pass.chunks, grid % pass.chunks, column, row);
                               });
      }
    } else {
      Carver carver(queue_memory);
      GridQueue queue(grids, carver);
      const auto weight = [&](const GridTask& task) {
        return pass.weight(first + task.grid / pass.chunks, task.grid % pass.chunks, task.column, task.row);
      };
      const int useful = int(std::min<int64_t>(threads, grids.count * grids.open));
      done = run_grids(queue, grids, useful, weight, [&](const GridTask& task, int thread) {
        const KernelSession session(plan.arithmetic);
        run(*worker_of(thread), first, task.grid / pass.chunks, task.grid % pass.chunks, task.column, task.row);
      });
    }
    if (!done) return FV_INTERRUPTED;
    for (int64_t i = 0; i < some * pass.chunks * factor_sums; ++i) d_factors[i % factor_sums] += sums.factors[i];
    if (place_sums) {
      done = each((p.table_size + most_summed - 1) / most_summed, [&](auto&, int64_t task) {
        const int64_t begin = task * most_summed, end = std::min(p.table_size, begin + most_summed);
        for (int64_t slot = 0; slot < some * pass.chunks; ++slot)
          add_to_table(plan, first + slot / pass.chunks, sums.places + slot * place_sums + most_lanes, begin, end);
      });
      if (!done) return FV_INTERRUPTED;
    }
    if (!pass.partial_size) continue;
    done = each(some * panels, [&](auto& w, int64_t task) {
      w.finish(first + task / panels, task % panels, partial_sums + task / panels * pass.chunks * pass.partial_size);
    });
    if (!done) return FV_INTERRUPTED;
  }
  if (p.d_factors) write_factors(p, d_factors, worker_of(0)->score().factors_scale());
  return FV_OK;
}

}  // namespace foveate
