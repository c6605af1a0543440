// What this machine can do with this ISA, to judge the kernels by, and the elementary functions, to test them.
#pragma once
#include "math.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// x = f(x) in twelve independent chains: enough to hide a latency of 4 cycles at 2 or 3 operations a cycle. On 16
// registers 12 accumulators and two operands still fit.
template <class T, class F>
double spin_chains(int64_t rounds, double flops_a_lane, F&& f) {
  Vec<T> sum[12];
  for (int k = 0; k < 12; ++k) sum[k] = broadcast(T(k) / T(rounds));  // chains alike would be computed once
  for (int64_t i = 0; i < rounds; ++i) unroll<12>([&](int k) INLINED { sum[k] = f(sum[k]); });
  T total = 0;
  for (int k = 0; k < 12; ++k) total += sum[k][0];
  return total == T(-1) ? 0 : double(rounds) * 12 * lanes<T> * flops_a_lane;  // never -1: the chains are needed
}

template <class T>
double spin(int64_t rounds) {
  return spin_chains<T>(rounds, 2, [](Vec<T> x) { return x * T(0.5) + T(0.25); });
}
inline double sum_bytes(const void* data, int64_t bytes) {
  const double* p = static_cast<const double*>(data);
  const int64_t count = bytes / 8;
  Vec<double> sum[8] = {};
  int64_t i = 0;
  for (; i + 8 * lanes<double> <= count; i += 8 * lanes<double>)
    unroll<8>([&](int k) INLINED { sum[k] += load(p + i + k * lanes<double>); });
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
inline void elementary(int32_t function, bool is_double, const void* in, void* out, int64_t count) {
  if (is_double)
    elementary_row<double>(function, static_cast<const double*>(in), static_cast<double*>(out), count);
  else
    elementary_row<float>(function, static_cast<const float*>(in), static_cast<float*>(out), count);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
