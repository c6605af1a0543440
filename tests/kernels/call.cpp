#include "call.hpp"

#include <cstdio>

namespace kernel_tests {

Result run(const Case& c, int32_t threads) {
  Result r = {Tensor(c.dtype, {c.heads, c.groups, c.queries, c.value_size}, 7.0),
              Tensor(lse_dtype(c.dtype), {c.heads, c.groups, c.queries}, 7.0), FV_OK};
  fv_set_num_threads(threads);
  const fv_problem problem = c.problem();
  fv_error error = {};
  r.status = fv_attention(&problem, r.output.view(), r.lse.view(), &error);
  if (r.status != FV_OK) std::printf("        %s\n", error.message);
  fv_set_num_threads(0);
  return r;
}

bool same(const Result& a, const Result& b) {
  return a.status == FV_OK && b.status == FV_OK && a.output.same_bits(b.output) && a.lse.same_bits(b.lse);
}

}  // namespace kernel_tests
