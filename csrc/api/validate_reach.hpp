// Validation of the reach: arrays and numbers that say which keys a query sees, and biases by where the two stand.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "drivers/common/problem.hpp"
#include "stored_views.hpp"

namespace foveate {

// Sizes are counted in 64 bits. The bounds leave room for a driver to add a few of them without overflow.
constexpr int64_t kMaxLength = int64_t{1} << 60;  // of Lq, Lk, D and Dv
constexpr int64_t kWidestElement = 8;             // bytes

class ReachViews : protected StoredViews {
 public:
  ReachViews(const fv_problem& given, Problem& problem, fv_error* error) : StoredViews(problem, error), given_(given) {}
  using StoredViews::status;

 protected:
  // The strides of an array that is right-aligned with (..., Lq, Lk); 0 of an axis that is missing or has an extent of 1.
  void place_cells(const fv_array& array, Operand& operand) const {
    place(array, array.ndim, operand);
    const int missing = problem_.lead_ndim + 2 - array.ndim;
    for (int axis = 0; axis < array.ndim; ++axis) {
      const int core_axis = missing + axis - problem_.lead_ndim;
      int64_t& stride = core_axis < 0    ? operand.lead[missing + axis]
                        : core_axis == 0 ? operand.row_stride
                                         : operand.column_stride;
      stride = array.shape[axis] == 1 ? 0 : array.strides[axis];
    }
  }

  // False where the product overflows. An extent of 0 counts as 1, as in NumPy.
  static bool multiply(int64_t& product, int64_t extent) {
    return extent == 0 || !__builtin_mul_overflow(product, extent, &product);
  }

  // What is positive stays so where subnormal numbers count as 0.
  static double at_least_normal(double x) { return x > 0 && x < DBL_MIN ? DBL_MIN : x; }

  bool reach() {
    const fv_reach& reach = given_.reach;
    if (reach.mask != nullptr && !mask(*reach.mask)) return false;
    if (reach.offset != nullptr) {
      if (reach.offset_at_end != 0) {
        return refuse(FV_VALUE_ERROR, "offset: got an array and offset_at_end, wanted one of them");
      }
      if (!per_lead("offset", *reach.offset, FV_INT64, problem_.offset) ||
          !within("offset", *reach.offset, -kMaxOffset, kMaxOffset)) {
        return false;
      }
    }
    if (reach.key_lengths != nullptr && !(per_lead("key_lengths", *reach.key_lengths, FV_INT64, problem_.key_lengths) &&
                                          within("key_lengths", *reach.key_lengths, 0, problem_.keys))) {
      return false;
    }
    // No position is beyond kMaxOffset + Lq, so that a side which would reach past either end is unbounded; what is
    // left can be added to a position without overflow.
    problem_.left = reach.left >= kMaxOffset + problem_.queries ? -1 : reach.left;
    problem_.right = reach.right >= kMaxOffset + problem_.keys ? -1 : reach.right;
    problem_.offset_at_end = reach.offset_at_end != 0;
    problem_.leave_one_out = reach.leave_one_out != 0;
    return segments() && intervals() && blocks() && neighborhood() && edges() && table();
  }

  bool centers() {
    const fv_array* const centers = given_.reach.centers;
    const double half_width = given_.reach.half_width, sigma = given_.sigma;
    if (centers == nullptr) {
      return sigma == 0 || refuse(FV_VALUE_ERROR, "sigma: got %g without centers, wanted 0", sigma);
    }
    if (!(std::isfinite(half_width) && half_width > 0)) {
      return refuse(FV_VALUE_ERROR, "half_width: got %g, wanted a finite number > 0", half_width);
    }
    if (!(std::isfinite(sigma) && sigma >= 0)) {
      return refuse(FV_VALUE_ERROR, "sigma: got %g, wanted a finite number > 0 (0: none)", sigma);
    }
    problem_.half_width = half_width;
    problem_.sigma = at_least_normal(sigma);
    return per_row("centers", *centers, problem_.queries, FV_FLOAT64, problem_.centers) && finite("centers", *centers);
  }

