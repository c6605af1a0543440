// Validation of the backward pass: what the forward gave, and where the gradients go.
#pragma once
#include <cstring>

#include "validate.hpp"

namespace foveate {

class BackwardValidator : public Validator {
 public:
  using Validator::Validator;

  // What the forward pass gave, and the gradients of that.
  bool forward(const fv_array* out, const fv_array* lse, const fv_array* d_out, const fv_array* d_lse) {
    const int64_t core[2] = {problem_.queries, problem_.value_size};
    return moving() && given_float("out", out, core, 2, problem_.out) && given_lse(lse) &&
           given_float("d_out", d_out, core, 2, problem_.d_out) &&
           (d_lse == nullptr || given_output("d_lse", d_lse, accumulator(), core, 1, problem_.d_lse));
  }

  // The same of hard attention.
  bool hard_forward(int64_t draws, const fv_array* index, const fv_array* lse, const fv_array* d_out,
                    const fv_array* advantage) {
    const int64_t core[3] = {problem_.queries, draws, problem_.value_size};
    const bool taken = takes_draws(draws) && moving() &&
                       given_output("index", index, FV_INT64, core, 2, problem_.index) && chosen(*index) &&
                       given_lse(lse) && given_float("d_out", d_out, core, 3, problem_.d_out) &&
                       given_output("advantage", advantage, accumulator(), core, 2, problem_.advantage);
    if (taken) problem_.d_out_draw_stride = d_out->strides[problem_.lead_ndim + 1];
    return taken;
  }

  // What is wanted.
  bool gradients(const fv_gradients& gradients) {
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
    return gradient("d_query", gradients.query, problem_.lead_shape, query, problem_.d_query) &&
           gradient("d_key", gradients.key, shared, key, problem_.d_key) &&
           gradient("d_value", gradients.value, shared, value, problem_.d_value) &&
           (gradients.mask == nullptr || mask_gradient(*gradients.mask)) &&
           (gradients.edge_bias == nullptr || edge_bias_gradient(*gradients.edge_bias)) &&
           (gradients.table == nullptr || table_gradient(*gradients.table)) &&
           (gradients.sink == nullptr || sink_gradient(*gradients.sink)) &&
           (gradients.factors == nullptr || factors_gradient(*gradients.factors)) &&
           (gradients.centers == nullptr || row_gradient("d_centers", *gradients.centers, problem_.d_centers)) &&
           (gradients.sigma == nullptr || row_gradient("d_sigma", *gradients.sigma, problem_.d_sigma));
  }

 protected:
  // ---- what the forward gave: arrays of exactly (..., *core), to read

  bool given_output(const char* name, const fv_array* array, fv_dtype dtype, const int64_t* core, int core_ndim,
                    Operand& operand) {
    return view(name, array) && of_dtype(name, *array, dtype) && place_given(name, *array, core, core_ndim, operand);
  }

  bool given_float(const char* name, const fv_array* array, const int64_t* core, int core_ndim, Operand& operand) {
    return view(name, array) && of_float(name, *array) && goes_with_query(name, *array) &&
           place_given(name, *array, core, core_ndim, operand);
  }

  bool given_lse(const fv_array* array) {
    const int64_t core[2] = {problem_.queries, lse_numbers};
    return view("lse", array) && of_lse(*array) && place_given("lse", *array, core, lse_axes(*array), problem_.lse);
  }

  bool place_given(const char* name, const fv_array& array, const int64_t* core, int core_ndim, Operand& operand) {
    if (!has_shape(name, array, problem_.lead_shape, problem_.lead_ndim, core, core_ndim)) return false;
    place(array, core_ndim, operand);
    place_core(array, problem_.lead_ndim, operand);
    return true;
  }

 private:
  // Every choice is a key, or -1.
  bool chosen(const fv_array& index) {
    int64_t key = 0;
    const bool all = each_element(index, index.ndim, [&](const char* at) {
      std::memcpy(&key, at, sizeof key);
      return -1 <= key && key < problem_.keys;
    });
    return all || refuse(FV_VALUE_ERROR, "index: got %lld, wanted values in -1..%lld (Lk - 1)", printable(key),
                         printable(problem_.keys - 1));
  }

