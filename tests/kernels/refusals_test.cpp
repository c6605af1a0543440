// What the C ABI refuses: with the right status, a message that names the argument, and before it writes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>

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

void weigh(Case& c, ScoreKind kind) {
  c.kind = kind;
  c.scale = 1;
  c.factors = Tensor(lse_dtype(c.dtype), {c.head_size}, 0.5);
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
    {"a family below the first", "family", FV_VALUE_ERROR, [](Case& c) { c.kind.family = fv_family(-1); }},
    {"a family beyond the last", "family", FV_VALUE_ERROR,
     [](Case& c) { c.kind.family = fv_family(FV_LEAKY_RELU + 1); }},
    {"a weighing below the first", "weighing", FV_VALUE_ERROR, [](Case& c) { c.kind.weighing = fv_weighing(-1); }},
    {"a weighing beyond the last", "weighing", FV_VALUE_ERROR,
     [](Case& c) { c.kind = {FV_DISTANCE, fv_weighing(FV_ENTMAX15 + 1)}; }},
    {"a compact kernel of an inner product", "weighing", FV_VALUE_ERROR, [](Case& c) { c.kind.weighing = FV_BOXCAR; }},
    {"a compact kernel of an additive score", "weighing", FV_VALUE_ERROR,
     [](Case& c) { weigh(c, {FV_TANH, FV_EPANECHNIKOV}); }},
    {"tanh without factors", "factors", FV_VALUE_ERROR, [](Case& c) { c.kind = kTanh; }},
    {"leaky relu without factors", "factors", FV_VALUE_ERROR, [](Case& c) { c.kind = kLeakyRelu; }},
    {"slope of a dot", "slope", FV_VALUE_ERROR, [](Case& c) { c.slope = 0.2; }},
    {"relu without factors", "factors", FV_VALUE_ERROR, [](Case& c) { c.kind = kRelu; }},
    {"sparsemax with a sink", "weighing", FV_VALUE_ERROR,
     [](Case& c) {
       c.kind.weighing = FV_SPARSEMAX;
       c.sink = Tensor(FV_FLOAT64, {}, 0.0);
     }},
    {"an inner product with factors", "factors", FV_VALUE_ERROR, [](Case& c) { weigh(c, kDot); }},
    {"negligible of an inner product", "negligible", FV_VALUE_ERROR, [](Case& c) { c.negligible = 0x1p-24; }},
    {"negligible of tanh", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, kTanh);
       c.negligible = 0x1p-24;
     }},
    {"negligible below 0", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, kGaussian);
       c.negligible = -0x1p-24;
     }},
    {"negligible of 1", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, kGaussian);
       c.negligible = 1;
     }},
    {"negligible of NaN", "negligible", FV_VALUE_ERROR,
     [](Case& c) {
       weigh(c, kGaussian);
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

const Wrong orders[] = {
    {"2", "one_order", FV_VALUE_ERROR, [](Case& c) { c.one_order = 2; }},
    {"below 0", "one_order", FV_VALUE_ERROR, [](Case& c) { c.one_order = -1; }},
};

const Wrong factors[] = {
    {"another dtype", "factors", FV_TYPE_ERROR,
     [](Case& c) { c.factors = c.factors.as(c.dtype == FV_FLOAT64 ? FV_FLOAT32 : FV_FLOAT64); }},
    {"float16", "factors", FV_TYPE_ERROR, [](Case& c) { c.factors = c.factors.as(FV_FLOAT16); }},
    {"int64", "factors", FV_TYPE_ERROR, [](Case& c) { c.factors = c.factors.as(FV_INT64); }},
    {"one too many", "factors", FV_VALUE_ERROR, [](Case& c) { c.factors = Tensor(lse_dtype(c.dtype), {4}, 1); }},
    {"one for all", "factors", FV_VALUE_ERROR, [](Case& c) { c.factors = Tensor(lse_dtype(c.dtype), {1}, 1); }},
    {"another axis", "factors", FV_VALUE_ERROR, [](Case& c) { c.factors = Tensor(lse_dtype(c.dtype), {1, 3}, 1); }},
    {"no axis", "factors", FV_VALUE_ERROR, [](Case& c) { c.factors = Tensor(lse_dtype(c.dtype), {}, 1); }},
};

const Wrong compact[] = {
    {"a scale", "scale", FV_VALUE_ERROR, [](Case& c) { c.scale = 2; }},
    {"a softcap", "softcap", FV_VALUE_ERROR, [](Case& c) { c.softcap = 3; }},
    {"a sink", "sink", FV_VALUE_ERROR, [](Case& c) { c.sink = Tensor(FV_FLOAT64, {1, 1}, 0.5); }},
    {"a float mask", "mask", FV_VALUE_ERROR, [](Case& c) { c.mask = Tensor(FV_FLOAT32, {4, 6}, 0.5); }},
    {"dropout", "dropout", FV_VALUE_ERROR, [](Case& c) { c.dropout = 0.5; }},
};

// Strides that Tensor does not make: a gap, a step backwards, an address between elements.
void test_layouts_of_factors(Report& report, const std::string& title, fv_dtype dtype) {
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
    weigh(c, kGaussian);
    const fv_array view = {memory + layout.offset, dtype, 1, shape, &layout.stride};
    fv_problem problem = c.problem();
    problem.score.factors = &view;
    Tensor out(dtype, {1, 1, 4, 2}, 7.0);
    const Tensor before = out;
    fv_error error = {};
    const fv_status status = fv_attention(&problem, out.view(), nullptr, &error);
    report.that(title + "factors, " + layout.what + ", is refused",
                status == FV_VALUE_ERROR && std::strstr(error.message, "factors") && out.same_bits(before),
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

// An fv_array of zeros that stand at one address: as large as it says, and of no memory.
struct Wide {
  double zero = 0;
  int64_t shape[3], strides[3] = {};
  fv_array view;
  Wide(fv_dtype dtype, std::initializer_list<int64_t> extents)
      : view{&zero, dtype, int32_t(extents.size()), shape, strides} {
    std::copy(extents.begin(), extents.end(), shape);
  }
};

// Each entry, refused for each reason that there is where it asks for memory and before, without an error to write to.
void test_without_error(Report& report, const std::string& isa) {
  constexpr int64_t huge = int64_t(1) << 50;
  const fv_random random = {{1, 2}};
  const Wide query(FV_FLOAT32, {1, 1, huge}), key(FV_FLOAT32, {1, 2, huge}), value(FV_FLOAT32, {1, 2, 1});
  const Wide many(FV_FLOAT32, {1, 7, huge});
  Tensor out(FV_FLOAT32, {1, 7, 1}), lse(FV_FLOAT32, {1, 7}), index(FV_INT64, {1, 7, 1}), number(FV_INT64, {});
  Tensor weights(FV_FLOAT32, {1, 7, 2}), hard(FV_FLOAT32, {1, 7, 1, 1}), log_prob(FV_FLOAT32, {1, 7, 1});
  fv_problem problem = {};
  problem.query = &many.view;
  problem.key = &key.view;
  problem.value = &value.view;
  problem.score.scale = 1;
  fv_problem few = problem, alone = problem;
  few.query = &query.view;
  alone.value = nullptr;
  Tensor few_out(FV_FLOAT32, {1, 1, 1}), few_index(FV_INT64, {1, 1, 1}), few_hard(FV_FLOAT32, {1, 1, 1, 1}),
      few_log_prob(FV_FLOAT32, {1, 1, 1}), d_value(FV_FLOAT32, {1, 2, 1});
  fv_gradients gradients = {};
  gradients.value = d_value.view();
  const Wide categories(FV_FLOAT32, {1, int64_t(1) << 45});
  Wide counts(FV_INT64, {1, 1, int64_t(1) << 45});
  counts.strides[2] = 8;  // one address an element; the call is refused before it looks
  const Tensor drawn(FV_INT64, {1, 1});
  const fv_filters filters = {1, 5, 1, 0, nullptr, 0};
  int32_t ndim;
  int64_t shape[FV_MAX_DIMS];
  float x = 1;
  const struct {
    const char* what;
    fv_status got, wanted;
  } calls[] = {
      {"fv_attention, memory", fv_attention(&problem, out.view(), nullptr, nullptr), FV_NO_MEMORY},
      {"fv_attention of few, memory", fv_attention(&few, few_out.view(), nullptr, nullptr), FV_NO_MEMORY},
      {"fv_attention_weights, memory", fv_attention_weights(&alone, weights.view(), nullptr), FV_NO_MEMORY},
      {"fv_hard_attention, memory",
       fv_hard_attention(&problem, FV_ARGMAX, nullptr, 1, hard.view(), index.view(), log_prob.view(), nullptr),
       FV_NO_MEMORY},
      {"fv_hard_attention of few, memory",
       fv_hard_attention(&few, FV_ARGMAX, nullptr, 1, few_hard.view(), few_index.view(), few_log_prob.view(), nullptr),
       FV_NO_MEMORY},
      {"fv_attention_backward, memory",
       fv_attention_backward(&problem, out.view(), lse.view(), out.view(), nullptr, &gradients, nullptr), FV_NO_MEMORY},
      {"fv_multinoulli, memory", fv_multinoulli(&categories.view, 0, &random, 1, drawn.view(), nullptr), FV_NO_MEMORY},
      {"fv_filtered_multinoulli, memory",
       fv_filtered_multinoulli(&categories.view, 0, &filters, 0, &random, 1, drawn.view(), nullptr, nullptr),
       FV_NO_MEMORY},
      {"fv_multinomial, memory", fv_multinomial(number.view(), &categories.view, &random, 1, &counts.view, nullptr),
       FV_NO_MEMORY},
      {"fv_output_shape, no problem", fv_output_shape(nullptr, &ndim, shape, nullptr), FV_VALUE_ERROR},
      {"fv_output_shape, nowhere", fv_output_shape(&problem, nullptr, shape, nullptr), FV_VALUE_ERROR},
      {"fv_output_shape, no shape", fv_output_shape(&problem, &ndim, nullptr, nullptr), FV_VALUE_ERROR},
      {"fv_attention, no problem", fv_attention(nullptr, out.view(), nullptr, nullptr), FV_VALUE_ERROR},
      {"fv_attention, no output", fv_attention(&problem, nullptr, nullptr, nullptr), FV_VALUE_ERROR},
      {"fv_attention, a wrong output", fv_attention(&problem, index.view(), nullptr, nullptr), FV_TYPE_ERROR},
      {"fv_attention_weights, a value", fv_attention_weights(&problem, weights.view(), nullptr), FV_VALUE_ERROR},
      {"fv_hard_attention, no random",
       fv_hard_attention(&problem, FV_SAMPLE, nullptr, 1, hard.view(), index.view(), log_prob.view(), nullptr),
       FV_VALUE_ERROR},
      {"fv_attention_backward, no gradients",
       fv_attention_backward(&problem, out.view(), lse.view(), out.view(), nullptr, nullptr, nullptr), FV_VALUE_ERROR},
      {"fv_hard_attention_backward, an index of no axes",
       fv_hard_attention_backward(&problem, 1, number.view(), lse.view(), hard.view(), log_prob.view(), &gradients,
                                  nullptr),
       FV_VALUE_ERROR},
      {"fv_multinoulli, an index of no axes", fv_multinoulli(out.view(), 0, &random, 1, number.view(), nullptr),
       FV_VALUE_ERROR},
      {"fv_multinomial, no trials", fv_multinomial(nullptr, out.view(), &random, 1, index.view(), nullptr),
       FV_VALUE_ERROR},
      {"fv_isa_select, another", fv_isa_select("mmx", nullptr), FV_VALUE_ERROR},
      {"fv_isa_select, none", fv_isa_select(nullptr, nullptr), FV_VALUE_ERROR},
      {"fv_elementary, another", fv_elementary("sin", FV_FLOAT32, &x, &x, 1, nullptr), FV_VALUE_ERROR},
      {"fv_elementary, no name", fv_elementary(nullptr, FV_FLOAT32, &x, &x, 1, nullptr), FV_VALUE_ERROR},
      {"fv_elementary, another dtype", fv_elementary("log", FV_INT64, &x, &x, 1, nullptr), FV_TYPE_ERROR},
      {"fv_elementary, no array", fv_elementary("log", FV_FLOAT32, nullptr, &x, 1, nullptr), FV_VALUE_ERROR},
      {"fv_elementary, less than none", fv_elementary("log", FV_FLOAT32, &x, &x, -1, nullptr), FV_VALUE_ERROR},
  };
  for (const auto& call : calls)
    report.that(isa + ": without an error, " + call.what, call.got == call.wanted, std::to_string(call.got));
}

}  // namespace

void test_refusals(Report& report, const std::string& isa) {
  test_general(report, isa);
  test_without_error(report, isa);
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16}) {
    const std::string title = isa + ": " + name_of(dtype) + ", ";
    for (const Wrong& wrong : scores)
      for (bool weights_alone : {false, true}) check(report, title, wrong, dtype, weights_alone);
    for (const Wrong& wrong : windows)
      for (bool weights_alone : {false, true}) check(report, title, wrong, dtype, weights_alone);
    for (const Wrong& wrong : rates)
      for (bool weights_alone : {false, true}) check(report, title + "a rate, ", wrong, dtype, weights_alone);
    for (const Wrong& wrong : orders)
      for (bool weights_alone : {false, true}) check(report, title + "an order, ", wrong, dtype, weights_alone);
    for (ScoreKind kind : {kTanh, kGaussian, kBoxcar})
      for (Wrong wrong : factors) {
        const auto apply = wrong.apply;
        wrong.apply = [&](Case& c) {
          weigh(c, kind);
          apply(c);
        };
        check(report, title + name_of(kind) + ", factors, ", wrong, dtype, false);
      }
    for (ScoreKind kind : {kBoxcar, kEpanechnikov, kTriangular}) {
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
    test_layouts_of_factors(report, isa + ": " + name_of(dtype) + ", ", dtype);
}

}  // namespace kernel_tests
