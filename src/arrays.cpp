// What NumPy says of an array, as the C ABI takes it: its dtype, its view; whether two overlap; exceptions.
#include "arrays.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace foveate::python {
namespace {

static_assert(sizeof(py::ssize_t) == sizeof(int64_t), "NumPy's shapes and strides are taken as they are");

constexpr int kHalf = 23;  // NPY_HALF, which pybind11 does not name

using py::detail::npy_api;

// bfloat16 is a dtype that ml_dtypes registers: its number is known once one has been seen. 0 is that of bool.
std::atomic<int> bfloat16_number{0};

bool is_bfloat16(PyObject* descriptor) {
  const auto* fields = py::detail::array_descriptor_proxy(descriptor);
  const int seen = bfloat16_number.load(std::memory_order_relaxed);
  if (seen != 0) return fields->type_num == seen;
  const char* name = reinterpret_cast<PyTypeObject*>(fields->typeobj)->tp_name;
  const char* after_module = std::strrchr(name, '.');
  if (std::strcmp(after_module != nullptr ? after_module + 1 : name, "bfloat16") != 0) return false;
  bfloat16_number.store(fields->type_num, std::memory_order_relaxed);
  return true;
}

// '<' and '>' come from buffers of other libraries, as those of ctypes; NumPy itself writes '=' for the native one.
bool is_native(PyObject* descriptor) {
  static constexpr char kNative = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
  const char order = py::detail::array_descriptor_proxy(descriptor)->byteorder;
  return order == '=' || order == '|' || order == kNative;
}

const int64_t* extents(const py::ssize_t* numbers) { return reinterpret_cast<const int64_t*>(numbers); }

}  // namespace

void load_numpy() { npy_api::get(); }

bool dtype_of(PyObject* descriptor, fv_dtype* dtype) {
  if (!is_native(descriptor)) return false;
  switch (py::detail::array_descriptor_proxy(descriptor)->type_num) {
    case npy_api::NPY_FLOAT_: *dtype = FV_FLOAT32; return true;
    case npy_api::NPY_DOUBLE_: *dtype = FV_FLOAT64; return true;
    case kHalf: *dtype = FV_FLOAT16; return true;
    case npy_api::NPY_BOOL_: *dtype = FV_BOOL; return true;
    case npy_api::NPY_LONG_: *dtype = FV_INT64; return sizeof(long) == sizeof(int64_t);
    case npy_api::NPY_LONGLONG_: *dtype = FV_INT64; return sizeof(long long) == sizeof(int64_t);
    default: *dtype = FV_BFLOAT16; return is_bfloat16(descriptor);
  }
}

bool dtype_of_name(const char* name, fv_dtype* dtype) {
  struct Named {
    const char* name;
    fv_dtype dtype;
  };
  for (const Named& named : {Named{"float16", FV_FLOAT16}, Named{"bfloat16", FV_BFLOAT16}, Named{"float32", FV_FLOAT32},
                             Named{"float64", FV_FLOAT64}}) {
    if (std::strcmp(name, named.name) == 0) {
      *dtype = named.dtype;
      return true;
    }
  }
  return false;
}

bool is_array(PyObject* object) { return npy_api::get().PyArray_Check_(object); }

bool is_plain_float(PyObject* object) {
  fv_dtype dtype;
  return Py_TYPE(object) == npy_api::get().PyArray_Type_ &&
         (fields(object)->flags & npy_api::NPY_ARRAY_ALIGNED_) != 0 && dtype_of(fields(object)->descr, &dtype) &&
         dtype != FV_BOOL && dtype != FV_INT64;
}

void View::take(void* from, fv_dtype of, int axes, const int64_t* extents, const int64_t* steps) {
  data = from;
  dtype = of;
  ndim = axes;
  shape = numbers_;
  strides = numbers_ + axes;
  std::copy_n(extents, axes, numbers_);
  std::copy_n(steps, axes, numbers_ + axes);
}

bool view(const char* name, PyObject* array, View* result) {
  if (!is_array(array)) {
    PyErr_Format(PyExc_TypeError, "%s: got %s, wanted an array", name, Py_TYPE(array)->tp_name);
    return false;
  }
  const auto* from = fields(array);
  fv_dtype dtype;
  if (!dtype_of(from->descr, &dtype)) {
    PyErr_Format(PyExc_TypeError,
                 "%s: got dtype %S, wanted float16, bfloat16, float32, float64, bool or int64 in native byte order",
                 name, from->descr);
    return false;
  }
  result->take(from->data, dtype, from->nd, extents(from->dimensions), extents(from->strides));
  return true;
}

