// bfloat16 through DLPack: NumPy refuses a capsule of bfloat16, so that one is relabelled as uint16, to be viewed as
// the dtype of ml_dtypes. The structs are those of the DLPack standard, up to the field that is changed.
#include <cstdint>

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
};

struct VersionedTensor {  // DLManagedTensorVersioned
  std::uint32_t version[2];
  void* manager;
  void (*deleter)(VersionedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};

// Whether the capsule, which nobody has consumed yet, was of bfloat16; it is of uint16 then.
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

}  // namespace

void register_dlpack(py::module_& module) {
  module.def("relabel_bfloat16", &relabel_bfloat16, py::arg("capsule"), py::pos_only(),
             "Relabel a DLPack capsule of bfloat16 as uint16; whether it was one.");
}

}  // namespace foveate::python
