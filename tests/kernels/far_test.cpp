// Keys too far away to matter: what `negligible` leaves out, and what the tiles beyond a compact kernel's radius are.
//
// The promise of foveate.h: the keys of a query that are left out weigh less than `negligible` of its others. lse is
// the logarithm of a query's weights, so that their share is e^(lse of all - lse of these) - 1. An output is then off
// by less than that share of what values differ by, beside its rounding, which is judged as in compare.hpp with the
// call that leaves nothing out in the place of the formula, and that call in float64 in the place of the truth.
#include <cmath>
#include <functional>

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
  c.kind = kGaussian;
  c.scale = 1 / (width * width);
  lay(c.query, 71);
  lay(c.key, 72);
  return c;
}

// Points on a grid fine enough for their order, and a width of a power of 2: squared distances are exact, so that
// rounding never decides what is within the radius.
Case points_on_grid(fv_dtype dtype, ScoreKind kind, int64_t queries, int64_t keys, int64_t size, double width) {
  Case c = points(dtype, queries, keys, size, width);
  for (Tensor* t : {&c.query, &c.key})
    for (int64_t n = 0; n < t->count(); ++n) t->set(n, std::rint(t->get(n) * 0x1p+12) * 0x1p-12);
  c.kind = kind;
  c.factors = Tensor(lse_dtype(dtype), {size}, 1 / width);
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
       c.factors = Tensor(lse_dtype(c.dtype), {c.head_size}, -0.75);
       c.factors.set(0, 1.5);
     },
     true},
    {"leave one out",
     [](Case& c) {
       c.leave_one_out = true;
       c.offset = Tensor(FV_INT64, {1, 1}, 500);
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
    {"a float mask of each query's own",
     [](Case& c) { c.mask = Tensor::random(FV_FLOAT32, {c.queries, c.keys}, 9, 74); }, true},
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
       put(c.key, 700, -INFINITY);
     }},
    {"queries far from all keys",
     [](Case& c) {
       for (int64_t n = 0; n < c.query.count(); ++n) c.query.set(n, c.query.get(n) + 3);
     }},
    {"negative scale", [](Case& c) { c.scale = -1; }, true},
    {"a sink beside which keys weigh little", [](Case& c) { c.sink = Tensor(FV_FLOAT64, {1, 1}, 12.0); }, true},
    {"NaN in queries, and a sink",
     [](Case& c) {
       for (int64_t i = 3; i < c.queries; i += 11) put(c.query, i, NAN);
       c.sink = Tensor(FV_FLOAT64, {1, 1}, -2.0);
     },
     true},
};

// The weights of the keys that `near` leaves out, over those of the others.
double share_left_out(double all, double near, double sink) {
  if (std::isnan(all) || std::isnan(near) || all == near) return 0;  // NaN is judged by the outputs
  return std::expm1(all - near) / -std::expm1(sink - near);
}

// One scene, in 1 and 2 dimensions, narrow and wide, with few queries, and with so many keys that boxes have boxes.
void check_gaussian(Report& report, const std::string& isa, fv_dtype dtype, const Scene& scene, double negligible) {
  struct Shape {
    int64_t queries, keys, size;
    double width;
  };
  const Shape shapes[] = {{37, 1500, 1, 0.003}, {37, 1500, 2, 0.02}, {37, 1500, 1, 0.2}, {37, 1500, 2, 0.3},
                          {3, 1500, 1, 0.02},   {3, 1500, 2, 0.1},   {17, 6000, 1, 0.01}};
  Errors output, lse;
  double worst_share = 0;
  std::string worst_at;
  bool done = true;
  for (const Shape& shape : shapes) {
    Case c = points(dtype, shape.queries, shape.keys, shape.size, shape.width);
    scene.apply(c);
    const Result all = run(c);
    Case precise = c;  // the same numbers
    precise.dtype = FV_FLOAT64;
    for (Tensor* t : {&precise.query, &precise.key, &precise.value, &precise.factors})
      if (t->view()) *t = t->as(FV_FLOAT64);
    const Result truth = dtype == FV_FLOAT64 ? all : run(precise);
    c.negligible = negligible;
    const Result near = run(c);
    done = done && all.status == FV_OK && near.status == FV_OK && truth.status == FV_OK;
    const std::string where = c.shape() + ", width " + std::to_string(shape.width);
    for (int64_t i = 0; i < near.output.count(); ++i)
      output.see(near.output.get(i), all.output.get(i), truth.output.get(i), where);
    for (int64_t i = 0; i < near.lse.count(); ++i) {
      lse.see(near.lse.get(i), all.lse.get(i), truth.lse.get(i), where);
      const double sink = c.sink.view() ? c.sink.get(0) : -double(INFINITY);
      const double share = or_infinity(share_left_out(truth.lse.get(i), near.lse.get(i), sink));
      if (share <= worst_share) continue;
      worst_share = share;
      worst_at = where;
    }
  }
  const std::string title = isa + ": " + name_of(dtype) + ", far keys, " + scene.name;
  if (!done) report.that(title, false, "refused");
  // values lie in [-1, 1]
  report.bounded(title, output.ratio(2 * epsilon_of(dtype), 2, 2 * negligible), output.where());
  report.bounded(title + ", lse", lse.ratio(4 * epsilon_of(lse_dtype(dtype)), 2, negligible), lse.where());
  // only float64 is fine enough to see the share; 2^-40 is far above the rounding of the two sums
  if (dtype == FV_FLOAT64) report.bounded(title + ", share", worst_share / (negligible + 0x1p-40), worst_at);
}

