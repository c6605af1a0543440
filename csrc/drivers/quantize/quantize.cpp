// Rows to few bits, some rows a task.
#include "quantize.hpp"

#include <algorithm>
#include <atomic>

#include "runtime/dispatch.hpp"
#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"
#include "runtime/workspace.hpp"

namespace foveate {
namespace {

constexpr int64_t task_elements = 1 << 14;
constexpr double flops_an_element = 8;  // as threads_for counts

int64_t lead_offset(const Quantizing& p, const Operand& x, int64_t lead) {
  int64_t bytes = 0;
  for (int axis = p.lead_ndim; axis-- > 0; lead /= p.lead_shape[axis])
    bytes += lead % p.lead_shape[axis] * x.lead[axis];
  return bytes;
}

}  // namespace

fv_status quantize(const Quantizing& p, fv_error* error) noexcept {
  const Arithmetic& arithmetic = p.x.dtype == FV_FLOAT64 ? kernels().float64 : kernels().float32;
  const bool in_place = item_size(p.x) == arithmetic.element_size && p.x.column_stride == arithmetic.element_size;
  const int64_t task_rows =
      std::clamp<int64_t>(task_elements / std::max<int64_t>(1, p.columns), 1, std::max<int64_t>(1, p.rows));
  const int64_t per_lead = (p.rows + task_rows - 1) / task_rows, tasks = per_lead * p.leads;
  const int threads = threads_for(tasks, flops_an_element * double(p.leads) * double(p.rows) * double(p.columns));
  const size_t row_bytes = in_place ? cache_line : round_up(size_t(p.columns + 1) * size_t(arithmetic.element_size));
  const Workspace workspace(row_bytes * size_t(threads));
  if (!workspace.data()) return no_memory(error, double(row_bytes) * threads);
  std::atomic<bool> finite{true};
  const bool done = run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
    const int64_t lead = task.index / per_lead, first = task.index % per_lead * task_rows;
    const char* from = p.x.data + lead_offset(p, p.x, lead) + first * p.x.row_stride;
    char* data = p.data.data + lead_offset(p, p.data, lead) + first * p.data.row_stride;
    char* scale = p.scale.data + lead_offset(p, p.scale, lead) + first * p.scale.row_stride;
    char* const row = workspace.data() + row_bytes * size_t(task.thread);
    bool all = true;
    for (int64_t j = first; j < std::min(p.rows, first + task_rows); ++j) {
      if (!in_place) arithmetic.load_values({from, dtype_of(p.x), 0, p.x.column_stride}, 1, p.columns, false, row);
      all &= arithmetic.quantize(in_place ? from : row, p.columns, dtype_of(p.data), p.block, data,
                                 reinterpret_cast<float*>(scale));
      from += p.x.row_stride;
      data += p.data.row_stride;
      scale += p.scale.row_stride;
    }
    if (!all) finite.store(false, std::memory_order_relaxed);
    asked_to_stop(flops_an_element * double(task_rows) * double(p.columns));
  });
  if (!finite.load(std::memory_order_relaxed))
    return refuse(error, FV_VALUE_ERROR,
                  "x: got NaN, inf or numbers whose scale float32 does not hold, wanted finite ones");
  return done ? FV_OK : FV_INTERRUPTED;
}

}  // namespace foveate
