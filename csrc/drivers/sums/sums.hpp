// A validated problem of sums of Gaussians, and its driver.
#pragma once
#include "runtime/operand.hpp"

namespace foveate {

struct SumsOfGaussians {
  int lead_ndim = 0;  // as the checks of views want it: none
  int64_t lead_shape[FV_MAX_DIMS] = {};
  int64_t queries = 0, points = 0, dims = 0, columns = 0;
  Operand x, y, values, w;  // (n, d), (m, d), (m, k), (d,), float64
  double tolerance = 0;
  bool leave_one_out = false, directions = false;
  Operand sums, log_scale;      // (n, k) or (n, k (1 + d)); (n,), float64
  int32_t* declined = nullptr;  // 1: all pairs, of which each costs so much of one here, are cheaper; null: never
  double pair_cost = 1;
  bool skips_far = false;
};

fv_status sums_of_gaussians(const SumsOfGaussians&, fv_error*) noexcept;

}  // namespace foveate
