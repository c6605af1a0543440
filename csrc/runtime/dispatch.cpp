// The ISAs that were compiled, those of them that this CPU runs, and the one in use.
#include "dispatch.hpp"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "cpu.hpp"
#include "foveate/foveate.h"
#include "refuse.hpp"

namespace foveate {
namespace baseline { extern const Kernels kernels; }
namespace avx { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 {
extern const Bfloat16 bfloat16;
extern const Digits digits;
}  // namespace avx512bf16
namespace neon { extern const Kernels kernels; }
namespace neonbf16 { extern const Bfloat16 bfloat16; }
namespace generic { extern const Kernels kernels; }

namespace {

struct Isa {
  const char* name;
  const char* features;
  Kernels kernels;
};

// Best first. AVX-512, with bfloat16 products, and with AMX are one ISA to a user, with one name: it stands for the
// best variant; the lesser ones are chosen by their features. So are NEON, and NEON with bfloat16 products.
struct Available {
  Isa isas[5];
  int count = 0;
  Isa lesser[2];
  int lesser_count = 0;
  Arithmetic bfloat16, amx;  // what the kernels above point at

  void add(const char* name, const char* features, const Kernels& kernels) {
    isas[count++] = {name, features, kernels};
  }
  // The next best of an ISA's kernels, with these products of bfloat16, if any.
  void add_variant(const char* name, const char* features, Kernels kernels, const Arithmetic* bfloat16,
                   const Digits* digits = nullptr, const FewPairs* few_pairs = nullptr) {
    kernels.bfloat16 = bfloat16;
    kernels.digits = digits;
    kernels.few_pairs = few_pairs;
    const bool first = count == 0;
    (first ? isas[count++] : lesser[lesser_count++]) = {name, features, kernels};
  }

  Available() noexcept {
    [[maybe_unused]] const CpuFeatures cpu = cpu_features();
#if defined(FOVEATE_HAVE_AVX512)
    const Kernels& k = avx512::kernels;
#if defined(FOVEATE_HAVE_AVX512BF16)
    if (cpu.avx512bf16) {
      const Bfloat16& of = avx512bf16::bfloat16;
      const bool tiles = cpu.amx && of.amx && may_use_amx();
      bfloat16 = of.products(k.float32);
      if (tiles) amx = of.amx(k.float32);
      if (tiles) add_variant("avx512", "avx512 bf16 amx", k, &amx, &avx512bf16::digits, of.few);
      if (cpu.amx && count == 0) add_variant("avx512", "avx512", k, nullptr);
      add_variant("avx512", "avx512 bf16", k, &bfloat16, &avx512bf16::digits, of.few);
    }
#endif
    if (cpu.avx512 && count == 0) add_variant("avx512", "avx512", k, nullptr);
    if (cpu.avx512 && isas[0].kernels.bfloat16) add_variant("avx512", "avx512 float32", k, nullptr);
#endif
#if defined(FOVEATE_HAVE_AVX2)
    // the rest of x86-64-v3, such as lzcnt, is on every CPU that has these
    if (cpu.avx2) add("avx2", "avx2 fma f16c", avx2::kernels);
#endif
#if defined(FOVEATE_HAVE_AVX)
    if (cpu.avx) add("avx", "avx f16c", avx::kernels);
#endif
#if defined(FOVEATE_HAVE_BASELINE)
    if (cpu.baseline) add("baseline", "x86-64-v2", baseline::kernels);
#endif
#if defined(FOVEATE_HAVE_NEON)
#if defined(FOVEATE_HAVE_NEONBF16)
    if (cpu.neonbf16) {
      bfloat16 = neonbf16::bfloat16.products(neon::kernels.float32);
      add_variant("neon", "neon bf16", neon::kernels, &bfloat16);
    }
#endif
    add_variant("neon", count == 0 ? "neon" : "neon float32", neon::kernels, nullptr);
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

// Made when the engine is loaded, so that no child is forked while another thread makes it.
const Available& at_load = available();

std::atomic<const Isa*> chosen{nullptr};

const Isa& selected() noexcept {
  const Isa* isa = chosen.load(std::memory_order_acquire);
  return isa ? *isa : available().isas[0];
}

}  // namespace

const Kernels& kernels() noexcept { return selected().kernels; }

fv_status check_cpu(fv_error* error) noexcept {
#if defined(FOVEATE_HAVE_BASELINE)
  constexpr const char* least = "SSE4.2 and POPCNT (x86-64-v2)";
#elif defined(FOVEATE_HAVE_AVX)
  constexpr const char* least = "AVX and F16C";
#elif defined(FOVEATE_HAVE_AVX2)
  constexpr const char* least = "AVX2, FMA and BMI2 (x86-64-v3)";
#else
  constexpr const char* least = "the instruction sets that this foveate was built for";
#endif
  if (available().count > 0) return FV_OK;
  return refuse(error, FV_VALUE_ERROR, "CPU: got one without what foveate needs, wanted %s", least);
}

}  // namespace foveate

using namespace foveate;

int32_t fv_isa_count(void) noexcept { return available().count; }

const char* fv_isa_name(int32_t index) noexcept {
  return index >= 0 && index < available().count ? available().isas[index].name : nullptr;
}

const char* fv_isa_selected(void) noexcept { return selected().name; }

const char* fv_isa_features(void) noexcept { return selected().features; }

fv_status fv_isa_select(const char* name, fv_error* error) noexcept {
  if (const fv_status status = check_cpu(error); status != FV_OK) return status;
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
