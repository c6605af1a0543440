// Validation of the backward pass: what the forward gave, and where the gradients go. The problem is validated already.
#pragma once
#include <cstring>

#include "views.hpp"

namespace foveate {

class BackwardValidator : private Views<Problem> {
 public:
  BackwardValidator(const fv_problem& given, Problem& problem, fv_error* error)
      : Views(problem, error), given_(given) {}

  // What the forward pass gave, and the gradients of that.
  fv_status forward(const fv_array* out, const fv_array* lse, const fv_array* d_out, const fv_array* d_lse) {
    const int64_t core[2] = {problem_.queries, problem_.value_size};
    fv_status status = moving();
    if (status == FV_OK) status = given_output("out", out, nullptr, core, 2, problem_.out);
    if (status == FV_OK) status = given_lse(lse);
    if (status == FV_OK) status = given_output("d_out", d_out, nullptr, core, 2, problem_.d_out);
    const fv_dtype accumulator = accumulator_of();
    if (status == FV_OK && d_lse != nullptr) {
      status = given_output("d_lse", d_lse, &accumulator, core, 1, problem_.d_lse);
    }
    return status;
  }

  // The same of hard attention.
  fv_status hard_forward(int64_t draws, const fv_array* index, const fv_array* lse, const fv_array* d_out,
                         const fv_array* advantage) {
    const char* refused = nullptr;
    if (problem_.weighing != FV_SOFTMAX) refused = "compact kernel";
    if (given_.sink != nullptr) refused = "sink";
    if (given_.sigma != 0) refused = "sigma";
    if (given_.dropout != 0) refused = "dropout";
    if (refused) return refuse(error_, FV_VALUE_ERROR, "problem: got a %s, wanted none with hard attention", refused);
    if (draws < 0) {
      return refuse(error_, FV_VALUE_ERROR, "draws: got %lld, wanted a number >= 0", static_cast<long long>(draws));
    }
    const fv_dtype accumulator = accumulator_of(), integer = FV_INT64;
    const int64_t core[3] = {problem_.queries, draws, problem_.value_size};
    problem_.draws = draws;
    fv_status status = moving();
    if (status == FV_OK) status = given_output("index", index, &integer, core, 2, problem_.index);
    if (status == FV_OK) status = chosen(*index);
    if (status == FV_OK) status = given_lse(lse);
    if (status == FV_OK) status = given_output("d_out", d_out, nullptr, core, 3, problem_.d_out);
    if (status == FV_OK) problem_.d_out_draw_stride = d_out->strides[problem_.lead_ndim + 1];
    if (status == FV_OK) status = given_output("advantage", advantage, &accumulator, core, 2, problem_.advantage);
    return status;
  }

  // What is wanted.
  fv_status gradients(const fv_gradients& gradients) {
    const int64_t query[2] = {problem_.queries, problem_.head_size};
    const int64_t key[2] = {problem_.keys, problem_.head_size}, value[2] = {problem_.keys, problem_.value_size};
    const fv_array* const operands[2] = {given_.key, given_.value};
    int64_t shared[FV_MAX_DIMS];
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) {
      shared[axis] = 1;
      for (const fv_array* operand : operands) {
        const int own = axis - (problem_.lead_ndim - (operand->ndim - 2));
        if (own >= 0 && operand->shape[own] != 1) shared[axis] = operand->shape[own];
      }
    }
    fv_status status = gradient("d_query", gradients.query, problem_.lead_shape, query, problem_.d_query);
    if (status == FV_OK) status = gradient("d_key", gradients.key, shared, key, problem_.d_key);
    if (status == FV_OK) status = gradient("d_value", gradients.value, shared, value, problem_.d_value);
    if (status == FV_OK && gradients.mask != nullptr) status = mask_gradient(*gradients.mask);
    if (status == FV_OK && gradients.sink != nullptr) status = sink_gradient(gradients.sink);
    if (status == FV_OK && gradients.factors != nullptr) status = factors_gradient(gradients.factors);
    if (status == FV_OK && gradients.centers != nullptr) {
      status = row_gradient("d_centers", gradients.centers, problem_.d_centers);
    }
    if (status == FV_OK && gradients.sigma != nullptr) {
      status = row_gradient("d_sigma", gradients.sigma, problem_.d_sigma);
    }
    return status;
  }

