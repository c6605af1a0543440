// Attention, its gradients and its tangents as foreign functions of XLA, by name. Nothing here needs Python: XLA calls
// from threads of its own, several at once.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

#include "register.hpp"
#include "xla_call.hpp"

namespace foveate::xla {
namespace {

// ---- threads

// No more threads than XLA has, for a call on this one.
class WithThreadsOfXla {
 public:
  explicit WithThreadsOfXla(const Frame& frame) {
    const Api& api = *frame.api;
    if (api.size < offsetof(Api, count_threads) + sizeof api.count_threads) return;
    int64_t most = 1;  // where XLA has no pool, its operations run on this thread alone
    ThreadCount count = {sizeof count, nullptr, frame.context, &most};
    if (Error* const refused = api.count_threads(&count)) {
      OldError old = {sizeof old, nullptr, refused};
      api.destroy_error(&old);
      most = 1;
    }
    if (most >= fv_get_num_threads()) return;
    fv_borrow_threads(nullptr, static_cast<int32_t>(std::max<int64_t>(most, 1)));
    limited_ = true;
  }
  ~WithThreadsOfXla() {
    if (limited_) fv_borrow_threads(nullptr, 0);
  }
  WithThreadsOfXla(const WithThreadsOfXla&) = delete;
  WithThreadsOfXla& operator=(const WithThreadsOfXla&) = delete;

 private:
  bool limited_ = false;
};

// ---- handlers

std::atomic<int> minor_version{3};

Error* refuse(const Frame& frame, Code code, const char* message) {
  NewError wanted = {sizeof wanted, nullptr, message, code};
  return frame.api->create_error(&wanted);
}

Code code_of(fv_status status) {
  switch (status) {
    case FV_TYPE_ERROR:
    case FV_VALUE_ERROR: return kInvalidArgument;
    case FV_NO_MEMORY: return kResourceExhausted;
    case FV_INTERRUPTED: return kCancelled;
    case FV_OK: break;
  }
  return kInternal;
}

// Whether XLA only asks what the handler is, and has its answer.
bool describes(Frame& frame) {
  for (Extension* one = frame.extensions; one != nullptr; one = one->next) {
    if (one->kind != kMetadata) continue;
    Metadata& metadata = *reinterpret_cast<MetadataExtension*>(one)->metadata;
    metadata.version.major = 0;
    metadata.version.minor = minor_version;
    metadata.traits = 0;
    return true;
  }
  return false;
}

template <fv_status (Call::*run)()>
Error* handle(Frame* frame) noexcept {
  if (describes(*frame) || frame->stage != kExecute) return nullptr;
  try {
    const std::unique_ptr<Call> call(new Call(*frame));
    if (!call->take()) return refuse(*frame, kInternal, call->error.message);
    const WithThreadsOfXla threads(*frame);
    const python::Uninterrupted uninterrupted;
    const fv_status status = (call.get()->*run)();
    return status == FV_OK ? nullptr : refuse(*frame, code_of(status), call->error.message);
  } catch (const std::bad_alloc&) {
    return refuse(*frame, kResourceExhausted, "foveate: no memory for the arrays of a call");
  }
}

}  // namespace
}  // namespace foveate::xla

namespace foveate::python {

namespace {

py::dict xla_handlers(int minor) {
  xla::minor_version = minor;
  py::dict handlers;
  handlers["foveate_attention"] = py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::attend>));
  handlers["foveate_attention_tangent"] = py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::move>));
  handlers["foveate_attention_backward_jvp"] =
      py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::differentiate_twice>));
  handlers["foveate_attention_backward"] =
      py::capsule(reinterpret_cast<void*>(&xla::handle<&xla::Call::differentiate>));
  return handlers;
}

}  // namespace

void register_xla(py::module_& module) {
  module.def("xla_handlers", &xla_handlers, py::arg("minor"), py::pos_only(),
             "The foreign functions of XLA by name, which say that they are of version 0.minor of its interface.");
}

}  // namespace foveate::python
