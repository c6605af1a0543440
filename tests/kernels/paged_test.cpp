// Keys and values in pages, through the C ABI: the bits of the same rows in one piece, for any size of a page, every entry
// and family; a table whose numbers are no pages is safe where queries see them, and nothing where they do not.
#include <cmath>
#include <limits>

#include "call.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

// Rows (heads, 1, T * S, D) put into pages (P, 1, S, D) in another order. The first page and one behind the last are NaN.
struct Pages {
  Pages(const Tensor& rows, int64_t size, int64_t lengths, uint64_t seed)
      : table(FV_INT64, {rows.shape()[0], rows.shape()[2] / size}),
        pages(rows.dtype(), {rows.shape()[0] * rows.shape()[2] / size + 2, 1, size, rows.shape()[3]}, NAN) {
    const int64_t count = table.count(), a_row = rows.shape()[3], a_page = size * a_row;
    const int64_t of_a_head = rows.shape()[2] / size;
    int64_t step = int64_t(seed % uint64_t(count)) + 1;
    while (count > 1 && gcd(step, count) != 1) ++step;
    for (int64_t t = 0; t < count; ++t) {
      const int64_t number = 1 + t * step % count;
      const bool seen = t % of_a_head * size < lengths;
      table.set(t, seen ? double(number) : t % 2 ? -1.0 : 1e15);
      for (int64_t i = 0; i < a_page; ++i) pages.set(number * a_page + i, seen ? rows.get(t * a_page + i) : NAN);
    }
  }
  static int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }
  Tensor table, pages;
};

struct Outputs {
  Outputs(const Case& c)
      : output(c.dtype, {c.heads, c.groups, c.queries, c.value_size}, 7.0),
        lse(lse_dtype(c.dtype), {c.heads, c.groups, c.queries}, 7.0),
        weights(c.dtype, {c.heads, c.groups, c.queries, c.keys}, 7.0),
        chosen(c.dtype, {c.heads, c.groups, c.queries, 2, c.value_size}, 7.0),
        index(FV_INT64, {c.heads, c.groups, c.queries, 2}, 7.0),
        log_prob(lse_dtype(c.dtype), {c.heads, c.groups, c.queries, 2}, 7.0) {}

  // Every entry that takes pages; whether none refused.
  bool all_of(fv_problem problem, bool compact) {
    static constexpr fv_random key = {{1, 2}};
    fv_error error = {};
    bool done = fv_attention(&problem, output.view(), compact ? nullptr : lse.view(), &error) == FV_OK;
    if (!compact) {
      done = done && fv_hard_attention(&problem, FV_SAMPLE, &key, 2, chosen.view(), index.view(), log_prob.view(),
                                       &error) == FV_OK;
      problem.value = problem.value_table = nullptr;
      done = done && fv_attention_weights(&problem, weights.view(), &error) == FV_OK;
    }
    if (!done) std::printf("        %s\n", error.message);
    return done;
  }
  bool same(const Outputs& other) const {
    return output.same_bits(other.output) && lse.same_bits(other.lse) && weights.same_bits(other.weights) &&
           chosen.same_bits(other.chosen) && index.same_bits(other.index) && log_prob.same_bits(other.log_prob);
  }
  Tensor output, lse, weights, chosen, index, log_prob;
};

void test_bits(Report& report, const std::string& isa, fv_dtype dtype, ScoreKind kind, double negligible) {
  bool same = true;
  std::string where;
  uint64_t seed = 0;
  for (const int64_t size : {1, 7, 64})
    for (const int64_t queries : {1, 3, 40}) {
      const int64_t keys = 420 / size * size;
      const int64_t length = negligible > 0 ? keys : keys - 2 * size - 1;  // boxes hold what is not seen, too
      Case c(dtype, 2, 1 + queries % 2, queries, keys, 8, 5, ++seed);
      if (kind != kDot && kind.family != FV_DISTANCE) c.factors = Tensor(lse_dtype(dtype), {8}, 0.5);
      if (kind.family == FV_DISTANCE) c.scale = 1;
      c.kind = kind;
      c.negligible = negligible;
      c.key_lengths = Tensor(FV_INT64, {1}, double(length));
      const Pages key(c.key, size, length, seed), value(c.value, size, length, seed + 3);
      Outputs plain(c), paged(c);
      fv_problem problem = c.problem();
      bool right = plain.all_of(problem, c.compact());
      problem.key = key.pages.view();
      problem.key_table = key.table.view();
      problem.value = value.pages.view();
      problem.value_table = value.table.view();
      right = right && paged.all_of(problem, c.compact()) && paged.same(plain);
      if (!right) where = std::to_string(size) + " rows a page, " + c.shape();
      same = same && right;
    }
  report.that(isa + ": pages, " + name_of(dtype) + ", " + name_of(kind) + (negligible > 0 ? ", pruned" : ""), same,
              where);
}

