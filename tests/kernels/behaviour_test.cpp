// What is promised beyond the numbers: the same bits for any number of threads, keys that are not seen change nothing,
// NaN stays in the rows that see it, queries that see no key get 0, and a wrong call is refused before it writes.
#include <cmath>
#include <cstring>

#include "call.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

void test_threads(Report& report, const std::string& title, fv_dtype dtype) {
  const Case many(dtype, 3, 2, 131, 257, 32, 32, 11);
  report.that(title + "1 and 2 threads, the same bits", same(run(many, 1), run(many, 2)));

  // Decode: one query, keys over several chunks; checked against the formula too, as it is another path.
  Case decode(dtype, 2, 4, 1, 9001, 16, 16, 12);
  decode.offset_at_end = true;
  decode.right = 0;
  const Result one = run(decode, 1);
  report.that(title + "decode, the same bits", same(one, run(decode, 2)));
  const Answer truth = exact(decode), yardstick = plain(decode);
  double ours = 0, formula = 0, largest = 0;
  for (int64_t i = 0; i < one.output.count(); ++i) {
    const double wanted = truth.output[size_t(i)], error = std::fabs(one.output.get(i) - wanted);
    ours = error <= ours ? ours : error;  // NaN is kept
    formula = std::fmax(formula, std::fabs(yardstick.output[size_t(i)] - wanted));
    largest = std::fmax(largest, std::fabs(wanted));
  }
  // the tolerance of attention_test.cpp
  report.bounded(title + "decode", ours / (2 * formula + 2 * epsilon_of(dtype) * largest), decode.shape());
}

void test_not_seen(Report& report, const std::string& title, fv_dtype dtype) {
  Case c(dtype, 2, 2, 67, 150, 24, 20, 21);
  c.right = 0;
  c.offset_at_end = true;
  c.key_lengths = Tensor(FV_INT64, {2, 1}, 101);
  const Result clean = run(c);
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t j = 101; j < c.keys; ++j) {
      for (int64_t d = 0; d < c.head_size; ++d)
        c.key.set((head * c.keys + j) * c.head_size + d, d % 2 ? NAN : INFINITY);
      for (int64_t d = 0; d < c.value_size; ++d) c.value.set((head * c.keys + j) * c.value_size + d, NAN);
    }
  }
  report.that(title + "keys that are not seen change nothing", same(clean, run(c)));

  // The causal diagonal: key 100 of head 0 is seen by the last query alone, in a tile that others share.
  c.value.set(100 * c.value_size, NAN);
  const Result poisoned = run(c);
  bool contained = poisoned.status == FV_OK;
  for (int64_t i = 0; i < poisoned.output.count(); ++i) {
    const int64_t row = i / c.value_size % c.queries, head = i / c.value_size / c.queries / c.groups;
    const double x = poisoned.output.get(i);
    if (head == 0 && row == c.queries - 1 && i % c.value_size == 0)
      contained &= std::isnan(x);
    else
      contained &= x == clean.output.get(i);
  }
  report.that(title + "NaN stays where it is seen", contained);
}

void test_no_key(Report& report, const std::string& title, fv_dtype dtype) {
  Case c(dtype, 2, 1, 19, 0, 8, 8, 31);
  Result r = run(c);
  bool zero = r.status == FV_OK;
  for (int64_t i = 0; i < r.output.count(); ++i) zero &= r.output.get(i) == 0;
  for (int64_t i = 0; i < r.lse.count(); ++i) zero &= r.lse.get(i) == -INFINITY;
  report.that(title + "no keys: output 0, lse -inf", zero);

  c = Case(dtype, 2, 1, 19, 40, 8, 8, 32);
  c.mask = Tensor(FV_BOOL, {19, 40}, 0.0);
  c.sink = Tensor(FV_FLOAT64, {2, 1}, 0.25);
  r = run(c);
  zero = r.status == FV_OK;
  for (int64_t i = 0; i < r.output.count(); ++i) zero &= r.output.get(i) == 0;
  for (int64_t i = 0; i < r.lse.count(); ++i) zero &= r.lse.get(i) == 0.25;
  report.that(title + "a mask of False: output 0, lse the sink", zero);

  c = Case(dtype, 1, 1, 3, 5, 8, 8, 33);
  for (int64_t i = 0; i < c.query.count(); ++i) c.query.set(i, -1);
  for (int64_t i = 0; i < c.key.count(); ++i) c.key.set(i, INFINITY);
  r = run(c);
  bool nan = r.status == FV_OK;
  for (int64_t i = 0; i < r.output.count(); ++i) nan &= std::isnan(r.output.get(i));
  report.that(title + "keys seen, logits all -inf: NaN", nan);
}

void test_refused(Report& report, const std::string& isa) {
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

void test_behaviour(Report& report, const std::string& isa) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16}) {
    const std::string title = isa + ": " + name_of(dtype) + ", ";
    test_threads(report, title, dtype);
    test_not_seen(report, title, dtype);
    test_no_key(report, title, dtype);
  }
  test_refused(report, isa);
}

}  // namespace kernel_tests
