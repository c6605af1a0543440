// Validation: the views of the public header -> a Problem that no driver has to check again.
//
// A refused problem says why. Leading axes are broadcast by strides of 0. Nothing is allocated; the values that are
// read are the offsets, the key lengths and the centers. Elements may stand at any address.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "drivers/common/problem.hpp"
#include "runtime/dispatch.hpp"
#include "stored_views.hpp"

namespace foveate {

// Sizes are counted in 64 bits. The bounds leave room for a driver to add a few of them without overflow.
constexpr int64_t kMaxLength = int64_t{1} << 60;  // of Lq, Lk, D and Dv
constexpr int64_t kWidestElement = 8;             // bytes

class Validator : protected StoredViews {
 public:
  Validator(const fv_problem& given, Problem& problem, fv_error* error) : StoredViews(problem, error), given_(given) {}
  using StoredViews::status;

  // Everything but the outputs. `weights`: the problem has no value.
  bool inputs(bool weights) {
    return cpu() && operands(weights) && scores() && reach() && centers() && dropout(weights);
  }

  // Derivatives are of keys and values that are floats, and stand in one piece.
  bool takes_derivatives() {
    const char* const name = given_.key_scale || given_.key_table ? "key" : "value";
    if (given_.key_scale || given_.value_scale)
      return refuse(FV_TYPE_ERROR, "%s: got few bits, which have no derivatives", name);
    if (given_.key_table || given_.value_table)
      return refuse(FV_TYPE_ERROR, "%s: got pages, which have no derivatives", name);
    return true;
  }

  // What goes over tiles of keys alone.
  bool takes_no_edges() {
    return given_.reach.edge_begins == nullptr ||
           refuse(FV_VALUE_ERROR, "edge_begins: got an array, wanted a mask in its place here");
  }

 protected:
  fv_dtype accumulator() const { return given_.query->dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32; }

  // Of the accumulator, or float64, which keeps what float32 rounds off; with its parts of float64 alone.
  bool of_lse(const fv_array& lse) {
    const bool wide = accumulator() == FV_FLOAT64 || lse_axes(lse) == 2;
    return lse.dtype == FV_FLOAT64 || (lse.dtype == FV_FLOAT32 && !wide) ||
           wrong_dtype("lse", lse, wide ? "float64" : "float32 or float64");
  }
  // Axes behind the leading ones: rows, and the numbers of each where lse comes with its parts.
  static constexpr int64_t lse_numbers = 3;
  int lse_axes(const fv_array& lse) const { return lse.ndim == problem_.lead_ndim + 2 ? 2 : 1; }

  // float64 accumulates in float64, and goes with nothing else but few bits.
  bool goes_with_query(const char* name, const fv_array& array) {
    return is_few_bits(array.dtype) || (array.dtype == FV_FLOAT64) == (given_.query->dtype == FV_FLOAT64) ||
           refuse(FV_TYPE_ERROR, "%s: got %s with a query of %s; float64 goes with float64 only", name,
                  dtype_name(array.dtype), dtype_name(given_.query->dtype));
  }

  // Of hard attention, and of its gradients.
  bool takes_draws(int64_t draws) {
    if (draws < 0) return refuse(FV_VALUE_ERROR, "draws: got %lld, wanted a number >= 0", printable(draws));
    const char* refused = nullptr;
    if (given_.score.weighing != FV_SOFTMAX)
      refused = is_compact(given_.score.weighing) ? "compact kernel" : "weighing";
    if (given_.sink != nullptr) refused = "sink";
    if (given_.sigma != 0) refused = "sigma";
    if (given_.dropout != 0) refused = "dropout";
    if (refused) return refuse(FV_VALUE_ERROR, "problem: got a %s, wanted none for hard attention", refused);
    problem_.draws = draws;
    return true;
  }

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

  const fv_problem& given_;

 private:
  // ---- query, key and value

