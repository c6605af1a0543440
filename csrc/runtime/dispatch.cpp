// The ISAs that were compiled, those that this CPU (and its system, of AMX) runs, and the one in use.
#include "dispatch.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif

#include "foveate/foveate.h"
#include "refuse.hpp"

namespace foveate {
namespace baseline { extern const Kernels kernels; }
namespace avx { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }
namespace neon { extern const Kernels kernels; }
namespace neonbf16 { extern const Kernels kernels; }
namespace generic { extern const Kernels kernels; }

namespace {

struct Isa {
  const char* name;
  const char* features;
  Kernels kernels;
};

#if defined(__x86_64__)
// AMX with bfloat16: by the CPU; and whether this process may use its registers, for which Linux has to be asked, once
// and for all threads and children. Without them pairs of vectors serve, which these CPUs do at half the rate of
// float32.
[[maybe_unused]] bool has_amx() noexcept {
  unsigned a, b, c, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
}
[[maybe_unused]] bool may_use_amx() noexcept {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#elif defined(__aarch64__)
// Products of bfloat16, of which bfmmla is one, and arithmetic in half precision, which compilers take with them.
[[maybe_unused]] bool has_bf16() noexcept {
#if defined(__linux__)
  constexpr unsigned long half = 3ul << 9, bf16 = 1ul << 14;  // HWCAP_FPHP and HWCAP_ASIMDHP; HWCAP2_BF16
  return (getauxval(AT_HWCAP) & half) == half && (getauxval(AT_HWCAP2) & bf16);
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int there = 0;
    size_t size = sizeof there;
    return sysctlbyname(name, &there, &size, nullptr, 0) == 0 && there != 0;
  };
  return has("hw.optional.arm.FEAT_FP16") && has("hw.optional.arm.FEAT_BF16");
#elif defined(_WIN32)
  constexpr DWORD half = 67, bf16 = 68;  // PF_ARM_V82_FP16_ and PF_ARM_V86_BF16_INSTRUCTIONS_AVAILABLE
  return IsProcessorFeaturePresent(half) && IsProcessorFeaturePresent(bf16);
#else
  return false;
#endif
}
#endif

// Best first. AVX-512, with bfloat16 products, and with AMX are one ISA to a user, with one name: it stands for the
// best variant; the lesser ones are chosen by their features. So are NEON, and NEON with bfloat16 products.
struct Available {
  Isa isas[5];
  int count = 0;
  Isa lesser[2];
  int lesser_count = 0;

  void add(const char* name, const char* features, const Kernels& kernels) {
    isas[count++] = {name, features, kernels};
  }
  // The next best of an ISA's kernels, with these products of bfloat16, if any.
  void add_variant(const char* name, const char* features, Kernels kernels, const Arithmetic* bfloat16) {
    kernels.bfloat16 = bfloat16;
    const bool first = count == 0;
    (first ? isas[count++] : lesser[lesser_count++]) = {name, features, kernels};
  }

  Available() noexcept {
#if defined(__x86_64__)
    __builtin_cpu_init();
    [[maybe_unused]] const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                                         __builtin_cpu_supports("avx512vl");
#if defined(FOVEATE_HAVE_AVX512BF16)
    if (avx512 && __builtin_cpu_supports("avx512bf16")) {
      const Kernels& k = avx512bf16::kernels;
      const bool amx = has_amx();
      if (amx && k.amx && may_use_amx()) add_variant("avx512", "avx512 bf16 amx", k, k.amx);
      if (amx && count == 0) add_variant("avx512", "avx512", k, nullptr);
      add_variant("avx512", "avx512 bf16", k, k.bfloat16);
    }
#endif
#if defined(FOVEATE_HAVE_AVX512)
    if (avx512 && count == 0) add_variant("avx512", "avx512", avx512::kernels, nullptr);
    if (avx512 && isas[0].kernels.bfloat16) add_variant("avx512", "avx512 float32", avx512::kernels, nullptr);
#endif
#if defined(FOVEATE_HAVE_AVX2)
    // the rest of x86-64-v3, such as f16c and lzcnt, is on every CPU that has these; compilers name not all of them
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
      add("avx2", "avx2 fma f16c", avx2::kernels);
#endif
#if defined(FOVEATE_HAVE_AVX)
    if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) add("avx", "avx f16c", avx::kernels);
#endif
#if defined(FOVEATE_HAVE_BASELINE)
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))
      add("baseline", "x86-64-v2", baseline::kernels);
#endif
#elif defined(__aarch64__)
#if defined(FOVEATE_HAVE_NEONBF16)
    if (has_bf16()) add_variant("neon", "neon bf16", neonbf16::kernels, neonbf16::kernels.bfloat16);
#endif
#if defined(FOVEATE_HAVE_NEON)
    add_variant("neon", count == 0 ? "neon" : "neon float32", neon::kernels, nullptr);
#endif
#endif
#if defined(FOVEATE_HAVE_GENERIC)
    add("generic", "vectors of 16 bytes", generic::kernels);
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

const Kernels& kernels() noexcept { return selected().kernels; }

}  // namespace foveate

using namespace foveate;

int32_t fv_isa_count(void) noexcept { return available().count; }

const char* fv_isa_name(int32_t index) noexcept {
  return index >= 0 && index < available().count ? available().isas[index].name : nullptr;
}

const char* fv_isa_selected(void) noexcept { return selected().name; }

const char* fv_isa_features(void) noexcept { return selected().features; }

fv_status fv_isa_select(const char* name, fv_error* error) noexcept {
  if (name == nullptr) return refuse(error, FV_VALUE_ERROR, "name: got none, wanted an instruction set");
  char names[64] = "";
  for (int i = 0; i < available().count; ++i) {
    const Isa& isa = available().isas[i];
    if (std::strcmp(isa.name, name) == 0) {
      chosen.store(&isa, std::memory_order_release);
      return FV_OK;
    }
    std::snprintf(names + std::strlen(names), sizeof names - std::strlen(names), "%s%s", i ? ", " : "", isa.name);
  }
  for (int i = 0; i < available().lesser_count; ++i) {
    const Isa& isa = available().lesser[i];
    if (std::strcmp(isa.features, name) != 0) continue;
    chosen.store(&isa, std::memory_order_release);
    return FV_OK;
  }
  return refuse(error, FV_VALUE_ERROR, "FOVEATE_ISA: no instruction set '%.40s' can run here; those that can: %s", name,
                names);
}
