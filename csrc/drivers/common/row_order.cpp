// A stable counting sort, digit by digit from the last; as many digits as the largest place has.
#include "row_order.hpp"

#include <algorithm>
#include <utility>

#include "intervals.hpp"
#include "runtime/parallel.hpp"
#include "runtime/workspace.hpp"

namespace foveate {
namespace {

constexpr int digit_bits = 11;

struct Row {
  int64_t place, row;
};

// Where a row stands: at its center, else where its window begins.
int64_t place_of(const Plan& plan, int64_t batch, int64_t row, const Centers& centers) {
  const Problem& p = plan.problem;
  const int64_t group = plan.groups == 1 ? 0 : row % plan.groups;
  const int64_t query = plan.groups == 1 ? row : row / plan.groups;
  if (p.centers) return int64_t(std::clamp(centers.of(group, query), 0.0, double(p.keys)));
  return reach_of(plan, batch, group).of(query, p.left, p.right).low;
}

// order[i] is the i-th row of the batch
void order_batch(const Plan& plan, int64_t batch, void* scratch, int64_t* order) noexcept {
  const int64_t rows = plan.rows;
  Row* from = static_cast<Row*>(scratch);
  Row* to = from + rows;
  const Centers centers(plan, batch);
  bool sorted = true;
  int64_t largest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    from[r] = {place_of(plan, batch, r, centers), r};
    sorted = sorted && (r == 0 || from[r - 1].place <= from[r].place);
    largest = std::max(largest, from[r].place);
  }
  for (int shift = 0; !sorted && shift < 63 && largest >> shift; shift += digit_bits) {
    int64_t place[1 << digit_bits] = {};
    const auto digit = [&](const Row& row) { return row.place >> shift & ((1 << digit_bits) - 1); };
    for (int64_t r = 0; r < rows; ++r) ++place[digit(from[r])];
    int64_t next = 0;
    for (int64_t& at : place) next += std::exchange(at, next);
    for (int64_t r = 0; r < rows; ++r) to[place[digit(from[r])]++] = from[r];
    std::swap(from, to);
  }
  for (int64_t r = 0; r < rows; ++r) order[r] = from[r].row;
}

}  // namespace

size_t order_scratch(const Plan& plan) noexcept { return round_up(2 * size_t(plan.rows) * sizeof(Row)); }

bool order_rows(const Plan& plan, int threads, int64_t* order, char* scratch) noexcept {
  return run_tasks(plan.batches, threads, Order::by_ranges, [&](const Task& task) {
    order_batch(plan, task.index, scratch + order_scratch(plan) * size_t(task.thread), order + task.index * plan.rows);
  });
}

}  // namespace foveate
