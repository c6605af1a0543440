// What the module is made of: each file adds its functions.
#pragma once
#include <pybind11/pybind11.h>

namespace foveate::python {

void register_attention(pybind11::module_& module);
void register_c_api(pybind11::module_& module);
void register_dlpack(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_sampling(pybind11::module_& module);
void register_torch(pybind11::module_& module);

}  // namespace foveate::python
