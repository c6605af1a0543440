// Validation: the views of the public header -> a Problem that no driver has to check again.
//
// A refused problem says why. Leading axes are broadcast by strides of 0. Nothing is allocated; the values that are
// read are the offsets, the key lengths and the centers. Elements may stand at any address.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstring>

#include "drivers/common/problem.hpp"
#include "views.hpp"

namespace foveate {

// Sizes are counted in 64 bits. The bounds leave room for a driver to add a few of them without overflow.
constexpr int64_t kMaxLength = int64_t{1} << 60;  // of Lq, Lk, D and Dv
constexpr int64_t kWidestElement = 8;             // bytes

class Validator : private Views<Problem> {
 public:
  Validator(const fv_problem& given, Problem& problem, fv_error* error) : Views(problem, error), given_(given) {}

  // Everything but the outputs. `weights`: the problem has no value.
  fv_status inputs(bool weights) {
    fv_status status = operands(weights);
    if (status == FV_OK) status = scores();
    if (status == FV_OK) status = reach();
    if (status == FV_OK) status = centers();
    if (status == FV_OK) status = dropout(weights);
    return status;
  }

  // The output, (..., rows, columns) with rows = Lq.
  fv_status output(const fv_array* out, int64_t columns) {
    if (const fv_status status = view("out", out); status != FV_OK) return status;
    if (!is_float(out->dtype)) return wrong_dtype("out", *out, "float16, bfloat16, float32 or float64");
    const int64_t core[2] = {problem_.queries, columns};
    return place_output("out", *out, core, 2, problem_.out);
  }

  // What is chosen, and how often.
  fv_status hard(fv_selection selection, const fv_random* random, int64_t draws) {
    if (selection != FV_ARGMAX && selection != FV_SAMPLE) {
      return refuse(error_, FV_VALUE_ERROR, "selection: got %d, wanted one of fv_selection",
                    static_cast<int>(selection));
    }
    if (selection == FV_SAMPLE && random == nullptr) {
      return refuse(error_, FV_VALUE_ERROR, "random: got none, wanted a key to draw with");
    }
    const bool one = selection == FV_ARGMAX && draws != 1;
    if (draws < 0 || one) {
      return refuse(error_, FV_VALUE_ERROR, "draws: got %lld, wanted %s", static_cast<long long>(draws),
                    one ? "1 for the most probable key" : "a number >= 0");
    }
    const char* refused = nullptr;
    if (given_.score.weighing != FV_SOFTMAX) refused = "compact kernel";
    if (given_.sink != nullptr) refused = "sink";
    if (given_.sigma != 0) refused = "sigma";
    if (given_.dropout != 0) refused = "dropout";
    if (refused) return refuse(error_, FV_VALUE_ERROR, "problem: got a %s, wanted none for hard attention", refused);
    int64_t cells = kWidestElement;
    bool fits = draws <= kMaxLength && multiply(cells, draws) && multiply(cells, problem_.queries);
    for (int axis = 0; fits && axis < problem_.lead_ndim; ++axis) fits = multiply(cells, problem_.lead_shape[axis]);
    if (!fits || !multiply(cells, problem_.value_size)) {
      return refuse(error_, FV_NO_MEMORY, "draws: %lld for each of %lld queries are too many",
                    static_cast<long long>(draws), static_cast<long long>(problem_.queries));
    }
    problem_.selection = selection;
    problem_.draws = draws;
    if (random != nullptr) problem_.random = *random;
    problem_.choices = problem_.value;
    problem_.value = {};
    return FV_OK;
  }