  const fv_problem& given_;

 private:
  bool mask(const fv_array& mask) {
    if (!view("mask", &mask)) return false;
    if (mask.dtype != FV_BOOL && !is_float(mask.dtype)) return wrong_dtype("mask", mask, "bool or a float dtype");
    const int64_t core[2] = {problem_.queries, problem_.keys};
    const int missing = problem_.lead_ndim + 2 - mask.ndim;
    bool fits = missing >= 0;
    for (int axis = 0; fits && axis < mask.ndim; ++axis) {
      const int target = missing + axis, core_axis = target - problem_.lead_ndim;
      fits =
          mask.shape[axis] == 1 || mask.shape[axis] == (core_axis < 0 ? problem_.lead_shape[target] : core[core_axis]);
    }
    if (!fits) {
      return refuse(FV_VALUE_ERROR, "mask: got shape %s, wanted one that broadcasts into (..., Lq, Lk) = %s",
                    ShapeText(mask).c_str(), ShapeText(problem_.lead_shape, problem_.lead_ndim, core, 2).c_str());
    }
    place_cells(mask, problem_.mask);
    return true;
  }

  bool segments() {
    const fv_array *queries = given_.reach.query_segments, *keys = given_.reach.key_segments;
    if (queries == nullptr && keys == nullptr) return true;
    if (queries == nullptr || keys == nullptr) {
      return refuse(FV_VALUE_ERROR, "%s: got none, wanted the segments of queries and keys together",
                    queries == nullptr ? "query_segments" : "key_segments");
    }
    return per_row("query_segments", *queries, problem_.queries, FV_INT64, problem_.query_segments) &&
           per_row("key_segments", *keys, problem_.keys, FV_INT64, problem_.key_segments);
  }

  bool intervals() {
    const fv_array *low = given_.reach.low, *high = given_.reach.high;
    if (low == nullptr && high == nullptr) return true;
    if (low == nullptr || high == nullptr) {
      return refuse(FV_VALUE_ERROR, "%s: got none, wanted both ends of the intervals", low == nullptr ? "low" : "high");
    }
    const int64_t count = given_.reach.intervals;
    if (count < 0) return refuse(FV_VALUE_ERROR, "intervals: got %lld, wanted a number >= 0", printable(count));
    problem_.intervals = std::max<int64_t>(count, 1);
    const int64_t core[2] = {problem_.queries, count};
    if (count > 0)
      return cells("low", *low, FV_INT64, core, problem_.low) && cells("high", *high, FV_INT64, core, problem_.high);
    return per_row("low", *low, problem_.queries, FV_INT64, problem_.low) &&
           per_row("high", *high, problem_.queries, FV_INT64, problem_.high);
  }

  // An array (..., *core).
  bool cells(const char* name, const fv_array& array, fv_dtype dtype, const int64_t* core, Operand& operand) {
    if (!view(name, &array) || !of_dtype(name, array, dtype)) return false;
    if (array.ndim < 2 || array.shape[array.ndim - 2] != core[0] || array.shape[array.ndim - 1] != core[1]) {
      return refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted last axes %s", name, ShapeText(array).c_str(),
                    ShapeText(core, 2).c_str());
    }
    place(array, 2, operand);
    place_core(array, array.ndim - 2, operand);
    return true;
  }

  bool blocks() {
    const fv_reach& reach = given_.reach;
    if (reach.blocks == nullptr) return true;
    for (const int64_t size : {reach.block_queries, reach.block_keys})
      if (size < 1 || size > kMaxLength)
        return refuse(FV_VALUE_ERROR, "%s: got %lld, wanted a number from 1 on",
                      size == reach.block_queries ? "block_queries" : "block_keys", printable(size));
    const auto count_of = [](int64_t rows, int64_t size) { return rows / size + (rows % size != 0); };
    const int64_t core[2] = {count_of(problem_.queries, reach.block_queries),
                             count_of(problem_.keys, reach.block_keys)};
    problem_.block_queries = reach.block_queries;
    problem_.block_keys = reach.block_keys;
    return cells("blocks", *reach.blocks, FV_BOOL, core, problem_.blocks);
  }

