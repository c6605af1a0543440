// Refusals: a status, and a message "argument: got this, wanted that". Used only by calls that fail.
#pragma once
#include <cstdarg>
#include <cstdio>

#include "foveate/foveate.h"

namespace foveate {

// For %lld, whatever int64_t is.
inline long long printable(int64_t x) { return x; }

// A shape as Python prints it, (2, 3, 64); one that is too long for a message ends in an ellipsis.
class ShapeText {
 public:
  ShapeText(const int64_t* shape, int ndim) { print(shape, ndim, nullptr, 0); }
  explicit ShapeText(const fv_array& array) : ShapeText(array.shape, array.ndim) {}
  // The leading axes, then axes of the core.
  ShapeText(const int64_t* lead, int lead_ndim, const int64_t* core, int core_ndim) {
    print(lead, lead_ndim, core, core_ndim);
  }
  const char* c_str() const { return text_; }

 private:
  void print(const int64_t* first, int first_count, const int64_t* second, int second_count) {
    const int count = first_count + second_count;
    int used = std::snprintf(text_, sizeof text_, "(");
    for (int axis = 0; axis < count; ++axis) {
      if (used > static_cast<int>(sizeof text_) - 32) {
        used += std::snprintf(text_ + used, sizeof text_ - used, "...");
        break;
      }
      const int64_t extent = axis < first_count ? first[axis] : second[axis - first_count];
      const char* after = axis + 1 < count ? ", " : count == 1 ? "," : "";
      used += std::snprintf(text_ + used, sizeof text_ - used, "%lld%s", printable(extent), after);
    }
    std::snprintf(text_ + used, sizeof text_ - used, ")");
  }

  char text_[128];
};

inline const char* dtype_name(fv_dtype dtype) {
  switch (dtype) {
    case FV_FLOAT16: return "float16";
    case FV_BFLOAT16: return "bfloat16";
    case FV_FLOAT32: return "float32";
    case FV_FLOAT64: return "float64";
    case FV_BOOL: return "bool";
    case FV_INT64: return "int64";
    case FV_INT8: return "int8";
    case FV_INT4: return "int4";
    case FV_FLOAT8_E4M3: return "float8_e4m3";
    case FV_FLOAT8_E5M2: return "float8_e5m2";
  }
  return "an unknown dtype";
}

inline void write_message(fv_error* error, const char* format, va_list arguments) {
  if (error != nullptr) std::vsnprintf(error->message, sizeof error->message, format, arguments);
}

__attribute__((format(printf, 3, 4))) inline fv_status refuse(fv_error* error, fv_status status, const char* format,
                                                              ...) {
  va_list arguments;
  va_start(arguments, format);
  write_message(error, format, arguments);
  va_end(arguments);
  return status;
}

inline fv_status no_memory(fv_error* error, double bytes) noexcept {
  return refuse(error, FV_NO_MEMORY, "scratch memory: %.3g bytes could not be allocated", bytes);
}

}  // namespace foveate
