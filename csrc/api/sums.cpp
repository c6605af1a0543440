// The C ABI of sums of Gaussians: validates, then hands them to the driver.
#include "drivers/sums/sums.hpp"

#include <initializer_list>
#include <utility>

#include "views.hpp"

namespace foveate {
namespace {

class SumsValidator : private Views<SumsOfGaussians> {
 public:
  SumsValidator(SumsOfGaussians& problem, fv_error* error) : Views(problem, error) {}
  using Views::status;

  bool operands(const fv_array* x, const fv_array* y, const fv_array* values, const fv_array* w) {
    if (!cpu() || !rows("x", x) || !rows("y", y) || !rows("values", values)) return false;
    problem_.queries = x->shape[0];
    problem_.points = y->shape[0];
    problem_.dims = x->shape[1];
    problem_.columns = values->shape[1];
    if (problem_.dims < 1 || problem_.dims > most_sum_dims)
      return refuse(FV_VALUE_ERROR, "x: got shape %s, wanted (n, d) with d in 1..%d", ShapeText(*x).c_str(),
                    int(most_sum_dims));
    if (y->shape[1] != problem_.dims)
      return refuse(FV_VALUE_ERROR, "y: got shape %s, wanted (m, %lld)", ShapeText(*y).c_str(),
                    printable(problem_.dims));
    if (values->shape[0] != problem_.points)
      return refuse(FV_VALUE_ERROR, "values: got shape %s, wanted (%lld, k)", ShapeText(*values).c_str(),
                    printable(problem_.points));
    if (!view("w", w) || !of_dtype("w", *w, FV_FLOAT64) || !has_shape("w", *w, &problem_.dims, 1)) return false;
    if (!finite("x", *x) || !finite("y", *y) || !finite("values", *values) || !finite("w", *w)) return false;
    place(*x, 2, problem_.x);
    place_core(*x, 0, problem_.x);
    place(*y, 2, problem_.y);
    place_core(*y, 0, problem_.y);
    place(*values, 2, problem_.values);
    place_core(*values, 0, problem_.values);
    place(*w, 1, problem_.w);
    problem_.w.column_stride = w->shape[0] > 1 ? w->strides[0] : 8;
    return within_range();
  }

  bool options(double tolerance, int32_t leave_one_out, int32_t directions) {
    if (!(tolerance >= 1e-13 && tolerance <= 0.5))
      return refuse(FV_VALUE_ERROR, "tolerance: got %g, wanted 1e-13 to 0.5", tolerance);
    problem_.tolerance = tolerance;
    problem_.leave_one_out = leave_one_out != 0;
    problem_.directions = directions != 0;
    return true;
  }

  bool outputs(const fv_array* sums, const fv_array* log_scale) {
    const int64_t wide = problem_.directions ? problem_.columns * (1 + problem_.dims) : problem_.columns;
    const int64_t core[2] = {problem_.queries, wide};
    if (!view("sums", sums) || !of_dtype("sums", *sums, FV_FLOAT64) ||
        !place_output("sums", *sums, core, 2, problem_.sums) || !view("log_scale", log_scale) ||
        !of_dtype("log_scale", *log_scale, FV_FLOAT64) || !has_shape("log_scale", *log_scale, core, 1) ||
        !has_addresses("log_scale", *log_scale))
      return false;
    place(*log_scale, 1, problem_.log_scale);
    problem_.log_scale.column_stride = problem_.queries > 1 ? log_scale->strides[0] : 8;
    return true;
  }

 private:
  bool rows(const char* name, const fv_array* array) {
    if (!view(name, array) || !of_dtype(name, *array, FV_FLOAT64)) return false;
    return array->ndim == 2 ||
           refuse(FV_VALUE_ERROR, "%s: got shape %s, wanted two axes", name, ShapeText(*array).c_str());
  }

  // Squares of all distances, by bandwidths, are finite.
  bool within_range() {
    for (int64_t k = 0; k < problem_.dims; ++k) {
      double w, low = 0, high = 0;
      std::memcpy(&w, problem_.w.data + k * problem_.w.column_stride, sizeof w);
      if (!(w >= 0)) return refuse(FV_VALUE_ERROR, "w: got %g, wanted numbers that are not negative", w);
      bool first = true;
      for (const auto& [operand, count] : {std::pair{&problem_.x, problem_.queries}, {&problem_.y, problem_.points}})
        for (int64_t i = 0; i < count; ++i) {
          double value;
          std::memcpy(&value, operand->data + i * operand->row_stride + k * operand->column_stride, sizeof value);
          low = first || value < low ? value : low;
          high = first || value > high ? value : high;
          first = false;
        }
      if (!((high - low) * w <= 1e150))
        return refuse(FV_VALUE_ERROR, "x: got points that are %g bandwidths apart from y, wanted 1e150 at most",
                      (high - low) * w);
    }
    return true;
  }
};

}  // namespace
}  // namespace foveate

fv_status fv_sums_of_gaussians(const fv_array* x, const fv_array* y, const fv_array* values, const fv_array* w,
                               double tolerance, int32_t leave_one_out, int32_t directions, const fv_array* sums,
                               const fv_array* log_scale, double pair_cost, int32_t skips_far, int32_t* declined,
                               fv_error* error) noexcept {
  using namespace foveate;
  SumsOfGaussians problem;
  SumsValidator validator(problem, error);
  if (!validator.options(tolerance, leave_one_out, directions) || !validator.operands(x, y, values, w) ||
      !validator.outputs(sums, log_scale))
    return validator.status();
  if (declined != nullptr) *declined = 0;
  problem.declined = declined;
  problem.pair_cost = pair_cost;
  problem.skips_far = skips_far != 0;
  if (problem.queries == 0 || problem.columns == 0) return FV_OK;
  return sums_of_gaussians(problem, error);
}
