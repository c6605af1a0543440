// What the module is made of: each file adds its functions.
#pragma once
#include <pybind11/pybind11.h>

namespace foveate::python {

void register_attention(pybind11::module_& module);
void register_c_api(pybind11::module_& module);
void register_dlpack(pybind11::module_& module);
void register_quantize(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_sampling(pybind11::module_& module);
void register_sums(pybind11::module_& module);
void register_torch(pybind11::module_& module);
void register_xla(pybind11::module_& module);

// While it lives, no call from this thread asks whether Ctrl-C was pressed: its caller could not raise what that raises.
class Uninterrupted {
 public:
  Uninterrupted();
  ~Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
};

}  // namespace foveate::python
