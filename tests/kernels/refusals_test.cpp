// What the C ABI refuses: with the right status, a message that names the argument, and before it writes.
#include <cmath>
#include <cstring>
#include <functional>

#include "plain.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

// What is made wrong, of a valid problem with a query (1, 1, 4, 3) and keys (1, 1, 6, 3).
struct Wrong {
  const char* what;
  const char* named;  // in the message
  fv_status status;
  std::function<void(Case&)> apply;
};

void weigh(Case& c, fv_score_kind kind) {
  c.kind = kind;
  c.scale = 1;
  c.weights = Tensor(lse_dtype(c.dtype), {c.head_size}, 0.5);
}

void check(Report& report, const std::string& title, const Wrong& wrong, fv_dtype dtype, bool weights_alone) {
  Case c(dtype, 1, 1, 4, 6, 3, 2, 42);
  wrong.apply(c);
  fv_problem problem = c.problem();
  Tensor out(dtype, {1, 1, 4, weights_alone ? 6 : 2}, 7.0), lse(lse_dtype(dtype), {1, 1, 4}, 7.0);
  const Tensor out_before = out, lse_before = lse;
  if (weights_alone) problem.value = nullptr;
  fv_error error = {}, shape_error = {};
  int32_t ndim = 0;
  int64_t shape[FV_MAX_DIMS];
  const fv_status status = weights_alone ? fv_attention_weights(&problem, out.view(), &error)
                                         : fv_attention(&problem, out.view(), lse.view(), &error);
  const bool refused = status == wrong.status && std::strstr(error.message, wrong.named) &&
                       fv_output_shape(&problem, &ndim, shape, &shape_error) == wrong.status &&
                       std::strcmp(error.message, shape_error.message) == 0;
  report.that(title + wrong.what + " is refused", refused && out.same_bits(out_before) && lse.same_bits(lse_before),
              std::to_string(status) + ": " + error.message);
}

const Wrong scores[] = {
    {"a kind below the first", "kind", FV_VALUE_ERROR, [](Case& c) { c.kind = fv_score_kind(-1); }},
    {"a kind beyond the last", "kind", FV_VALUE_ERROR, [](Case& c) { c.kind = fv_score_kind(FV_TRIANGULAR + 1); }},
    {"tanh without weights", "weights", FV_VALUE_ERROR, [](Case& c) { c.kind = FV_TANH; }},
    {"relu without weights", "weights", FV_VALUE_ERROR, [](Case& c) { c.kind = FV_RELU; }},
    {"an inner product with weights", "weights", FV_VALUE_ERROR, [](Case& c) { weigh(c, FV_DOT); }},
    {"negligible of an inner product", "negligible", FV_VALUE_ERROR, [](Case& c) { c.negligible = 0x1p-24; }},
    {"negligible of tanh", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, FV_TANH);
       c.negligible = 0x1p-24;
     }},
    {"negligible below 0", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, FV_GAUSSIAN);
       c.negligible = -0x1p-24;
     }},
    {"negligible of 1", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, FV_GAUSSIAN);
       c.negligible = 1;
     }},
    {"negligible of NaN", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, FV_GAUSSIAN);
       c.negligible = NAN;
     }},
};

void place(Case& c, double half_width, double sigma, double center = 2.5) {
  c.centers = Tensor(FV_FLOAT64, {4}, 2.5);
  c.centers.set(3, center);
  c.half_width = half_width;
  c.sigma = sigma;
}