// Compact kernels leave out what weighs exactly 0, so that they are held to the formula itself.
void check_compact(Report& report, const std::vector<std::string>& isas, fv_dtype dtype, const Scene& scene) {
  compare(report, isas, std::string("radius, ") + scene.name, 16, [&](int64_t n) {
    const ScoreKind kinds[] = {kBoxcar, kEpanechnikov, kTriangular, kTricube};
    Case c = points_on_grid(dtype, kinds[n % 4], n / 8 ? 3 : 33, 1500, 1 + n % 2, n / 4 % 2 ? 0x1p-2 : 0x1p-7);
    scene.apply(c);
    if (c.mask.view() && c.mask.shape()[0] == 1) {  // the formula has a row for each query
      const Tensor row = c.mask;
      c.mask = bools(c.queries, c.keys, [&](int64_t, int64_t j) { return row.get(j) != 0; });
    }
    return c;
  });
}

// What is skipped is not read: far away values of inf and NaN show it, which even a weight of exactly 0 would turn into
// NaN, as it does where nothing is left out.
void check_skipping(Report& report, const std::string& isa, fv_dtype dtype) {
  bool skips = true, reads = true, within = true;
  for (int64_t size : {1, 2})
    for (int64_t keys : {2000, 12000}) {
      const double width = 0.01;  // tiles with such values are at least 15 of them away, where a weight is e^-112
      const auto poisoned = [&](Case c) {
        for (int64_t n = 0; n < c.query.count(); ++n) c.query.set(n, 0.05 + c.query.get(n) / 20);
        for (int64_t j = 0; j < keys; ++j) {
          double distance = 0;
          for (int64_t d = 0; d < size; ++d) distance = std::fmax(distance, c.key.get(j * size + d));
          if (distance > 0.55) put(c.value, j, j % 2 ? NAN : INFINITY);
        }
        return c;
      };
      const auto finite = [](const Result& r) {
        bool all = r.status == FV_OK;
        for (int64_t i = 0; i < r.output.count(); ++i) all &= std::isfinite(r.output.get(i));
        return all;
      };
      Case c = poisoned(points(dtype, 50, keys, size, width));
      const Result everything = run(c);
      for (int64_t i = 0; i < everything.output.count(); ++i) reads &= std::isnan(everything.output.get(i));
      c.negligible = 0x1p-24;
      skips &= finite(run(c));
      for (ScoreKind kind : {kBoxcar, kEpanechnikov, kTriangular})
        within &= finite(run(poisoned(points_on_grid(dtype, kind, 50, keys, size, 0x1p-4))));
    }
  const std::string title = isa + ": " + name_of(dtype) + ", ";
  report.that(title + "far keys are read where none may be left out", reads);
  report.that(title + "far keys are not read where they are negligible", skips);
  report.that(title + "keys beyond the radius are not read", within);
}

void check_threads(Report& report, const std::string& isa, fv_dtype dtype) {
  bool equal = true;
  for (int64_t size : {1, 2}) {
    Case c = points(dtype, 400, 5000, size, 0.01);
    c.negligible = 0x1p-24;
    equal &= same(run(c, 1), run(c, 2));
    c = points_on_grid(dtype, kEpanechnikov, 400, 5000, size, 0x1p-6);
    equal &= same(run(c, 1), run(c, 2));
  }
  report.that(isa + ": " + name_of(dtype) + ", far keys, 1 and 2 threads, the same bits", equal);
}

}  // namespace

void test_far(Report& report, const std::vector<std::string>& isas) {
  for (const std::string& isa : isas) {
    fv_error error = {};
    fv_isa_select(isa.c_str(), &error);
    for (const Scene& scene : scenes) {
      check_gaussian(report, isa, FV_FLOAT64, scene, 0x1p-6);
      check_gaussian(report, isa, FV_FLOAT32, scene, 0x1p-24);
    }
    for (fv_dtype dtype : {FV_FLOAT16, FV_BFLOAT16}) check_gaussian(report, isa, dtype, scenes[0], 0x1p-24);
    for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16}) {
      check_skipping(report, isa, dtype);
      check_threads(report, isa, dtype);
    }
  }
  for (const Scene& scene : scenes)
    if (!scene.of_logits) check_compact(report, isas, FV_FLOAT32, scene);
  // one of them in long double, which is slow where the hardware has none
  check_compact(report, isas, FV_FLOAT64, scenes[0]);
}

}  // namespace kernel_tests
