// Between NumPy and the C ABI: array -> view, status -> exception. Nothing here copies an array, and nothing but
// load_numpy throws: the functions for raw entries set a Python exception and say so by what they return.
#pragma once
#include <foveate/foveate.h>
#include <pybind11/numpy.h>

#include <type_traits>

namespace foveate::python {

namespace py = pybind11;

// Loads NumPy's C functions, once, when the module is initialized.
void load_numpy();

// The dtype of a NumPy dtype object, where the C ABI has it, in native byte order.
bool dtype_of(PyObject* descriptor, fv_dtype* dtype);

// The dtype that a name of NumPy's or ml_dtypes' stands for: "float32", "bfloat16" ...
bool dtype_of_name(const char* name, fv_dtype* dtype);

inline py::detail::PyArray_Proxy* fields(PyObject* array) { return py::detail::array_proxy(array); }

bool is_array(PyObject* object);

// An aligned float array of NumPy's own class in native byte order: it needs no conversion.
bool is_plain_float(PyObject* object);

// A view that keeps shape and strides itself, since another thread may change those of the array while a call runs.
struct View : fv_array {
  View() = default;
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  void take(void* data, fv_dtype dtype, int ndim, const int64_t* shape, const int64_t* strides);

 private:
  int64_t numbers_[2 * FV_MAX_DIMS];
};

// A view of an array, valid as long as the array lives. False, with a TypeError that names the argument, if the C ABI
// cannot take it.
bool view(const char* name, PyObject* array, View* result);

// The same of what is stored of few bits, int8 or bytes, in rows of so many columns.
bool view_few_bits(const char* name, PyObject* array, fv_dtype dtype, int64_t columns, View* result);

// The dtype of few bits that a string names. False, with a ValueError, for anything else.
bool few_bits_of_name(const char* name, PyObject* object, fv_dtype* dtype);

// A new array in C order. nullptr, with an exception, if NumPy could not make it.
PyObject* new_array(PyObject* descriptor, int ndim, const int64_t* shape);
PyObject* new_array(fv_dtype dtype, int ndim, const int64_t* shape);  // float32, float64 or int64

// Whether the elements of two views may share bytes, judged by the bounds of both.
bool may_overlap(const fv_array& a, const fv_array& b);

// Sets the exception that a failed status stands for; an interrupt keeps the one that the signal handler raised.
void set_exception(fv_status status, const fv_error& error);
[[noreturn]] void fail(fv_status status, const fv_error& error);  // likewise, and throws it

}  // namespace foveate::python