const Wrong windows[] = {
    {"a half_width of 0", "half_width", FV_VALUE_ERROR, [](Case& c) { place(c, 0, 1); }},
    {"a half_width below 0", "half_width", FV_VALUE_ERROR, [](Case& c) { place(c, -1, 1); }},
    {"a half_width of NaN", "half_width", FV_VALUE_ERROR, [](Case& c) { place(c, NAN, 1); }},
    {"an infinite half_width", "half_width", FV_VALUE_ERROR, [](Case& c) { place(c, INFINITY, 1); }},
    {"a sigma below 0", "sigma", FV_VALUE_ERROR, [](Case& c) { place(c, 1, -1); }},
    {"a sigma of NaN", "sigma", FV_VALUE_ERROR, [](Case& c) { place(c, 1, NAN); }},
    {"an infinite sigma", "sigma", FV_VALUE_ERROR, [](Case& c) { place(c, 1, INFINITY); }},
    {"a sigma without centers", "sigma", FV_VALUE_ERROR, [](Case& c) { c.sigma = 1; }},
    {"a center of NaN", "centers", FV_VALUE_ERROR, [](Case& c) { place(c, 1, 1, NAN); }},
    {"an infinite center", "centers", FV_VALUE_ERROR, [](Case& c) { place(c, 1, 1, -INFINITY); }},
    {"centers of another dtype", "centers", FV_TYPE_ERROR,
     [](Case& c) {
       place(c, 1, 1);
       c.centers = Tensor(FV_FLOAT32, {4}, 1);
     }},
    {"too many centers", "centers", FV_VALUE_ERROR,
     [](Case& c) {
       place(c, 1, 1);
       c.centers = Tensor(FV_FLOAT64, {5}, 1);
     }},
};

const Wrong rates[] = {
    {"1", "dropout", FV_VALUE_ERROR, [](Case& c) { c.dropout = 1; }},
    {"below 0", "dropout", FV_VALUE_ERROR, [](Case& c) { c.dropout = -0.1; }},
    {"NaN", "dropout", FV_VALUE_ERROR, [](Case& c) { c.dropout = NAN; }},
};

const Wrong weights[] = {
    {"another dtype", "weights", FV_TYPE_ERROR,
     [](Case& c) { c.weights = c.weights.as(c.dtype == FV_FLOAT64 ? FV_FLOAT32 : FV_FLOAT64); }},
    {"float16", "weights", FV_TYPE_ERROR, [](Case& c) { c.weights = c.weights.as(FV_FLOAT16); }},
    {"int64", "weights", FV_TYPE_ERROR, [](Case& c) { c.weights = c.weights.as(FV_INT64); }},
    {"one too many", "weights", FV_VALUE_ERROR, [](Case& c) { c.weights = Tensor(lse_dtype(c.dtype), {4}, 1); }},
    {"one for all", "weights", FV_VALUE_ERROR, [](Case& c) { c.weights = Tensor(lse_dtype(c.dtype), {1}, 1); }},
    {"another axis", "weights", FV_VALUE_ERROR, [](Case& c) { c.weights = Tensor(lse_dtype(c.dtype), {1, 3}, 1); }},
    {"no axis", "weights", FV_VALUE_ERROR, [](Case& c) { c.weights = Tensor(lse_dtype(c.dtype), {}, 1); }},
};

const Wrong compact[] = {
    {"a scale", "scale", FV_VALUE_ERROR, [](Case& c) { c.scale = 2; }},
    {"a softcap", "softcap", FV_VALUE_ERROR, [](Case& c) { c.softcap = 3; }},
    {"a sink", "sink", FV_VALUE_ERROR, [](Case& c) { c.sink = Tensor(FV_FLOAT64, {1, 1}, 0.5); }},
    {"a float mask", "mask", FV_VALUE_ERROR, [](Case& c) { c.mask = Tensor(FV_FLOAT32, {4, 6}, 0.5); }},
    {"dropout", "dropout", FV_VALUE_ERROR, [](Case& c) { c.dropout = 0.5; }},
};

