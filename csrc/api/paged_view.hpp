// An operand as the rest of a problem sees it: pages (P, ..., S, D) with a table (B, T) read as (B, ..., T * S, D).
#pragma once
#include "views.hpp"

namespace foveate {

class PagedView {
 public:
  PagedView() = default;
  PagedView(const PagedView&) = delete;

  // Without pages: the array as it stands.
  void of(const fv_array& array) { seen_ = array; }

  // Of pages and a table that were looked at: shapes and strides. False where there are too many rows to count. The batch
  // axis has a stride of 0: where its rows stand, the table says.
  bool of(const fv_array& pages, const fv_array& table) {
    const int ndim = pages.ndim;
    for (int axis = 0; axis < ndim; ++axis) {
      shape_[axis] = pages.shape[axis];
      strides_[axis] = pages.strides[axis];
    }
    shape_[0] = table.shape[0];
    strides_[0] = 0;
    seen_ = {pages.data, pages.dtype, ndim, shape_, strides_};
    return !__builtin_mul_overflow(pages.shape[ndim - 2], table.shape[1], &shape_[ndim - 2]);
  }

  const fv_array& seen() const { return seen_; }

 private:
  fv_array seen_{};
  int64_t shape_[FV_MAX_DIMS], strides_[FV_MAX_DIMS];
};

}  // namespace foveate
