// The backward pass at the edges: what is not seen, layouts, masks that broadcast, leading axes of key and value that
// differ, shapes with no element.
#include <algorithm>
#include <cmath>
#include <functional>

#include "backward_call.hpp"
#include "compare.hpp"

namespace kernel_tests {
namespace {

// All within the tolerance of backward_test.cpp except what it takes from the plain formula.
bool within(const Pullback& r, const Gradients& wanted, fv_dtype dtype) {
  bool all = r.status == FV_OK;
  for (int part = 0; part < part_count; ++part)
    for (int64_t i = 0; i < r.part[part].count(); ++i)
      all = all && std::fabs(r.part[part].get(i) - wanted.value[part][size_t(i)]) <=
                       40 * epsilon_of(lse_dtype(dtype)) * wanted.size[part][size_t(i)];
  return all;
}

bool all_zero(const Tensor& x, int64_t first, int64_t count) {
  bool zero = true;
  for (int64_t i = first; i < first + count; ++i) zero = zero && x.get(i) == 0;
  return zero;
}

// Sets columns of a row, every second of them to the other.
void spoil(Tensor& x, int64_t row, int64_t columns, double one, double other) {
  for (int64_t d = 0; d < columns; ++d) x.set(row * columns + d, d % 2 ? one : other);
}

struct Kind {
  const char* name;
  ScoreKind kind;
  std::function<void(Case&)> apply;
};

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      {"dot, softcap, float mask", kDot,
       [](Case& c) {
         c.softcap = 2;
         c.mask = Tensor::random(c.dtype, {c.queries, c.keys}, 1.0, 3);
       }},
      {"tanh", kTanh, [](Case& c) { c.factors = Tensor::random(lse_dtype(c.dtype), {c.head_size}, 1.0, 4); }},
      {"relu", kRelu, [](Case& c) { c.factors = Tensor::random(lse_dtype(c.dtype), {c.head_size}, 1.0, 5); }},
      {"gaussian, centers, sigma", kGaussian,
       [](Case& c) {
         c.centers = Tensor(FV_FLOAT64, {c.heads, 1, c.queries});
         for (int64_t i = 0; i < c.centers.count(); ++i) c.centers.set(i, double(i * 11 % 120) + 0.25);
         c.half_width = 90;
         c.sigma = 40;
       }},
      {"epanechnikov", kEpanechnikov,
       [](Case& c) { c.factors = Tensor::random(lse_dtype(c.dtype), {c.head_size}, 0.2, 6); }},
      {"tricube", kTricube, [](Case& c) { c.factors = Tensor::random(lse_dtype(c.dtype), {c.head_size}, 0.2, 6); }},
  };
  return all;
}

Case of_kind(const Kind& kind, fv_dtype dtype, int64_t queries, int64_t keys, int64_t size, int64_t value_size,
             uint64_t seed, int64_t heads = 2) {
  Case c(dtype, heads, 2, queries, keys, size, value_size, seed);
  c.kind = kind.kind;
  if (kind.kind != kDot || size == 0) c.scale = 1;
  kind.apply(c);
  return c;
}

// Draws that the kind takes: 0 is soft attention.
std::vector<int64_t> draws_of(const Case& c) {
  return c.compact() || c.sigma > 0 || c.sink.view() ? std::vector<int64_t>{0} : std::vector<int64_t>{0, 2};
}

