// A CPU that runs none of the kernels that were compiled: every call that computes is refused, and names what it lacks.
#include <cstring>

#include "call.hpp"
#include "report.hpp"

namespace kernel_tests {

void test_old_cpu(Report& report) {
  const auto refused = [&](const char* title, auto&& call) {
    fv_error error = {};
    const bool by_name = call(&error) == FV_VALUE_ERROR && std::strncmp(error.message, "CPU: got ", 9) == 0 &&
                         std::strstr(error.message, ", wanted ") != nullptr;
    report.that(title, by_name, error.message);
  };
  const Case c(FV_FLOAT32, 2, 3, 7, 9, 8, 8, 1);
  const fv_problem problem = c.problem();
  const Tensor output(FV_FLOAT32, {2, 3, 7, 8}), weights(FV_FLOAT32, {2, 3, 7, 9}), lse(FV_FLOAT32, {2, 3, 7});
  const Tensor index(FV_INT64, {2, 3, 7, 1}), p(FV_FLOAT32, {3}, 1), drawn(FV_INT64, {1}), counts(FV_INT64, {1, 3});
  const Tensor trials(FV_INT64, {}, 1);
  const fv_random key = {{1, 2}};
  const fv_gradients gradients = {};
  float number = 1;
  int32_t ndim;
  int64_t shape[FV_MAX_DIMS];
  refused("old CPU: fv_isa_select", [&](fv_error* error) { return fv_isa_select("baseline", error); });
  refused("old CPU: fv_output_shape", [&](fv_error* error) { return fv_output_shape(&problem, &ndim, shape, error); });
  refused("old CPU: fv_attention",
          [&](fv_error* error) { return fv_attention(&problem, output.view(), lse.view(), error); });
  refused("old CPU: fv_attention_weights",
          [&](fv_error* error) { return fv_attention_weights(&problem, weights.view(), error); });
  refused("old CPU: fv_attention_backward", [&](fv_error* error) {
    return fv_attention_backward(&problem, output.view(), lse.view(), output.view(), nullptr, &gradients, error);
  });
  refused("old CPU: fv_hard_attention", [&](fv_error* error) {
    return fv_hard_attention(&problem, FV_ARGMAX, &key, 1, output.view(), index.view(), nullptr, error);
  });
  refused("old CPU: fv_hard_attention_backward", [&](fv_error* error) {
    return fv_hard_attention_backward(&problem, 1, index.view(), lse.view(), output.view(), nullptr, &gradients, error);
  });
  refused("old CPU: fv_multinoulli",
          [&](fv_error* error) { return fv_multinoulli(p.view(), 0, &key, 1, drawn.view(), error); });
  refused("old CPU: fv_filtered_multinoulli", [&](fv_error* error) {
    return fv_filtered_multinoulli(p.view(), 0, nullptr, 0, &key, 1, drawn.view(), nullptr, error);
  });
  refused("old CPU: fv_multinomial",
          [&](fv_error* error) { return fv_multinomial(trials.view(), p.view(), &key, 1, counts.view(), error); });
  refused("old CPU: fv_elementary",
          [&](fv_error* error) { return fv_elementary("exp2", FV_FLOAT32, &number, &number, 1, error); });
  report.that("old CPU: measures nothing",
              fv_measure_flops(FV_FLOAT32, 1, 0.01) == 0 && fv_measure_read(100, 1, 0.01) == 0);
  report.that("old CPU: none is in use", fv_isa_selected() == nullptr && fv_isa_features() == nullptr);
}

}  // namespace kernel_tests
