// fv_attention_jvp, fv_attention_tangent and fv_attention_backward_jvp, by what holds of derivatives, since the gradients are held to the formula:
//   d_out . t_out + d_lse . t_lse   is the sum of the gradients times the tangents, over all operands
//   the second order is symmetric   how the gradients move along a, times b, is how they move along b, times a
//   it is linear in d_out           where that alone moves, along x, it is the gradients for x
// with every reach, for inner products and distances, in every dtype. Also: the output has the bits of fv_attention where no
// Gaussian follows the softmax, and 1 and 2 threads give the same bits.
//
// Each side is a sum of many numbers of either sign. Its error is held to a share of the root of the sum of their squares,
// each number being off by some spacings of the accumulator (as backward_test.cpp says), and by half a spacing of bfloat16
// for each rounding to it: of weights, of weights times tangents, and of dS.
#include <cmath>

#include "backward_call.hpp"
#include "numbers.hpp"
#include "reaches.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

constexpr fv_dtype dtypes[] = {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16};

struct Tangents {
  Tensor query, key, value, mask, sink;
  Tangents(const Case& c, uint64_t seed) {
    query = Tensor::random(c.dtype, c.query.shape(), 1.0, 5 * seed + 1);
    key = Tensor::random(c.dtype, c.key.shape(), 1.0, 5 * seed + 2);
    value = Tensor::random(c.dtype, c.value.shape(), 1.0, 5 * seed + 3);
    if (has(c, {}, of_mask)) mask = Tensor::random(FV_FLOAT32, c.mask.shape(), 1.0, 5 * seed + 4);
    if (has(c, {}, of_sink)) sink = Tensor::random(FV_FLOAT64, c.sink.shape(), 1.0, 5 * seed + 5);
  }
  fv_tangents views() const { return {query.view(), key.view(), value.view(), mask.view(), sink.view()}; }
};

struct Moved {
  Tensor output, lse, t_output, t_lse;
  fv_status status;
};

Moved move(const Case& c, const fv_tangents& tangents, int32_t threads) {
  const fv_dtype wide = lse_dtype(c.dtype);
  const Shape rows = {c.heads, c.groups, c.queries}, whole = {c.heads, c.groups, c.queries, c.value_size};
  Moved m = {Tensor(wide, whole, NAN), Tensor(wide, rows, NAN), Tensor(wide, whole, NAN), Tensor(wide, rows, NAN),
             FV_OK};
  const fv_problem problem = c.problem();
  fv_error error = {};
  fv_set_num_threads(threads);
  m.status =
      fv_attention_jvp(&problem, &tangents, m.output.view(), m.lse.view(), m.t_output.view(), m.t_lse.view(), &error);
  fv_set_num_threads(0);
  if (m.status != FV_OK) std::printf("        %s\n", error.message);
  return m;
}

// The tangents alone, of an output that is given.
Moved move_alone(const Case& c, const fv_tangents& tangents, const Tensor& output) {
  const fv_dtype wide = lse_dtype(c.dtype);
  Moved m = {output, {}, Tensor(wide, output.shape(), NAN), Tensor(wide, {c.heads, c.groups, c.queries}, NAN), FV_OK};
  const fv_problem problem = c.problem();
  fv_error error = {};
  m.status = fv_attention_tangent(&problem, &tangents, output.view(), m.t_output.view(), m.t_lse.view(), &error);
  if (m.status != FV_OK) std::printf("        %s\n", error.message);
  return m;
}

// The gradients of query, key, value, mask and sink, as they move.
constexpr unsigned moving_parts = 1u << of_query | 1u << of_key | 1u << of_value | 1u << of_mask | 1u << of_sink;

Pullback pull_back_moving(const Case& c, const fv_tangents& tangents, const Moved& m, const Pulled& p,
                          const Tensor& t_d_output, int32_t threads = 1) {
  Pullback r = empty_parts(c, p, lse_dtype(c.dtype), moving_parts);
  const fv_problem problem = c.problem();
  const fv_gradients gradients = views_of(r);
  fv_error error = {};
  fv_set_num_threads(threads);
  r.status =
      fv_attention_backward_jvp(&problem, &tangents, m.output.view(), m.lse.view(), p.d_output.view(), p.d_lse.view(),
                                m.t_output.view(), m.t_lse.view(), t_d_output.view(), nullptr, &gradients, &error);
  fv_set_num_threads(0);
  if (r.status != FV_OK) std::printf("        %s\n", error.message);
  return r;
}

// A sum of products, and the root of the sum of their squares.
struct Sum {
  double value = 0, squares = 0;
  void add(double term) {
    value += term;
    squares += term * term;
  }
};

// Of a gradient and a tangent. A sink may be one for each head, or for all, where its gradient goes over heads and groups.
void add_products(const Tensor& gradient, const Tensor& tangent, int64_t heads, int64_t groups, Sum& sum) {
  if (!gradient.view() || !tangent.view()) return;
  if (gradient.count() == tangent.count()) {
    for (int64_t i = 0; i < gradient.count(); ++i) sum.add(gradient.get(i) * tangent.get(i));
    return;
  }
  for (int64_t i = 0; i < heads * groups; ++i) {
    const int64_t at = tangent.count() == heads ? i / groups : tangent.count() == groups ? i % groups : 0;
    sum.add(gradient.get(i) * tangent.get(at));
  }
}