// Keys from 190 on are seen by nobody, and query 5 sees nothing. What they hold, NaN and infinities, and what comes back
// to query 5, changes nothing; their own gradients are 0.
void test_not_seen(Report& report, const std::string& title, fv_dtype dtype) {
  constexpr int64_t blind = 5, valid = 190;
  for (const Kind& kind : kinds()) {
    Case c = of_kind(kind, dtype, 67, 250, 24, 20, 21);
    const bool floats = c.mask.view();
    if (!floats) c.mask = Tensor(FV_BOOL, {c.queries, c.keys}, 1);
    for (int64_t j = 0; j < c.keys; ++j) c.mask.set(blind * c.keys + j, floats ? -INFINITY : 0);
    c.key_lengths = Tensor(FV_INT64, {c.heads, 1}, valid);
    c.right = 0;
    c.offset_at_end = true;
    for (const int64_t draws : draws_of(c)) {
      Case spoilt = c;
      Pulled pulled = pulled_for(c, draws, 22), pulled_spoilt = pulled;
      const Forward given = forward(c, lse_dtype(dtype)), given_spoilt = given;
      for (int64_t head = 0; head < c.heads; ++head)
        for (int64_t j = valid; j < c.keys; ++j) {
          spoil(spoilt.key, head * c.keys + j, c.head_size, NAN, INFINITY);
          spoil(spoilt.value, head * c.keys + j, c.value_size, -INFINITY, NAN);
        }
      for (int64_t lead = 0; lead < c.heads * c.groups; ++lead) {
        const int64_t row = lead * c.queries + blind;
        spoil(spoilt.query, row, c.head_size, INFINITY, NAN);
        spoil(pulled_spoilt.d_output, row, c.value_size * std::max<int64_t>(draws, 1), NAN, INFINITY);
        if (pulled.d_lse.view()) pulled_spoilt.d_lse.set(row, NAN);
        for (int64_t n = 0; n < draws; ++n) pulled_spoilt.advantage.set(row * draws + n, NAN);
      }
      const Pullback clean = pull_back(c, given, pulled, dtype);
      const std::string line = title + kind.name + (draws ? ", hard" : "");
      report.that(line + ", what is not seen changes nothing",
                  same(clean, pull_back(spoilt, given_spoilt, pulled_spoilt, dtype)));
      bool zero = clean.status == FV_OK;
      for (int64_t lead = 0; lead < c.heads * c.groups; ++lead)
        zero = zero && all_zero(clean.part[of_query], (lead * c.queries + blind) * c.head_size, c.head_size);
      for (int64_t head = 0; head < c.heads; ++head) {
        const int64_t first = head * c.keys + valid, count = c.keys - valid;
        zero = zero && all_zero(clean.part[of_key], first * c.head_size, count * c.head_size) &&
               all_zero(clean.part[of_value], first * c.value_size, count * c.value_size);
      }
      if (floats) zero = zero && all_zero(clean.part[of_mask], blind * c.keys, c.keys);
      report.that(line + ", and has gradients of 0", zero);
    }
  }
}

// Gaps, odd addresses, rows that run backwards: of what comes in and of what goes out.
void test_layouts(Report& report, const std::string& title, fv_dtype dtype) {
  for (const Kind& kind : kinds()) {
    Case c = of_kind(kind, dtype, 35, 180, 10, 6, 31);
    for (const int64_t draws : draws_of(c)) {
      Pulled pulled = pulled_for(c, draws, 32);
      Forward given = forward(c, lse_dtype(dtype));
      const Pullback dense = pull_back(c, given, pulled, dtype);
      Case moved = c;
      for (Tensor* x : {&moved.query, &moved.key, &moved.value, &moved.mask, &given.output, &given.lse,
                        &pulled.d_output, &pulled.d_lse, &pulled.index, &pulled.advantage})
        if (x->view()) *x = x->scattered();
      Pullback there = empty_parts(c, pulled, dtype);
      for (Tensor& x : there.part)
        if (x.view() && x.shape().size() > 1) x = x.scattered();
      there.status = pull_back(moved.problem(), given, pulled, views_of(there));
      bool equal = dense.status == FV_OK && there.status == FV_OK;
      for (int part = 0; part < part_count; ++part)
        for (int64_t i = 0; i < dense.part[part].count(); ++i)
          equal = equal && dense.part[part].get(i) == there.part[part].get(i);
      report.that(title + kind.name + (draws ? ", hard" : "") + ", the same numbers in any layout", equal);
    }
  }
}

