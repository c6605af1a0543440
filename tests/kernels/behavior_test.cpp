// What is promised beyond the numbers: the same bits for any number of threads, keys that are not seen change nothing,
// NaN stays in the rows that see it, however large the logits there is none of our own, and queries that see no key
// get 0.

#include "call.hpp"
#include "compare.hpp"

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
  Errors errors;
  errors.see(one.output, yardstick.output, truth.output, decode.shape());
  report.bounded(title + "decode", errors.ratio(2 * epsilon_of(dtype)), errors.where());
}

// Scores that are no inner products: many queries, and few against keys of several chunks.
void test_threads_of_kinds(Report& report, const std::string& title, fv_dtype dtype) {
  for (ScoreKind kind : {kTanh, kRelu, kGaussian, kTriangular}) {
    Case many(dtype, 3, 2, 131, 257, 7, 20, 13), few(dtype, 2, 2, 3, 9001, 3, 5, 14);
    for (Case* c : {&many, &few}) {
      c->kind = kind;
      c->factors = Tensor::random(lse_dtype(dtype), {c->head_size}, kind == kTriangular ? 0.1 : 1, 15);
      c->scale = 1;
      c->leave_one_out = true;
    }
    report.that(title + name_of(kind) + ", 1 and 2 threads, the same bits", same(run(many, 1), run(many, 2)));
    report.that(title + name_of(kind) + ", few queries, the same bits", same(run(few, 1), run(few, 2)));
  }
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

// Key 90 becomes NaN, which the later queries alone see; then query 1. The numbers that they take the place of were 0,
// so that no maximum over other rows changes, and neither do the bits of those rows.
void test_contained(Report& report, const std::string& title, fv_dtype dtype) {
  for (ScoreKind kind : {kTanh, kRelu, kGaussian, kDot})
    for (int64_t queries : {3, 67}) {
      Case c(dtype, 1, 1, queries, 101, 6, 5, 22);
      c.kind = kind;
      c.scale = 1;
      if (kind != kDot) c.factors = Tensor::random(lse_dtype(dtype), {6}, 1.0, 23);
      c.left = 50;
      c.right = queries < 10 ? -1 : 0;
      c.leave_one_out = true;
      c.offset_at_end = queries > 10;
      if (queries < 10) c.offset = Tensor(FV_INT64, {1, 1}, 139);  // of three queries, the first two see key 90
      const int64_t first = queries < 10 ? 0 : 57, end = queries < 10 ? 2 : queries;
      c.key.set(90 * 6 + 2, 0);
      c.query.set(1 * 6 + 3, 0);
      const Result clean = run(c);
      const auto differs_in = [&](const Result& r, int64_t from, int64_t to) {
        bool right = r.status == FV_OK;
        for (int64_t i = 0; i < r.output.count(); ++i) {
          const int64_t row = i / 5;
          const bool poisoned = from <= row && row < to;
          right &= poisoned ? std::isnan(r.output.get(i)) : r.output.get(i) == clean.output.get(i);
          right &= poisoned ? std::isnan(r.lse.get(row)) : r.lse.get(row) == clean.lse.get(row);
        }
        return right;
      };
      Case poisoned = c;
      poisoned.key.set(90 * 6 + 2, NAN);
      const std::string of = title + name_of(kind) + ", " + std::to_string(queries) + " queries, NaN in a ";
      report.that(of + "key", differs_in(run(poisoned), first, end));
      poisoned = c;
      poisoned.query.set(1 * 6 + 3, NAN);
      report.that(of + "query", differs_in(run(poisoned), 1, 2));
    }
}

// Logits up to 1e10 times squared distances between points up to 2e4 away: every weight is 0 or 1, and the output the
// value of the nearest key itself. So with an inner product, and the last key.
void test_large_logits(Report& report, const std::string& title, fv_dtype dtype) {
  for (int64_t queries : {3, 50})
    for (double negligible : {0.0, 0x1p-24}) {
      Case c(dtype, 1, 1, queries, 200, 1, 4, 24);
      c.kind = kGaussian;
      c.scale = 1e10;
      c.negligible = negligible;
      const auto nearest = [](int64_t i) { return i * 83 % 200; };
      for (int64_t j = 0; j < 200; ++j) c.key.set(j, 128 * double(j));
      for (int64_t i = 0; i < queries; ++i) c.query.set(i, 128 * double(nearest(i)));
      const auto takes = [&](const Result& r, const std::function<int64_t(int64_t)>& key) {
        bool right = r.status == FV_OK;
        for (int64_t i = 0; i < queries; ++i) {
          right &= std::isfinite(r.lse.get(i));
          for (int64_t d = 0; d < 4; ++d) right &= r.output.get(i * 4 + d) == c.value.get(key(i) * 4 + d);
        }
        return right;
      };
      const std::string of = title + std::to_string(queries) + " queries, logits of 1e10, ";
      report.that(of + name_of(kGaussian) + (negligible > 0 ? ", negligible" : ""), takes(run(c), nearest));
      if (negligible > 0) continue;
      c.kind = kDot;
      for (int64_t j = 0; j < 200; ++j) c.key.set(j, double(j));
      for (int64_t i = 0; i < queries; ++i) c.query.set(i, i % 2 ? -1 : 1);
      report.that(of + name_of(kDot), takes(run(c), [](int64_t i) { return i % 2 ? 0 : 199; }));
    }
}

}  // namespace

void test_behavior(Report& report, const std::string& isa) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16}) {
    const std::string title = isa + ": " + name_of(dtype) + ", ";
    test_threads(report, title, dtype);
    test_threads_of_kinds(report, title, dtype);
    test_not_seen(report, title, dtype);
    test_contained(report, title, dtype);
    test_large_logits(report, title, dtype);
    test_no_key(report, title, dtype);
  }
}

}  // namespace kernel_tests
