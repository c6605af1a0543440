// A stable counting sort, digit by digit from the last; as many digits as the first keys differ in.
#include "order.hpp"

#include <algorithm>
#include <utility>

namespace foveate {
namespace {

constexpr int digit_bits = 11;

struct Row {
  int64_t first, row;  // the first key that it sees
};

int64_t first_key_of(const Plan& plan, int64_t batch, int64_t row, Reach reach) {
  const Problem& p = plan.problem;
  const int64_t group = plan.groups == 1 ? 0 : row % plan.groups;
  const int64_t query = plan.groups == 1 ? row : row / plan.groups;
  if (group && (p.offset || p.key_lengths)) reach = reach_of(plan, batch, group);
  const int64_t first = reach.of(query, p.left, p.right).low;
  if (!p.centers) return first;
  return std::max(first, round_center(center_of(plan, batch, group, query), p.half_width, reach.keys).low);
}

}  // namespace

int64_t order_scratch(const Plan& plan) { return 2 * plan.rows * int64_t(sizeof(Row)); }

void order_rows(const Plan& plan, int64_t batch, void* scratch, int64_t* order) noexcept {
  const int64_t rows = plan.rows;
  Row* from = static_cast<Row*>(scratch);
  Row* to = from + rows;
  const Reach reach = reach_of(plan, batch, 0);
  bool sorted = true;
  int64_t largest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    from[r] = {first_key_of(plan, batch, r, reach), r};
    sorted = sorted && (r == 0 || from[r - 1].first <= from[r].first);
    largest = std::max(largest, from[r].first);
  }
  for (int shift = 0; !sorted && shift < 63 && largest >> shift; shift += digit_bits) {
    int64_t place[1 << digit_bits] = {};
    const auto digit = [&](const Row& row) { return row.first >> shift & ((1 << digit_bits) - 1); };
    for (int64_t r = 0; r < rows; ++r) ++place[digit(from[r])];
    int64_t next = 0;
    for (int64_t& at : place) next += std::exchange(at, next);
    for (int64_t r = 0; r < rows; ++r) to[place[digit(from[r])]++] = from[r];
    std::swap(from, to);
  }
  for (int64_t r = 0; r < rows; ++r) order[r] = from[r].row;
}

}  // namespace foveate
