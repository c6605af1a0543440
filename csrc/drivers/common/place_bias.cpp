// Lines of biases, and runs of queries that stand side by side in them. Places are read from memory that may change: they
// are bounded at every reading.
#include "place_bias.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "runtime/parallel.hpp"

namespace foveate {
namespace {

constexpr int64_t farthest = int64_t{1} << 40;  // of a place; that times the groups stays within int64

int64_t read_place(const char* at) noexcept {
  int64_t place;
  std::memcpy(&place, at, sizeof place);
  return std::clamp(place, -farthest, farthest);
}

template <class T>
T in_base_2(T x) {
  constexpr T most = std::numeric_limits<T>::max();
  const T product = x * T(log2_e);
  return x - x == T(0) ? std::clamp(product, -most, most) : product;  // what is finite stays so
}

// The line of a batch, with room for a vector on both sides.
template <class T>
void fill_line(const Plan& plan, int64_t batch, T* line) noexcept {
  const Operand& table = plan.problem.table;
  constexpr int64_t some = 512;
  T cells[some];
  std::fill_n(line - most_lanes, most_lanes, T(0));
  std::fill_n(line + line_cells(plan), most_lanes, T(0));
  for (int64_t group = 0; group < plan.groups; ++group) {
    const char* const from = plan.row(table, batch, group, 0);
    for (int64_t first = 0; first < plan.problem.table_size; first += some) {
      const int64_t count = std::min(some, plan.problem.table_size - first);
      plain_arithmetic(plan).load_values({from + first * table.row_stride, dtype_of(table), 0, table.row_stride}, 1,
                                         count, false, cells);
      for (int64_t i = 0; i < count; ++i) line[(first + i) * plan.groups + group] = in_base_2(cells[i]);
    }
  }
}

}  // namespace

int64_t place_start(const Plan& plan, int64_t batch, int64_t group, int64_t query) noexcept {
  return read_place(plan.row(plan.problem.query_places, batch, group, query)) * plan.groups + group;
}

int64_t place_bytes(const Plan& plan) noexcept {
  if (!plan.problem.table) return 0;
  int64_t parts = 1;
  for (int a = 0; a < plan.problem.lead_ndim; ++a)
    if (plan.places.lead[a] != 0) parts *= plan.problem.lead_shape[a];
  return parts * plan.line_bytes;
}

bool prepare_places(const Plan& plan, int threads, char* lines) noexcept {
  if (!plan.problem.table) return true;
  return run_tasks(plan.batches, threads, Order::by_ranges, [&](const Task& task) {
    if (!plan.first_of(plan.places, task.index)) return;  // of those that share a line
    char* const line = lines + plan.batch_offset(plan.places, task.index);
    const KernelSession session(plan.arithmetic);
    if (plan.arithmetic.element_size == 8)
      fill_line(plan, task.index, reinterpret_cast<double*>(line) + most_lanes);
    else
      fill_line(plan, task.index, reinterpret_cast<float*>(line) + most_lanes);
  });
}

PlaceBias::PlaceBias(const Plan& plan, int64_t keys, Carver& carver) noexcept
    : plan_(plan), last_(line_cells(plan) - 1), steps_(carver.take<int64_t>(plan.problem.table ? keys : 0)) {}

void PlaceBias::open(int64_t batch, KeyTile tile) noexcept {
  const Operand& places = plan_.problem.key_places;
  line_ = plan_.places.data + plan_.batch_offset(plan_.places, batch) + most_lanes * plan_.arithmetic.element_size;
  for (int64_t j = 0; j < tile.count; ++j)
    steps_[j] = read_place(places.data + (tile.first + j) * places.row_stride) * plan_.groups;
}

// The cell of a query and a key, whatever their places are.
int64_t PlaceBias::at(const Panel& panel, int32_t lane, int64_t key) const noexcept {
  const int64_t group = panel.group[lane];
  return std::clamp(panel.place[lane] - steps_[key], group, last_ + 1 - plan_.groups + group);
}

// The runs of queries whose places follow each other, cut where a vector ends. False: some cells are beyond the line.
bool PlaceBias::find_runs(const Panel& panel, int64_t begin, int64_t count) noexcept {
  const auto [least, most] = std::minmax_element(steps_ + begin, steps_ + begin + count);
  run_count_ = 0;
  bool inside = true;
  for (int32_t i = 0; i < panel.live; ++i) {
    const int64_t first = panel.place[i];
    inside = inside && first - *most >= 0 && first - *least <= last_;
    PlaceRun* const run = run_count_ ? &runs_[run_count_ - 1] : nullptr;
    if (run && i % plan_.arithmetic.lanes != 0 && first == panel.place[i - 1] + 1)
      ++run->length;
    else
      runs_[run_count_++] = {first, i, 1};
  }
  return inside;
}

template <class T>
void PlaceBias::add(const Panel& panel, int64_t begin, int64_t count, int32_t vectors, T* scores) noexcept {
  const T* const line = reinterpret_cast<const T*>(line_);
  if (find_runs(panel, begin, count))
    return plan_.arithmetic.add_places(scores, vectors, count, runs_, run_count_, steps_ + begin, line);
  const int64_t width = vectors * plan_.arithmetic.lanes;
  for (int64_t j = 0; j < count; ++j)
    for (int32_t i = 0; i < panel.live; ++i) scores[j * width + i] += line[at(panel, i, begin + j)];
}

template <class T>
void PlaceBias::add_to_few(const Panel& panel, int64_t begin, int64_t count, int32_t queries, T* scores) noexcept {
  const T* const line = reinterpret_cast<const T*>(line_);
  for (int64_t j = 0; j < count; ++j)
    for (int32_t q = 0; q < panel.live; ++q) scores[j * queries + q] += line[at(panel, q, begin + j)];
}

template <class T>
void PlaceBias::add_gradient(const Panel& panel, int64_t begin, int64_t count, int32_t vectors, const T* d_scores,
                             double* sums) noexcept {
  if (find_runs(panel, begin, count))
    return plan_.arithmetic.sum_places(d_scores, vectors, count, runs_, run_count_, steps_ + begin, sums);
  const int64_t width = vectors * plan_.arithmetic.lanes;
  for (int64_t j = 0; j < count; ++j)
    for (int32_t i = 0; i < panel.live; ++i) sums[at(panel, i, begin + j)] += double(d_scores[j * width + i]);
}

template void PlaceBias::add(const Panel&, int64_t, int64_t, int32_t, float*) noexcept;
template void PlaceBias::add(const Panel&, int64_t, int64_t, int32_t, double*) noexcept;
template void PlaceBias::add_to_few(const Panel&, int64_t, int64_t, int32_t, float*) noexcept;
template void PlaceBias::add_to_few(const Panel&, int64_t, int64_t, int32_t, double*) noexcept;
template void PlaceBias::add_gradient(const Panel&, int64_t, int64_t, int32_t, const float*, double*) noexcept;
template void PlaceBias::add_gradient(const Panel&, int64_t, int64_t, int32_t, const double*, double*) noexcept;

}  // namespace foveate
