// An array as drivers see it: an address, a dtype, and strides in bytes over the leading axes of a problem, 0 along
// those that it is broadcast over. Nothing is checked here; `api/` has done so.
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
  // In pages (see fv_problem): row r is row r % page_rows of a page, and pages are so many bytes apart. 0: not in pages.
  int64_t page_rows = 0, page_stride = 0, pages = 0;
  uint64_t moving = 0;  // bit a: it has elements of its own along leading axis a; an empty one's strides tell nothing
  bool moves(int axis) const { return moving >> axis & 1; }
  explicit operator bool() const { return data != nullptr; }
};

inline Dtype dtype_of(const Operand& operand) { return static_cast<Dtype>(operand.dtype); }
static_assert(int(Dtype::float16) == FV_FLOAT16 && int(Dtype::bfloat16) == FV_BFLOAT16 &&
              int(Dtype::float32) == FV_FLOAT32 && int(Dtype::float64) == FV_FLOAT64 && int(Dtype::int8) == FV_INT8 &&
              int(Dtype::int4) == FV_INT4 && int(Dtype::float8_e4m3) == FV_FLOAT8_E4M3 &&
              int(Dtype::float8_e5m2) == FV_FLOAT8_E5M2);

// Bytes of an element.
inline int64_t size_of(fv_dtype dtype) {
  return dtype == FV_BOOL ? 1 : dtype == FV_INT64 ? 8 : size_of(static_cast<Dtype>(dtype));
}
inline int64_t item_size(const Operand& x) { return size_of(x.dtype); }

// Calls f(address) at every index of these axes, the last one fastest, for as long as it says true. The extents alone
// say how often: an axis of any extent, 0 too, may have any stride.
template <class F>
bool each_address(char* at, int ndim, const int64_t* shape, const int64_t* strides, F&& f) {
  int64_t index[FV_MAX_DIMS] = {};
  for (int axis = 0; axis < ndim; ++axis) {
    if (shape[axis] == 0) return true;
  }
  for (int axis = 0; axis >= 0;) {
    if (!f(at)) return false;
    for (axis = ndim - 1; axis >= 0; --axis) {
      if (++index[axis] < shape[axis]) {
        at += strides[axis];
        break;
      }
      at -= strides[axis] * (shape[axis] - 1);
      index[axis] = 0;
    }
  }
  return true;
}

// The same over those leading axes of a problem along which an operand moves: its own parts, each once.
template <class F>
bool each_part(const Operand& x, int lead_ndim, const int64_t* lead_shape, F&& f) {
  int64_t shape[FV_MAX_DIMS];
  for (int axis = 0; axis < lead_ndim; ++axis) shape[axis] = x.moves(axis) ? lead_shape[axis] : 1;
  return each_address(x.data, lead_ndim, shape, x.lead, f);
}

}  // namespace foveate
