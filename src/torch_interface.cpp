// Tensors of torch by its stable C interface.
#include "torch_interface.hpp"

#include <stdexcept>
#include <string>

namespace foveate::python::torch {

Functions functions;

void check(Error error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string("foveate: torch could not ") + what);
}

Tensor Tensor::optional(Value box) {
  const Optional unpacked(box);
  Tensor tensor(unpacked.value);
  bool is_defined = false;
  if (tensor) check(functions.is_defined(tensor.handle_, &is_defined), "look at a tensor");
  return is_defined ? std::move(tensor) : Tensor();
}

Tensor Tensor::empty(int ndim, const std::int64_t* sizes, const std::int64_t* strides, fv_dtype dtype) {
  Tensor made;
  check(functions.empty_strided(ndim, sizes, strides, functions.dtypes[dtype](), functions.device_cpu(), 0,
                                &made.handle_),
        "make a tensor");
  return made;
}

Tensor Tensor::clone() const {
  Tensor made;
  check(functions.clone(handle_, &made.handle_), "copy a tensor");
  return made;
}

Optional::Optional(Value box) {
  if (box == 0) return;
  auto* const pointer = reinterpret_cast<Value*>(box);
  given = true;
  value = *pointer;
  if (functions.delete_value != nullptr) {
    functions.delete_value(pointer);
  } else {
    delete pointer;  // older versions ask for that
  }
}

std::uint32_t num_threads() {
  std::uint32_t count = 1;
  if (functions.get_num_threads != nullptr) {
    check(functions.get_num_threads(&count), "count its threads");
  } else if (functions.at_get_num_threads != nullptr) {
    count = static_cast<std::uint32_t>(functions.at_get_num_threads());
  }
  return count;
}

}  // namespace foveate::python::torch
