// The inner product with every reach and layout, over dtypes and lengths around every tile's edge.
#include "compare.hpp"
#include "reaches.hpp"

namespace kernel_tests {
namespace {

constexpr int64_t lengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 65, 111, 112, 113, 127, 129, 225};
constexpr int64_t head_sizes[] = {8, 1, 16, 3, 40, 64, 33};
constexpr int64_t shapes = sizeof lengths / sizeof *lengths;

Case inner_product(fv_dtype dtype, const Variant& variant, int64_t n) {
  // float64 without groups: its truth, in long double, takes long where the hardware has none
  const int64_t groups = dtype == FV_FLOAT64 ? 1 : 1 + n % 3;
  Case c(dtype, 2, groups, lengths[n], lengths[(n * 5 + 3) % shapes], head_sizes[n % 7], head_sizes[(n + 2) % 7],
         uint64_t(n + 1));
  variant.apply(c);
  return c;
}

}  // namespace

void test_attention(Report& report, const std::vector<std::string>& isas) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16})
    for (const Variant& variant : variants())
      compare(report, isas, variant.name, shapes, [&](int64_t n) { return inner_product(dtype, variant, n); });
}

}  // namespace kernel_tests
