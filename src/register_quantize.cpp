// quantize: arrays -> views -> the C ABI. A plain function of the vectorcall protocol, since a cache calls it for each row.
#include "arrays.hpp"
#include "register.hpp"

namespace foveate::python {
namespace {

constexpr int64_t small_work = 1 << 14;  // elements, of about 10 microseconds: below them the GIL is kept

// (x, dtype, data, scale, block): of x (..., L, D) into data (..., L, D) and scale (..., L, blocks).
PyObject* quantize(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 5) {
    PyErr_SetString(PyExc_TypeError, "quantize: wanted (x, dtype, data, scale, block)");
    return nullptr;
  }
  View x, data, scale;
  fv_dtype dtype;
  const int64_t block = PyLong_AsLongLong(arguments[4]);
  if (PyErr_Occurred() != nullptr || !few_bits_of_name("dtype", arguments[1], &dtype) || !view("x", arguments[0], &x))
    return nullptr;
  const int64_t columns = x.ndim > 0 ? x.shape[x.ndim - 1] : 0;
  if (!view_few_bits("data", arguments[2], dtype, columns, &data) || !view("scale", arguments[3], &scale))
    return nullptr;
  int64_t elements = 1;
  for (int axis = 0; axis < x.ndim && elements <= small_work; ++axis) elements *= x.shape[axis];
  fv_error error;
  PyThreadState* const thread = elements > small_work ? PyEval_SaveThread() : nullptr;
  const fv_status status = fv_quantize(&x, block, &data, &scale, &error);
  if (thread != nullptr) PyEval_RestoreThread(thread);
  if (status == FV_OK) return Py_NewRef(Py_None);
  set_exception(status, error);
  return nullptr;
}

PyMethodDef quantize_entry[] = {
    {"quantize", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&quantize)), METH_FASTCALL,
     "quantize(x, dtype, data, scale, block): rows x (..., L, D) as few bits, into data and scale"},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void register_quantize(pybind11::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), quantize_entry) != 0) throw py::error_already_set();
}

}  // namespace foveate::python