// What a caller may not do, and may do by mistake: numbers that are no pages where queries see them.
void test_wrong_numbers(Report& report, const std::string& isa) {
  bool right = true;
  for (const int64_t queries : {2, 40}) {
    Case c(FV_FLOAT32, 1, 1, queries, 12, 8, 8, 1);
    Tensor pages = Tensor::random(FV_FLOAT32, {3, 1, 4, 8}, 1, 5), table(FV_INT64, {1, 3}), first(FV_INT64, {1, 3});
    table.set(0, -5);
    table.set(1, 3);
    table.set(2, -9e18);
    Outputs wrong(c), wanted(c);
    fv_problem problem = c.problem();
    problem.key = problem.value = pages.view();
    problem.key_table = problem.value_table = table.view();
    right = right && wrong.all_of(problem, false);
    problem.key_table = problem.value_table = first.view();
    right = right && wanted.all_of(problem, false) && wrong.same(wanted);
  }
  report.that(isa + ": pages, numbers that are none's are those of the first", right);
}

void test_refused(Report& report) {
  Case c(FV_FLOAT32, 1, 1, 2, 12, 8, 8, 1);
  const Tensor pages(FV_FLOAT32, {3, 1, 4, 8}), none(FV_FLOAT32, {0, 1, 4, 8}), flat(FV_FLOAT32, {4, 8});
  const Tensor table(FV_INT64, {1, 3}), floats(FV_FLOAT64, {1, 3}), row(FV_INT64, {3}), many(FV_INT64, {1, 2});
  struct {
    const char* named;
    const Tensor &key, &table;
    fv_status status;
  } const wrong[] = {{"key_table: got float64", pages, floats, FV_TYPE_ERROR},
                     {"key_table: got shape (3,)", pages, row, FV_VALUE_ERROR},
                     {"key: got shape (4, 8)", flat, table, FV_VALUE_ERROR},
                     {"key: got no pages", none, table, FV_VALUE_ERROR},
                     {"value: got shape", pages, many, FV_VALUE_ERROR}};
  for (const auto& one : wrong) {
    fv_problem problem = c.problem();
    problem.key = one.key.view();
    problem.key_table = one.table.view();
    fv_error error = {};
    Outputs to(c);
    const fv_status status = fv_attention(&problem, to.output.view(), nullptr, &error);
    report.that(std::string("pages are refused, ") + one.named,
                status == one.status && std::string(error.message).rfind(one.named, 0) == 0, error.message);
  }
}

}  // namespace

void test_paged(Report& report, const std::vector<std::string>& isas) {
  test_refused(report);
  for (const std::string& isa : isas) {
    fv_error error;
    fv_isa_select(isa.c_str(), &error);
    for (const fv_dtype dtype : {FV_FLOAT16, FV_BFLOAT16, FV_FLOAT32, FV_FLOAT64})
      test_bits(report, isa, dtype, kDot, 0);
    test_bits(report, isa, FV_FLOAT32, kTanh, 0);
    test_bits(report, isa, FV_FLOAT32, kGaussian, 0);
    test_bits(report, isa, FV_FLOAT32, kGaussian, 0x1p-24);
    test_bits(report, isa, FV_FLOAT64, kBoxcar, 0);
    test_wrong_numbers(report, isa);
  }
}

}  // namespace kernel_tests
