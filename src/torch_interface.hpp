// The part of torch's stable C interface that a kernel of torch needs. Its functions are found by name in the torch that
// the process has loaded, so that nothing here is built or linked with torch. torch keeps this interface across versions.
#pragma once
#include <foveate/foveate.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace foveate::python::torch {

using Handle = struct OpaqueTensor*;    // AtenTensorHandle
using Library = struct OpaqueLibrary*;  // TorchLibraryHandle
using Value = std::uint64_t;  // StableIValue: a number, a handle that its receiver owns, or a pointer to another
using Error = std::int32_t;   // 0: none
using Kernel = void (*)(Value* stack, std::uint64_t arguments, std::uint64_t results);

struct Functions {
  Error (*is_defined)(Handle, bool*);
  Error (*get_data_ptr)(Handle, void**);
  Error (*get_dim)(Handle, std::int64_t*);
  Error (*get_sizes)(Handle, std::int64_t**);
  Error (*get_strides)(Handle, std::int64_t**);
  Error (*get_dtype)(Handle, std::int32_t*);
  Error (*clone)(Handle, Handle*);
  Error (*delete_tensor)(Handle);
  Error (*empty_strided)(std::int64_t ndim, const std::int64_t* sizes, const std::int64_t* strides, std::int32_t dtype,
                         std::int32_t device, std::int32_t index, Handle*);
  std::int32_t (*device_cpu)();
  std::int32_t (*dtypes[5])();  // in the order of fv_dtype: float16, bfloat16, float32, float64, bool
  Error (*library_init_impl)(const char* space, const char* key, const char* file, std::uint32_t line, Library*);
  Error (*library_impl)(Library, const char* name, Kernel);
  Error (*delete_library)(Library);
  // May be absent, nullptr: they came with torch 2.10, 2.13, and for torch's own kernels with what they compute.
  Error (*library_impl_of_version)(Library, const char* name, Kernel, std::uint64_t version);
  Error (*get_num_threads)(std::uint32_t*);
  Error (*delete_value)(Value*);
  std::int32_t (*at_get_num_threads)();
  Error (*flash_backward)(Handle d_output, Handle query, Handle key, Handle value, Handle output, Handle lse,
                          double dropout, std::int32_t causal, Handle* mask, double* scale, Handle* d_query,
                          Handle* d_key, Handle* d_value);
};

constexpr const char* kNames[] = {
    "aoti_torch_is_defined",
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_dim",
    "aoti_torch_get_sizes",
    "aoti_torch_get_strides",
    "aoti_torch_get_dtype",
    "aoti_torch_clone",
    "aoti_torch_delete_tensor_object",
    "aoti_torch_empty_strided",
    "aoti_torch_device_type_cpu",
    "aoti_torch_dtype_float16",
    "aoti_torch_dtype_bfloat16",
    "aoti_torch_dtype_float32",
    "aoti_torch_dtype_float64",
    "aoti_torch_dtype_bool",
    "aoti_torch_library_init_impl",
    "aoti_torch_library_impl",
    "aoti_torch_delete_library_object",
    "torch_library_impl",
    "torch_get_num_threads",
    "torch_delete_stable_ivalue",
    "_ZN2at15get_num_threadsEv",
    "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu_backward",
};
constexpr std::size_t kNeeded = 18;  // of these; the others may be absent
static_assert(sizeof(Functions) == sizeof(kNames) / sizeof(kNames[0]) * sizeof(void*));

extern Functions functions;  // once they were found

// Throws std::runtime_error, which torch passes on as a RuntimeError.
void check(Error error, const char* what);

// A tensor that this owns.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Value value) : handle_(reinterpret_cast<Handle>(value)) {}
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Tensor() {
    if (handle_ != nullptr) functions.delete_tensor(handle_);
  }

  // Of an argument that may be None, or a tensor that is undefined: then this is none.
  static Tensor optional(Value box);
  static Tensor empty(int ndim, const std::int64_t* sizes, const std::int64_t* strides, fv_dtype dtype);
  Tensor clone() const;

  Handle get() const { return handle_; }
  Value release() { return reinterpret_cast<Value>(std::exchange(handle_, nullptr)); }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Handle handle_ = nullptr;
};

// What an argument that may be None points to; 0: it is None. The box is freed.
struct Optional {
  explicit Optional(Value box);
  bool given = false;
  Value value = 0;
};

std::uint32_t num_threads();

}  // namespace foveate::python::torch
