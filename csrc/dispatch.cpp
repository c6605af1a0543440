#include "dispatch.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "foveate/foveate.h"

namespace foveate {
namespace baseline { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }
namespace neon { extern const Kernels kernels; }

namespace {

struct Isa {
  const char* name;
  const char* features;
  const Kernels* kernels;
};

// Best first. AVX-512 with bfloat16 products is the same ISA to a user: a name and a feature.
struct Available {
  Isa isas[4];
  int count = 0;

  void add(const char* name, const char* features, const Kernels& kernels) {
    isas[count++] = {name, features, &kernels};
  }

  Available() noexcept {
#if defined(__x86_64__)
    __builtin_cpu_init();
    [[maybe_unused]] const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                                         __builtin_cpu_supports("avx512vl");
    [[maybe_unused]] bool widest = false;
#if defined(FOVEATE_HAVE_AVX512BF16)
    if (avx512 && __builtin_cpu_supports("avx512bf16")) {
      add("avx512", "avx512 bf16", avx512bf16::kernels);
      widest = true;
    }
#endif
#if defined(FOVEATE_HAVE_AVX512)
    if (avx512 && !widest) add("avx512", "avx512", avx512::kernels);
#endif
#if defined(FOVEATE_HAVE_AVX2)
    // the rest of x86-64-v3, such as f16c and lzcnt, is on every CPU that has these; compilers name not all of them
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
      add("avx2", "avx2 fma f16c", avx2::kernels);
#endif
#if defined(FOVEATE_HAVE_BASELINE)
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))
      add("baseline", "x86-64-v2", baseline::kernels);
#endif
#elif defined(__aarch64__)
    add("neon", "neon", neon::kernels);
#endif
  }
};

const Available& available() noexcept {
  static const Available all;
  return all;
}

std::atomic<const Isa*> chosen{nullptr};

const Isa& selected() noexcept {
  const Isa* isa = chosen.load(std::memory_order_acquire);
  return isa ? *isa : available().isas[0];
}

}  // namespace

const Kernels& kernels() noexcept { return *selected().kernels; }

}  // namespace foveate

using namespace foveate;

int32_t fv_isa_count(void) noexcept { return available().count; }

const char* fv_isa_name(int32_t index) noexcept {
  return index >= 0 && index < available().count ? available().isas[index].name : nullptr;
}

const char* fv_isa_selected(void) noexcept { return selected().name; }

const char* fv_isa_features(void) noexcept { return selected().features; }

fv_status fv_isa_select(const char* name, fv_error* error) noexcept {
  char names[64] = "";
  for (int i = 0; i < available().count; ++i) {
    const Isa& isa = available().isas[i];
    if (std::strcmp(isa.name, name) == 0) {
      chosen.store(&isa, std::memory_order_release);
      return FV_OK;
    }
    std::snprintf(names + std::strlen(names), sizeof names - std::strlen(names), "%s%s", i ? ", " : "", isa.name);
  }
  std::snprintf(error->message, sizeof error->message,
                "FOVEATE_ISA: no instruction set '%.40s' can run here; those that can: %s", name, names);
  return FV_VALUE_ERROR;
}
