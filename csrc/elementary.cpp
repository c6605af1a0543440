// The kernels' elementary functions, to test them.
#include <cstdio>
#include <cstring>

#include "dispatch.hpp"
#include "foveate/foveate.h"

fv_status fv_elementary(const char* name, fv_dtype dtype, const void* in, void* out, int64_t count,
                        fv_error* error) noexcept {
  constexpr const char* names[] = {"exp2", "log", "tanh"};
  if (dtype != FV_FLOAT32 && dtype != FV_FLOAT64) {
    std::snprintf(error->message, sizeof error->message, "dtype: wanted float32 or float64");
    return FV_TYPE_ERROR;
  }
  for (int32_t i = 0; i < 3; ++i) {
    if (std::strcmp(name, names[i]) != 0) continue;
    foveate::kernels().elementary(i, dtype == FV_FLOAT64, in, out, count);
    return FV_OK;
  }
  std::snprintf(error->message, sizeof error->message, "name: got '%.40s', wanted exp2, log or tanh", name);
  return FV_VALUE_ERROR;
}
