// multinoulli and multinomial: arrays -> views -> the C ABI.
#include "arrays.hpp"
#include "register.hpp"

namespace foveate::python {
namespace {

void look_at(const char* name, const py::object& array, View* result) {
  if (!view(name, array.ptr(), result)) throw py::error_already_set();
}

void multinoulli(const py::array& p, bool logits, uint64_t low, uint64_t high, const py::array& index) {
  View from, to;
  look_at("p", p, &from);
  look_at("index", index, &to);
  if (to.ndim < 1) throw py::value_error("index: got shape (), wanted an axis of draws, (..., draws)");
  const fv_random random = {{low, high}};
  fv_error error;
  fv_status status;
  {
    const py::gil_scoped_release released;
    status = fv_multinoulli(&from, logits, &random, to.shape[to.ndim - 1], &to, &error);
  }
  if (status != FV_OK) fail(status, error);
}

void filtered_multinoulli(const py::array& p, bool logits, double temperature, int64_t top_k, double top_p,
                          double min_p, const py::object& bias, bool distinct, uint64_t low, uint64_t high,
                          const py::array& index, const py::object& log_prob, int64_t first_row) {
  View from, added, to, logarithms;
  look_at("p", p, &from);
  if (!bias.is_none()) look_at("bias", bias, &added);
  look_at("index", index, &to);
  if (!log_prob.is_none()) look_at("log_prob", log_prob, &logarithms);
  if (to.ndim < 1) throw py::value_error("index: got shape (), wanted an axis of draws, (..., draws)");
  const fv_random random = {{low, high}};
  const fv_filters filters = {temperature, top_k, top_p, min_p, bias.is_none() ? nullptr : &added, first_row};
  fv_error error;
  fv_status status;
  {
    const py::gil_scoped_release released;
    status = fv_filtered_multinoulli(&from, logits, &filters, distinct, &random, to.shape[to.ndim - 1], &to,
                                     log_prob.is_none() ? nullptr : &logarithms, &error);
  }
  if (status != FV_OK) fail(status, error);
}

void multinomial(const py::array& trials, const py::array& p, uint64_t low, uint64_t high, const py::array& counts) {
  View numbers, from, to;
  look_at("trials", trials, &numbers);
  look_at("p", p, &from);
  look_at("counts", counts, &to);
  if (to.ndim < 2) throw py::value_error("counts: got fewer than two axes, wanted (..., draws, K)");
  const fv_random random = {{low, high}};
  fv_error error;
  fv_status status;
  {
    const py::gil_scoped_release released;
    status = fv_multinomial(&numbers, &from, &random, to.shape[to.ndim - 2], &to, &error);
  }
  if (status != FV_OK) fail(status, error);
}

}  // namespace

void register_sampling(py::module_& module) {
  using py::arg;
  using py::pos_only;
  module.def("multinoulli", &multinoulli, arg("p").noconvert(), arg("logits").noconvert(), arg("low").noconvert(),
             arg("high").noconvert(), arg("index").noconvert(), pos_only(),
             "Draw from each row of p (..., K) under the key (low, high) into index (..., draws).");
  module.def("filtered_multinoulli", &filtered_multinoulli, arg("p").noconvert(), arg("logits").noconvert(),
             arg("temperature").noconvert(), arg("top_k").noconvert(), arg("top_p").noconvert(),
             arg("min_p").noconvert(), arg("bias").noconvert(), arg("distinct").noconvert(), arg("low").noconvert(),
             arg("high").noconvert(), arg("index").noconvert(), arg("log_prob").noconvert(),
             arg("first_row").noconvert() = 0, pos_only(),
             "Draw as multinoulli, from what is left by filters, into index and log_prob (..., draws), or None; rows "
             "count from first_row.");
  module.def("multinomial", &multinomial, arg("trials").noconvert(), arg("p").noconvert(), arg("low").noconvert(),
             arg("high").noconvert(), arg("counts").noconvert(), pos_only(),
             "Count trials (...) draws from each row of p (..., K), into counts (..., draws, K) of zeros.");
}

}  // namespace foveate::python