  bool neighborhood() {
    if (given_.reach.neighborhood == nullptr) return true;
    const fv_array& array = *given_.reach.neighborhood;
    if (!view("neighborhood", &array) || !of_dtype("neighborhood", array, FV_INT64)) return false;
    if (array.ndim != 2 || array.shape[0] < 1 || array.shape[0] > 3 || array.shape[1] != 5) {
      return refuse(FV_VALUE_ERROR, "neighborhood: got shape %s, wanted (axes, 5) of 1 to 3 axes",
                    ShapeText(array).c_str());
    }
    if (given_.reach.low != nullptr) {
      return refuse(FV_VALUE_ERROR, "neighborhood: got one and low, wanted one of them");
    }
    int64_t places = 1;
    for (int64_t a = 0; a < array.shape[0]; ++a) {
      int64_t number[5];
      for (int64_t i = 0; i < 5; ++i)
        std::memcpy(&number[i], static_cast<const char*>(array.data) + a * array.strides[0] + i * array.strides[1],
                    sizeof number[i]);
      const auto [length, window, dilation, causal, clip] = number;
      if (length < 1 || length > problem_.keys || window < 1 || window % 2 == 0 || dilation < 1 ||
          window > length / dilation || causal < 0 || causal > 1 || clip < 0 || clip > 1 ||
          __builtin_mul_overflow(places, length, &places)) {
        return refuse(
            FV_VALUE_ERROR,
            "neighborhood: got (%lld, %lld, %lld, %lld, %lld) of an axis, wanted its length, an odd window, a "
            "dilation >= 1 with window * dilation <= length, and two of 0 or 1",
            printable(length), printable(window), printable(dilation), printable(causal), printable(clip));
      }
      problem_.neighbor_axis[a] = {length, window, dilation, causal != 0, clip != 0};
    }
    if (places != problem_.keys) {
      return refuse(FV_VALUE_ERROR, "neighborhood: got %lld places, wanted as many as keys: %lld", printable(places),
                    printable(problem_.keys));
    }
    problem_.neighbor_axes = int(array.shape[0]);
    return true;
  }

  // The edges of a graph, for all leading indices: never falling begins, and within each query rising keys.
  bool edges() {
    const fv_reach& reach = given_.reach;
    const fv_array *begins = reach.edge_begins, *keys = reach.edge_keys, *bias = reach.edge_bias;
    if (begins == nullptr && keys == nullptr && bias == nullptr) return true;
    if (begins == nullptr || keys == nullptr) {
      return refuse(FV_VALUE_ERROR, "%s: got none, wanted begins and keys of the edges together",
                    begins == nullptr ? "edge_begins" : "edge_keys");
    }
    const int64_t one_more = problem_.queries + 1;
    if (!view("edge_begins", begins) || !of_dtype("edge_begins", *begins, FV_INT64) ||
        !has_shape("edge_begins", *begins, &one_more, 1) || !view("edge_keys", keys) ||
        !of_dtype("edge_keys", *keys, FV_INT64)) {
      return false;
    }
    if (keys->ndim != 1) {
      return refuse(FV_VALUE_ERROR, "edge_keys: got shape %s, wanted (edges,)", ShapeText(*keys).c_str());
    }
    problem_.edges = keys->shape[0];
    place_list(*begins, problem_.edge_begins);
    place_list(*keys, problem_.edge_keys);
    const char* beside = nullptr;
    if (reach.mask != nullptr) beside = "mask";
    if (reach.blocks != nullptr) beside = "blocks";
    if (reach.neighborhood != nullptr) beside = "neighborhood";
    if (reach.table != nullptr) beside = "table";
    if (reach.centers != nullptr) beside = "centers";
    if (beside) {
      return refuse(FV_VALUE_ERROR, "%s: got an array beside edges, wanted none: what it says of an edge is its bias",
                    beside);
    }
    if (problem_.weighing != FV_SOFTMAX) {
      return refuse(FV_VALUE_ERROR, "weighing: got one that is no softmax with edges, wanted FV_SOFTMAX");
    }
    return in_order() &&
           (bias == nullptr || (view("edge_bias", bias) && of_float("edge_bias", *bias) &&
                                per_row("edge_bias", *bias, problem_.edges, bias->dtype, problem_.edge_bias)));
  }

