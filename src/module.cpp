// foveate._core: the extension module. Python gives it checked arguments; it makes views and calls the C ABI.
#include "arrays.hpp"
#include "register.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_core, module, py::mod_gil_not_used(), py::multiple_interpreters::not_supported()) {
  module.doc() = "The compiled part of foveate. Its functions are for the package itself; use those of foveate.";
  foveate::python::register_runtime(module);  // first: it refuses a CPU that is too old, and NumPy's wheels die on it
  foveate::python::load_numpy();
  foveate::python::register_attention(module);
  foveate::python::register_c_api(module);
  foveate::python::register_dlpack(module);
  foveate::python::register_quantize(module);
  foveate::python::register_sampling(module);
  foveate::python::register_sums(module);
  foveate::python::register_torch(module);
  foveate::python::register_xla(module);
}
