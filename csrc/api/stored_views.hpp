// The checks of keys and values, which may be of few bits, and in pages, and where their parts go.
#pragma once
#include <cstdio>

#include "drivers/common/problem.hpp"
#include "paged_view.hpp"

namespace foveate {

class StoredViews : protected Views<Problem> {
 protected:
  using Views::Views;

  // Keys or values, which may be of few bits, and in pages: what others see of them.
  bool rows_of(const char* name, const char* table_name, const fv_array* array, const fv_array* scale,
               const fv_array* table, const char* wanted, PagedView& rows) {
    if (!view(name, array)) return false;
    if (scale == nullptr && is_few_bits(array->dtype))
      return refuse(FV_VALUE_ERROR, "%s: got %s without a scale, wanted one", name, dtype_name(array->dtype));
    if (scale != nullptr && !is_few_bits(array->dtype)) return wrong_dtype(name, *array, few_bits_dtypes);
    if (scale == nullptr && !of_operand(name, *array)) return false;
    const int least = table == nullptr ? 2 : 3;
    if (array->ndim < least) {
      return refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted %s axes or more, %s", name, ShapeText(*array).c_str(),
                    least == 2 ? "two" : "three", table == nullptr ? wanted : "(P, ..., S, D)");
    }
    rows.of(*array);
    if (table == nullptr) return true;
    if (!view(table_name, table) || !of_dtype(table_name, *table, FV_INT64)) return false;
    if (table->ndim != 2)
      return refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted (B, T)", table_name, ShapeText(*table).c_str());
    if (array->shape[0] == 0 && !is_empty(*table))
      return refuse(FV_VALUE_ERROR, "%s: got no pages with a table of shape %s, wanted one at least", name,
                    ShapeText(*table).c_str());
    return rows.of(*array, *table) ||
           refuse(FV_NO_MEMORY, "%s: got shape %s, which is too large", table_name, ShapeText(*table).c_str());
  }

  // Where the parts of keys or values go.
  struct Parts {
    Operand &rows, &scale;
    int64_t& block;
    Operand& table;
  };

  bool placed(const char* name, const fv_array& array, const PagedView& rows, const fv_array* scale, int64_t block,
              const fv_array* table, const Parts& to) {
    place_matrix(rows.seen(), to.rows);
    if (table != nullptr) place_pages(array, *table, to.rows);
    if (scale != nullptr) {
      const int64_t columns = array.shape[array.ndim - 1];
      if (block < 0 || block % 32 != 0)
        return refuse(FV_VALUE_ERROR, "%s_block: got %lld, wanted a multiple of 32, or 0", name, printable(block));
      const int64_t blocks = block == 0 ? 1 : (columns + block - 1) / block;
      char scale_name[16];
      std::snprintf(scale_name, sizeof scale_name, "%s_scale", name);
      if (!view(scale_name, scale) || !of_dtype(scale_name, *scale, FV_FLOAT32) ||
          !has_shape(scale_name, *scale, array.shape, array.ndim - 1, &blocks, 1))
        return false;
      if (blocks > 1 && scale->strides[scale->ndim - 1] != int64_t(sizeof(float)) && !is_empty(*scale))
        return refuse(FV_VALUE_ERROR, "%s: got scales of a row with gaps, wanted contiguous ones", scale_name);
      PagedView seen;
      table != nullptr ? void(seen.of(*scale, *table)) : seen.of(*scale);
      place_matrix(seen.seen(), to.scale);
      if (table != nullptr) place_pages(*scale, *table, to.scale);
      to.block = block >= columns ? 0 : block;
      to.rows.moving |= to.scale.moving;
    }
    if (table != nullptr) {
      const int batch_axis = problem_.lead_ndim - (array.ndim - 2);
      to.table.data = static_cast<char*>(table->data);
      to.table.dtype = FV_INT64;
      to.table.lead[batch_axis] = table->shape[0] > 1 ? table->strides[0] : 0;
      to.table.row_stride = table->shape[1] > 1 ? table->strides[1] : 0;
    }
    return true;
  }

  // The batch axis of what is in pages moves as the table does.
  void place_pages(const fv_array& pages, const fv_array& table, Operand& operand) const {
    operand.page_rows = pages.shape[pages.ndim - 2];
    operand.page_stride = pages.strides[0];
    operand.pages = pages.shape[0];
    operand.row_stride = pages.shape[pages.ndim - 2] > 1 ? pages.strides[pages.ndim - 2] : 0;
    if (table.shape[0] != 1) operand.moving |= uint64_t{1} << (problem_.lead_ndim - (pages.ndim - 2));
  }

  bool matrix(const char* name, const fv_array* array, const char* wanted) {
    return view(name, array) && of_operand(name, *array) &&
           (array->ndim >= 2 || refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted two axes or more, %s", name,
                                       ShapeText(*array).c_str(), wanted));
  }

  void place_matrix(const fv_array& array, Operand& operand) const {
    place(array, 2, operand);
    place_core(array, array.ndim - 2, operand);
  }
};

}  // namespace foveate
