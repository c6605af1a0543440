// What products will read or write next of an operand, as a part to prefetch: lines that hold some of its elements, and no
// more of them than there are elements, however far apart its strides put them.
#pragma once
#include <algorithm>
#include <cstdlib>

#include "plan.hpp"
#include "problem.hpp"

namespace foveate {

constexpr int64_t line_bytes = 64;

// Elements `stride` bytes apart.
struct Elements {
  int64_t count, stride;
};

// Lines of a run of elements, whose first one stands at `first`.
inline Prefetch::Part lines_of(const char* first, Elements run, int64_t item) {
  const int64_t apart = std::abs(run.stride);
  if (apart >= line_bytes) return {first, 1, run.count, run.stride, 0, nullptr};
  const int64_t bytes = (run.count - 1) * apart + item;
  return {first, 1, (bytes + line_bytes - 1) / line_bytes, run.stride < 0 ? -line_bytes : line_bytes, 0, nullptr};
}

// The elements at first + i * rows.stride + j * columns.stride: along the axis on which they are the nearer neighbors.
inline Prefetch::Part lines_of(const char* first, Elements rows, Elements columns, int64_t item) {
  if (rows.count > 1 && (columns.count == 1 || std::abs(rows.stride) < std::abs(columns.stride)))
    std::swap(rows, columns);
  if (rows.stride == columns.count * columns.stride) {
    columns.count *= rows.count;
    rows.count = 1;
  }
  Prefetch::Part part = lines_of(first, columns, item);
  part.rows = rows.count;
  part.row_stride = rows.stride;
  return part;
}

}  // namespace foveate
