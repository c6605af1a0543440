// The C ABI of rows that become few bits: validates, then hands them to the driver.
#include "drivers/quantize/quantize.hpp"

#include "views.hpp"

namespace foveate {
namespace {

class QuantizeValidator : private Views<Quantizing> {
 public:
  QuantizeValidator(Quantizing& problem, fv_error* error) : Views(problem, error) {}
  using Views::status;

  bool rows(const fv_array* x, int64_t block) {
    if (!cpu() || !view("x", x) || !of_float("x", *x)) return false;
    if (x->ndim < 2) return refuse(FV_VALUE_ERROR, "x: got shape %s, wanted (..., L, D)", ShapeText(*x).c_str());
    if (block < 0 || block % 32 != 0)
      return refuse(FV_VALUE_ERROR, "block: got %lld, wanted a multiple of 32, or 0", printable(block));
    problem_.lead_ndim = x->ndim - 2;
    for (int axis = 0; axis < problem_.lead_ndim; ++axis) {
      problem_.lead_shape[axis] = x->shape[axis];
      if (__builtin_mul_overflow(problem_.leads, x->shape[axis], &problem_.leads))
        return refuse(FV_NO_MEMORY, "x: got shape %s, which is too large", ShapeText(*x).c_str());
    }
    problem_.rows = x->shape[x->ndim - 2];
    problem_.columns = x->shape[x->ndim - 1];
    problem_.block = block;
    place(*x, 2, problem_.x);
    place_core(*x, x->ndim - 2, problem_.x);
    return true;
  }

  bool outputs(const fv_array* data, const fv_array* scale) {
    if (!view("data", data)) return false;
    if (!is_few_bits(data->dtype)) return wrong_dtype("data", *data, few_bits_dtypes);
    if (!view("scale", scale) || !of_dtype("scale", *scale, FV_FLOAT32)) return false;
    const int64_t block = problem_.block;
    const int64_t blocks = block == 0 ? 1 : problem_.columns / block + (problem_.columns % block != 0);
    return written("data", *data, problem_.columns, problem_.data) && written("scale", *scale, blocks, problem_.scale);
  }

 private:
  // (..., L, columns) with contiguous columns.
  bool written(const char* name, const fv_array& array, int64_t columns, Operand& operand) {
    const int64_t core[2] = {problem_.rows, columns};
    if (!place_output(name, array, core, 2, operand)) return false;
    return columns <= 1 || is_empty(array) || operand.column_stride == item_size(operand) ||
           refuse(FV_VALUE_ERROR, "%s: got rows with gaps, wanted contiguous columns", name);
  }
};

}  // namespace
}  // namespace foveate

fv_status fv_quantize(const fv_array* x, int64_t block, const fv_array* data, const fv_array* scale,
                      fv_error* error) noexcept {
  using namespace foveate;
  Quantizing problem;
  QuantizeValidator validator(problem, error);
  if (!(validator.rows(x, block) && validator.outputs(data, scale))) return validator.status();
  if (problem.leads == 0 || problem.rows == 0) return FV_OK;
  return quantize(problem, error);
}
