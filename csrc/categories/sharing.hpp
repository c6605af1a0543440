// How rows of categories are shared among threads: whole rows, or parts of one row that is long.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstring>

#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"
#include "runtime/subnormals.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

constexpr int64_t task_bytes = 128 << 10;  // of short rows, in a task
constexpr int64_t span = 16;               // blocks in a task, of a row that is shared among threads

enum class Outcome { done, refused, interrupted };

// Weights made of logits, of which many may be subnormal, count as 0 then; weights that were given count as they are.
template <class F>
void with_weights(bool logits, F&& f) noexcept {
  if (!logits) return f();
  const SubnormalsAsZero subnormals;
  f();
}

// Ways to do f(i, thread) for 0 <= i < count: all on this thread, or shared; and f() on this thread alone, in between. That
// is shared from a thread whose mode is its own: threads that are made inherit the mode of their maker.
struct Alone {
  int thread;
  static constexpr bool is_shared = false;
  template <class F>
  void in_between(F&& f) const noexcept {
    f();
  }
  template <class F>
  bool operator()(int64_t count, F&& f) const noexcept {
    for (int64_t i = 0; i < count; ++i) f(i, thread);
    return true;
  }
};
struct Shared {
  int threads;
  bool logits;
  static constexpr bool is_shared = true;
  static constexpr int thread = 0;  // the one that shares them out
  template <class F>
  void in_between(F&& f) const noexcept {
    with_weights(logits, f);
  }
  template <class F>
  bool operator()(int64_t count, F&& f) const noexcept {
    return run_tasks(count, threads, Order::by_ranges,
                     [&](const Task& task) { with_weights(logits, [&] { f(task.index, task.thread); }); });
  }
};

// The first of the rows that were refused.
class RefusedRow {
 public:
  void note(int64_t row) noexcept {
    int64_t least = this->row();
    while (row < least && !row_.compare_exchange_weak(least, row, std::memory_order_relaxed)) {
    }
  }
  int64_t row() const noexcept { return row_.load(std::memory_order_relaxed); }
  bool any() const noexcept { return row() != none; }

 private:
  static constexpr int64_t none = INT64_MAX;
  std::atomic<int64_t> row_{none};
};

// How the rows of a call are cut into tasks: some whole rows each; or, where rows are few and long, row by row in pieces.
struct RowShares {
  RowShares(int64_t rows, int64_t rows_a_task, int64_t pieces, double flops) noexcept
      : rows(rows),
        rows_a_task(rows_a_task),
        tasks((rows + rows_a_task - 1) / rows_a_task),
        in_pieces(pieces > 1 && rows < 4 * threads_for(pieces, flops)),
        threads(threads_for(in_pieces ? pieces : tasks, flops)) {}
  int64_t rows, rows_a_task, tasks;
  bool in_pieces;
  int threads;
};

// Takes the memory of a call, which carve(carver, threads, rows) lays out for so many threads and rows at once and for which
// it is asked twice, the first time to count; then calls row_in_pieces(row, shared) or rows(first, end, thread), and at last,
// while the memory is there, end().
template <class Carve, class RowInPieces, class Rows, class End>
fv_status share_rows(const RowShares& by, bool logits, fv_error* error, Carve&& carve, RowInPieces&& row_in_pieces,
                     Rows&& rows, End&& end) noexcept {
  const int row_memories = by.in_pieces ? 1 : by.threads;
  Carver size(nullptr);
  carve(size, by.threads, row_memories);
  const Workspace workspace(size.used());
  if (!workspace.data()) return no_memory(error, double(size.used()));
  Carver carver(workspace.data());
  carve(carver, by.threads, row_memories);
  bool done = true;
  if (by.in_pieces) {
    for (int64_t row = 0; row < by.rows && done; ++row)
      done = row_in_pieces(row, Shared{by.threads, logits}) != Outcome::interrupted;
  } else {
    done = run_tasks(by.tasks, by.threads, Order::by_ranges, [&](const Task& task) {
      const int64_t first = task.index * by.rows_a_task, end = std::min(first + by.rows_a_task, by.rows);
      with_weights(logits, [&] { rows(first, end, task.thread); });
    });
  }
  return done ? end() : FV_INTERRUPTED;
}

inline void put(char* to, int64_t value) { std::memcpy(to, &value, sizeof value); }

}  // namespace foveate