  bool operands(bool weights) {
    const fv_array *query = given_.query, *key = given_.key, *value = given_.value;
    if (weights && value != nullptr) {
      return refuse(FV_VALUE_ERROR, "value: got an array, wanted none for the weights alone");
    }
    if (!matrix("query", query, "(..., Lq, D)") ||
        !rows_of("key", "key_table", key, given_.key_scale, given_.key_table, "(..., Lk, D)", key_))
      return false;
    key = &key_.seen();
    problem_.queries = query->shape[query->ndim - 2];
    problem_.keys = key->shape[key->ndim - 2];
    problem_.head_size = query->shape[query->ndim - 1];
    if (key->shape[key->ndim - 1] != problem_.head_size) {
      return refuse(FV_VALUE_ERROR, "key: got shape %s, wanted a last axis of %lld like that of query, %s",
                    ShapeText(*key).c_str(), printable(problem_.head_size), ShapeText(*query).c_str());
    }
    if (!goes_with_query("key", *key)) return false;
    if (!weights) {
      if (!rows_of("value", "value_table", value, given_.value_scale, given_.value_table, "(..., Lk, Dv)", value_))
        return false;
      value = &value_.seen();
      problem_.value_size = value->shape[value->ndim - 1];
      if (value->shape[value->ndim - 2] != problem_.keys) {
        return refuse(FV_VALUE_ERROR, "value: got shape %s, wanted %lld rows, one for each key of %s",
                      ShapeText(*value).c_str(), printable(problem_.keys), ShapeText(*key).c_str());
      }
      if (!goes_with_query("value", *value)) return false;
    }
    if (!lead(weights) || !sizes(weights)) return false;
    if (given_.first_row < 0 || given_.first_row > kMaxLength)
      return refuse(FV_VALUE_ERROR, "first_row: got %lld, wanted a number >= 0", printable(given_.first_row));
    problem_.first_row = given_.first_row;
    place_matrix(*query, problem_.query);
    return placed("key", *given_.key, key_, given_.key_scale, given_.key_block, given_.key_table,
                  {problem_.key, problem_.key_scale, problem_.key_block, problem_.key_table}) &&
           (weights ||
            placed("value", *given_.value, value_, given_.value_scale, given_.value_block, given_.value_table,
                   {problem_.value, problem_.value_scale, problem_.value_block, problem_.value_table}));
  }

  PagedView key_, value_;

  // An optional array that goes with query, key and value, and how many of its axes are no leading ones.
  struct Beside {
    const char* name;
    const fv_array* array;
    int core_ndim;
  };

  // The leading axes of the output: those of query, key and value, and of all that goes with them, broadcast together.
  bool lead(bool weights) {
    const fv_array* arrays[3] = {given_.query, &key_.seen(), &value_.seen()};
    const int count = weights ? 2 : 3;
    const fv_reach& reach = given_.reach;
    const Beside beside[] = {{"mask", reach.mask, 2},
                             {"offset", reach.offset, 0},
                             {"key_lengths", reach.key_lengths, 0},
                             {"query_segments", reach.query_segments, 1},
                             {"key_segments", reach.key_segments, 1},
                             {"low", reach.low, reach.intervals > 0 ? 2 : 1},
                             {"high", reach.high, reach.intervals > 0 ? 2 : 1},
                             {"centers", reach.centers, 1},
                             {"blocks", reach.blocks, 2},
                             {"edge_bias", reach.edge_bias, 1},
                             {"table", reach.table, 1},
                             {"query_places", reach.query_places, 1},
                             {"key_places", reach.key_places, 1},
                             {"sink", given_.sink, 0}};
    int ndim = 0;
    for (int a = 0; a < count; ++a) ndim = arrays[a]->ndim - 2 > ndim ? arrays[a]->ndim - 2 : ndim;
    for (const Beside& one : beside) {
      if (one.array == nullptr) continue;
      if (!view(one.name, one.array)) return false;
      const int own = one.array->ndim - one.core_ndim;
      if (own > FV_MAX_DIMS - 2) {
        return refuse(FV_VALUE_ERROR, "%s: got %d axes, wanted an output of at most %d", one.name, one.array->ndim,
                      FV_MAX_DIMS);
      }
      ndim = own > ndim ? own : ndim;
    }
    problem_.lead_ndim = ndim;
    for (int axis = 0; axis < ndim; ++axis) problem_.lead_shape[axis] = 1;
    for (int a = 0; a < count; ++a) {
      if (joins(*arrays[a], 2)) continue;
      return refuse(FV_VALUE_ERROR, "query, key%s: got shapes %s, %s%s%s, wanted leading axes that broadcast together",
                    weights ? "" : ", value", ShapeText(*arrays[0]).c_str(), ShapeText(*arrays[1]).c_str(),
                    weights ? "" : ", ", weights ? "" : ShapeText(*arrays[2]).c_str());
    }
    for (const Beside& one : beside) {
      if (one.array == nullptr || joins(*one.array, one.core_ndim)) continue;
      return refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted leading axes that broadcast with the others, %s",
                    one.name, ShapeText(*one.array).c_str(),
                    ShapeText(problem_.lead_shape, problem_.lead_ndim).c_str());
    }
    return true;
  }