  // No leading axis of key and value is broadcast by a stride of 0 alone: each part has its own gradient.
  bool moving() {
    const fv_array* operands[2] = {given_.key, given_.value};
    for (const fv_array* operand : operands) {
      if (is_empty(*operand)) continue;
      for (int axis = 0; axis < operand->ndim - 2; ++axis) {
        if (operand->shape[axis] > 1 && operand->strides[axis] == 0) {
          return refuse(FV_VALUE_ERROR, "%s: got a leading axis of %lld with a stride of 0, wanted a length of 1",
                        operand == given_.key ? "key" : "value", printable(operand->shape[axis]));
        }
      }
    }
    return true;
  }

  // ---- where the gradients go

  // Over these leading axes; optional.
  bool gradient(const char* name, const fv_array* array, const int64_t* lead, const int64_t* core, Operand& operand) {
    return array == nullptr || (view(name, array) && of_float(name, *array) && goes_with_query(name, *array) &&
                                place_output(name, *array, lead, core, 2, operand));
  }

  bool mask_gradient(const fv_array& array) {
    const fv_array* const mask = given_.reach.mask;
    if (mask == nullptr || mask->dtype == FV_BOOL) {
      return refuse(FV_VALUE_ERROR, "d_mask: got an array without a float mask");
    }
    if (!view("d_mask", &array) || !of_dtype("d_mask", array, accumulator()) ||
        !has_shape("d_mask", array, mask->shape, mask->ndim) || !has_addresses("d_mask", array)) {
      return false;
    }
    place_cells(array, problem_.d_mask);
    return true;
  }

  bool edge_bias_gradient(const fv_array& array) {
    const fv_array* const bias = given_.reach.edge_bias;
    if (bias == nullptr) return refuse(FV_VALUE_ERROR, "d_edge_bias: got an array without a bias of edges");
    if (!view("d_edge_bias", &array) || !of_dtype("d_edge_bias", array, FV_FLOAT64) ||
        !has_shape("d_edge_bias", array, bias->shape, bias->ndim) || !has_addresses("d_edge_bias", array)) {
      return false;
    }
    place(array, 1, problem_.d_edge_bias);
    place_core(array, array.ndim - 1, problem_.d_edge_bias);
    return true;
  }

  bool table_gradient(const fv_array& array) {
    const fv_array* const table = given_.reach.table;
    if (table == nullptr) return refuse(FV_VALUE_ERROR, "d_table: got an array without a table");
    return view("d_table", &array) && of_dtype("d_table", array, FV_FLOAT64) &&
           has_shape("d_table", array, table->shape, table->ndim) && has_addresses("d_table", array) &&
           per_row("d_table", array, problem_.table_size, FV_FLOAT64, problem_.d_table);
  }

  bool sink_gradient(const fv_array& array) {
    if (given_.sink == nullptr) return refuse(FV_VALUE_ERROR, "d_sink: got an array without a sink");
    return view("d_sink", &array) && of_dtype("d_sink", array, FV_FLOAT64) &&
           place_output("d_sink", array, nullptr, 0, problem_.d_sink);
  }

  bool factors_gradient(const fv_array& array) {
    if (problem_.family == FV_INNER) {
      return refuse(FV_VALUE_ERROR, "d_factors: got an array with an inner product, which has no factors");
    }
    if (!view("d_factors", &array) || !of_dtype("d_factors", array, FV_FLOAT64) ||
        !has_shape("d_factors", array, &problem_.head_size, 1) || !has_addresses("d_factors", array)) {
      return false;
    }
    place(array, 1, problem_.d_factors);
    place_core(array, 0, problem_.d_factors);
    return true;
  }

  // Of centers and sigma.
  bool row_gradient(const char* name, const fv_array& array, Operand& operand) {
    if (given_.sigma == 0) return refuse(FV_VALUE_ERROR, "%s: got an array without a sigma", name);
    return view(name, &array) && of_dtype(name, array, FV_FLOAT64) &&
           place_output(name, array, &problem_.queries, 1, operand);
  }
};

}  // namespace foveate
