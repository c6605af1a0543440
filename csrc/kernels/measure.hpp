// What this machine can do with this ISA, to judge the kernels by, and the elementary functions, to test them.
#pragma once
#include "amx.hpp"
#include "bf16_pairs.hpp"
#include "bf16_quads.hpp"
#include "gemm.hpp"
#include "math.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// x = f(x) in twelve independent chains: enough to hide a latency of 4 cycles at 2 or 3 operations a cycle. On 16
// registers 12 accumulators and two operands still fit.
template <class T, class F>
double spin_chains(int64_t rounds, double flops_a_lane, F&& f) {
  Vec<T> sum[12];
  for (int k = 0; k < 12; ++k) sum[k] = broadcast(T(k) / T(rounds));  // chains alike would be computed once
  for (int64_t i = 0; i < rounds; ++i) unroll<12>([&](auto k) { sum[k] = f(sum[k]); });
  T total = 0;
  for (int k = 0; k < 12; ++k) total += sum[k][0];
  return total == T(-1) ? 0 : double(rounds) * 12 * lanes<T> * flops_a_lane;  // never -1: the chains are needed
}

double spin(int32_t kind, int64_t rounds) {
#if defined(__AVX512BF16__)
#if defined(__AMX_BF16__)
  if (kind == 3) return spin_amx(rounds / 8);
#endif
  if (kind == 2) {
    const Vec<float> halves = from_bits<float>(IntVec<float>{} + 0x3f003f00);
    return spin_chains<float>(rounds, 4, [&](Vec<float> x) { return PairProduct::apply(x, halves, halves); });
  }
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  if (kind == 2) {
    const Halves halves = vdupq_n_u16(0x3f00);
    return spin_chains<float>(rounds, 8, [&](Vec<float> x) { return multiply_quads(x, halves, halves); });
  }
#endif
  if (kind == 1) return spin_chains<double>(rounds, 2, [](Vec<double> x) { return x * 0.5 + 0.25; });
  return spin_chains<float>(rounds, 2, [](Vec<float> x) { return x * 0.5f + 0.25f; });
}

double sum_bytes(const void* data, int64_t bytes) {
  const double* p = static_cast<const double*>(data);
  const int64_t count = bytes / 8;
  Vec<double> sum[8] = {};
  int64_t i = 0;
  for (; i + 8 * lanes<double> <= count; i += 8 * lanes<double>)
    unroll<8>([&](auto k) { sum[k] += load(p + i + k * lanes<double>); });
  double total = 0;
  for (; i < count; ++i) total += p[i];
  for (int k = 0; k < 8; ++k)
    for (int j = 0; j < lanes<double>; ++j) total += sum[k][j];
  return total;
}

template <class T>
void elementary_row(int32_t function, const T* in, T* out, int64_t count) {
  for (int64_t i = 0; i < count; i += lanes<T>) {
    const int64_t some = count - i < lanes<T> ? count - i : lanes<T>;
    Vec<T> x = {};
    memcpy(&x, in + i, size_t(some) * sizeof(T));
    x = function == 0 ? exp2_any<T>(x) : function == 1 ? log<T>(x) : tanh<T>(x);
    memcpy(out + i, &x, size_t(some) * sizeof(T));
  }
}

// function: 0 exp2, 1 log, 2 tanh
void elementary(int32_t function, bool is_double, const void* in, void* out, int64_t count) {
  if (is_double)
    elementary_row<double>(function, static_cast<const double*>(in), static_cast<double*>(out), count);
  else
    elementary_row<float>(function, static_cast<const float*>(in), static_cast<float*>(out), count);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