// A mask of fewer axes, or axes of 1: the sums over those of the gradient of the whole mask. n additions of floats are off
// by half a spacing each, at most, of the sum of the absolute values.
void test_masks(Report& report, const std::string& title, fv_dtype dtype) {
  constexpr int64_t heads = 2, groups = 2, queries = 40, keys = 200;
  const Shape shapes[] = {{queries, 1},
                          {1, keys},
                          {1, 1},
                          {heads, 1, queries, keys},
                          {heads, groups, 1, keys},
                          {1, groups, queries, 1},
                          {heads, groups, queries, keys}};
  for (const Shape& shape : shapes) {
    Case c(dtype, heads, groups, queries, keys, 8, 4, 41);
    const Tensor mask = Tensor::random(dtype, shape, 1.0, 42);
    Case whole = c;
    whole.mask = Tensor(dtype, {heads, groups, queries, keys});
    const auto place = [&](int64_t n) {  // in the mask, of element n of the whole
      const int64_t index[] = {n / keys / queries / groups, n / keys / queries % groups, n / keys % queries, n % keys};
      int64_t at = 0;
      for (size_t axis = 0; axis < shape.size(); ++axis)
        at = at * shape[axis] + (shape[axis] == 1 ? 0 : index[axis + 4 - shape.size()]);
      return at;
    };
    for (int64_t n = 0; n < whole.mask.count(); ++n) whole.mask.set(n, mask.get(place(n)));
    c.mask = mask;
    const Pulled pulled = pulled_for(c, 0, 43);
    const Forward given = forward(c, lse_dtype(dtype));
    const auto gradient = [&](const Case& of, int32_t threads) {
      Pullback r = empty_parts(of, pulled, dtype);
      r.part[of_mask] = Tensor(lse_dtype(dtype), of.mask.shape());
      r.status = pull_back(of.problem(), given, pulled, views_of(r), threads);
      return r;
    };
    const Pullback one = gradient(c, 1), all = gradient(whole, 1);
    const Tensor& d_mask = one.part[of_mask];
    std::vector<double> sum(size_t(d_mask.count())), size(sum);
    for (int64_t n = 0; n < whole.mask.count(); ++n) {
      sum[size_t(place(n))] += all.part[of_mask].get(n);
      size[size_t(place(n))] += std::fabs(all.part[of_mask].get(n));
    }
    const double terms = double(whole.mask.count() / d_mask.count());
    bool equal = all.status == FV_OK;
    for (int64_t i = 0; i < d_mask.count(); ++i)
      equal = equal &&
              std::fabs(d_mask.get(i) - sum[size_t(i)]) <= terms / 2 * epsilon_of(lse_dtype(dtype)) * size[size_t(i)];
    std::string text = "mask";
    for (int64_t extent : shape) text += " " + std::to_string(extent);
    report.that(title + text + ", the sum over what it is broadcast over", equal);
    report.that(title + text + ", the same bits on 1 and 2 threads", same(one, gradient(c, 2)));
  }
}

// One key or one value for all heads: the gradient of each has the heads of both, whose sum is that of the one; every
// element is written, also where D or Dv is 0, and the strides of an array of no element tell nothing of its heads.
void test_leads(Report& report, const std::string& title, fv_dtype dtype) {
  const struct {
    int64_t size, value_size;
  } shapes[] = {{5, 4}, {0, 4}, {5, 0}};
  for (const auto& shape : shapes)
    for (const Part part : {of_key, of_value}) {
      Case c(dtype, 3, 2, 37, 190, shape.size, shape.value_size, 51);
      c.scale = 1;
      Tensor& shared = part == of_key ? c.key : c.value;
      Shape of_one = shared.shape();
      of_one[0] = 1;
      Tensor single(dtype, of_one);
      const int64_t one = single.count();
      for (int64_t i = 0; i < shared.count(); ++i) shared.set(i, shared.get(i % one));
      for (int64_t i = 0; i < one; ++i) single.set(i, shared.get(i));
      const Pulled pulled = pulled_for(c, 0, 52);
      fv_problem problem = c.problem();
      (part == of_key ? problem.key : problem.value) = single.view();
      Pullback r = empty_parts(c, pulled, lse_dtype(dtype));
      r.status = pull_back(problem, forward(c, lse_dtype(dtype)), pulled, views_of(r));
      const Gradients wanted = differentiate(c, pulled).exact;
      report.that(title + "one " + (part == of_key ? "key" : "value") + " for all heads, D = " +
                      std::to_string(shape.size) + ", Dv = " + std::to_string(shape.value_size),
                  within(r, wanted, dtype));
    }
}

