// Few queries against many keys.
#pragma once
#include "drivers/common/problem.hpp"

namespace foveate {

// Up to this many queries take this driver. It depends on Lq alone, so that grouping heads changes no bits.
constexpr int64_t decode_queries = 4;

fv_status decode(const Problem&, fv_error*) noexcept;

}  // namespace foveate
