// What the backward pass refuses: with the right status, a message that names the argument first, and before it writes.
#include <cmath>
#include <cstring>
#include <functional>

#include "backward_call.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

enum Slot { a_key, a_value, an_out, an_lse, a_d_out, a_d_lse, an_index, an_advantage, first_gradient, slots = 16 };
static_assert(first_gradient + part_count == slots);
constexpr Slot gradient(Part part) { return Slot(first_gradient + part); }

// A valid call, (2, 1) heads and groups, 4 queries, 6 keys, D = 3, Dv = 2, of which one thing is made wrong: an array, or
// a view of it (its data, dtype, axes, shape and strides).
struct Call {
  Case c;
  int64_t draws;  // 0: soft attention
  Pulled pulled;
  Forward given;
  Pullback out;
  fv_problem problem = {};
  fv_array views[slots] = {};
  bool missing[slots] = {};
  int64_t shape[8] = {}, strides[8] = {};  // of the view that is made wrong

  Call(const Case& of, int64_t of_draws) : c(of), draws(of_draws) {
    pulled = pulled_for(c, draws, 1);
    given = forward(c, c.dtype);
    out = empty_parts(c, pulled, c.dtype);
    problem = c.problem();
    const Tensor* const tensors[] = {&c.key,           &c.value,      &given.output, &given.lse,
                                     &pulled.d_output, &pulled.d_lse, &pulled.index, &pulled.advantage};
    for (int slot = 0; slot < slots; ++slot) {
      const Tensor& x = slot < first_gradient ? *tensors[slot] : out.part[slot - first_gradient];
      missing[slot] = !x.view();
      if (x.view()) views[slot] = *x.view();
    }
  }
  Call(const Call&) = delete;

  const fv_array* view(Slot slot) const { return missing[slot] ? nullptr : &views[slot]; }
  // The view with a shape and strides that may be changed.
  fv_array& own(Slot slot) {
    fv_array& x = views[slot];
    missing[slot] = false;
    for (int axis = 0; axis < x.ndim; ++axis) {
      shape[axis] = x.shape[axis];
      strides[axis] = x.strides[axis];
    }
    x.shape = shape;
    x.strides = strides;
    return x;
  }
  fv_status run(fv_error& error) {
    problem.key = view(a_key);
    problem.value = view(a_value);
    fv_gradients g = {};
    const fv_array** const fields[] = {&g.query, &g.key, &g.value, &g.mask, &g.sink, &g.factors, &g.centers, &g.sigma};
    for (int part = 0; part < part_count; ++part) *fields[part] = view(gradient(Part(part)));
    if (draws)
      return fv_hard_attention_backward(&problem, draws, view(an_index), view(an_lse), view(a_d_out),
                                        view(an_advantage), &g, &error);
    return fv_attention_backward(&problem, view(an_out), view(an_lse), view(a_d_out), view(a_d_lse), &g, &error);
  }
};

struct Wrong {
  std::string what, named;
  fv_status status;
  std::function<void(Call&)> apply;
};

void check(Report& report, const std::string& title, const Case& c, int64_t draws, const Wrong& wrong) {
  Call call(c, draws);
  const Pullback before = call.out;
  wrong.apply(call);
  fv_error error = {};
  const fv_status status = call.run(error);
  bool untouched = true;
  for (int part = 0; part < part_count; ++part)
    untouched = untouched && call.out.part[part].same_bits(before.part[part]);
  const std::string start = wrong.named + ": got";
  report.that(title + wrong.named + ", " + wrong.what,
              status == wrong.status && std::strncmp(error.message, start.c_str(), start.size()) == 0 && untouched,
              std::to_string(status) + ": " + error.message + (untouched ? "" : " (written)"));
}

