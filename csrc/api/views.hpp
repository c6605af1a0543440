// The checks that every view of the public header goes through: what it says of itself, and how its leading axes fit
// those of the problem, which broadcast by strides of 0. A check says whether it holds, so that checks are joined by
// &&; the first one that does not keeps its status and writes its message.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstring>

#include "runtime/dispatch.hpp"
#include "runtime/operand.hpp"
#include "runtime/poison.hpp"
#include "runtime/refuse.hpp"

namespace foveate {

// Outputs, gradients and masks that are added to scores are of these.
inline bool is_float(fv_dtype dtype) {
  return dtype == FV_FLOAT16 || dtype == FV_BFLOAT16 || dtype == FV_FLOAT32 || dtype == FV_FLOAT64;
}
// Query, key, value and the weights of categories: what kernels read as numbers of any dtype.
inline bool is_operand(fv_dtype dtype) { return is_float(dtype); }

constexpr const char* float_dtypes = "float16, bfloat16, float32 or float64";
constexpr const char* operand_dtypes = float_dtypes;
constexpr const char* few_bits_dtypes = "int8, int4, float8_e4m3 or float8_e5m2";
inline bool is_few_bits(fv_dtype dtype) { return dtype >= FV_INT8; }

// Calls f(address) for each element of a view's first `ndim` axes, the last one fastest, for as long as it says true.
template <class F>
bool each_element(const fv_array& array, int ndim, F&& f) {
  return each_address(static_cast<char*>(array.data), ndim, array.shape, array.strides, f);
}

// Whose strides say nothing.
inline bool is_empty(const fv_array& array) {
  for (int axis = 0; axis < array.ndim; ++axis) {
    if (array.shape[axis] == 0) return true;
  }
  return false;
}

// An output that was validated, or none: see poison.hpp.
inline void poison(const fv_array* output) {
  if (!poisoned || output == nullptr) return;
  each_element(*output, output->ndim, [&](char* at) {
    poison(at, size_t(size_of(output->dtype)));
    return true;
  });
}

// P: a problem with lead_ndim and lead_shape.
template <class P>
class Views {
 public:
  fv_status status() const { return status_; }

 protected:
  Views(P& problem, fv_error* error) : problem_(problem), error_(error) {}

  bool cpu() { return (status_ = check_cpu(error_)) == FV_OK; }

  // Keeps the status, writes the message, and returns false.
  __attribute__((format(printf, 3, 4))) bool refuse(fv_status status, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_message(error_, format, arguments);
    va_end(arguments);
    status_ = status;
    return false;
  }

  bool view(const char* name, const fv_array* array) {
    if (array == nullptr) return refuse(FV_VALUE_ERROR, "%s: got none, wanted an array", name);
    if (array->ndim < 0 || array->ndim > FV_MAX_DIMS) {
      return refuse(FV_VALUE_ERROR, "%s: got %d axes, wanted 0 to %d", name, array->ndim, FV_MAX_DIMS);
    }
    if (array->ndim > 0 && (array->shape == nullptr || array->strides == nullptr)) {
      return refuse(FV_VALUE_ERROR, "%s: got no shape or no strides, wanted both for each axis", name);
    }
    for (int axis = 0; axis < array->ndim; ++axis) {
      if (array->shape[axis] < 0) {
        return refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted no negative extent", name, ShapeText(*array).c_str());
      }
    }
    if (array->data == nullptr && !is_empty(*array)) {
      return refuse(FV_VALUE_ERROR, "%s: got no data with shape %s", name, ShapeText(*array).c_str());
    }
    return true;
  }

  // ---- dtypes

  bool wrong_dtype(const char* name, const fv_array& array, const char* wanted) {
    return refuse(FV_TYPE_ERROR, "%s: got %s, wanted %s", name, dtype_name(array.dtype), wanted);
  }
  bool of_dtype(const char* name, const fv_array& array, fv_dtype wanted) {
    return array.dtype == wanted || wrong_dtype(name, array, dtype_name(wanted));
  }
  bool of_float(const char* name, const fv_array& array) {
    return is_float(array.dtype) || wrong_dtype(name, array, float_dtypes);
  }
  bool of_operand(const char* name, const fv_array& array) {
    return is_operand(array.dtype) || wrong_dtype(name, array, operand_dtypes);
  }

  // ---- shapes and strides

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

  // The strides of the last two axes, or of the last one alone. An axis with one element or none has no stride that
  // means anything, whatever the array says: rows have 0, columns are contiguous.
  static void place_core(const fv_array& array, int row_axis, Operand& operand) {
    const int last = array.ndim - 1;
    operand.row_stride = array.shape[row_axis] > 1 ? array.strides[row_axis] : 0;
    if (last > row_axis)
      operand.column_stride =
          array.shape[last] > 1 && array.dtype != FV_INT4 ? array.strides[last] : size_of(array.dtype);
  }