Sum times(const Case& c, const Pullback& gradients, const Tangents& t) {
  Sum sum;
  const Tensor* const tangents[] = {&t.query, &t.key, &t.value, &t.mask, &t.sink};
  const Part parts[] = {of_query, of_key, of_value, of_mask, of_sink};
  for (int i = 0; i < 5; ++i) add_products(gradients.part[parts[i]], *tangents[i], c.heads, c.groups, sum);
  return sum;
}

double share(const Sum& a, const Sum& b) {
  const double size = std::sqrt(a.squares) + std::sqrt(b.squares);
  return std::fabs(a.value - b.value) / (size > 0 ? size : 1);
}

struct Shares {
  double duality = 0, symmetry = 0, linearity = 0;
  bool same = true;
  std::string where;
};

void see(const Case& c, uint64_t seed, Shares& shares) {
  const Tangents a(c, seed), b(c, seed + 1000);
  const Pulled p = pulled_for(c, 0, seed);
  const fv_dtype wide = lse_dtype(c.dtype);
  const Forward given = forward(c, wide);
  const Moved one = move(c, a.views(), 1), two = move(c, a.views(), 2), other = move(c, b.views(), 1);
  bool same = one.t_output.same_bits(two.t_output) && one.t_lse.same_bits(two.t_lse);
  // a Gaussian is multiplied in by itself here, which another machine rounds otherwise
  if (c.queries > 4 && c.sigma == 0 && !(c.negligible > 0)) same = same && one.output.same_bits(given.output);

  const Sum backward_sum = times(c, pull_back(c, given, p, wide, moving_parts, 1), a);
  for (const Moved& moved : {one, move_alone(c, a.views(), given.output)}) {
    Sum forward_sum;
    add_products(p.d_output, moved.t_output, c.heads, c.groups, forward_sum);
    add_products(p.d_lse, moved.t_lse, c.heads, c.groups, forward_sum);
    shares.duality = std::fmax(shares.duality, share(forward_sum, backward_sum));
  }

  const Tensor still;
  const Pullback along_a = pull_back_moving(c, a.views(), one, p, still);
  const Pullback along_b = pull_back_moving(c, b.views(), other, p, still);
  shares.symmetry = std::fmax(shares.symmetry, share(times(c, along_a, b), times(c, along_b, a)));
  same = same && kernel_tests::same(along_a, pull_back_moving(c, a.views(), one, p, still, 2));

  const Tensor x = Tensor::random(c.dtype, p.d_output.shape(), 1.0, seed + 5);
  const Moved nowhere = {given.output, given.lse, Tensor(wide, given.output.shape()), Tensor(wide, given.lse.shape()),
                         FV_OK};
  Pulled of_x;
  of_x.d_output = x;
  of_x.kept = p.kept;
  const Pullback moved = pull_back_moving(c, {}, nowhere, p, x), plain = pull_back(c, given, of_x, wide, moving_parts);
  shares.linearity = std::fmax(shares.linearity, share(times(c, moved, a), times(c, plain, a)));
  if (!same && shares.same) shares.where = c.shape();
  shares.same = shares.same && same;
}

}  // namespace

void test_tangents(Report& report, const std::string& isa) {
  fv_error error = {};
  fv_isa_select(isa.c_str(), &error);
  uint64_t seed = 1;
  for (const fv_dtype dtype : dtypes)
    for (const ScoreKind kind : {kDot, kGaussian}) {
      Shares shares;
      for (const Variant& variant : variants()) {
        Case c(dtype, 1 + seed % 2, 1 + seed % 3, int64_t(5 + 7 * (seed % 5)), int64_t(33 + 97 * (seed % 4)), 8, 5,
               seed);
        c.kind = kind;
        variant.apply(c);
        if (c.compact()) continue;
        see(c, seed++, shares);
      }
      const double spacings = 20 * epsilon_of(lse_dtype(dtype)) + (dtype == FV_BFLOAT16 ? epsilon_of(dtype) / 2 : 0);
      const std::string line = isa + ": tangents, " + name_of(dtype) + ", " + name_of(kind);
      report.bounded(line + ", duality", shares.duality / spacings, "some reach");
      report.bounded(line + ", symmetry", shares.symmetry / spacings, "some reach");
      report.bounded(line + ", linearity", shares.linearity / spacings, "some reach");
      report.that(line + ", the same bits", shares.same, shares.where);
    }
  const auto refused = [&](const char* what, const Case& c, const char* name) {
    const Tangents t(c, 1);
    const fv_tangents views = t.views();
    const Tensor out(FV_FLOAT32, {c.heads, c.groups, c.queries, c.value_size});
    const fv_problem problem = c.problem();
    const fv_status status = fv_attention_jvp(&problem, &views, out.view(), nullptr, out.view(), nullptr, &error);
    report.that(isa + ": tangents, " + what + " refused",
                status == FV_VALUE_ERROR && std::string(error.message).rfind(name, 0) == 0, error.message);
  };
  Case c(FV_FLOAT32, 1, 1, 5, 6, 3, 2, 1);
  c.factors = Tensor::random(FV_FLOAT32, {3}, 1.0, 1);
  c.kind = kTanh;
  refused("an additive score is", c, "family: got");
  c.kind = kBoxcar;
  c.scale = 1;
  refused("a compact kernel is", c, "weighing: got");
}

}  // namespace kernel_tests