  // Broadcasts the leading axes of an array with those so far, and tells whether they do.
  bool joins(const fv_array& array, int core_ndim) {
    const int own = array.ndim - core_ndim, missing = problem_.lead_ndim - own;
    bool fits = true;
    for (int axis = 0; axis < own; ++axis) {
      const int64_t extent = array.shape[axis];
      fits &= extent == 1 || problem_.lead_shape[missing + axis] == 1 || problem_.lead_shape[missing + axis] == extent;
    }
    for (int axis = 0; fits && axis < own; ++axis) {
      int64_t& common = problem_.lead_shape[missing + axis];
      common = common == 1 ? array.shape[axis] : common;
    }
    return fits;
  }

  // Every product of sizes that a driver may form stays within 64 bits.
  bool sizes(bool weights) {
    const int64_t lengths[4] = {problem_.queries, problem_.keys, problem_.head_size, problem_.value_size};
    bool fits = true;
    for (const int64_t length : lengths) fits &= length <= kMaxLength;
    int64_t lead = kWidestElement;
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) fits &= multiply(lead, problem_.lead_shape[axis]);
    const int64_t columns = weights ? problem_.keys : problem_.value_size;
    int64_t output = lead, cells = lead, query = lead, key = lead, value = lead;
    fits = fits && multiply(output, problem_.queries) && multiply(output, columns);
    fits = fits && multiply(cells, problem_.queries) && multiply(cells, problem_.keys);
    fits = fits && multiply(query, problem_.queries) && multiply(query, problem_.head_size);
    fits = fits && multiply(key, problem_.keys) && multiply(key, problem_.head_size);
    fits = fits && multiply(value, problem_.keys) && multiply(value, problem_.value_size);
    if (fits) return true;
    const int64_t core[2] = {problem_.queries, columns};
    return refuse(FV_NO_MEMORY, "query, key, value: an output of shape %s over %lld keys is too large",
                  ShapeText(problem_.lead_shape, problem_.lead_ndim, core, 2).c_str(), printable(problem_.keys));
  }

  // What is positive stays so where subnormal numbers count as 0.
  static double at_least_normal(double x) { return x > 0 && x < DBL_MIN ? DBL_MIN : x; }

  // ---- scale, softcap and sink

  bool scores() {
    const double scale = given_.score.scale, softcap = given_.score.softcap;
    if (!std::isfinite(scale)) return refuse(FV_VALUE_ERROR, "scale: got %g, wanted a finite number", scale);
    if (!(std::isfinite(softcap) && softcap >= 0)) {
      return refuse(FV_VALUE_ERROR, "softcap: got %g, wanted a finite number >= 0 (0: none)", softcap);
    }
    problem_.scale = scale;
    problem_.softcap = at_least_normal(softcap);
    return family() && link() && weighing() && factors() &&
           (given_.sink == nullptr || per_lead("sink", *given_.sink, FV_FLOAT64, problem_.sink));
  }

  bool family() {
    const fv_score& score = given_.score;
    if (score.family < FV_INNER || score.family > FV_LEAKY_RELU) {
      return refuse(FV_VALUE_ERROR, "family: got %d, wanted one of fv_family", static_cast<int>(score.family));
    }
    const bool distance = score.family == FV_DISTANCE;
    if (!(score.negligible >= 0 && score.negligible < 1) || (score.negligible > 0 && !distance)) {
      return refuse(FV_VALUE_ERROR, "negligible: got %g, wanted %s", score.negligible,
                    distance ? "a number in [0, 1)" : "0 for a score that is no distance");
    }
    const bool leaky = score.family == FV_LEAKY_RELU;
    if (!std::isfinite(score.slope) || (score.slope != 0 && !leaky)) {
      return refuse(FV_VALUE_ERROR, "slope: got %g, wanted %s", score.slope,
                    leaky ? "a finite number" : "0 for a score that is no leaky relu");
    }
    problem_.family = score.family;
    problem_.negligible = score.negligible;
    problem_.slope = score.slope;
    return true;
  }

  bool link() {
    const char* const name = given_.score.link;
    if (name == nullptr) return true;
    const Arithmetic& arithmetic = kernels().float32;  // every one has the same
    int32_t i = 0;
    while (i < arithmetic.link_count && std::strcmp(arithmetic.links[i].name, name) != 0) ++i;
    if (i == arithmetic.link_count) {
      char names[200] = "";
      for (int32_t j = 0; j < arithmetic.link_count; ++j) {
        const size_t used = std::strlen(names);
        std::snprintf(names + used, sizeof names - used, "%s\"%s\"", j ? " or " : "", arithmetic.links[j].name);
      }
      return refuse(FV_VALUE_ERROR, "link: got \"%.40s\", wanted %s", name, names);
    }
    if (problem_.family != FV_INNER)
      return refuse(FV_VALUE_ERROR, "link: got %s, wanted none except for FV_INNER", name);
    const double parameter = given_.score.link_parameter;
    if (!arithmetic.links[i].takes(parameter)) {
      return refuse(FV_VALUE_ERROR, "link_parameter: got %g, wanted one that %s takes", parameter, name);
    }
    problem_.link = i;
    problem_.link_parameter = parameter;
    return true;
  }

  bool weighing() {
    const fv_score& score = given_.score;
    if (score.weighing < FV_SOFTMAX || score.weighing > FV_ENTMAX15) {
      return refuse(FV_VALUE_ERROR, "weighing: got %d, wanted one of fv_weighing", static_cast<int>(score.weighing));
    }
    problem_.weighing = score.weighing;
    if (score.weighing == FV_SOFTMAX) return true;
    const char* refused = nullptr;
    if (!is_compact(score.weighing)) {
      if (given_.sink != nullptr) refused = "sink";
      if (score.negligible != 0) refused = "negligible";
      if (given_.sigma != 0) refused = "sigma";
      return !refused || refuse(FV_VALUE_ERROR, "weighing: got one that is no softmax, which takes no %s", refused);
    }
    if (score.family != FV_DISTANCE) refused = "score but a distance";
    if (score.scale != 1) refused = "scale";
    if (score.softcap != 0) refused = "softcap";
    if (given_.sink != nullptr) refused = "sink";
    if (given_.reach.mask != nullptr && given_.reach.mask->dtype != FV_BOOL) refused = "float mask";
    if (given_.reach.table != nullptr) refused = "table of biases";
    if (given_.value == nullptr) refused = "call without a value";
    return !refused || refuse(FV_VALUE_ERROR, "weighing: got a compact kernel, which takes no %s", refused);
  }

  // (D,), of the accumulator's type, contiguous and aligned: it is read where it stands.
  bool factors() {
    const fv_array* const factors = given_.score.factors;
    if (factors == nullptr) {
      return !is_additive(problem_.family) ||
             refuse(FV_VALUE_ERROR, "factors: got none, wanted one for each column of query");
    }
    if (problem_.family == FV_INNER) {
      return refuse(FV_VALUE_ERROR, "factors: got an array, wanted none for FV_INNER");
    }
    if (!view("factors", factors) || !of_dtype("factors", *factors, accumulator()) ||
        !has_shape("factors", *factors, &problem_.head_size, 1)) {
      return false;
    }
    const int64_t item = size_of(accumulator());
    const bool has_gaps = factors->shape[0] > 1 && factors->strides[0] != item;
    if (has_gaps || (factors->shape[0] > 0 && reinterpret_cast<uintptr_t>(factors->data) % uintptr_t(item) != 0)) {
      return refuse(FV_VALUE_ERROR, "factors: got an array with gaps or unaligned, wanted a contiguous one");
    }
    problem_.factors = factors->data;
    return true;
  }

  // ---- the reach

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

  bool dropout(bool weights) {
    const double rate = given_.dropout;
    if (!(rate >= 0 && rate < 1)) return refuse(FV_VALUE_ERROR, "dropout: got %g, wanted a number in [0, 1)", rate);
    if (weights && rate > 0) return refuse(FV_VALUE_ERROR, "dropout: got %g, wanted 0 for the weights", rate);
    if (rate > 0 && is_compact(problem_.weighing)) {
      return refuse(FV_VALUE_ERROR, "dropout: got %g with a compact kernel, wanted 0", rate);
    }
    problem_.dropout = rate;
    problem_.random = given_.random;
    return true;
  }
};

}  // namespace foveate