 private:
  // An array of exactly (..., core), to read; of this dtype, or any float one that goes with the query.
  fv_status given_output(const char* name, const fv_array* array, const fv_dtype* dtype, const int64_t* core,
                         int core_ndim, Operand& operand) {
    if (const fv_status status = view(name, array); status != FV_OK) return status;
    if (const fv_status status = accumulated(name, *array, dtype); status != FV_OK) return status;
    bool same = array->ndim == problem_.lead_ndim + core_ndim;
    for (int axis = 0; same && axis < array->ndim; ++axis) {
      const int core_axis = axis - problem_.lead_ndim;
      same = array->shape[axis] == (core_axis < 0 ? problem_.lead_shape[axis] : core[core_axis]);
    }
    if (!same) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got shape %s, wanted %s", name, ShapeText(*array).c_str(),
                    ShapeText(problem_.lead_shape, problem_.lead_ndim, core, core_ndim).c_str());
    }
    place(*array, core_ndim, operand);
    place_core(*array, problem_.lead_ndim, operand);
    return FV_OK;
  }

  fv_status given_lse(const fv_array* array) {
    if (const fv_status status = view("lse", array); status != FV_OK) return status;
    if (const fv_status status = lse_dtype("lse", *array, given_.query->dtype); status != FV_OK) return status;
    const int64_t core[2] = {problem_.queries, lse_numbers};
    return given_output("lse", array, &array->dtype, core, lse_axes(*array), problem_.lse);
  }

  // Every choice is a key, or -1.
  fv_status chosen(const fv_array& index) {
    int64_t key = 0;
    const bool all = each_element(index, index.ndim, [&](const char* at) {
      std::memcpy(&key, at, sizeof key);
      return -1 <= key && key < problem_.keys;
    });
    if (all) return FV_OK;
    return refuse(error_, FV_VALUE_ERROR, "index: got %lld, wanted values in -1..%lld (Lk - 1)",
                  static_cast<long long>(key), static_cast<long long>(problem_.keys - 1));
  }

  // No leading axis of key and value is broadcast by a stride of 0 alone: each part has its own gradient.
  fv_status moving() {
    const fv_array* operands[2] = {given_.key, given_.value};
    for (const fv_array* operand : operands) {
      if (is_empty(*operand)) continue;
      for (int axis = 0; axis < operand->ndim - 2; ++axis) {
        if (operand->shape[axis] > 1 && operand->strides[axis] == 0) {
          return refuse(error_, FV_VALUE_ERROR, "%s: got a leading axis of %lld with a stride of 0, wanted 1 of it",
                        operand == given_.key ? "key" : "value", static_cast<long long>(operand->shape[axis]));
        }
      }
    }
    return FV_OK;
  }

  fv_dtype accumulator_of() const { return given_.query->dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32; }

  fv_status of_float64(const char* name, const fv_array* array) {
    const fv_status status = view(name, array);
    return status != FV_OK || array->dtype == FV_FLOAT64 ? status : wrong_dtype(name, *array, dtype_name(FV_FLOAT64));
  }

  fv_status sink_gradient(const fv_array* array) {
    if (given_.sink == nullptr) return refuse(error_, FV_VALUE_ERROR, "d_sink: got an array without a sink");
    const fv_status status = of_float64("d_sink", array);
    return status == FV_OK ? place_output("d_sink", *array, problem_.lead_shape, nullptr, 0, problem_.d_sink) : status;
  }

  fv_status factors_gradient(const fv_array* array) {
    if (problem_.family == FV_INNER) {
      return refuse(error_, FV_VALUE_ERROR, "d_factors: got an array with an inner product, which has no factors");
    }
    if (const fv_status status = of_float64("d_factors", array); status != FV_OK) return status;
    if (array->ndim != 1 || array->shape[0] != problem_.head_size || (array->shape[0] > 1 && array->strides[0] == 0)) {
      return refuse(error_, FV_VALUE_ERROR, "d_factors: got shape %s, wanted (%lld,), with one address an element",
                    ShapeText(*array).c_str(), static_cast<long long>(problem_.head_size));
    }
    place(*array, 1, problem_.d_factors);
    place_core(*array, 0, problem_.d_factors);
    return FV_OK;
  }

  // Of centers and sigma.
  fv_status row_gradient(const char* name, const fv_array* array, Operand& operand) {
    if (given_.sigma == 0) return refuse(error_, FV_VALUE_ERROR, "%s: got an array without a sigma", name);
    const fv_status status = of_float64(name, array);
    return status == FV_OK ? place_output(name, *array, &problem_.queries, 1, operand) : status;
  }

  fv_status accumulated(const char* name, const fv_array& array, const fv_dtype* dtype) {
    if (dtype != nullptr) return array.dtype == *dtype ? FV_OK : wrong_dtype(name, array, dtype_name(*dtype));
    if (!is_float(array.dtype)) return wrong_dtype(name, array, "float16, bfloat16, float32 or float64");
    const bool same = (array.dtype == FV_FLOAT64) == (given_.query->dtype == FV_FLOAT64);
    if (same) return FV_OK;
    return refuse(error_, FV_TYPE_ERROR, "%s: got %s with a query of %s; float64 goes with float64 only", name,
                  dtype_name(array.dtype), dtype_name(given_.query->dtype));
  }

  // Over these leading axes; optional.
  fv_status gradient(const char* name, const fv_array* array, const int64_t* lead, const int64_t* core,
                     Operand& operand) {
    if (array == nullptr) return FV_OK;
    if (const fv_status status = view(name, array); status != FV_OK) return status;
    if (const fv_status status = accumulated(name, *array, nullptr); status != FV_OK) return status;
    return place_output(name, *array, lead, core, 2, operand);
  }

  fv_status mask_gradient(const fv_array& array) {
    if (given_.reach.mask == nullptr || given_.reach.mask->dtype == FV_BOOL) {
      return refuse(error_, FV_VALUE_ERROR, "d_mask: got an array without a float mask");
    }
    const fv_array& mask = *given_.reach.mask;
    const fv_dtype accumulator = accumulator_of();
    if (const fv_status status = view("d_mask", &array); status != FV_OK) return status;
    if (const fv_status status = accumulated("d_mask", array, &accumulator); status != FV_OK) return status;
    bool same = array.ndim == mask.ndim, apart = true;
    for (int axis = 0; same && axis < array.ndim; ++axis) {
      same = array.shape[axis] == mask.shape[axis];
      apart = apart && (array.shape[axis] <= 1 || array.strides[axis] != 0);
    }
    if (!same || !(apart || is_empty(array))) {
      return refuse(error_, FV_VALUE_ERROR, "d_mask: got shape %s, wanted %s, with one address an element",
                    ShapeText(array).c_str(), ShapeText(mask).c_str());
    }
    place(array, array.ndim, problem_.d_mask);
    const int missing = problem_.lead_ndim + 2 - array.ndim;
    for (int axis = 0; axis < array.ndim; ++axis) {
      const int core_axis = missing + axis - problem_.lead_ndim;
      const int64_t stride = array.shape[axis] == 1 ? 0 : array.strides[axis];
      if (core_axis < 0) problem_.d_mask.lead[missing + axis] = stride;
      if (core_axis == 0) problem_.d_mask.row_stride = stride;
      if (core_axis == 1) problem_.d_mask.column_stride = stride;
    }
    return FV_OK;
  }

  const fv_problem& given_;
};

}  // namespace foveate