// What is wrong with any array. numbers: a float array of a dtype that may be chosen.
std::vector<Wrong> of_array(const std::string& name, Slot slot, bool optional, bool numbers) {
  std::vector<Wrong> all;
  const auto add = [&](const char* what, fv_status status, const std::function<void(Call&, fv_array&)>& change) {
    all.push_back({what, name, status, [=](Call& call) { change(call, call.own(slot)); }});
  };
  if (!optional) all.push_back({"none", name, FV_VALUE_ERROR, [=](Call& call) { call.missing[slot] = true; }});
  add("bools", FV_TYPE_ERROR, [](Call&, fv_array& x) { x.dtype = FV_BOOL; });
  add("another width", FV_TYPE_ERROR, [=](Call&, fv_array& x) {
    if (numbers)
      x.dtype = x.dtype == FV_FLOAT64 ? FV_FLOAT16 : FV_FLOAT64;
    else
      x.dtype = x.dtype == FV_INT64 ? FV_FLOAT32 : FV_FLOAT16;
  });
  add("an axis less", FV_VALUE_ERROR, [](Call&, fv_array& x) { --x.ndim; });
  add("-1 axes", FV_VALUE_ERROR, [](Call&, fv_array& x) { x.ndim = -1; });
  add("another extent", FV_VALUE_ERROR, [](Call& call, fv_array& x) { --call.shape[x.ndim - 1]; });
  add("another leading extent", FV_VALUE_ERROR, [](Call& call, fv_array&) { --call.shape[0]; });
  add("a negative extent", FV_VALUE_ERROR, [](Call& call, fv_array&) { call.shape[0] = -1; });
  add("no shape", FV_VALUE_ERROR, [](Call&, fv_array& x) { x.shape = nullptr; });
  add("no strides", FV_VALUE_ERROR, [](Call&, fv_array& x) { x.strides = nullptr; });
  add("no data", FV_VALUE_ERROR, [](Call&, fv_array& x) { x.data = nullptr; });
  return all;
}

// And of one that is written.
std::vector<Wrong> of_gradient(Part part) {
  const Slot slot = gradient(part);
  std::vector<Wrong> all = of_array(name_of(part), slot, true, part <= of_value);
  all.push_back({"a stride of 0", name_of(part), FV_VALUE_ERROR, [=](Call& call) {
                   call.own(slot);
                   call.strides[0] = 0;
                 }});
  return all;
}

// A gradient of what the problem does not have.
Wrong unasked(Part part, const char* what) {
  static const int64_t shape[] = {1}, strides[] = {8};
  static double data;
  return {what, name_of(part), FV_VALUE_ERROR, [=](Call& call) {
            call.missing[gradient(part)] = false;
            call.views[gradient(part)] = {&data, FV_FLOAT64, 1, shape, strides};
          }};
}

// One operand for all heads, by a stride of 0 where there should be one head.
std::vector<Wrong> of_strides() {
  return {{"one for all heads", "key", FV_VALUE_ERROR,
           [](Call& call) {
             call.own(a_key);
             call.strides[0] = 0;
           }},
          {"one for all heads", "value", FV_VALUE_ERROR, [](Call& call) {
             call.own(a_value);
             call.strides[0] = 0;
           }}};
}

void append(std::vector<Wrong>& to, const std::vector<Wrong>& more) { to.insert(to.end(), more.begin(), more.end()); }

void test_soft(Report& report, fv_dtype dtype) {
  const std::string title = std::string("backward, refused: ") + name_of(dtype) + ", ";
  Case plain(dtype, 2, 1, 4, 6, 3, 2, 42);
  std::vector<Wrong> all = of_strides();
  append(all, of_array("out", an_out, false, true));
  append(all, of_array("lse", an_lse, false, false));
  append(all, of_array("d_out", a_d_out, false, true));
  append(all, of_array("d_lse", a_d_lse, true, false));
  for (const Part part : {of_query, of_key, of_value}) append(all, of_gradient(part));
  all.push_back(unasked(of_mask, "without a mask"));
  all.push_back(unasked(of_sink, "without a sink"));
  all.push_back(unasked(of_factors, "of an inner product"));
  all.push_back(unasked(of_centers, "without sigma"));
  all.push_back(unasked(of_sigma, "without sigma"));
  for (const Wrong& wrong : all) check(report, title, plain, 0, wrong);

  Case masked = plain;
  masked.mask = Tensor(FV_BOOL, {4, 6}, 1);
  check(report, title, masked, 0, unasked(of_mask, "of a mask of bools"));
  masked.mask = Tensor(dtype, {4, 6});
  masked.sink = Tensor(FV_FLOAT64, {2, 1});
  for (const Part part : {of_mask, of_sink})
    for (const Wrong& wrong : of_gradient(part)) check(report, title, masked, 0, wrong);

  Case local = plain;
  local.kind = kGaussian;
  local.centers = Tensor(FV_FLOAT64, {4}, 2.5);
  local.half_width = 2;
  local.sigma = 0;
  check(report, title, local, 0, unasked(of_centers, "with centers, without sigma"));
  local.sigma = 1;
  for (const Part part : {of_factors, of_centers, of_sigma})
    for (const Wrong& wrong : of_gradient(part)) check(report, title, local, 0, wrong);
}