  fv_status hard_outputs(const fv_array* out, const fv_array* index, const fv_array* log_prob) {
    const int64_t core[3] = {problem_.queries, problem_.draws, problem_.value_size};
    const fv_dtype logarithm = problem_.query.dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32;
    if (const fv_status status = view("out", out); status != FV_OK) return status;
    if (!is_float(out->dtype)) return wrong_dtype("out", *out, "float16, bfloat16, float32 or float64");
    if (const fv_status status = place_output("out", *out, core, 3, problem_.out); status != FV_OK) return status;
    problem_.out_draw_stride = out->strides[problem_.lead_ndim + 1];
    if (const fv_status status = view("index", index); status != FV_OK) return status;
    if (index->dtype != FV_INT64) return wrong_dtype("index", *index, dtype_name(FV_INT64));
    if (const fv_status status = place_output("index", *index, core, 2, problem_.index); status != FV_OK) return status;
    if (const fv_status status = view("log_prob", log_prob); status != FV_OK) return status;
    if (log_prob->dtype != logarithm) return wrong_dtype("log_prob", *log_prob, dtype_name(logarithm));
    return place_output("log_prob", *log_prob, core, 2, problem_.log_prob);
  }

  // The logarithm of the denominator, (..., Lq), or with what it is made of, (..., Lq, 3); optional.
  fv_status lse(const fv_array* lse) {
    if (lse == nullptr) return FV_OK;
    if (const fv_status status = view("lse", lse); status != FV_OK) return status;
    if (const fv_status status = lse_dtype("lse", *lse, problem_.query.dtype); status != FV_OK) return status;
    const int64_t core[2] = {problem_.queries, lse_numbers};
    return place_output("lse", *lse, core, lse_axes(*lse), problem_.lse);
  }

 private:
  // ---- query, key and value

  fv_status operands(bool weights) {
    const fv_array *query = given_.query, *key = given_.key, *value = given_.value;
    if (weights && value != nullptr) {
      return refuse(error_, FV_VALUE_ERROR, "value: got an array, wanted none for the weights alone");
    }
    if (const fv_status status = matrix("query", query, "(..., Lq, D)"); status != FV_OK) return status;
    if (const fv_status status = matrix("key", key, "(..., Lk, D)"); status != FV_OK) return status;
    problem_.queries = query->shape[query->ndim - 2];
    problem_.keys = key->shape[key->ndim - 2];
    problem_.head_size = query->shape[query->ndim - 1];
    if (key->shape[key->ndim - 1] != problem_.head_size) {
      return refuse(error_, FV_VALUE_ERROR, "key: got shape %s, wanted a last axis of %lld like that of query, %s",
                    ShapeText(*key).c_str(), static_cast<long long>(problem_.head_size), ShapeText(*query).c_str());
    }
    if ((query->dtype == FV_FLOAT64) != (key->dtype == FV_FLOAT64)) {
      return mixed_dtypes("key", *key);
    }
    if (!weights) {
      if (const fv_status status = matrix("value", value, "(..., Lk, Dv)"); status != FV_OK) return status;
      problem_.value_size = value->shape[value->ndim - 1];
      if (value->shape[value->ndim - 2] != problem_.keys) {
        return refuse(error_, FV_VALUE_ERROR, "value: got shape %s, wanted %lld rows, one for each key of %s",
                      ShapeText(*value).c_str(), static_cast<long long>(problem_.keys), ShapeText(*key).c_str());
      }
      if ((query->dtype == FV_FLOAT64) != (value->dtype == FV_FLOAT64)) {
        return mixed_dtypes("value", *value);
      }
    }
    if (const fv_status status = lead(weights); status != FV_OK) return status;
    if (const fv_status status = sizes(weights); status != FV_OK) return status;
    place_matrix(*query, problem_.query);
    place_matrix(*key, problem_.key);
    if (!weights) place_matrix(*value, problem_.value);
    return FV_OK;
  }

