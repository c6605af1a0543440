// The checks that every view of the public header goes through: what it says of itself, and how its leading axes fit those
// of the problem, which broadcast by strides of 0.
#pragma once
#include "drivers/common/problem.hpp"
#include "runtime/poison.hpp"
#include "runtime/refuse.hpp"

namespace foveate {

inline bool is_float(fv_dtype dtype) {
  return dtype == FV_FLOAT16 || dtype == FV_BFLOAT16 || dtype == FV_FLOAT32 || dtype == FV_FLOAT64;
}

// Calls f(address) for each element of a view's first `ndim` axes, the last one fastest, for as long as it says true. The
// extents alone say how many there are: an axis of any extent, 0 too, may have any stride.
template <class F>
bool each_element(const fv_array& array, int ndim, F&& f) {
  int64_t index[FV_MAX_DIMS] = {};
  for (int axis = 0; axis < ndim; ++axis) {
    if (array.shape[axis] == 0) return true;
  }
  char* at = static_cast<char*>(array.data);
  for (int axis = 0; axis >= 0;) {
    if (!f(at)) return false;
    for (axis = ndim - 1; axis >= 0; --axis) {
      if (++index[axis] < array.shape[axis]) {
        at += array.strides[axis];
        break;
      }
      at -= array.strides[axis] * (array.shape[axis] - 1);
      index[axis] = 0;
    }
  }
  return true;
}

// Whose strides say nothing.
inline bool is_empty(const fv_array& array) {
  for (int axis = 0; axis < array.ndim; ++axis) {
    if (array.shape[axis] == 0) return true;
  }
  return false;
}

inline int64_t item_size(fv_dtype dtype) {
  switch (dtype) {
    case FV_FLOAT16:
    case FV_BFLOAT16: return 2;
    case FV_FLOAT32: return 4;
    case FV_BOOL: return 1;
    default: return 8;
  }
}

// An output that was validated, or none: see poison.hpp.
inline void poison(const fv_array* output) {
  if (!poisoned || output == nullptr) return;
  each_element(*output, output->ndim, [&](char* at) {
    poison(at, size_t(item_size(output->dtype)));
    return true;
  });
}

// P: a problem with lead_ndim and lead_shape.
template <class P>
class Views {
 protected:
  Views(P& problem, fv_error* error) : problem_(problem), error_(error) {}

  fv_status view(const char* name, const fv_array* array) {
    if (array == nullptr) return refuse(error_, FV_VALUE_ERROR, "%s: got none, wanted an array", name);
    if (array->ndim < 0 || array->ndim > FV_MAX_DIMS) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got %d axes, wanted 0 to %d", name, array->ndim, FV_MAX_DIMS);
    }
    if (array->ndim > 0 && (array->shape == nullptr || array->strides == nullptr)) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got no shape or no strides, wanted one of each axis", name);
    }
    for (int axis = 0; axis < array->ndim; ++axis) {
      if (array->shape[axis] < 0) {
        return refuse(error_, FV_VALUE_ERROR, "%s: got shape %s, wanted no negative extent", name,
                      ShapeText(*array).c_str());
      }
    }
    if (array->data == nullptr && !is_empty(*array)) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got no data with shape %s", name, ShapeText(*array).c_str());
    }
    return FV_OK;
  }

  fv_status wrong_dtype(const char* name, const fv_array& array, const char* wanted) {
    return refuse(error_, FV_TYPE_ERROR, "%s: got %s, wanted %s", name, dtype_name(array.dtype), wanted);
  }

  // Of the accumulator, or float64, which keeps what float32 rounds off; with its parts of float64 alone.
  fv_status lse_dtype(const char* name, const fv_array& lse, fv_dtype query) {
    const bool wide = query == FV_FLOAT64 || lse_axes(lse) == 2;
    const bool fits = lse.dtype == FV_FLOAT64 || (lse.dtype == FV_FLOAT32 && !wide);
    return fits ? FV_OK : wrong_dtype(name, lse, wide ? "float64" : "float32 or float64");
  }

  // Axes behind the leading ones: rows, and the numbers of each where lse comes with its parts.
  static constexpr int64_t lse_numbers = 3;
  int lse_axes(const fv_array& lse) const { return lse.ndim == problem_.lead_ndim + 2 ? 2 : 1; }

  // The strides over the leading axes: right-aligned, 0 where the array does not have the axis or has it once.
  void place(const fv_array& array, int core_ndim, Operand& operand) const {
    static char nothing = 0;  // an empty array may have no address, but an operand that is given has one
    operand.data = array.data != nullptr ? static_cast<char*>(array.data) : &nothing;
    operand.dtype = array.dtype;
    const int own = array.ndim - core_ndim, missing = problem_.lead_ndim - own;
    const bool empty = is_empty(array);
    for (int axis = 0; axis < own; ++axis) {
      if (array.shape[axis] == 1) continue;
      operand.lead[missing + axis] = array.strides[axis];
      if (array.strides[axis] != 0 || empty) operand.moving |= uint64_t{1} << (missing + axis);
    }
  }

  // The strides of the last two axes, or of the last one alone. An axis with one element or none has no stride that means
  // anything, whatever the array says: rows have 0, columns are contiguous.
  static void place_core(const fv_array& array, int row_axis, Operand& operand) {
    const int last = array.ndim - 1;
    operand.row_stride = array.shape[row_axis] > 1 ? array.strides[row_axis] : 0;
    if (last > row_axis) operand.column_stride = array.shape[last] > 1 ? array.strides[last] : item_size(operand);
  }

  bool broadcasts(const fv_array& array, int core_ndim) const {
    const int own = array.ndim - core_ndim, missing = problem_.lead_ndim - own;
    if (missing < 0) return false;
    for (int axis = 0; axis < own; ++axis) {
      if (array.shape[axis] != 1 && array.shape[axis] != problem_.lead_shape[missing + axis]) return false;
    }
    return true;
  }

  // Exactly (..., core), and no two elements at one address by a stride of 0.
  fv_status place_output(const char* name, const fv_array& array, const int64_t* core, int core_ndim,
                         Operand& operand) {
    return place_output(name, array, problem_.lead_shape, core, core_ndim, operand);
  }

  // The same over leading axes of another shape.
  fv_status place_output(const char* name, const fv_array& array, const int64_t* lead, const int64_t* core,
                         int core_ndim, Operand& operand) {
    bool same = array.ndim == problem_.lead_ndim + core_ndim, apart = true;
    for (int axis = 0; same && axis < array.ndim; ++axis) {
      const int core_axis = axis - problem_.lead_ndim;
      same = array.shape[axis] == (core_axis < 0 ? lead[axis] : core[core_axis]);
      apart = apart && (array.shape[axis] <= 1 || array.strides[axis] != 0);
    }
    if (!same) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got shape %s, wanted %s", name, ShapeText(array).c_str(),
                    ShapeText(lead, problem_.lead_ndim, core, core_ndim).c_str());
    }
    if (!apart && !is_empty(array)) {
      return refuse(error_, FV_VALUE_ERROR, "%s: got a stride of 0 (a broadcast array), wanted one address an element",
                    name);
    }
    place(array, core_ndim, operand);
    if (core_ndim > 0) place_core(array, problem_.lead_ndim, operand);
    return FV_OK;
  }

  P& problem_;
  fv_error* error_;
};

}  // namespace foveate
