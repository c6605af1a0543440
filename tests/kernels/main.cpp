// Tests of the kernels through the C ABI, without Python: every instruction set that this CPU runs, one after the other,
// and of AVX-512 the lesser variants too, as far as they have kernels of their own. With a name as the argument, only
// that one.
#include <cstdio>
#include <cstring>

#include "foveate/foveate.h"
#include "report.hpp"

int main(int argc, char** argv) {
  kernel_tests::Report report;
  std::vector<std::string> isas;
  for (int32_t i = 0; i < fv_isa_count(); ++i) {
    const char* name = fv_isa_name(i);
    if (argc > 1 && std::strcmp(argv[1], name) != 0) continue;
    fv_error error = {};
    const bool chosen = fv_isa_select(name, &error) == FV_OK && std::strcmp(fv_isa_selected(), name) == 0;
    report.that(std::string(name) + ": selected", chosen, error.message);
    if (!chosen) continue;
    kernel_tests::test_elementary(report, name);
    kernel_tests::test_behaviour(report, name);
    kernel_tests::test_refusals(report, name);
    kernel_tests::test_sampling(report, name);
    kernel_tests::test_backward_edges(report, name);
    kernel_tests::test_scribbling(report, name);
    isas.push_back(name);
  }
  std::vector<std::string> variants = isas;
  for (const char* features : {"avx512 bf16", "avx512 float32"}) {
    fv_error error = {};
    if (argc > 1 && std::strcmp(argv[1], "avx512") != 0 && std::strcmp(argv[1], features) != 0) continue;
    if (fv_isa_select(features, &error) != FV_OK) continue;  // the best there is, or not on this CPU
    report.that(std::string(features) + ": selected", std::strcmp(fv_isa_features(), features) == 0, fv_isa_features());
    kernel_tests::test_backward_edges(report, features);
    variants.push_back(features);
  }
  kernel_tests::test_random(report);
  kernel_tests::test_backward_refusals(report);
  kernel_tests::test_attention(report, variants);
  kernel_tests::test_scores(report, isas);
  kernel_tests::test_far(report, isas);
  kernel_tests::test_hard(report, isas);
  kernel_tests::test_backward(report, variants);
  kernel_tests::test_dropout(report, isas);
  std::printf("%d checks on %zu instruction sets and variants, %d failed\n", report.checks(), variants.size(),
              report.failures());
  return report.failures() != 0 || variants.empty();
}
