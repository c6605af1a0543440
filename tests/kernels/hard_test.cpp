// fv_hard_attention: choices against the weights of the formula, over dtypes, reaches and layouts; how often keys are
// drawn.
//
// Tolerance of a log_prob: the score is a sum of D products, of which each addition may be off by half a spacing of the
// largest partial sum, at most D * 8 here (queries up to 4, keys up to 2), times the scale 1 / sqrt(D): 4 D^1.5 spacings of
// 1; once for the score and once for the logarithm of the denominator; 16 more for the exponentials, the logarithms and a
// bias; and the rounding of the log_prob itself.
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "compare.hpp"
#include "reaches.hpp"

namespace kernel_tests {
namespace {

constexpr int64_t lengths[] = {1, 2, 7, 16, 17, 33, 65, 169, 340};
constexpr int64_t head_sizes[] = {8, 1, 16, 3, 64};
constexpr fv_random key = {{0x0123456789abcdefu, 42}};

struct Choice {
  Tensor output, index, log_prob;
  fv_status status;
};

Choice choose(const Case& c, fv_selection selection, int64_t draws, int32_t threads = 0) {
  Choice r = {Tensor(c.dtype, {c.heads, c.groups, c.queries, draws, c.value_size}, 7.0),
              Tensor(FV_INT64, {c.heads, c.groups, c.queries, draws}, 7.0),
              Tensor(lse_dtype(c.dtype), {c.heads, c.groups, c.queries, draws}, 7.0), FV_OK};
  fv_set_num_threads(threads);
  const fv_problem problem = c.problem();
  fv_error error = {};
  r.status =
      fv_hard_attention(&problem, selection, &key, draws, r.output.view(), r.index.view(), r.log_prob.view(), &error);
  if (r.status != FV_OK) std::printf("        %s\n", error.message);
  fv_set_num_threads(0);
  return r;
}

// The worst of what may be off, as a share of what is allowed; infinity for a wrong choice or value.
double judge(const Case& c, const Answer& a, const Choice& r, fv_selection selection, int64_t draws) {
  if (r.status != FV_OK) return INFINITY;
  const double spacing = epsilon_of(lse_dtype(c.dtype));
  const double allowed = spacing * (16 + 8 * std::pow(double(c.head_size), 1.5));
  double worst = 0;
  for (int64_t cell = 0; cell < r.index.count(); ++cell) {
    const int64_t row = cell / draws, head = row / c.queries / c.groups, j = int64_t(r.index.get(cell));
    const double* weights = a.weights.data() + row * c.keys;
    const bool several = selection == FV_TOP || selection == FV_DISTINCT;
    std::vector<double> ranked(weights, weights + c.keys);
    std::sort(ranked.begin(), ranked.end(), std::greater<double>());
    const int64_t rank = several ? cell % draws : 0;
    const double largest = rank < c.keys ? ranked[size_t(rank)] : 0;
    if (largest == 0) {
      bool nothing = j == -1 && r.log_prob.get(cell) == (several ? -INFINITY : 0);
      for (int64_t d = 0; d < c.value_size; ++d) nothing = nothing && r.output.get(cell * c.value_size + d) == 0;
      if (!nothing) return INFINITY;
      continue;
    }
    if (j < 0 || j >= c.keys || weights[j] == 0) return INFINITY;
    for (int64_t d = 0; d < c.value_size; ++d)
      if (r.output.get(cell * c.value_size + d) != c.value.get((head * c.keys + j) * c.value_size + d)) return INFINITY;
    const double log_weight = std::log(weights[j]);
    const double off = std::fabs(r.log_prob.get(cell) - log_weight);
    worst = std::fmax(worst, or_infinity(off / (allowed + spacing * std::fabs(log_weight))));
    for (int64_t n = cell - rank; n < cell; ++n)
      if (r.index.get(n) == double(j)) return INFINITY;
    if (selection == FV_ARGMAX || selection == FV_TOP)
      worst = std::fmax(worst, (std::log(largest) - log_weight) / (2 * allowed));
  }
  return worst;
}

void test_choices(Report& report, const std::vector<std::string>& isas, fv_dtype dtype, const Variant& variant) {
  std::vector<double> worst(isas.size());
  bool same = true;
  // float64 shorter and without groups: its truth, in long double, takes long where the hardware has none
  const int64_t cases = dtype == FV_FLOAT64 ? 6 : 9;
  for (int64_t n = 0; n < cases; ++n) {
    const int64_t groups = dtype == FV_FLOAT64 ? 1 : 1 + n % 3;
    Case c(dtype, 2, groups, lengths[n], lengths[(n * 5 + 3) % 9], head_sizes[n % 5], 1 + n, uint64_t(n + 1));
    variant.apply(c);
    c.sigma = 0;  // which goes with a sum of values
    if (c.sink.view()) return;
    const Answer a = exact(c);
    for (size_t i = 0; i < isas.size(); ++i) {
      fv_error error;
      fv_isa_select(isas[i].c_str(), &error);
      for (const fv_selection selection : {FV_ARGMAX, FV_SAMPLE, FV_TOP, FV_DISTINCT}) {
        const int64_t draws = selection == FV_ARGMAX ? 1 : selection == FV_TOP ? 40 : 3;
        const Choice r = choose(c, selection, draws, 2), alone = choose(c, selection, draws, 1);
        worst[i] = std::fmax(worst[i], judge(c, a, r, selection, draws));
        same = same && r.index.same_bits(alone.index) && r.log_prob.same_bits(alone.log_prob);
      }
    }
  }
  const std::string title = std::string("hard, ") + name_of(dtype) + ", " + variant.name;
  for (size_t i = 0; i < isas.size(); ++i) report.bounded(isas[i] + ": " + title, worst[i], "some case");
  report.that(title + ": the same on 1 and 2 threads", same);
}

// Each key's share of 2^17 draws within 6 standard deviations: of 350 counts one is not with a chance of 7e-7.
void test_shares(Report& report, const std::string& isa) {
  constexpr int64_t rows = 1 << 13, draws = 16, keys = 350;
  Case c(FV_FLOAT32, 1, 1, rows, keys, 1, 1, 9);
  for (int64_t i = 0; i < rows; ++i) c.query.set(i, 1.5);
  const Choice r = choose(c, FV_SAMPLE, draws);
  std::vector<double> weight(keys), count(keys);
  double sum = 0;
  for (int64_t j = 0; j < keys; ++j) sum += weight[size_t(j)] = std::exp(1.5 * c.key.get(j));
  for (int64_t n = 0; n < r.index.count(); ++n) ++count[size_t(r.index.get(n))];
  double worst = 0;
  for (size_t j = 0; j < size_t(keys); ++j) {
    const double p = weight[j] / sum, n = double(rows * draws);
    worst = std::fmax(worst, std::fabs(count[j] - n * p) / std::sqrt(n * p * (1 - p)));
  }
  report.bounded(isa + ": hard, the shares of the draws", worst / 6, "some key");
}

Tensor rows_of(const Tensor& x, int64_t first, int64_t count) {
  const int64_t size = x.shape().back();
  Tensor part(x.dtype(), {1, 1, count, size});
  for (int64_t i = 0; i < count * size; ++i) part.set(i, x.get(first * size + i));
  return part;
}

// Draws from parts of the keys, one after the other, are bit for bit those from all: of queries that are a part, too.
void test_parts(Report& report, const std::string& isa, fv_dtype dtype) {
  constexpr int64_t queries = 9, keys = 700, draws = 5, first_row = 4, some = queries - first_row;
  const Case c(dtype, 1, 1, queries, keys, 8, 3, 11);
  const Choice whole = choose(c, FV_SAMPLE, draws);
  Tensor index(FV_INT64, {1, 1, some, draws}), sums;
  fv_error error = {};
  bool done = true;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 168}, {168, 504}, {504, keys}}) {
    const Tensor query = rows_of(c.query, first_row, some), part_keys = rows_of(c.key, begin, end - begin),
                 values = rows_of(c.value, begin, end - begin);
    const Tensor before = sums;
    sums = Tensor(FV_FLOAT64, {1, 1, some, 3});
    Tensor output(dtype, {1, 1, some, draws, 3}), drawn(FV_INT64, {1, 1, some, draws}),
        scores(FV_FLOAT64, {1, 1, some, draws});
    fv_problem part = c.problem();
    part.query = query.view();
    part.key = part_keys.view();
    part.value = values.view();
    part.first_row = first_row;
    part.first_key = begin;
    part.before = before.view();
    part.after = sums.view();
    part.gives_scores = 1;
    done &=
        fv_hard_attention(&part, FV_SAMPLE, &key, draws, output.view(), drawn.view(), scores.view(), &error) == FV_OK;
    for (int64_t n = 0; n < index.count(); ++n)
      if (drawn.get(n) >= 0) index.set(n, drawn.get(n) + double(begin));
  }
  for (int64_t n = 0; n < index.count(); ++n) done &= index.get(n) == whole.index.get(first_row * draws + n);
  report.that(isa + ": hard, " + name_of(dtype) + ", draws from parts of the keys", done);
}