bool view_few_bits(const char* name, PyObject* array, fv_dtype dtype, int64_t columns, View* result) {
  const int wanted = dtype == FV_INT8 ? npy_api::NPY_BYTE_ : npy_api::NPY_UBYTE_;
  const int64_t bytes = dtype == FV_INT4 ? columns / 2 + columns % 2 : columns;
  const auto* from = is_array(array) ? fields(array) : nullptr;
  if (from == nullptr || py::detail::array_descriptor_proxy(from->descr)->type_num != wanted || from->nd < 1 ||
      columns < 0 || from->dimensions[from->nd - 1] != bytes) {
    PyErr_Format(PyExc_TypeError, "%s: got what is no %s array with rows of %lld bytes", name,
                 dtype == FV_INT8 ? "int8" : "uint8", static_cast<long long>(bytes));
    return false;
  }
  const bool empty = std::find(from->dimensions, from->dimensions + from->nd, 0) != from->dimensions + from->nd;
  if (dtype == FV_INT4 && bytes > 1 && from->strides[from->nd - 1] != 1 && !empty) {
    PyErr_Format(PyExc_ValueError, "%s: got rows of int4 with gaps, wanted contiguous ones", name);
    return false;
  }
  int64_t shape[FV_MAX_DIMS];
  std::copy_n(extents(from->dimensions), from->nd, shape);
  shape[from->nd - 1] = columns;
  result->take(from->data, dtype, from->nd, shape, extents(from->strides));
  return true;
}

bool few_bits_of_name(const char* name, PyObject* object, fv_dtype* dtype) {
  static constexpr const char* kNames[] = {"int8", "int4", "float8_e4m3", "float8_e5m2"};
  for (int i = 0; PyUnicode_Check(object) && i < 4; ++i) {
    if (PyUnicode_CompareWithASCIIString(object, kNames[i]) != 0) continue;
    *dtype = static_cast<fv_dtype>(FV_INT8 + i);
    return true;
  }
  PyErr_Format(PyExc_ValueError, "%s: got %R, wanted int8, int4, float8_e4m3 or float8_e5m2", name, object);
  return false;
}

PyObject* new_array(PyObject* descriptor, int ndim, const int64_t* shape) {
  Py_INCREF(descriptor);  // NumPy takes the reference
  return npy_api::get().PyArray_NewFromDescr_(npy_api::get().PyArray_Type_, descriptor, ndim,
                                              reinterpret_cast<const Py_intptr_t*>(shape), nullptr, nullptr, 0,
                                              nullptr);
}

PyObject* new_array(fv_dtype dtype, int ndim, const int64_t* shape) {
  const int number = dtype == FV_INT64     ? npy_api::NPY_INT64_
                     : dtype == FV_FLOAT64 ? npy_api::NPY_DOUBLE_
                                           : npy_api::NPY_FLOAT_;
  PyObject* descriptor = npy_api::get().PyArray_DescrFromType_(number);
  PyObject* array = new_array(descriptor, ndim, shape);
  Py_DECREF(descriptor);
  return array;
}

bool may_overlap(const fv_array& a, const fv_array& b) {
  struct Bounds {
    const char* low;
    const char* high;  // past the end; equal to low where there is no element
    explicit Bounds(const fv_array& array) : low(static_cast<const char*>(array.data)), high(low) {
      static constexpr int64_t widest = 8;
      for (int axis = 0; axis < array.ndim; ++axis) {
        if (array.shape[axis] == 0) return;
      }
      for (int axis = 0; axis < array.ndim; ++axis) {
        const int64_t reach = (array.shape[axis] - 1) * array.strides[axis];
        (reach < 0 ? low : high) += reach;
      }
      high += widest;
    }
  };
  const Bounds first(a), second(b);
  return first.low < second.high && second.low < first.high && first.low != first.high && second.low != second.high;
}

void set_exception(fv_status status, const fv_error& error) {
  if (PyErr_Occurred() != nullptr) return;
  switch (status) {
    case FV_TYPE_ERROR: PyErr_SetString(PyExc_TypeError, error.message); return;
    case FV_VALUE_ERROR: PyErr_SetString(PyExc_ValueError, error.message); return;
    case FV_NO_MEMORY: PyErr_SetString(PyExc_MemoryError, error.message); return;
    case FV_INTERRUPTED: PyErr_SetNone(PyExc_KeyboardInterrupt); return;
    case FV_OK: break;
  }
  PyErr_Format(PyExc_SystemError, "foveate: unexpected status %d", static_cast<int>(status));
}

[[noreturn]] void fail(fv_status status, const fv_error& error) {
  set_exception(status, error);
  throw py::error_already_set();
}

}  // namespace foveate::python
