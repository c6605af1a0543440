// Tasks of which some wait for others, so that what several of them add to is added to in one order, whoever runs them.
// They stand in lanes, each a grid:
//
//             column 0    column 1    column 2
//    row 0       a --------> b --------> c          a task waits for the one above it and the one before it: first a,
//                |           |           |          then b and d side by side, then c and e
//    row 1       d --------> e --------> f
//
// At most `open` columns of a lane are begun and not done: column c shares memory with column c - open. A thread takes, of
// the tasks that wait for nothing any more, the one behind which there is most: the work on the longest way to the end of
// its lane, or what is left of the lane for each open column.
#pragma once
#include <atomic>
#include <cstdint>

#include "parallel.hpp"
#include "workspace.hpp"

namespace foveate {

struct Lanes {
  int64_t count, columns, rows, open;
  int64_t tasks() const { return count * columns * rows; }
};

struct LaneTask {
  int64_t lane, column, row;
};

class LaneQueue {
 public:
  LaneQueue(const Lanes&, Carver&) noexcept;
  static size_t size_of(const Lanes& lanes) noexcept {
    Carver carver(nullptr);
    const LaneQueue counted(lanes, carver);
    return carver.used();
  }

  // weight(task): how long it takes, in any unit. Before anything is taken.
  template <class Weight>
  void start(Weight&& weight) noexcept {
    Lanes const& all = lanes_;
    for (int64_t lane = 0; lane < all.count; ++lane)
      for (int64_t column = all.columns; column-- > 0;)
        for (int64_t row = all.rows; row-- > 0;) {
          const float right = column + 1 < all.columns ? ways_[number({lane, column + 1, row})] : 0;
          const float below = row + 1 < all.rows ? ways_[number({lane, column, row + 1})] : 0;
          ways_[number({lane, column, row})] =
              float(weight(LaneTask{lane, column, row})) + (right > below ? right : below);
        }
    begin();
  }

  // A task that may run; waits until there is one, as there will be while fewer were taken than there are. False: the job was
  // stopped.
  bool take(LaneTask&) noexcept;
  // It has run: those that waited for it alone may.
  void done(const LaneTask&) noexcept;

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
  bool may_run(const LaneTask&) const noexcept;
  void push(const LaneTask&) noexcept;
  int64_t number(const LaneTask& t) const { return (t.lane * lanes_.columns + t.column) * lanes_.rows + t.row; }
  LaneTask task_of(int64_t number) const {
    return {number / lanes_.rows / lanes_.columns, number / lanes_.rows % lanes_.columns, number % lanes_.rows};
  }

  Lanes lanes_;
  uint32_t forks_;
  std::atomic_flag locked_ = ATOMIC_FLAG_INIT;  // guards what follows
  int64_t* rows_done_;                          // [lane][column]
  float *weights_, *ways_;                      // of each task, and of the longest way from it to the end of its lane
  double* left_;                                // of each lane
  Ready* ready_;                                // a heap
  std::atomic<int64_t> ready_count_{0};
};

// Calls f(task, thread) for all tasks, on so many threads. False: some were left out, as the interrupt check asked to stop.
template <class Weight, class F>
bool run_lanes(LaneQueue& queue, const Lanes& lanes, int threads, Weight&& weight, F&& f) noexcept {
  queue.start(weight);
  return run_tasks(lanes.tasks(), threads, Order::in_order, [&](const Task& one) {
    LaneTask task;
    if (!queue.take(task)) return;
    f(task, one.thread);
    queue.done(task);
  });
}

}  // namespace foveate