  // A contiguous-or-not list that has no leading axes.
  static void place_list(const fv_array& array, Operand& operand) {
    static char nothing = 0;
    operand.data = array.data != nullptr ? static_cast<char*>(array.data) : &nothing;
    operand.dtype = array.dtype;
    operand.row_stride = array.shape[0] > 1 ? array.strides[0] : 0;
  }

  bool in_order() {
    const auto read = [](const Operand& x, int64_t index) {
      int64_t number;
      std::memcpy(&number, x.data + index * x.row_stride, sizeof number);
      return number;
    };
    int64_t begin = read(problem_.edge_begins, 0);
    if (begin != 0) return refuse(FV_VALUE_ERROR, "edge_begins: got %lld first, wanted 0", printable(begin));
    for (int64_t i = 0; i < problem_.queries; ++i) {
      const int64_t end = read(problem_.edge_begins, i + 1);
      if (end < begin || end > problem_.edges) {
        return refuse(FV_VALUE_ERROR, "edge_begins: got %lld after %lld, wanted numbers that never fall, up to %lld",
                      printable(end), printable(begin), printable(problem_.edges));
      }
      int64_t last = -1;
      for (; begin < end; ++begin) {
        const int64_t key = read(problem_.edge_keys, begin);
        if (key <= last || key >= problem_.keys) {
          return refuse(FV_VALUE_ERROR,
                        "edge_keys: got %lld after %lld, wanted rising keys of a query, below %lld (Lk)",
                        printable(key), printable(last), printable(problem_.keys));
        }
        last = key;
      }
    }
    return begin == problem_.edges || refuse(FV_VALUE_ERROR, "edge_begins: got %lld last, wanted %lld, the edges",
                                             printable(begin), printable(problem_.edges));
  }

  bool table() {
    const fv_reach& reach = given_.reach;
    if (reach.table == nullptr) {
      const bool none = reach.query_places == nullptr && reach.key_places == nullptr;
      return none || refuse(FV_VALUE_ERROR, "table: got none, wanted one with the places of queries or keys");
    }
    if (!view("table", reach.table) || !of_float("table", *reach.table)) return false;
    const int64_t cells = reach.table->ndim > 0 ? reach.table->shape[reach.table->ndim - 1] : 0;
    if (cells < 1) {
      return refuse(FV_VALUE_ERROR, "table: got shape %s, wanted (..., n), one number or more",
                    ShapeText(*reach.table).c_str());
    }
    int64_t all = cells;
    bool fits = cells <= kMaxLength && multiply(all, 2 * kWidestElement);
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) fits = fits && multiply(all, problem_.lead_shape[axis]);
    if (!fits) return refuse(FV_NO_MEMORY, "table: got shape %s, which is too large", ShapeText(*reach.table).c_str());
    problem_.table_size = cells;
    return per_row("table", *reach.table, cells, reach.table->dtype, problem_.table) &&
           view("query_places", reach.query_places) && view("key_places", reach.key_places) &&
           per_row("query_places", *reach.query_places, problem_.queries, FV_INT64, problem_.query_places) &&
           per_row("key_places", *reach.key_places, problem_.keys, FV_INT64, problem_.key_places) &&
           (reach.key_places->ndim == 1 || refuse(FV_VALUE_ERROR, "key_places: got shape %s, wanted (%lld,)",
                                                  ShapeText(*reach.key_places).c_str(), printable(problem_.keys)));
  }
};

}  // namespace foveate
