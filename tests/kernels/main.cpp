// Tests of the kernels through the C ABI, without Python: every instruction set that this CPU runs, one after the other,
// and of AVX-512 and NEON the lesser variants too, as far as they have kernels of their own.
// Usage: foveate_kernel_tests [ISA] [GROUP ...]; a group is a file GROUP_test.cpp. On a CPU that runs no instruction set
// old_cpu_test.cpp is all there is to run.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "foveate/foveate.h"
#include "report.hpp"

namespace kernel_tests {
namespace {

using Names = std::vector<std::string>;

// Tests that know one instruction set at a time.
template <void (*test)(Report&, const std::string&)>
void of_each(Report& report, const Names& isas) {
  for (const std::string& isa : isas) {
    fv_error error = {};
    if (fv_isa_select(isa.c_str(), &error) != FV_OK) report.that(isa + ": selected", false, error.message);
    test(report, isa);
  }
}

void test_draws(Report& report, const Names& isas) {
  of_each<test_sampling>(report, isas);
  test_random(report);
}

void test_refusals_of_gradients(Report& report, const Names&) { test_backward_refusals(report); }

struct Group {
  const char* name;
  void (*run)(Report&, const Names& isas);
  bool variants = false;  // the lesser variants too
};

constexpr Group groups[] = {
    {"elementary", of_each<test_elementary>},
    {"behavior", of_each<test_behavior>},
    {"refusals", of_each<test_refusals>},
    {"sampling", test_draws},
    {"filters", of_each<test_filters>},
    {"one_answer", of_each<test_one_answer>},
    {"scribble", of_each<test_scribbling>},
    {"attention", test_attention, true},
    {"scores", test_scores},
    {"far", test_far},
    {"hard", test_hard},
    {"dropout", test_dropout},
    {"paged", test_paged, true},
    {"backward", test_backward, true},
    {"backward_edges", of_each<test_backward_edges>, true},
    {"tangent", of_each<test_tangents>, true},
    {"backward_refusals", test_refusals_of_gradients},
};

int run(const Names& wanted) {
  Names isas, variants, known;
  for (const Group& group : groups) known.push_back(group.name);
  const auto is_group = [&](const std::string& name) { return std::count(known.begin(), known.end(), name) != 0; };
  std::string only;
  for (const std::string& name : wanted) {
    if (is_group(name)) continue;
    if (!only.empty()) {
      std::printf("got %s and %s, wanted one instruction set, and groups\n", only.c_str(), name.c_str());
      return 2;
    }
    only = name;
  }
  const bool all_groups = std::none_of(wanted.begin(), wanted.end(), is_group);

  Report report;
  if (fv_isa_count() == 0) {
    test_old_cpu(report);
    std::printf("%d checks on a CPU that runs no instruction set, %d failed\n", report.checks(), report.failures());
    return report.failures() != 0;
  }
  for (int32_t i = 0; i < fv_isa_count(); ++i) {
    const char* name = fv_isa_name(i);
    if (!only.empty() && only != name) continue;
    fv_error error = {};
    const bool chosen = fv_isa_select(name, &error) == FV_OK && std::strcmp(fv_isa_selected(), name) == 0;
    report.that(std::string(name) + ": selected", chosen, error.message);
    if (chosen) isas.push_back(name);
  }
  variants = isas;
  for (const char* features : {"avx512 bf16", "avx512 float32", "neon float32"}) {
    fv_error error = {};
    const std::string isa(features, std::strcspn(features, " "));
    if (!only.empty() && only != isa && only != features) continue;
    if (fv_isa_select(features, &error) != FV_OK) continue;  // the best there is, or not on this CPU
    report.that(std::string(features) + ": selected", std::strcmp(fv_isa_features(), features) == 0, fv_isa_features());
    variants.push_back(features);
  }
  if (variants.empty()) {
    std::printf("got %s, wanted an instruction set of this CPU, or groups\n", only.c_str());
    return 2;
  }
  for (const Group& group : groups)
    if (all_groups || std::count(wanted.begin(), wanted.end(), group.name) != 0)
      group.run(report, group.variants ? variants : isas);
  std::printf("%d checks on %zu instruction sets and variants, %d failed\n", report.checks(), variants.size(),
              report.failures());
  return report.failures() != 0;
}

}  // namespace
}  // namespace kernel_tests

int main(int argc, char** argv) { return kernel_tests::run({argv + 1, argv + argc}); }
