// An array as drivers see it: an address, a dtype, and strides in bytes over the leading axes of a problem, 0 along those
// that it is broadcast over. Nothing is checked here; `api/` has done so.
#pragma once
#include "foveate/foveate.h"
#include "kernels/table.hpp"

namespace foveate {

// One operand over the leading axes: element [leading index, row, column] stands at
// data + sum(index[a] * lead[a]) + row * row_stride + column * column_stride, strides in bytes.
// data is null for an optional operand that was not given.
struct Operand {
  char* data = nullptr;
  fv_dtype dtype = FV_FLOAT32;
  int64_t row_stride = 0;     // along Lq for queries, masks, outputs; along Lk for keys, values
  int64_t column_stride = 0;  // along D, Dv, or Lk for a mask
  int64_t lead[FV_MAX_DIMS] = {};
  uint64_t moving = 0;  // bit a: it has elements of its own along leading axis a; an empty one's strides tell nothing
  bool moves(int axis) const { return moving >> axis & 1; }
  explicit operator bool() const { return data != nullptr; }
};

// Bytes of a float.
inline int64_t item_size(const Operand& x) { return x.dtype == FV_FLOAT64 ? 8 : x.dtype == FV_FLOAT32 ? 4 : 2; }

inline Dtype dtype_of(const Operand& operand) { return static_cast<Dtype>(operand.dtype); }
static_assert(int(Dtype::float16) == FV_FLOAT16 && int(Dtype::bfloat16) == FV_BFLOAT16 &&
              int(Dtype::float32) == FV_FLOAT32 && int(Dtype::float64) == FV_FLOAT64);

}  // namespace foveate
