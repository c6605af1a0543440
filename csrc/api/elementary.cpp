// The kernels' elementary functions, to test them.
#include <cstring>

#include "foveate/foveate.h"
#include "runtime/dispatch.hpp"
#include "runtime/refuse.hpp"

fv_status fv_elementary(const char* name, fv_dtype dtype, const void* in, void* out, int64_t count,
                        fv_error* error) noexcept {
  using namespace foveate;
  constexpr const char* names[] = {"exp2", "log", "tanh"};
  if (name == nullptr) return refuse(error, FV_VALUE_ERROR, "name: got none, wanted exp2, log or tanh");
  if (dtype != FV_FLOAT32 && dtype != FV_FLOAT64) {
    return refuse(error, FV_TYPE_ERROR, "dtype: got %s, wanted float32 or float64", dtype_name(dtype));
  }
  if (const fv_status status = check_cpu(error); status != FV_OK) return status;
  if (count < 0) return refuse(error, FV_VALUE_ERROR, "count: got %lld, wanted 0 or more", printable(count));
  if (count > 0 && (in == nullptr || out == nullptr)) {
    return refuse(error, FV_VALUE_ERROR, "%s: got none, wanted an array", in == nullptr ? "in" : "out");
  }
  for (int32_t i = 0; i < 3; ++i) {
    if (std::strcmp(name, names[i]) != 0) continue;
    kernels().elementary(i, dtype == FV_FLOAT64, in, out, count);
    return FV_OK;
  }
  return refuse(error, FV_VALUE_ERROR, "name: got '%.40s', wanted exp2, log or tanh", name);
}
