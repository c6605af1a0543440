// Arrays through DLPack: NumPy refuses a capsule of bfloat16, so that one is relabeled as uint16, to be viewed as the
// dtype of ml_dtypes; a tensor of torch becomes an array in one step. The structs are those of the DLPack standard.
#include <pybind11/numpy.h>

#include <cstdint>
#include <string>
#include <vector>

#include "register.hpp"

namespace foveate::python {
namespace {

namespace py = pybind11;

constexpr std::uint8_t kUnsigned = 1, kBfloat = 4;  // DLDataTypeCode

struct Tensor {  // DLTensor
  void* data;
  std::int32_t device[2];
  std::int32_t ndim;
  struct {
    std::uint8_t code, bits;
    std::uint16_t lanes;
  } dtype;
  const std::int64_t* shape;
  const std::int64_t* strides;  // in elements; nullptr: contiguous
  std::uint64_t offset;         // in bytes
};

struct VersionedTensor {  // DLManagedTensorVersioned
  std::uint32_t version[2];
  void* manager;
  void (*deleter)(VersionedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};

// Whether the capsule, which nobody has consumed yet, was of bfloat16; if so, it is one of uint16 now.
bool relabel_bfloat16(const py::capsule& capsule) {
  Tensor* tensor = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    tensor = static_cast<Tensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));  // its first field
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    tensor = &static_cast<VersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"))->tensor;
  } else {
    throw py::type_error("got a capsule that is not of DLPack, wanted what __dlpack__ returns");
  }
  if (tensor->dtype.code != kBfloat || tensor->dtype.bits != 16 || tensor->dtype.lanes != 1) return false;
  tensor->dtype.code = kUnsigned;
  return true;
}

struct Exchange {  // DLPackExchangeAPI, of the objects of one class
  std::uint32_t version[2];
  Exchange* older;
  void* of_managed_tensors[3];
  int (*read)(void* object, Tensor* tensor);  // not 0: with an exception
};

// The address of the functions that read objects of a class, from its capsule; 0: there are none of a version we know.
std::uintptr_t find_exchange(const py::object& capsule) {
  constexpr const char* name = "dlpack_exchange_api";
  if (PyCapsule_IsValid(capsule.ptr(), name) == 0) return 0;
  const auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), name));
  return exchange->version[0] == 1 && exchange->read != nullptr ? reinterpret_cast<std::uintptr_t>(exchange) : 0;
}

// The memory of a tensor as an array, of a dtype of the same size, which keeps the tensor alive. torch's numpy() takes
// longer, and would mark the storage as one that can no longer be resized. If `exchange` is 0, the object is a capsule.
py::array array_of_tensor(const char* name, const py::object& object, const py::dtype& dtype, std::uintptr_t exchange) {
  Tensor tensor;
  if (exchange != 0) {
    if (reinterpret_cast<const Exchange*>(exchange)->read(object.ptr(), &tensor) != 0) throw py::error_already_set();
  } else {
    const void* pointer = PyCapsule_GetPointer(object.ptr(), "dltensor");
    if (pointer == nullptr) throw py::error_already_set();
    tensor = *static_cast<const Tensor*>(pointer);  // its first field
  }
  const py::ssize_t item = dtype.itemsize();
  if (tensor.dtype.bits * tensor.dtype.lanes != 8 * item) {
    throw py::type_error(std::string(name) + ": got a tensor of another dtype");
  }
  std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<py::ssize_t> strides(shape.size());
  py::ssize_t size = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = item * (tensor.strides != nullptr ? tensor.strides[axis] : size);
    size *= shape[axis];
  }
  if (size == 0) return {dtype, std::move(shape)};
  if (tensor.data == nullptr) {
    throw py::value_error(std::string(name) + ": got a tensor without memory (its storage was freed)");
  }
  const void* data = static_cast<const char*>(tensor.data) + tensor.offset;
  return {dtype, std::move(shape), std::move(strides), data, object};
}

}  // namespace

void register_dlpack(py::module_& module) {
  module.def("relabel_bfloat16", &relabel_bfloat16, py::arg("capsule"), py::pos_only(),
             "Relabel a DLPack capsule of bfloat16 as uint16; return whether it was one.");
  module.def("find_exchange", &find_exchange, py::arg("capsule"), py::pos_only(),
             "The address of the DLPack exchange of a class, from its capsule; 0: there is none.");
  module.def("array_of_tensor", &array_of_tensor, py::arg("name"), py::arg("tensor"), py::arg("dtype"),
             py::arg("exchange"), py::pos_only(),
             "The memory of a tensor, or of an unversioned DLPack capsule where the exchange is 0, as an array.");
}

}  // namespace foveate::python
