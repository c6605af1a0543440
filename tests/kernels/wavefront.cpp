// Tasks that wait for each other, csrc/runtime/wavefront.hpp: those with the most behind them come first, and none before
// what it waits for.
#include "runtime/wavefront.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <vector>

using namespace foveate;

namespace {

int failed = 0;
void that(bool holds, const char* what) {
  if (!holds) std::printf("wavefront: not so: %s\n", what);
  failed += !holds;
}

struct Memory {
  explicit Memory(const Grids& grids) : bytes(GridQueue::size_of(grids) + 64, char(0)), carver(bytes.data()) {}
  std::vector<char> bytes;
  Carver carver;
};

// One thread: of three light tasks in a row and three heavy ones, these are first.
void test_order() {
  const Grids grids = {2, 1, 3, 1};
  Memory memory(grids);
  GridQueue queue(grids, memory.carver);
  queue.start([](const GridTask& task) { return task.grid == 1 ? 10.0 : 1.0; });
  const GridTask wanted[] = {{1, 0, 0}, {1, 0, 1}, {1, 0, 2}, {0, 0, 0}, {0, 0, 1}, {0, 0, 2}};
  bool same = true;
  for (const GridTask& next : wanted) {
    GridTask task;
    same = queue.take(task) && task.grid == next.grid && task.column == next.column && task.row == next.row && same;
    queue.done(task);
  }
  that(same, "what has the most behind it is taken first");
}

void test_waiting(const Grids& grids, int threads) {
  Memory memory(grids);
  GridQueue queue(grids, memory.carver);
  std::vector<std::atomic<int>> ran(size_t(grids.tasks()));
  std::atomic<bool> in_order{true}, few_open{true};
  const auto at = [&](int64_t grid, int64_t column, int64_t row) -> std::atomic<int>& {
    return ran[size_t((grid * grids.columns + column) * grids.rows + row)];
  };
  const auto weight = [](const GridTask& task) { return double(1 + task.column); };
  const bool done = run_grids(queue, grids, threads, weight, [&](const GridTask& t, int) {
    if (t.row > 0 && at(t.grid, t.column, t.row - 1) != 1) in_order = false;
    if (t.column > 0 && at(t.grid, t.column - 1, t.row) != 1) in_order = false;
    if (t.column >= grids.open && at(t.grid, t.column - grids.open, grids.rows - 1) != 1) few_open = false;
    ++at(t.grid, t.column, t.row);
  });
  bool once = done;
  for (const std::atomic<int>& times : ran) once = once && times == 1;
  that(once, "every task runs once");
  that(in_order, "a task runs after the one above it and the one before it");
  that(few_open, "no more columns are open than may be");
}

}  // namespace

int main() {
  test_order();
  for (int threads : {1, 2, 5})
    for (int64_t open : {1, 2, 5}) {
      test_waiting({3, 5, 40, open}, threads);
      test_waiting({1, 7, 1, open}, threads);
    }
  return failed > 0;
}
