// Products of bfloat16, compiled for an ISA that adds them to the kernels of another: of the same vectors, so that all else
// is the other's. As kernels.cpp it includes nothing of the standard library; everything but `bfloat16` has internal linkage.
#include "amx.hpp"
#include "bf16_pairs.hpp"
#include "bf16_quads.hpp"
#include "decode/pairs.hpp"
#include "gemm.hpp"
#include "measure.hpp"
#include "query_sum.hpp"
#include "score/inner.hpp"
#include "select/soft_pairs.hpp"
#include "select/soft_quads.hpp"
#include "table.hpp"
#include "untyped.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

#if defined(__AVX512BF16__)
double spin_pairs(int64_t rounds) {
  const Vec<float> halves = from_bits<float>(IntVec<float>{} + 0x3f003f00);
  return spin_chains<float>(rounds, 4, [&](Vec<float> x) { return PairProduct::apply(x, halves, halves); });
}

Arithmetic pair_arithmetic(const Arithmetic& float32) {
  Arithmetic f = float32;
  f.in_place = Dtype::bfloat16;
  f.pairs = true;
  f.group = 2;
  f.value_size = pair_value_size;
  f.cell_size = 2;
  f.inner = {true,
             pair_row_size<2>,
             pair_row_size<2>,
             untyped<load_pair_keys<2>>,
             untyped<pack_pair_queries<2>>,
             untyped<inner_scores<PairProduct>>,
             nullptr,
             nullptr};
  f.soft = untyped<soft_pairs>;
  f.soft_tangent = untyped<soft_pair_tangent>;
  f.soft_gradient = untyped<soft_pair_gradient>;
  f.store_cells = untyped<store_pair_cells>;
  f.load_values = untyped<load_pair_values>;
  f.weighted_sum = untyped<weighted_sum<PairProduct>>;
  f.add_not_finite = untyped<add_not_finite<PairProduct>>;
  f.load_summands = untyped<load_pair_summands>;
  f.query_sum = untyped<query_sum<PairProduct>>;
  f.spin = spin_pairs;
  return f;
}
constexpr auto products = pair_arithmetic;
constexpr FewPairs few_pairs = {pair_query_size, load_pair_query, narrow_to_pairs, untyped<pair_scores>,
                                untyped<pair_sum>};
constexpr const FewPairs* few = &few_pairs;
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
double spin_quads(int64_t rounds) {
  const Halves halves = vdupq_n_u16(0x3f00);
  return spin_chains<float>(rounds, 8, [&](Vec<float> x) { return multiply_quads(x, halves, halves); });
}

Arithmetic quad_arithmetic(const Arithmetic& float32) {
  Arithmetic f = float32;
  f.in_place = Dtype::bfloat16;
  f.pairs = true;
  f.group = 4;
  f.value_size = quad_value_size;
  f.cell_size = 2;
  f.inner = {
      true,    quad_row_size, quad_row_size, untyped<load_quad_keys>, untyped<pack_quad_queries>, untyped<quad_scores>,
      nullptr, nullptr};
  f.soft = untyped<soft_quads>;
  f.soft_tangent = untyped<soft_quad_tangent>;
  f.soft_gradient = untyped<soft_quad_gradient>;
  f.store_cells = untyped<store_quad_cells>;
  f.load_values = untyped<load_quad_values>;
  f.weighted_sum = untyped<quad_weighted_sum>;
  f.add_not_finite = untyped<add_not_finite<QuadProduct>>;
  f.load_summands = untyped<load_quad_summands>;
  f.query_sum = untyped<quad_query_sum>;
  f.spin = spin_quads;
  return f;
}
constexpr auto products = quad_arithmetic;
constexpr const FewPairs* few = nullptr;
#endif

#if defined(FOVEATE_AMX)
Arithmetic amx_arithmetic(const Arithmetic& float32) {
  constexpr int depth = int(tile_depth);
  Arithmetic f = pair_arithmetic(float32);
  f.group = depth;
  f.tile_keys = 3 * depth;
  f.value_size = amx_value_size;
  f.enter = enter_amx;
  f.leave = leave_amx;
  f.inner = {true,
             pair_row_size<depth>,
             pair_row_size<depth>,
             untyped<load_pair_keys<depth>>,
             untyped<pack_pair_queries<depth>>,
             untyped<amx_scores>,
             nullptr,
             nullptr};
  f.load_values = untyped<load_amx_values>;
  f.weighted_sum = untyped<amx_weighted_sum>;
  f.load_summands = untyped<load_amx_summands>;
  f.query_sum = untyped<amx_query_sum>;
  f.spin = spin_amx;
  return f;
}
constexpr auto amx_or_null = amx_arithmetic;
#else
constexpr Arithmetic (*amx_or_null)(const Arithmetic&) = nullptr;
#endif

}  // namespace

extern const Bfloat16 bfloat16;
constexpr Bfloat16 bfloat16 = {products, amx_or_null, few};

}  // namespace foveate::FOVEATE_ISA