void test_hard(Report& report, fv_dtype dtype) {
  const std::string title = std::string("hard backward, refused: ") + name_of(dtype) + ", ";
  Case plain(dtype, 2, 1, 4, 6, 3, 2, 42);
  std::vector<Wrong> all = of_strides();
  append(all, of_array("index", an_index, false, false));
  append(all, of_array("lse", an_lse, false, false));
  append(all, of_array("d_out", a_d_out, false, true));
  append(all, of_array("advantage", an_advantage, false, false));
  for (const Part part : {of_query, of_key, of_value}) append(all, of_gradient(part));
  all.push_back(unasked(of_mask, "without a mask"));
  all.push_back(unasked(of_sink, "of hard attention"));
  all.push_back(unasked(of_factors, "of an inner product"));
  all.push_back(unasked(of_sigma, "of hard attention"));
  all.push_back({"of -1", "draws", FV_VALUE_ERROR, [](Call& call) { call.draws = -1; }});
  all.push_back({"beyond the keys", "index", FV_VALUE_ERROR, [](Call& call) { call.pulled.index.set(23, 6); }});
  all.push_back({"below -1", "index", FV_VALUE_ERROR, [](Call& call) { call.pulled.index.set(0, -2); }});
  static const Tensor sink(FV_FLOAT64, {2, 1}), centers(FV_FLOAT64, {4}, 2.5);
  all.push_back({"a sink", "problem", FV_VALUE_ERROR, [](Call& call) { call.problem.sink = sink.view(); }});
  all.push_back({"dropout", "problem", FV_VALUE_ERROR, [](Call& call) { call.problem.dropout = 0.5; }});
  all.push_back({"sigma", "problem", FV_VALUE_ERROR, [](Call& call) {
                   call.problem.reach.centers = centers.view();
                   call.problem.reach.half_width = 2;
                   call.problem.sigma = 1;
                 }});
  all.push_back({"a compact kernel", "problem", FV_VALUE_ERROR, [](Call& call) {
                   call.problem.score.family = FV_DISTANCE;
                   call.problem.score.weighing = FV_BOXCAR;
                   call.problem.score.scale = 1;
                 }});
  for (const Wrong& wrong : all) check(report, title, plain, 3, wrong);
}

// A problem that attention refuses is refused in the same words.
void test_problems(Report& report) {
  const fv_dtype dtype = FV_FLOAT32;
  const Case c(dtype, 2, 1, 4, 6, 3, 2, 42);
  for (const int64_t draws : {0, 3})
    check(report, draws ? "hard backward, refused: " : "backward, refused: ", c, draws,
          {"without an end", "scale", FV_VALUE_ERROR, [](Call& call) { call.problem.score.scale = INFINITY; }});
  const Call call(c, 3);
  const fv_problem problem = c.problem();
  const fv_gradients gradients = {};
  fv_error error = {};
  const auto soft = [&](const fv_problem* p, const fv_gradients* g) {
    return fv_attention_backward(p, call.view(an_out), call.view(an_lse), call.view(a_d_out), nullptr, g, &error);
  };
  const auto hard = [&](const fv_problem* p, const fv_gradients* g) {
    return fv_hard_attention_backward(p, 3, call.view(an_index), call.view(an_lse), call.view(a_d_out),
                                      call.view(an_advantage), g, &error);
  };
  const auto says = [&](const char* start) { return std::strncmp(error.message, start, std::strlen(start)) == 0; };
  report.that("backward, refused: no problem",
              soft(nullptr, &gradients) == FV_VALUE_ERROR && says("problem: got none"));
  report.that("backward, refused: no gradients",
              soft(&problem, nullptr) == FV_VALUE_ERROR && says("gradients: got none"));
  report.that("hard backward, refused: no problem",
              hard(nullptr, &gradients) == FV_VALUE_ERROR && says("problem: got none"));
  report.that("hard backward, refused: no gradients",
              hard(&problem, nullptr) == FV_VALUE_ERROR && says("gradients: got none"));
}

}  // namespace

void test_backward_refusals(Report& report) {
  for (const fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_BFLOAT16}) {
    test_soft(report, dtype);
    test_hard(report, dtype);
  }
  test_problems(report);
}

}  // namespace kernel_tests
