// Tasks of which some wait for others, so that what several of them add to is added to in one order, whoever runs them.
// They stand in grids:
//
//             column 0    column 1    column 2
//    row 0       a --------> b --------> c          a task waits for the one above it and the one before it: first a,
//                |           |           |          then b and d side by side, then c and e
//    row 1       d --------> e --------> f
//
// At most `open` columns of a grid are begun and not done: column c shares memory with column c - open. A thread takes, of
// the tasks that wait for nothing any more, the one behind which there is most: the work on the longest way to the end of
// its grid, or what is left of the grid for each open column.
#pragma once
#include <atomic>
#include <cstdint>

#include "parallel.hpp"
#include "workspace.hpp"

namespace foveate {

struct Grids {
  int64_t count, columns, rows, open;
  int64_t tasks() const { return count * columns * rows; }
};

struct GridTask {
  int64_t grid, column, row;
};

class GridQueue {
 public:
  GridQueue(const Grids&, Carver&) noexcept;
  static size_t size_of(const Grids& grids) noexcept {
    Carver carver(nullptr);
    const GridQueue counted(grids, carver);
    return carver.used();
  }

  // weight(task): how long it takes, in any unit. Before anything is taken.
  template <class Weight>
  void start(Weight&& weight) noexcept {
    for (int64_t task = 0; task < grids_.tasks(); ++task) weights_[task] = float(weight(task_of(task)));
    begin();
  }

  // A task that may run; waits until there is one, as there will be while fewer were taken than there are. False: the job was
  // stopped.
  bool take(GridTask&) noexcept;
  // It has run: those that waited for it alone may.
  void done(const GridTask&) noexcept;

 private:
  struct Ready {
    float behind;
    int64_t task;
    // the first of those that have as much behind them comes first
    bool operator<(const Ready& other) const {
      return behind != other.behind ? behind < other.behind : task > other.task;
    }
  };
  void begin() noexcept;
  bool lock() noexcept;
  void unlock() noexcept { locked_.clear(std::memory_order_release); }
  bool may_run(const GridTask&) const noexcept;
  void push(const GridTask&) noexcept;
  int64_t number(const GridTask& t) const { return (t.grid * grids_.columns + t.column) * grids_.rows + t.row; }
  GridTask task_of(int64_t number) const {
    return {number / grids_.rows / grids_.columns, number / grids_.rows % grids_.columns, number % grids_.rows};
  }

  Grids grids_;
  uint32_t forks_;
  std::atomic_flag locked_ = ATOMIC_FLAG_INIT;  // guards what follows
  int64_t* rows_done_;                          // [grid][column]
  float *weights_, *ways_;                      // of each task, and of the longest way from it to the end of its grid
  double* left_;                                // of each grid
  Ready* ready_;                                // a heap
  std::atomic<int64_t> ready_count_{0};
};

// Calls f(task, thread) for all tasks, on so many threads. False: some were left out, as the interrupt check asked to stop.
template <class Weight, class F>
bool run_grids(GridQueue& queue, const Grids& grids, int threads, Weight&& weight, F&& f) noexcept {
  queue.start(weight);
  return run_tasks(grids.tasks(), threads, Order::in_order, [&](const Task& one) {
    GridTask task;
    if (!queue.take(task)) return;
    f(task, one.thread);
    queue.done(task);
  });
}

}  // namespace foveate
