// Every query has as many intervals, some of them empty: places of the axes before the last times the gaps of the last one.
#include "as_intervals.hpp"

#include <cstring>

#include "axis.hpp"
#include "drivers/common/intervals.hpp"
#include "runtime/refuse.hpp"

namespace foveate {
namespace {

struct Grid {
  NeighborAxis axis[3];  // those before the first one have one place
  int64_t per_row;       // intervals of the last axis

  explicit Grid(const Problem& p) {
    for (int a = 0; a < 3; ++a) {
      const int from = a - (3 - p.neighbor_axes);
      axis[a] = from >= 0 ? p.neighbor_axis[from] : NeighborAxis{1, 1, 1, false, false};
    }
    per_row = axis[2].dilation > 1 ? axis[2].window : 1;
  }
  int64_t intervals() const { return axis[0].window * axis[1].window * per_row; }

  // Those of the query at this place; a place outside of the grid sees nothing.
  void write(int64_t at, int64_t* low, int64_t* high) const {
    const int64_t count = intervals();
    std::fill_n(low, count, 0);
    std::fill_n(high, count, 0);
    if (at < 0 || at >= axis[0].length * axis[1].length * axis[2].length) return;
    const int64_t row = at / axis[2].length;
    const SeenPlaces z = places_seen(axis[0], row / axis[1].length);
    const SeenPlaces y = places_seen(axis[1], row % axis[1].length);
    const SeenPlaces x = places_seen(axis[2], at % axis[2].length);
    for (int64_t i = 0; i < z.count; ++i) {
      for (int64_t j = 0; j < y.count; ++j) {
        const int64_t key_row = (z.first + i * axis[0].dilation) * axis[1].length + y.first + j * axis[1].dilation;
        const int64_t first = key_row * axis[2].length + x.first;
        if (per_row == 1) {
          *low++ = first;
          *high++ = first + x.count;
          continue;
        }
        for (int64_t k = 0; k < x.count; ++k) {
          *low++ = first + k * axis[2].dilation;
          *high++ = first + k * axis[2].dilation + 1;
        }
      }
    }
  }
};

}  // namespace

fv_status with_intervals(const Problem& given, fv_error* error,
                         fv_status (*run)(const Problem&, fv_error*) noexcept) noexcept {
  if (given.neighbor_axes == 0) return run(given, error);
  const Grid grid(given);
  Problem problem = given;
  problem.neighbor_axes = 0;
  const int64_t count = grid.intervals(), row = 2 * count;
  // one of each query, for each leading index along which offsets move
  int64_t parts = 1;
  Operand& low = problem.low;
  low = {};
  low.dtype = FV_INT64;
  low.row_stride = row * 8;
  low.column_stride = 8;
  const bool by_lengths = given.offset_at_end && given.key_lengths;
  const Operand& moving = given.offset ? given.offset : given.key_lengths;
  if (given.offset || by_lengths) {
    for (int a = given.lead_ndim - 1; a >= 0; --a) {
      if (!moving.moves(a)) continue;
      low.moving |= uint64_t{1} << a;
      low.lead[a] = parts * given.queries * row * 8;
      parts *= given.lead_shape[a];
    }
  }
  const double bytes = double(parts) * double(given.queries) * double(row) * 8;
  if (bytes > 0x1p60) return no_memory(error, bytes);
  int64_t* const ends = static_cast<int64_t*>(::operator new(size_t(bytes), std::nothrow));
  if (!ends) return no_memory(error, bytes);
  int64_t* at = ends;
  const auto fill = [&](int64_t offset) {
    for (int64_t i = 0; i < given.queries; ++i, at += row) grid.write(i + offset, at, at + count);
    return true;
  };
  const auto number = [](const char* from) {
    int64_t x;
    std::memcpy(&x, from, sizeof x);
    return x;
  };
  if (given.offset)
    each_part(moving, given.lead_ndim, given.lead_shape, [&](const char* x) { return fill(number(x)); });
  else if (by_lengths)
    each_part(moving, given.lead_ndim, given.lead_shape,
              [&](const char* x) { return fill(std::clamp<int64_t>(number(x), 0, given.keys) - given.queries); });
  else
    fill(given.offset_at_end ? given.keys - given.queries : 0);
  low.data = reinterpret_cast<char*>(ends);
  problem.high = low;
  problem.high.data += count * 8;
  problem.intervals = count;
  const fv_status status = run(problem, error);
  ::operator delete(ends);
  return status;
}

}  // namespace foveate
