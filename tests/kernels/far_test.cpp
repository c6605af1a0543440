// Keys too far away to matter: what `negligible` leaves out, and what the tiles beyond a compact kernel's radius are.
//
// The promise of foveate.h: the keys of a query that are left out weigh less than `negligible` of its others. lse is
// the logarithm of a query's weights, so that their share is e^(lse of all - lse of these) - 1. An output is then off
// by less than that share of what values differ by, beside its rounding, which is judged as in compare.hpp with the
// call that leaves nothing out in the place of the formula, and that call in float64 in the place of the truth.
#include <algorithm>
#include <cmath>

#include "call.hpp"
#include "compare.hpp"

namespace kernel_tests {
namespace {

// In one dimension in order; in two along a Z-shaped curve through a grid. All in [0, 1).
void lay(Tensor& points, uint64_t seed) {
  const Tensor jitter = Tensor::random(FV_FLOAT64, points.shape(), 0.4, seed);
  const int64_t size = points.shape().back(), length = points.shape()[points.shape().size() - 2];
  int64_t bits = 0;
  while (int64_t(1) << size * bits < length) ++bits;
  const int64_t skip = size == 1 ? 1 : (int64_t(1) << 2 * bits) / length;  // to cover the square
  for (int64_t n = 0; n < points.count(); ++n) {
    const int64_t place = n / size % length, d = n % size;
    double cell = double(place), cells = double(length);
    if (size > 1) {
      cell = 0;
      cells = double(int64_t(1) << bits);
      for (int64_t b = 0; b < bits; ++b) cell += double(int64_t(place * skip >> (2 * b + d) & 1) << b);
    }
    points.set(n, (cell + 0.5 + jitter.get(n)) / cells);
  }
}

Case points(fv_dtype dtype, int64_t queries, int64_t keys, int64_t size, double width) {
  Case c(dtype, 1, 1, queries, keys, size, 2, 5);
  c.kind = FV_GAUSSIAN;
  c.scale = 1 / (width * width);
  lay(c.query, 71);
  lay(c.key, 72);
  return c;
}

// The same as a compact kernel of that width.
Case compact(Case c, fv_score_kind kind) {
  c.kind = kind;
  c.weights = Tensor(lse_dtype(c.dtype), {c.head_size}, std::sqrt(c.scale));
  c.scale = 1;
  return c;
}

Tensor bools(int64_t rows, int64_t columns, const std::function<bool(int64_t i, int64_t j)>& seen) {
  Tensor t(FV_BOOL, {rows, columns});
  for (int64_t n = 0; n < t.count(); ++n) t.set(n, seen(n / columns, n % columns));
  return t;
}

void put(Tensor& t, int64_t row, double x) {
  const int64_t size = t.shape().back();
  for (int64_t d = 0; d < size; ++d) t.set(row * size + d, x);
}

void shuffle(Tensor& t) {
  const int64_t size = t.shape().back(), rows = t.count() / size;
  const Tensor before = t;
  for (int64_t n = 0; n < t.count(); ++n) t.set(n, before.get((n / size * 1009 % rows) * size + n % size));
}

bool nan_key(int64_t j) { return j % 401 == 100; }

struct Scene {
  const char* name;
  std::function<void(Case&)> apply;
  bool of_logits = false;  // not for compact kernels
};

const Scene scenes[] = {
    {"in order", [](Case&) {}},
    {"in no order",
     [](Case& c) {
       shuffle(c.query);
       shuffle(c.key);
     }},
    {"weights",
     [](Case& c) {
       c.weights = Tensor(lse_dtype(c.dtype), {c.head_size}, -0.75);
       c.weights.set(0, 1.5);
     },
     true},
    {"leave one out",
     [](Case& c) {
       c.leave_one_out = true;
       c.offset = Tensor(FV_INT64, {1, 1}, 1000);
     }},
    {"causal",
     [](Case& c) {
       c.right = 0;
       c.offset_at_end = true;
     }},
    {"key lengths", [](Case& c) { c.key_lengths = Tensor(FV_INT64, {1, 1}, double(c.keys / 3)); }},
    {"one row of a float mask",
     [](Case& c) {
       c.mask = Tensor::random(FV_FLOAT64, {1, c.keys}, 3.0, 73);
       for (int64_t j = 0; j < c.keys; j += 7) c.mask.set(j, -INFINITY);
       for (int64_t j = 500; j < c.keys; j += 700) c.mask.set(j, 40);  // far keys may be heavy ones
     },
     true},
    {"a float mask of each query's own", [](Case& c) { c.mask = Tensor::random(FV_FLOAT32, {c.queries, c.keys}, 9, 74); },
     true},
    {"the nearest keys hidden",
     [](Case& c) {
       c.mask = bools(c.queries, c.keys, [&](int64_t i, int64_t j) {
         return std::fabs(double(i) / double(c.queries) - double(j) / double(c.keys)) > (i % 2 ? 0.2 : 0.0);
       });
     }},
    {"segments",
     [](Case& c) {
       c.query_segments = Tensor(FV_INT64, {c.queries});
       c.key_segments = Tensor(FV_INT64, {c.keys});
       for (int64_t i = 0; i < c.queries; ++i) c.query_segments.set(i, double(i % 3));
       for (int64_t j = 0; j < c.keys; ++j) c.key_segments.set(j, double(j / 250 % 3));
     }},
    {"NaN in queries",
     [](Case& c) {
       for (int64_t i = 3; i < c.queries; i += 11) put(c.query, i, NAN);
     }},
    {"NaN in keys, hidden",
     [](Case& c) {
       for (int64_t j = 0; j < c.keys; ++j)
         if (nan_key(j)) put(c.key, j, NAN);
       c.mask = bools(1, c.keys, [](int64_t, int64_t j) { return !nan_key(j); });
     }},
    {"NaN in keys, seen by some",
     [](Case& c) {
       for (int64_t j = 0; j < c.keys; ++j)
         if (nan_key(j)) put(c.key, j, NAN);
       c.mask = bools(c.queries, c.keys, [](int64_t i, int64_t j) { return i % 5 == 2 || !nan_key(j); });
     }},
    {"NaN in a key far away", [](Case& c) { put(c.key, c.keys - 2, NAN); }},
    {"inf in keys",
     [](Case& c) {
       for (int64_t j = c.keys - 400; j < c.keys; ++j) put(c.key, j, INFINITY);
       put(c.key, 1000, -INFINITY);
     }},
    {"queries far from all keys",
     [](Case& c) {
       for (int64_t n = 0; n < c.query.count(); ++n) c.query.set(n, c.query.get(n) + 3);
     }},
    {"negative scale", [](Case& c) { c.scale = -1; }, true},
    {"a sink beside which keys weigh little",
     [](Case& c) { c.sink = Tensor(FV_FLOAT64, {1, 1}, 12.0); },
     true},
};

struct Worst {
  Errors output, lse;
  double share = 0;
  std::string where;
};

// The weights of the keys that `near` leaves out, over those of the others.
double share_left_out(double all, double near, double sink) {
  if (std::isnan(all) || std::isnan(near) || all == near) return 0;  // NaN is judged by the outputs
  return std::expm1(all - near) / -std::expm1(sink - near);
}

// One scene, in 1 and 2 dimensions, narrow and wide. ISA in use.
void check(Report& report, const std::string& isa, fv_dtype dtype, const Scene& scene, double negligible) {
  Worst worst;
  bool done = true;
  const double narrow[] = {0.003, 0.02}, wide[] = {0.2, 0.3};
  for (int64_t n = 0; n < 6; ++n) {
    const int64_t size = 1 + n % 2, queries = n / 2 == 2 ? 3 : 70;
    const auto make = [&](fv_dtype of) {
      Case c = points(of, queries, 3000, size, n / 2 ? wide[n % 2] : narrow[n % 2]);
      scene.apply(c);
      return c;
    };
    Case c = make(dtype);
    const Result all = run(c);
    Case precise = c;  // the same numbers in float64
    precise.dtype = FV_FLOAT64;
    for (Tensor* t : {&precise.query, &precise.key, &precise.value, &precise.weights})
      if (t->view()) *t = t->as(FV_FLOAT64);
    const Result truth = dtype == FV_FLOAT64 ? all : run(precise);
    c.negligible = negligible;
    const Result near = run(c);
    done = done && all.status == FV_OK && near.status == FV_OK && truth.status == FV_OK;
    const std::string where = c.shape() + (n / 2 ? ", wide" : ", narrow");
    for (int64_t i = 0; i < near.output.count(); ++i)
      worst.output.see(near.output.get(i), all.output.get(i), truth.output.get(i), where);
    for (int64_t i = 0; i < near.lse.count(); ++i) {
      worst.lse.see(near.lse.get(i), all.lse.get(i), truth.lse.get(i), where);
      const double share =
          share_left_out(truth.lse.get(i), near.lse.get(i), c.sink.view() ? c.sink.get(0) : -double(INFINITY));
      if (share <= worst.share) continue;
      worst.share = share;
      worst.where = where;
    }
  }
  char text[16];
  std::snprintf(text, sizeof text, "2^%g, ", std::log2(negligible));
  const std::string title = isa + ": " + name_of(dtype) + ", negligible " + text + scene.name;
  report.that(title + ", done", done);
  // values are in [-1, 1]
  report.bounded(title, worst.output.ratio(2 * epsilon_of(dtype), 2, 2 * negligible), "");
  report.bounded(title + ", lse", worst.lse.ratio(4 * epsilon_of(lse_dtype(dtype)), 2, negligible), "");
  // float64 alone is fine enough to see; the share is that of sums, whose own rounding is the 2^-40
  if (dtype == FV_FLOAT64) report.bounded(title + ", share", worst.share / (negligible + 0x1p-40), worst.where);
}

}  // namespace

void test_far(Report& report, const std::string& isa) {
  for (const Scene& scene : scenes) {
    check(report, isa, FV_FLOAT64, scene, 0x1p-6);
    check(report, isa, FV_FLOAT32, scene, 0x1p-24);
  }
}

}  // namespace kernel_tests
