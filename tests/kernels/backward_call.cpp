#include "backward_call.hpp"

#include <cmath>
#include <cstdio>

namespace kernel_tests {

namespace {

// The weights themselves, of the unit matrix as values: 0 where they are dropped (or so small that it is no matter).
Tensor kept_by(const Case& c) {
  Tensor unit(c.dtype, {1, 1, c.keys, c.keys});
  for (int64_t j = 0; j < c.keys; ++j) unit.set(j * c.keys + j, 1);
  const Tensor weights(lse_dtype(c.dtype), {c.heads, c.groups, c.queries, c.keys});
  fv_problem problem = c.problem();
  problem.value = unit.view();
  fv_error error = {};
  if (fv_attention(&problem, weights.view(), nullptr, &error)) std::printf("        %s\n", error.message);
  return weights;
}

}  // namespace

Pulled pulled_for(const Case& c, int64_t draws, uint64_t seed) {
  Pulled p;
  p.draws = draws;
  const fv_dtype wide = lse_dtype(c.dtype);
  if (draws == 0) {
    p.d_output = Tensor::random(c.dtype, {c.heads, c.groups, c.queries, c.value_size}, 1.0, 11 * seed + 1);
    if (c.dropout > 0) p.kept = kept_by(c);
    if (seed % 3) p.d_lse = Tensor::random(wide, {c.heads, c.groups, c.queries}, 1.0, 11 * seed + 2);
    return p;
  }
  const fv_random key = {{seed, 7}};
  p.d_output = Tensor::random(c.dtype, {c.heads, c.groups, c.queries, draws, c.value_size}, 1.0, 11 * seed + 3);
  p.advantage = Tensor::random(wide, {c.heads, c.groups, c.queries, draws}, 1.0, 11 * seed + 4);
  p.index = Tensor(FV_INT64, {c.heads, c.groups, c.queries, draws});
  const Tensor output(c.dtype, p.d_output.shape()), log_prob(wide, p.index.shape());
  const fv_problem problem = c.problem();
  fv_error error = {};
  if (fv_hard_attention(&problem, FV_SAMPLE, &key, draws, output.view(), p.index.view(), log_prob.view(), &error))
    std::printf("        %s\n", error.message);
  for (int64_t i = 4; i < p.index.count(); i += 7) p.index.set(i, -1);
  return p;
}

Forward forward(const Case& c, fv_dtype stored, bool wide_lse) {
  Forward f = {Tensor(stored, {c.heads, c.groups, c.queries, c.value_size}, 7.0),
               Tensor(wide_lse ? FV_FLOAT64 : lse_dtype(c.dtype), {c.heads, c.groups, c.queries}, 7.0), FV_OK};
  const fv_problem problem = c.problem();
  fv_error error = {};
  f.status = fv_attention(&problem, f.output.view(), f.lse.view(), &error);
  if (f.status != FV_OK) std::printf("        %s\n", error.message);
  return f;
}

Pullback empty_parts(const Case& c, const Pulled& p, fv_dtype stored, unsigned wanted) {
  Pullback r;
  r.status = FV_OK;
  for (int n = 0; n < part_count; ++n) {
    const Part part = Part(n);
    if (!(wanted >> n & 1) || !has(c, p, part)) continue;
    const fv_dtype dtype = part <= of_value ? stored : part == of_mask ? lse_dtype(c.dtype) : FV_FLOAT64;
    r.part[n] = Tensor(dtype, shape_of(c, part), part == of_mask ? 0 : NAN);
  }
  return r;
}

fv_gradients views_of(const Pullback& r) {
  return {r.part[of_query].view(),
          r.part[of_key].view(),
          r.part[of_value].view(),
          r.part[of_mask].view(),
          r.part[of_sink].view(),
          r.part[of_factors].view(),
          r.part[of_centers].view(),
          r.part[of_sigma].view(),
          nullptr,
          nullptr};
}

fv_status pull_back(const fv_problem& problem, const Forward& f, const Pulled& p, const fv_gradients& gradients,
                    int32_t threads) {
  fv_set_num_threads(threads);
  fv_error error = {};
  const fv_status status = p.draws
                               ? fv_hard_attention_backward(&problem, p.draws, p.index.view(), f.lse.view(),
                                                            p.d_output.view(), p.advantage.view(), &gradients, &error)
                               : fv_attention_backward(&problem, f.output.view(), f.lse.view(), p.d_output.view(),
                                                       p.d_lse.view(), &gradients, &error);
  if (status != FV_OK) std::printf("        %s\n", error.message);
  fv_set_num_threads(0);
  return status;
}

Pullback pull_back(const Case& c, const Forward& f, const Pulled& p, fv_dtype stored, unsigned wanted,
                   int32_t threads) {
  Pullback r = empty_parts(c, p, stored, wanted);
  r.status = pull_back(c.problem(), f, p, views_of(r), threads);
  return r;
}

bool same(const Pullback& a, const Pullback& b) {
  bool all = a.status == FV_OK && b.status == FV_OK;
  for (int n = 0; n < part_count; ++n)
    if (a.part[n].view() && b.part[n].view()) all = all && a.part[n].same_bits(b.part[n]);
  return all;
}

}  // namespace kernel_tests
