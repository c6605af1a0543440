// sums_of_gaussians: arrays -> views -> the C ABI.
#include "arrays.hpp"
#include "register.hpp"

namespace foveate::python {
namespace {

// True: the sums were computed. False: all pairs are cheaper, and nothing was; never where pair_cost is 0.
bool sums_of_gaussians(py::handle x, py::handle y, py::handle values, py::handle w, double tolerance,
                       bool leave_one_out, bool directions, py::handle sums, py::handle log_scale, double pair_cost,
                       bool skips_far) {
  View of_x, of_y, of_values, of_w, of_sums, of_scale;
  if (!view("x", x.ptr(), &of_x) || !view("y", y.ptr(), &of_y) || !view("values", values.ptr(), &of_values) ||
      !view("w", w.ptr(), &of_w) || !view("sums", sums.ptr(), &of_sums) ||
      !view("log_scale", log_scale.ptr(), &of_scale))
    throw py::error_already_set();
  int32_t declined = 0;
  fv_error error;
  fv_status status;
  {
    const py::gil_scoped_release released;
    status = fv_sums_of_gaussians(&of_x, &of_y, &of_values, &of_w, tolerance, leave_one_out, directions, &of_sums,
                                  &of_scale, pair_cost, skips_far, pair_cost > 0 ? &declined : nullptr, &error);
  }
  if (status != FV_OK) fail(status, error);
  return declined == 0;
}

}  // namespace

void register_sums(py::module_& module) {
  module.def("sums_of_gaussians", &sums_of_gaussians, py::arg("x").noconvert(), py::arg("y").noconvert(),
             py::arg("values").noconvert(), py::arg("w").noconvert(), py::arg("tolerance"), py::arg("leave_one_out"),
             py::arg("directions"), py::arg("sums").noconvert(), py::arg("log_scale").noconvert(), py::arg("pair_cost"),
             py::arg("skips_far"), py::pos_only(),
             "Sums of Gaussians of x (n, d) over y (m, d) with values (m, k), within a tolerance");
}

}  // namespace foveate::python
