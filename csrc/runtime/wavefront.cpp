// Which tasks of grids wait for nothing any more.
#include "wavefront.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include "system.hpp"

namespace foveate {
namespace {

// A thread that finds no task looks again this often before it gives up its core for a while, then for longer ones: there
// may be more threads than cores.
constexpr int looks_at_once = 2000;
constexpr std::chrono::microseconds first_sleep{50}, longest_sleep{400};
constexpr double any_look = 1e9;  // flops that are enough for a look at the clock

}  // namespace

GridQueue::GridQueue(const Grids& grids, Carver& carver) noexcept
    : grids_(grids),
      forks_(forks_so_far()),
      rows_done_(carver.take<int64_t>(grids.count * grids.columns)),
      weights_(carver.take<float>(grids.tasks())),
      ways_(carver.take<float>(grids.tasks())),
      left_(carver.take<double>(grids.count)),
      ready_(carver.take<Ready>(grids.count * grids.columns)) {}

void GridQueue::begin() noexcept {
  const Grids& all = grids_;
  std::fill_n(rows_done_, all.count * all.columns, int64_t(0));
  ready_count_.store(0, std::memory_order_relaxed);
  for (int64_t grid = 0; grid < all.count && all.columns * all.rows > 0; ++grid) {
    left_[grid] = 0;
    for (int64_t column = all.columns; column-- > 0;) {
      for (int64_t row = all.rows; row-- > 0;) {
        const int64_t task = number({grid, column, row});
        const float right = column + 1 < all.columns ? ways_[task + all.rows] : 0;
        const float below = row + 1 < all.rows ? ways_[task + 1] : 0;
        ways_[task] = weights_[task] + std::max(right, below);
        left_[grid] += double(weights_[task]);
      }
    }
    push({grid, 0, 0});
  }
}

// False in a child that was forked in the middle of a job: others will never finish what they had taken.
bool GridQueue::lock() noexcept {
  for (int tries = 1; locked_.test_and_set(std::memory_order_acquire); ++tries) {
    if (forks_so_far() != forks_) return false;
    if (tries % 64 == 0)
      std::this_thread::yield();
    else
      system::pause();
  }
  return true;
}

void GridQueue::push(const GridTask& task) noexcept {
  const int64_t count = ready_count_.load(std::memory_order_relaxed) + 1;
  const float of_grid = float(left_[task.grid] / double(grids_.open));
  ready_[count - 1] = {std::max(ways_[number(task)], of_grid), number(task)};
  std::push_heap(ready_, ready_ + count);
  ready_count_.store(count, std::memory_order_relaxed);
}

bool GridQueue::take(GridTask& task) noexcept {
  std::chrono::microseconds sleep = first_sleep;
  for (int looks = 1;; ++looks) {
    if (ready_count_.load(std::memory_order_relaxed) > 0) {
      if (!lock()) return false;
      const int64_t count = ready_count_.load(std::memory_order_relaxed);
      if (count > 0) {
        std::pop_heap(ready_, ready_ + count);
        task = task_of(ready_[count - 1].task);
        ready_count_.store(count - 1, std::memory_order_relaxed);
      }
      unlock();
      if (count > 0) return true;
    }
    if (looks < looks_at_once) {
      system::pause();
      continue;
    }
    std::this_thread::sleep_for(sleep);
    sleep = std::min(2 * sleep, longest_sleep);
    if (asked_to_stop(any_look) || forks_so_far() != forks_) return false;
  }
}

// Whether all that a task waits for has run, but the task has not.
bool GridQueue::may_run(const GridTask& task) const noexcept {
  const int64_t* const done = rows_done_ + task.grid * grids_.columns + task.column;
  if (done[0] != task.row) return false;
  if (task.column > 0 && done[-1] <= task.row) return false;
  return task.row > 0 || task.column < grids_.open || done[-grids_.open] == grids_.rows;
}

void GridQueue::done(const GridTask& task) noexcept {
  if (!lock()) return;
  ++rows_done_[task.grid * grids_.columns + task.column];
  left_[task.grid] -= double(weights_[number(task)]);
  const GridTask below = {task.grid, task.column, task.row + 1}, right = {task.grid, task.column + 1, task.row};
  const GridTask next = {task.grid, task.column + grids_.open, 0};
  const bool is_right = grids_.open == 1 && task.row == 0;
  if (below.row < grids_.rows && may_run(below)) push(below);
  if (right.column < grids_.columns && may_run(right)) push(right);
  if (below.row == grids_.rows && next.column < grids_.columns && !is_right && may_run(next)) push(next);
  unlock();
}

}  // namespace foveate