// A tile of keys in the middle that no query sees: the first queries look before it, the others behind.
void test_gap(Report& report, const std::string& isa, fv_dtype dtype) {
  Case c(dtype, 8, 1, 90, 500, 8, 3, 12);  // so many that a task takes all queries of a head
  c.query_segments = Tensor(FV_INT64, {90});
  c.key_segments = Tensor(FV_INT64, {500});
  for (int64_t i = 0; i < 90; ++i) c.query_segments.set(i, i < 32 ? 0 : 2);
  for (int64_t j = 0; j < 500; ++j) c.key_segments.set(j, j < 20 ? 0 : j < 336 ? 1 : 2);
  const Answer a = exact(c);
  for (const fv_selection selection : {FV_ARGMAX, FV_SAMPLE, FV_TOP}) {
    const int64_t draws = selection == FV_ARGMAX ? 1 : 3;
    report.bounded(isa + ": hard, " + name_of(dtype) + ", a tile that none sees",
                   judge(c, a, choose(c, selection, draws, 1), selection, draws), "some case");
  }
}

// Refused by name, and before anything is written.
void test_refused(Report& report) {
  struct Wrong {
    const char* named;
    fv_status status;
    std::function<void(Case&, fv_selection&, int64_t&, Tensor&, Tensor&, Tensor&)> apply;
  };
  const auto given = [](auto&&... tensors) { return std::vector<const Tensor*>{&tensors...}; };
  const Wrong all[] = {
      {"selection", FV_VALUE_ERROR, [](Case&, fv_selection& s, auto&...) { s = fv_selection(7); }},
      {"draws", FV_VALUE_ERROR, [](Case&, fv_selection&, int64_t& n, auto&...) { n = -1; }},
      {"draws", FV_VALUE_ERROR, [](Case&, fv_selection& s, auto&...) { s = FV_ARGMAX; }},
      {"draws", FV_VALUE_ERROR, [](Case&, fv_selection& s, int64_t& n, auto&...) { s = FV_TOP, n = 1025; }},
      {"draws", FV_NO_MEMORY, [](Case&, fv_selection&, int64_t& n, auto&...) { n = INT64_MAX / 8; }},
      {"sink", FV_VALUE_ERROR, [](Case& c, auto&...) { c.sink = Tensor(FV_FLOAT64, {1, 1}); }},
      {"compact", FV_VALUE_ERROR,
       [](Case& c, auto&...) {
         c.kind = kBoxcar;
         c.scale = 1;
       }},
      {"out", FV_TYPE_ERROR, [](Case&, fv_selection&, int64_t&, Tensor& x, auto&...) { x = x.as(FV_INT64); }},
      {"index", FV_TYPE_ERROR,
       [](Case&, fv_selection&, int64_t&, Tensor&, Tensor& x, Tensor&) { x = x.as(FV_FLOAT32); }},
      {"log_prob", FV_TYPE_ERROR,
       [](Case&, fv_selection&, int64_t&, Tensor&, Tensor&, Tensor& x) { x = x.as(FV_FLOAT64); }},
      {"out", FV_VALUE_ERROR,
       [](Case&, fv_selection&, int64_t&, Tensor& x, auto&...) { x = Tensor(FV_FLOAT32, {1, 1, 4, 2}, 7); }},
      {"index", FV_VALUE_ERROR,
       [](Case&, fv_selection&, int64_t&, Tensor&, Tensor& x, Tensor&) { x = Tensor(FV_INT64, {1, 1, 4}, 7); }},
  };
  for (const Wrong& wrong : all) {
    Case c(FV_FLOAT32, 1, 1, 4, 6, 3, 2, 42);
    fv_selection selection = FV_SAMPLE;
    int64_t draws = 3;
    Tensor out(FV_FLOAT32, {1, 1, 4, 3, 2}, 7), index(FV_INT64, {1, 1, 4, 3}, 7), log_prob(FV_FLOAT32, {1, 1, 4, 3}, 7);
    wrong.apply(c, selection, draws, out, index, log_prob);
    const Tensor before[3] = {out, index, log_prob};
    const fv_problem problem = c.problem();
    fv_error error = {};
    const fv_status status =
        fv_hard_attention(&problem, selection, &key, draws, out.view(), index.view(), log_prob.view(), &error);
    bool untouched = true;
    int i = 0;
    for (const Tensor* x : given(out, index, log_prob)) untouched = untouched && x->same_bits(before[i++]);
    report.that(
        std::string("hard, refused: ") + wrong.named,
        status == wrong.status && std::string(error.message).find(wrong.named) != std::string::npos && untouched,
        std::to_string(status) + ": " + error.message);
  }
  Case c(FV_FLOAT32, 1, 1, 4, 6, 3, 2, 42);
  const fv_problem problem = c.problem();
  Tensor out(FV_FLOAT32, {1, 1, 4, 1, 2}), index(FV_INT64, {1, 1, 4, 1}), log_prob(FV_FLOAT32, {1, 1, 4, 1});
  fv_error error = {};
  const fv_status status =
      fv_hard_attention(&problem, FV_SAMPLE, nullptr, 1, out.view(), index.view(), log_prob.view(), &error);
  report.that("hard, refused: random", status == FV_VALUE_ERROR && std::string(error.message).find("random") == 0);
}

}  // namespace

void test_hard(Report& report, const std::vector<std::string>& isas) {
  test_refused(report);
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16})
    for (const Variant& variant : variants()) test_choices(report, isas, dtype, variant);
  for (const std::string& isa : isas) {
    fv_error error;
    fv_isa_select(isa.c_str(), &error);
    test_shares(report, isa);
    for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_BFLOAT16}) {
      test_parts(report, isa, dtype);
      test_gap(report, isa, dtype);
    }
  }
}

}  // namespace kernel_tests