// Strides that Tensor does not make: a gap, a step backwards, an address between elements.
void test_layouts_of_weights(Report& report, const std::string& title, fv_dtype dtype) {
  const int64_t item = size_of(dtype), shape[] = {3};
  alignas(8) char memory[64] = {};
  const struct {
    const char* what;
    int64_t offset, stride;
  } layouts[] = {{"a gap", 0, 2 * item},
                 {"one element for all", 0, 0},
                 {"backwards", 2 * item, -item},
                 {"unaligned", item / 2, item}};
  for (const auto& layout : layouts) {
    Case c(dtype, 1, 1, 4, 6, 3, 2, 43);
    weigh(c, FV_GAUSSIAN);
    const fv_array view = {memory + layout.offset, dtype, 1, shape, &layout.stride};
    fv_problem problem = c.problem();
    problem.score.weights = &view;
    Tensor out(dtype, {1, 1, 4, 2}, 7.0);
    const Tensor before = out;
    fv_error error = {};
    const fv_status status = fv_attention(&problem, out.view(), nullptr, &error);
    report.that(title + "weights, " + layout.what + ", is refused",
                status == FV_VALUE_ERROR && std::strstr(error.message, "weights") && out.same_bits(before),
                error.message);
  }
}

void test_general(Report& report, const std::string& isa) {
  Case c(FV_FLOAT32, 1, 1, 4, 4, 8, 8, 41);
  c.key = Tensor(FV_FLOAT32, {1, 1, 4, 7});
  Tensor out(FV_FLOAT32, {1, 1, 4, 8}, 7.0);
  const Tensor before = out;
  fv_problem problem = c.problem();
  fv_error error = {};
  const fv_status status = fv_attention(&problem, out.view(), nullptr, &error);
  report.that(isa + ": a wrong shape is refused", status == FV_VALUE_ERROR && std::strstr(error.message, "key"),
              error.message);
  report.that(isa + ": and nothing is written", out.same_bits(before));
  c.key = Tensor(FV_FLOAT64, {1, 1, 4, 8});
  problem = c.problem();
  report.that(isa + ": a mixture of dtypes is refused",
              fv_attention(&problem, out.view(), nullptr, &error) == FV_TYPE_ERROR, error.message);
  report.that(isa + ": an unknown ISA is refused", fv_isa_select("mmx", &error) == FV_VALUE_ERROR, error.message);
  report.that(isa + ": and the one in use stays", isa == fv_isa_selected());
}

}  // namespace

void test_refusals(Report& report, const std::string& isa) {
  test_general(report, isa);
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16}) {
    const std::string title = isa + ": " + name_of(dtype) + ", ";
    for (const Wrong& wrong : scores)
      for (bool weights_alone : {false, true}) check(report, title, wrong, dtype, weights_alone);
    for (const Wrong& wrong : windows)
      for (bool weights_alone : {false, true}) check(report, title, wrong, dtype, weights_alone);
    for (const Wrong& wrong : rates)
      for (bool weights_alone : {false, true}) check(report, title + "a rate, ", wrong, dtype, weights_alone);
    for (fv_score_kind kind : {FV_TANH, FV_GAUSSIAN, FV_BOXCAR})
      for (Wrong wrong : weights) {
        const auto apply = wrong.apply;
        wrong.apply = [&](Case& c) {
          weigh(c, kind);
          apply(c);
        };
        check(report, title + name_of(kind) + ", weights, ", wrong, dtype, false);
      }
    for (fv_score_kind kind : {FV_BOXCAR, FV_EPANECHNIKOV, FV_TRIANGULAR}) {
      for (Wrong wrong : compact) {
        const auto apply = wrong.apply;
        wrong.apply = [&](Case& c) {
          weigh(c, kind);
          apply(c);
        };
        check(report, title + name_of(kind) + ", ", wrong, dtype, false);
      }
      const Wrong alone = {"the call for weights alone", "value", FV_VALUE_ERROR, [&](Case& c) { weigh(c, kind); }};
      check(report, title + name_of(kind) + ", ", alone, dtype, true);
    }
  }
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64})
    test_layouts_of_weights(report, isa + ": " + name_of(dtype) + ", ", dtype);
}

}  // namespace kernel_tests