// Gradients of arrays of no element, and those of the others, which are written all the same.
void test_nothing(Report& report, const std::string& title, fv_dtype dtype) {
  const struct {
    const char* what;
    int64_t heads, queries, keys, size, value_size;
  } shapes[] = {{"no queries", 2, 0, 9, 4, 3},
                {"no keys", 2, 5, 0, 4, 3},
                {"no columns", 2, 5, 9, 0, 3},
                {"values of no columns", 2, 5, 9, 4, 0},
                {"no heads", 0, 5, 9, 4, 3}};
  std::vector<Kind> all = kinds();
  all.push_back({"sink", kDot, [](Case& c) { c.sink = Tensor(FV_FLOAT64, {c.heads, c.groups}, 0.5); }});
  for (const auto& shape : shapes)
    for (const Kind& kind : all) {
      const Case c = of_kind(kind, dtype, shape.queries, shape.keys, shape.size, shape.value_size, 61, shape.heads);
      for (const int64_t draws : draws_of(c)) {
        const Pulled pulled = pulled_for(c, draws, 62);
        const Pullback r = pull_back(c, forward(c, lse_dtype(dtype)), pulled, lse_dtype(dtype));
        report.that(title + shape.what + ", " + kind.name + (draws ? ", hard" : ""),
                    within(r, differentiate(c, pulled).exact, dtype));
      }
    }
}

// Gradients of no element, of whatever strides: the memory that their views point at is not theirs.
void test_nothing_is_written(Report& report, const std::string& title, fv_dtype dtype) {
  const struct {
    const char* what;
    int64_t heads, queries, keys;
  } shapes[] = {{"no heads", 0, 3, 5}, {"no heads and no queries", 0, 0, 5}, {"no keys", 2, 3, 0}};
  for (const auto& shape : shapes)
    for (const Kind& kind : kinds())
      for (const int64_t draws : {0, 2}) {
        const Case c = of_kind(kind, dtype, shape.queries, shape.keys, 4, 4, 63, shape.heads);
        if (draws && draws_of(c).size() == 1) continue;
        const Pulled pulled = pulled_for(c, draws, 62);
        const Forward given = forward(c, lse_dtype(dtype));
        const int64_t item = size_of(dtype), extents[] = {shape.heads, 1, shape.keys, 4};
        const int64_t none[4] = {}, some[4] = {shape.keys * 4 * item, 4 * item, 4 * item, item};
        for (const int64_t* strides : {none, some}) {
          Tensor d_query(lse_dtype(dtype), {shape.heads, 2, shape.queries, 4}, NAN), memory(FV_FLOAT64, {64}, 7);
          const Tensor before = memory;
          const fv_array view = {memory.view()->data, dtype, 4, extents, strides};
          fv_gradients gradients = {};
          gradients.query = d_query.view();
          gradients.key = gradients.value = &view;
          const fv_status status = pull_back(c.problem(), given, pulled, gradients);
          report.that(title + shape.what + ", " + kind.name + (draws ? ", hard" : "") + ": nothing else is written",
                      status == FV_OK && memory.same_bits(before) && all_zero(d_query, 0, d_query.count()));
        }
      }
}

