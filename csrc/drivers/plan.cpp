#include "plan.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace foveate {
namespace {

constexpr double ln_2 = 0.69314718055994530942;

const Family& family_of(const Problem& p, const Kernels& kernels) {
  if (p.query.dtype == FV_FLOAT64) return kernels.float64;
  const bool pairs =
      p.query.dtype == FV_BFLOAT16 && p.key.dtype == FV_BFLOAT16 && (!p.value || p.value.dtype == FV_BFLOAT16);
  return pairs && kernels.bfloat16 ? *kernels.bfloat16 : kernels.float32;
}

// Contiguous rows that start at whole elements of the family's products can be read where they stand.
bool in_place(const Operand& x, const Family& family, int64_t columns, bool even) {
  const int64_t word = family.element_size;
  const int64_t item = family.in_place == Dtype::bfloat16 ? 2 : word;
  if (dtype_of(x) != family.in_place || (columns > 1 && x.column_stride != item)) return false;
  if (even && columns % 2) return false;
  int64_t odd = x.row_stride % word | int64_t(reinterpret_cast<uintptr_t>(x.data) % uintptr_t(word));
  for (const int64_t stride : x.lead) odd |= stride % word;
  return odd == 0;
}

template <class T>
T value_at(const Operand& operand, int64_t bytes) {
  T x;
  std::memcpy(&x, operand.data + bytes, sizeof x);
  return x;
}

}  // namespace

Plan::Plan(const Problem& p, const Kernels& k) noexcept : problem(p), kernels(k), family(family_of(p, k)) {
  for (int a = 0; a < p.lead_ndim; ++a) {
    const int64_t extent = p.lead_shape[a];
    if (extent == 1) continue;
    const bool shared = p.key.lead[a] == 0 && (!p.value || p.value.lead[a] == 0);
    Axes& axes = shared ? group_ : batch_;
    axes.axis[axes.count++] = a;
    (shared ? groups : batches) *= extent;
  }
  rows = groups * p.queries;

  biased = p.mask && p.mask.dtype != FV_BOOL;
  bent = p.softcap > 0 || biased || !(p.scale > 0);
  scale = p.softcap > 0 ? p.scale : p.scale * log2_e;
  bits = p.mask || p.query_segments;

  keys_in_place = in_place(p.key, family, p.head_size, family.pairs);
  values_in_place = p.value && !family.pairs && in_place(p.value, family, p.value_size, false);
}

Reach reach_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const Problem& p = plan.problem;
  const auto read = [&](const Operand& x) {
    return value_at<int64_t>(x, plan.batch_offset(x, batch) + plan.group_offset(x, group));
  };
  const int64_t keys = p.key_lengths ? read(p.key_lengths) : p.keys;
  return {p.offset_at_end ? keys - p.queries : p.offset ? read(p.offset) : 0, keys};
}

double sink_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const Operand& x = plan.problem.sink;
  if (!x) return -std::numeric_limits<double>::infinity();
  return value_at<double>(x, plan.batch_offset(x, batch) + plan.group_offset(x, group));
}

double log_denominator(double m, double l) noexcept { return m * ln_2 + std::log(l); }

fv_status no_memory(fv_error* error, double bytes) noexcept {
  std::snprintf(error->message, sizeof error->message, "scratch memory: %.3g bytes could not be had", bytes);
  return FV_NO_MEMORY;
}

}  // namespace foveate
