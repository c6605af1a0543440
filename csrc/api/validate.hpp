// Validation: the views of the public header -> a Problem that no driver has to check again.
//
// A refused problem says why. Leading axes are broadcast by strides of 0. Nothing is allocated; the values that are
// read are the offsets, the key lengths, the centers and what edges and a neighborhood are made of. Elements may stand at
// any address.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>

#include "runtime/dispatch.hpp"
#include "validate_reach.hpp"

namespace foveate {

class Validator : protected ReachViews {
 public:
  using ReachViews::ReachViews;
  using ReachViews::status;

  // Everything but the outputs. `weights`: the problem has no value.
  bool inputs(bool weights) {
    return cpu() && operands(weights) && scores() && reach() && centers() && dropout(weights) && moments(weights) &&
           one_order();
  }

  // Derivatives are of keys and values that are floats, and stand in one piece.
  bool takes_derivatives() {
    if (given_.moments != 0) return refuse(FV_VALUE_ERROR, "moments: got some, which have no derivatives");
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
    if (given_.moments != 0) refused = "sum of moments";
    if (refused) return refuse(FV_VALUE_ERROR, "problem: got a %s, wanted none for hard attention", refused);
    problem_.draws = draws;
    return true;
  }

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
    const bool of_distance = arithmetic.links[i].of_distance;
    if (problem_.family != (of_distance ? FV_DISTANCE : FV_INNER)) {
      const char* const wanted = of_distance ? "FV_DISTANCE" : "FV_INNER";
      return refuse(FV_VALUE_ERROR, "link: got %s, which is of %s alone, with another family", name, wanted);
    }
    if (of_distance && !(problem_.scale > 0)) {
      return refuse(FV_VALUE_ERROR, "scale: got %g, wanted a positive one with %s", problem_.scale, name);
    }
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
    if (score.link != nullptr) refused = "link";
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

  bool moments(bool weights) {
    if (given_.moments == 0) return true;
    if (given_.moments != 1)
      return refuse(FV_VALUE_ERROR, "moments: got %lld, wanted 0 or 1", printable(given_.moments));
    const char* refused = nullptr;
    if (problem_.family != FV_DISTANCE) refused = "score but a distance";
    if (problem_.weighing != FV_SOFTMAX && !is_compact(problem_.weighing)) refused = "weighing but these";
    if (problem_.edge_begins) refused = "edges";
    if (problem_.sigma > 0) refused = "sigma";
    if (problem_.dropout > 0) refused = "dropout";
    if (weights) refused = "call without a value";
    if (refused)
      return refuse(FV_VALUE_ERROR, "moments: got 1, which take the softmax or a compact kernel, and no %s", refused);
    const int64_t axes = problem_.head_size, rest = problem_.value_size - 1 - axes - axes * (axes + 1) / 2;
    if (axes < 1 || axes > 3)
      return refuse(FV_VALUE_ERROR, "moments: got 1 with %lld axes, wanted 1 to 3", printable(axes));
    if (rest <= 0 || rest % (1 + axes) != 0) {
      return refuse(FV_VALUE_ERROR,
                    "value: got %lld columns for moments of %lld axes, wanted (1 + k) (1 + D) + D (D + 1) / 2",
                    printable(problem_.value_size), printable(axes));
    }
    problem_.moments = rest / (1 + axes);
    return true;
  }

  bool one_order() {
    if (given_.one_order != 0 && given_.one_order != 1)
      return refuse(FV_VALUE_ERROR, "one_order: got %d, wanted 0 or 1", static_cast<int>(given_.one_order));
    problem_.one_order = given_.one_order == 1;
    if (problem_.one_order && problem_.edge_begins)
      return refuse(FV_VALUE_ERROR, "one_order: got 1 with edges, which have an order of their own, wanted 0");
    return true;
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