// So many queries and keys that a task takes some of the blocks of queries alone: what each of two halves of the queries
// gives, together. float64 sums of 1,200 terms of a size of 1 are off by some 1e-13; a stretch that is left out, by 1.
void test_stretches(Report& report, const std::string& title) {
  constexpr int64_t queries = 1280, half = queries / 2, keys = 505, size = 64;
  Case c(FV_FLOAT64, 1, 1, queries, keys, size, size, 81);
  c.kind = kTanh;
  c.factors = Tensor::random(FV_FLOAT64, {size}, 1.0, 82);
  const Pulled pulled = pulled_for(c, 0, 82);
  const Forward given = forward(c, FV_FLOAT64);
  const Pullback whole = pull_back(c, given, pulled, FV_FLOAT64, every_part, 1);
  report.that(title + "stretches of queries, the same bits on 1 and 2 threads",
              same(whole, pull_back(c, given, pulled, FV_FLOAT64, every_part, 2)));
  const auto part_of = [](const Tensor& x, int64_t first, int64_t columns) {
    Tensor t(FV_FLOAT64, x.shape().size() == 4 ? Shape{1, 1, half, columns} : Shape{1, 1, half});
    for (int64_t i = 0; i < t.count(); ++i) t.set(i, x.get(first * columns + i));
    return t;
  };
  double off = 0;
  std::vector<double> sums[part_count];
  for (const Part part : {of_key, of_value, of_factors}) sums[part].resize(size_t(whole.part[part].count()));
  for (const int64_t first : {int64_t(0), half}) {
    Case some = c;
    some.queries = half;
    some.query = part_of(c.query, first, size);
    Pulled some_pulled;
    some_pulled.d_output = part_of(pulled.d_output, first, size);
    if (pulled.d_lse.view()) some_pulled.d_lse = part_of(pulled.d_lse, first, 1);
    const Forward some_given = {part_of(given.output, first, size), part_of(given.lse, first, 1), given.status};
    const Pullback r = pull_back(some, some_given, some_pulled, FV_FLOAT64);
    for (int64_t i = 0; i < half * size; ++i)
      off =
          std::fmax(off, or_infinity(std::fabs(r.part[of_query].get(i) - whole.part[of_query].get(first * size + i))));
    for (const Part part : {of_key, of_value, of_factors})
      for (size_t i = 0; i < sums[part].size(); ++i) sums[part][i] += r.part[part].get(int64_t(i));
  }
  for (const Part part : {of_key, of_value, of_factors})
    for (size_t i = 0; i < sums[part].size(); ++i)
      off = std::fmax(off, or_infinity(std::fabs(sums[part][i] - whole.part[part].get(int64_t(i)))));
  report.bounded(title + "stretches of queries, the sum of them", off / 1e-10, "some element");
}

// Hard attention without a draw.
void test_no_draws(Report& report, const std::string& title, fv_dtype dtype) {
  const Case c(dtype, 2, 1, 5, 9, 4, 3, 71);
  const fv_dtype wide = lse_dtype(dtype);
  const Tensor index(FV_INT64, {2, 1, 5, 0}), advantage(wide, {2, 1, 5, 0}), d_output(dtype, {2, 1, 5, 0, 3});
  const Forward given = forward(c, wide);
  Pullback r = empty_parts(c, {}, wide);
  const fv_gradients views = views_of(r);
  const fv_problem problem = c.problem();
  fv_error error = {};
  r.status = fv_hard_attention_backward(&problem, 0, index.view(), given.lse.view(), d_output.view(), advantage.view(),
                                        &views, &error);
  bool zero = r.status == FV_OK;
  for (const Tensor& x : r.part) zero = zero && all_zero(x, 0, x.count());
  report.that(title + "no draws: gradients of 0", zero, error.message);
}

}  // namespace

void test_backward_edges(Report& report, const std::string& isa) {
  for (const fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_BFLOAT16}) {
    const std::string title = isa + ": gradients, " + name_of(dtype) + ", ";
    test_not_seen(report, title, dtype);
    test_layouts(report, title, dtype);
    test_no_draws(report, title, dtype);
    if (dtype == FV_BFLOAT16) continue;  // whose forward rounds weights
    // not under an emulator, most likely: how queries are cut is no matter of the ISA
    if (dtype == FV_FLOAT64 && long_double_in_hardware) test_stretches(report, title);
    test_masks(report, title, dtype);
    test_leads(report, title, dtype);
    test_nothing(report, title, dtype);
    test_nothing_is_written(report, title, dtype);
  }
}

}  // namespace kernel_tests