  bool broadcasts(const fv_array& array, int core_ndim) const {
    const int own = array.ndim - core_ndim, missing = problem_.lead_ndim - own;
    if (missing < 0) return false;
    for (int axis = 0; axis < own; ++axis) {
      if (array.shape[axis] != 1 && array.shape[axis] != problem_.lead_shape[missing + axis]) return false;
    }
    return true;
  }

  // Exactly (*first, *second).
  bool has_shape(const char* name, const fv_array& array, const int64_t* first, int first_ndim,
                 const int64_t* second = nullptr, int second_ndim = 0) {
    bool same = array.ndim == first_ndim + second_ndim;
    for (int axis = 0; same && axis < array.ndim; ++axis)
      same = array.shape[axis] == (axis < first_ndim ? first[axis] : second[axis - first_ndim]);
    return same || refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted %s", name, ShapeText(array).c_str(),
                          ShapeText(first, first_ndim, second, second_ndim).c_str());
  }

  // No two elements stand at one address by a stride of 0.
  bool has_addresses(const char* name, const fv_array& array) {
    bool apart = true;
    for (int axis = 0; axis < array.ndim; ++axis) apart &= array.shape[axis] <= 1 || array.strides[axis] != 0;
    return apart || is_empty(array) ||
           refuse(FV_VALUE_ERROR, "%s: got a stride of 0 (a broadcast array), wanted one address per element", name);
  }

  // An output of exactly (..., *core); or over leading axes of another shape.
  bool place_output(const char* name, const fv_array& array, const int64_t* core, int core_ndim, Operand& operand) {
    return place_output(name, array, problem_.lead_shape, core, core_ndim, operand);
  }
  bool place_output(const char* name, const fv_array& array, const int64_t* lead, const int64_t* core, int core_ndim,
                    Operand& operand) {
    if (!has_shape(name, array, lead, problem_.lead_ndim, core, core_ndim) || !has_addresses(name, array)) return false;
    place(array, core_ndim, operand);
    if (core_ndim > 0) place_core(array, problem_.lead_ndim, operand);
    return true;
  }

  // ---- arrays that go with the operands, and what they hold

  // An array over the leading axes, one element each.
  bool per_lead(const char* name, const fv_array& array, fv_dtype dtype, Operand& operand) {
    if (!view(name, &array) || !of_dtype(name, array, dtype)) return false;
    place(array, 0, operand);
    return true;
  }

  // An array (..., length), one element for each query or key.
  bool per_row(const char* name, const fv_array& array, int64_t length, fv_dtype dtype, Operand& operand) {
    if (!view(name, &array) || !of_dtype(name, array, dtype)) return false;
    if (array.ndim < 1 || array.shape[array.ndim - 1] != length) {
      return refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted a last axis of %lld", name, ShapeText(array).c_str(),
                    printable(length));
    }
    place(array, 1, operand);
    place_core(array, array.ndim - 1, operand);
    return true;
  }

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

  // Every element of an int64 array is in low..high.
  bool within(const char* name, const fv_array& given, int64_t low, int64_t high) {
    const Once once(given);
    int64_t value = 0;
    return each_element(once.array, given.ndim,
                        [&](const char* at) {
                          std::memcpy(&value, at, sizeof value);
                          return low <= value && value <= high;
                        }) ||
           refuse(FV_VALUE_ERROR, "%s: got %lld, wanted values in %lld..%lld%s", name, printable(value), printable(low),
                  printable(high), low == 0 ? " (Lk)" : "");
  }

  // Every element of a float64 array with rows is finite.
  bool finite(const char* name, const fv_array& given) {
    const Once once(given);
    const fv_array& array = once.array;
    const int64_t rows = array.shape[array.ndim - 1], stride = array.strides[array.ndim - 1];
    double value = 0;  // read once: another thread may be writing
    const auto is_finite = [&](const char* at) {
      std::memcpy(&value, at, sizeof value);
      return std::isfinite(value);
    };
    const bool all = each_element(array, array.ndim - 1, [&](const char* row) {
      bool fits = stride == 8;  // a constant in the common case: the loop vectorizes
      for (int64_t i = 0; stride == 8 && i < rows; ++i) {
        double x;
        std::memcpy(&x, row + i * 8, sizeof x);
        fits &= std::fabs(x) <= DBL_MAX;
      }
      for (int64_t i = 0; !fits && i < rows; ++i)
        if (!is_finite(row + i * stride)) return false;
      return true;
    });
    return all || refuse(FV_VALUE_ERROR, "%s: got %g, wanted finite numbers", name, value);
  }

  P& problem_;

 private:
  fv_error* error_;
  fv_status status_ = FV_OK;
};

}  // namespace foveate