  fv_status matrix(const char* name, const fv_array* array, const char* wanted) {
    if (const fv_status status = view(name, array); status != FV_OK) return status;
    if (!is_float(array->dtype)) return wrong_dtype(name, *array, "float16, bfloat16, float32 or float64");
    if (array->ndim < 2) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got shape %s, wanted two axes or more, %s", name,
                    ShapeText(*array).c_str(), wanted);
    }
    return FV_OK;
  }

  fv_status mixed_dtypes(const char* name, const fv_array& array) {
    return refuse(error_, FV_TYPE_ERROR, "%s: got %s with a query of %s; float64 goes with float64 only", name,
                  dtype_name(array.dtype), dtype_name(given_.query->dtype));
  }

  void place_matrix(const fv_array& array, Operand& operand) const {
    place(array, 2, operand);
    place_core(array, array.ndim - 2, operand);
  }

  // The leading axes of the output: those of query, key and value, and of all that goes with them, broadcast together.
  fv_status lead(bool weights) {
    const fv_array* arrays[3] = {given_.query, given_.key, given_.value};
    const int count = weights ? 2 : 3;
    const fv_reach& reach = given_.reach;
    const Beside beside[] = {{"mask", reach.mask, 2},
                             {"offset", reach.offset, 0},
                             {"key_lengths", reach.key_lengths, 0},
                             {"query_segments", reach.query_segments, 1},
                             {"key_segments", reach.key_segments, 1},
                             {"centers", reach.centers, 1},
                             {"sink", given_.sink, 0}};
    int ndim = 0;
    for (int a = 0; a < count; ++a) ndim = arrays[a]->ndim - 2 > ndim ? arrays[a]->ndim - 2 : ndim;
    for (const Beside& one : beside) {
      if (one.array == nullptr) continue;
      if (const fv_status status = view(one.name, one.array); status != FV_OK) return status;
      const int own = one.array->ndim - one.core_ndim;
      if (own > FV_MAX_DIMS - 2) {
        return refuse(error_, FV_VALUE_ERROR, "%s: got %d axes, wanted an output of at most %d", one.name,
                      one.array->ndim, FV_MAX_DIMS);
      }
      ndim = own > ndim ? own : ndim;
    }
    problem_.lead_ndim = ndim;
    for (int axis = 0; axis < ndim; ++axis) problem_.lead_shape[axis] = 1;
    for (int a = 0; a < count; ++a) {
      if (joins(*arrays[a], 2)) continue;
      return refuse(error_, FV_VALUE_ERROR,
                    "query, key%s: got shapes %s, %s%s%s, wanted leading axes that broadcast together",
                    weights ? "" : ", value", ShapeText(*arrays[0]).c_str(), ShapeText(*arrays[1]).c_str(),
                    weights ? "" : ", ", weights ? "" : ShapeText(*arrays[2]).c_str());
    }
    for (const Beside& one : beside) {
      if (one.array == nullptr || joins(*one.array, one.core_ndim)) continue;
      return refuse(error_, FV_VALUE_ERROR, "%s: got shape %s, wanted leading axes that broadcast with the others, %s",
                    one.name, ShapeText(*one.array).c_str(),
                    ShapeText(problem_.lead_shape, problem_.lead_ndim).c_str());
    }
    return FV_OK;
  }

  // An optional array that goes with query, key and value, and how many of its axes are no leading ones.
  struct Beside {
    const char* name;
    const fv_array* array;
    int core_ndim;
  };

  // A view whose axes of stride 0, which repeat what is there, are looked at once.
  struct Once {
    explicit Once(const fv_array& given) : array(given) {
      for (int axis = 0; axis < given.ndim; ++axis) {
        shape[axis] = given.strides[axis] == 0 && given.shape[axis] > 1 ? 1 : given.shape[axis];
      }
      array.shape = shape;
    }
    Once(const Once&) = delete;
    fv_array array;
    int64_t shape[FV_MAX_DIMS];
  };

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

  // Every product of sizes that a driver may form stays within 64 bits. An extent of 0 counts as 1, as in NumPy.
  fv_status sizes(bool weights) {
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
    if (fits) return FV_OK;
    const int64_t core[2] = {problem_.queries, columns};
    return refuse(error_, FV_NO_MEMORY, "query, key, value: an output of shape %s over %lld keys is too large",
                  ShapeText(problem_.lead_shape, problem_.lead_ndim, core, 2).c_str(),
                  static_cast<long long>(problem_.keys));
  }

  // What is positive stays so where subnormal numbers count as 0.
  static double at_least_normal(double x) { return x > 0 && x < DBL_MIN ? DBL_MIN : x; }

  static bool multiply(int64_t& product, int64_t extent) {
    return extent == 0 || !__builtin_mul_overflow(product, extent, &product);
  }

  // ---- scale, softcap and sink

  fv_status scores() {
    const double scale = given_.score.scale, softcap = given_.score.softcap;
    if (!std::isfinite(scale)) return refuse(error_, FV_VALUE_ERROR, "scale: got %g, wanted a finite number", scale);
    if (!(std::isfinite(softcap) && softcap >= 0)) {
      return refuse(error_, FV_VALUE_ERROR, "softcap: got %g, wanted a finite number >= 0 (0: none)", softcap);
    }
    problem_.scale = scale;
    problem_.softcap = at_least_normal(softcap);
    if (const fv_status status = family(); status != FV_OK) return status;
    if (given_.sink == nullptr) return FV_OK;
    return per_lead("sink", given_.sink, FV_FLOAT64, problem_.sink);
  }

  fv_status family() {
    const fv_score& score = given_.score;
    if (score.family < FV_INNER || score.family > FV_DISTANCE) {
      return refuse(error_, FV_VALUE_ERROR, "family: got %d, wanted one of fv_family", static_cast<int>(score.family));
    }
    if (score.weighing < FV_SOFTMAX || score.weighing > FV_TRIANGULAR) {
      return refuse(error_, FV_VALUE_ERROR, "weighing: got %d, wanted one of fv_weighing",
                    static_cast<int>(score.weighing));
    }
    const bool distance = score.family == FV_DISTANCE;
    if (!(score.negligible >= 0 && score.negligible < 1) || (score.negligible > 0 && !distance)) {
      return refuse(error_, FV_VALUE_ERROR, "negligible: got %g, wanted %s", score.negligible,
                    distance ? "a number in [0, 1)" : "0 for a score that is no distance");
    }
    problem_.family = score.family;
    problem_.weighing = score.weighing;
    problem_.negligible = score.negligible;
    if (score.weighing != FV_SOFTMAX) {
      const char* refused = nullptr;
      if (!distance) refused = "score but a distance";
      if (score.scale != 1) refused = "scale";
      if (score.softcap != 0) refused = "softcap";
      if (given_.sink != nullptr) refused = "sink";
      if (given_.reach.mask != nullptr && given_.reach.mask->dtype != FV_BOOL) refused = "float mask";
      if (given_.value == nullptr) refused = "call without a value";
      if (refused) return refuse(error_, FV_VALUE_ERROR, "weighing: got a compact kernel, which takes no %s", refused);
    }
    if (score.factors == nullptr) {
      if (!is_additive(score.family)) return FV_OK;
      return refuse(error_, FV_VALUE_ERROR, "factors: got none, wanted one for each column of query");
    }
    if (score.family == FV_INNER) {
      return refuse(error_, FV_VALUE_ERROR, "factors: got an array, wanted none for FV_INNER");
    }
    return factors(*score.factors);
  }

  // (D,), of the accumulator's type, contiguous and aligned: it is read where it stands.
  fv_status factors(const fv_array& factors) {
    if (const fv_status status = view("factors", &factors); status != FV_OK) return status;
    const fv_dtype wanted = given_.query->dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32;
    if (factors.dtype != wanted) return wrong_dtype("factors", factors, dtype_name(wanted));
    const int64_t item = wanted == FV_FLOAT64 ? 8 : 4;
    if (factors.ndim != 1 || factors.shape[0] != problem_.head_size) {
      return refuse(error_, FV_VALUE_ERROR, "factors: got shape %s, wanted (%lld,), one for each column of query",
                    ShapeText(factors).c_str(), static_cast<long long>(problem_.head_size));
    }
    const bool has_gaps = factors.shape[0] > 1 && factors.strides[0] != item;
    if (has_gaps || (factors.shape[0] > 0 && reinterpret_cast<uintptr_t>(factors.data) % item != 0)) {
      return refuse(error_, FV_VALUE_ERROR, "factors: got an array with gaps or unaligned, wanted a contiguous one");
    }
    problem_.factors = factors.data;
    return FV_OK;
  }

  // ---- the reach

  fv_status reach() {
    const fv_reach& reach = given_.reach;
    problem_.leave_one_out = reach.leave_one_out != 0;
    if (reach.mask != nullptr) {
      if (const fv_status status = mask(*reach.mask); status != FV_OK) return status;
    }
    if (reach.offset != nullptr) {
      if (reach.offset_at_end != 0) {
        return refuse(error_, FV_VALUE_ERROR, "offset: got an array and offset_at_end, wanted one of them");
      }
      if (const fv_status status = per_lead("offset", reach.offset, FV_INT64, problem_.offset); status != FV_OK) {
        return status;
      }
      if (const fv_status status = within("offset", Once(*reach.offset).array, -kMaxOffset, kMaxOffset);
          status != FV_OK) {
        return status;
      }
    }
    if (reach.key_lengths != nullptr) {
      if (const fv_status status = per_lead("key_lengths", reach.key_lengths, FV_INT64, problem_.key_lengths);
          status != FV_OK) {
        return status;
      }
      if (const fv_status status = within("key_lengths", Once(*reach.key_lengths).array, 0, problem_.keys);
          status != FV_OK) {
        return status;
      }
    }
    // No position is beyond kMaxOffset + Lq, so that a side which would reach past either end is unbounded; what is
    // left can be added to a position without overflow.
    problem_.left = reach.left >= kMaxOffset + problem_.queries ? -1 : reach.left;
    problem_.right = reach.right >= kMaxOffset + problem_.keys ? -1 : reach.right;
    problem_.offset_at_end = reach.offset_at_end != 0;
    return segments();
  }

  fv_status mask(const fv_array& mask) {
    if (const fv_status status = view("mask", &mask); status != FV_OK) return status;
    if (mask.dtype != FV_BOOL && !is_float(mask.dtype)) return wrong_dtype("mask", mask, "bool or a float dtype");
    // The axes are right-aligned with (..., Lq, Lk); one that is missing or has an extent of 1 has a stride of 0.
    const int64_t core[2] = {problem_.queries, problem_.keys};
    int64_t* const core_strides[2] = {&problem_.mask.row_stride, &problem_.mask.column_stride};
    const int ndim = problem_.lead_ndim + 2, missing = ndim - mask.ndim;
    bool fits = missing >= 0;
    for (int axis = 0; fits && axis < mask.ndim; ++axis) {
      const int target = missing + axis, core_axis = target - problem_.lead_ndim;
      const int64_t extent = core_axis < 0 ? problem_.lead_shape[target] : core[core_axis];
      const int64_t stride = mask.shape[axis] == 1 ? 0 : mask.strides[axis];
      fits = mask.shape[axis] == 1 || mask.shape[axis] == extent;
      (core_axis < 0 ? problem_.mask.lead[target] : *core_strides[core_axis]) = stride;
    }
    if (!fits) {
      return refuse(error_, FV_VALUE_ERROR, "mask: got shape %s, wanted one that broadcasts into (..., Lq, Lk) = %s",
                    ShapeText(mask).c_str(), ShapeText(problem_.lead_shape, problem_.lead_ndim, core, 2).c_str());
    }
    place(mask, mask.ndim, problem_.mask);
    return FV_OK;
  }

  fv_status segments() {
    const fv_array *queries = given_.reach.query_segments, *keys = given_.reach.key_segments;
    if (queries == nullptr && keys == nullptr) return FV_OK;
    if (queries == nullptr || keys == nullptr) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got none, wanted the segments of queries and keys together",
                    queries == nullptr ? "query_segments" : "key_segments");
    }
    if (const fv_status status =
            per_row("query_segments", *queries, problem_.queries, FV_INT64, problem_.query_segments);
        status != FV_OK) {
      return status;
    }
    return per_row("key_segments", *keys, problem_.keys, FV_INT64, problem_.key_segments);
  }

  fv_status centers() {
    const fv_array* const centers = given_.reach.centers;
    const double half_width = given_.reach.half_width, sigma = given_.sigma;
    if (centers == nullptr) {
      if (sigma == 0) return FV_OK;
      return refuse(error_, FV_VALUE_ERROR, "sigma: got %g without centers, wanted 0", sigma);
    }
    if (!(std::isfinite(half_width) && half_width > 0)) {
      return refuse(error_, FV_VALUE_ERROR, "half_width: got %g, wanted a finite number > 0", half_width);
    }
    if (!(std::isfinite(sigma) && sigma >= 0)) {
      return refuse(error_, FV_VALUE_ERROR, "sigma: got %g, wanted a finite number > 0 (0: none)", sigma);
    }
    if (const fv_status status = per_row("centers", *centers, problem_.queries, FV_FLOAT64, problem_.centers);
        status != FV_OK) {
      return status;
    }
    problem_.half_width = half_width;
    problem_.sigma = at_least_normal(sigma);
    return finite("centers", Once(*centers).array);
  }

  fv_status dropout(bool weights) {
    const double rate = given_.dropout;
    if (!(rate >= 0 && rate < 1)) {
      return refuse(error_, FV_VALUE_ERROR, "dropout: got %g, wanted a number in [0, 1)", rate);
    }
    if (weights && rate > 0) return refuse(error_, FV_VALUE_ERROR, "dropout: got %g, wanted 0 for the weights", rate);
    if (rate > 0 && given_.score.weighing != FV_SOFTMAX) {
      return refuse(error_, FV_VALUE_ERROR, "dropout: got %g with a compact kernel, wanted 0", rate);
    }
    problem_.dropout = rate;
    problem_.random = given_.random;
    return FV_OK;
  }

  // An array over the leading axes, one element each.
  fv_status per_lead(const char* name, const fv_array* array, fv_dtype dtype, Operand& operand) {
    if (const fv_status status = view(name, array); status != FV_OK) return status;
    if (array->dtype != dtype) return wrong_dtype(name, *array, dtype_name(dtype));
    place(*array, 0, operand);
    return FV_OK;
  }

  // An array (..., length), one element for each query or key.
  fv_status per_row(const char* name, const fv_array& array, int64_t length, fv_dtype dtype, Operand& operand) {
    if (const fv_status status = view(name, &array); status != FV_OK) return status;
    if (array.dtype != dtype) return wrong_dtype(name, array, dtype_name(dtype));
    if (array.ndim < 1 || array.shape[array.ndim - 1] != length) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got shape %s, wanted a last axis of %lld", name,
                    ShapeText(array).c_str(), static_cast<long long>(length));
    }
    place(array, 1, operand);
    place_core(array, array.ndim - 1, operand);
    return FV_OK;
  }

  // Every element of an int64 array is in low..high.
  fv_status within(const char* name, const fv_array& array, int64_t low, int64_t high) {
    int64_t value = 0;
    const bool all = each_element(array, array.ndim, [&](const char* at) {
      std::memcpy(&value, at, sizeof value);
      return low <= value && value <= high;
    });
    if (all) return FV_OK;
    return refuse(error_, FV_VALUE_ERROR, "%s: got %lld, wanted values in %lld..%lld%s", name,
                  static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high),
                  low == 0 ? " (Lk)" : "");
  }

  // Every element of a float64 array with rows is finite.
  fv_status finite(const char* name, const fv_array& array) {
    const int64_t rows = array.shape[array.ndim - 1], stride = array.strides[array.ndim - 1];
    double value = 0;  // read once: another thread may be writing
    const auto is_finite = [&](const char* at) {
      std::memcpy(&value, at, sizeof value);
      return std::isfinite(value);
    };
    const bool all = each_element(array, array.ndim - 1, [&](const char* row) {
      bool fits = stride == 8;  // a constant in the common case: the loop vectorises
      for (int64_t i = 0; stride == 8 && i < rows; ++i) {
        double x;
        std::memcpy(&x, row + i * 8, sizeof x);
        fits &= std::fabs(x) <= DBL_MAX;
      }
      for (int64_t i = 0; !fits && i < rows; ++i)
        if (!is_finite(row + i * stride)) return false;
      return true;
    });
    return all ? FV_OK : refuse(error_, FV_VALUE_ERROR, "%s: got %g, wanted finite numbers", name, value);
  }

  const fv_problem& given_;
};

}  // namespace foveate
