// The forms of cpu.hpp for each architecture, and on AArch64 for each system, since there the CPU tells only that.
#include "cpu.hpp"

#include <cstdint>

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

namespace foveate {

#if defined(FOVEATE_EMULATED_TILES)
constexpr bool emulated_tiles = true;  // see csrc/kernels/emulated_tiles.hpp
#else
constexpr bool emulated_tiles = false;
#endif

#if defined(__x86_64__)

namespace {

struct Leaf {  // all 0 where the CPU has no such leaf
  unsigned a = 0, b = 0, c = 0, d = 0;
  Leaf(unsigned leaf, unsigned subleaf) noexcept { __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d); }
};
bool bit(unsigned word, int i) noexcept { return word >> i & 1; }

// The registers that the system saves for a thread.
uint32_t saved_registers() noexcept {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

CpuFeatures cpu_features() noexcept {
  const Leaf basic(1, 0), more(7, 0), most(7, 1);
  const uint32_t saved = bit(basic.c, 27) ? saved_registers() : 0;  // OSXSAVE
#if defined(__APPLE__)
  constexpr uint32_t of_avx = 0x06, of_avx512 = of_avx;  // the rest are saved from a thread's first use of them on
#else
  constexpr uint32_t of_avx = 0x06, of_avx512 = 0xe6;
#endif
  const bool ymm = (saved & of_avx) == of_avx, zmm = (saved & of_avx512) == of_avx512;
  CpuFeatures cpu;
  cpu.baseline = bit(basic.c, 20) && bit(basic.c, 23);         // SSE4.2, POPCNT
  cpu.avx = ymm && bit(basic.c, 28) && bit(basic.c, 29);       // AVX, F16C
  cpu.avx2 = cpu.avx && bit(more.b, 5) && bit(basic.c, 12) &&  // AVX2, FMA
             bit(more.b, 3) && bit(more.b, 8);                 // BMI1, BMI2
  cpu.avx512 = cpu.avx2 && zmm && bit(more.b, 16) && bit(more.b, 17) && bit(more.b, 28) && bit(more.b, 30) &&
               bit(more.b, 31);                                      // F, DQ, CD, BW, VL
  cpu.avx512bf16 = cpu.avx512 && bit(most.a, 5) && bit(more.c, 11);  // and VNNI, which no CPU lacks that has these
  cpu.amx = emulated_tiles ? cpu.avx512bf16 : bit(more.d, 22) && bit(more.d, 24);  // BF16, TILE
  return cpu;
}

#elif defined(__aarch64__)

// Products of bfloat16, of which bfmmla is one, and arithmetic in half precision, which compilers take with them.
CpuFeatures cpu_features() noexcept {
  CpuFeatures cpu;
#if defined(__linux__)
  constexpr unsigned long half = 3ul << 9, bf16 = 1ul << 14;  // HWCAP_FPHP and HWCAP_ASIMDHP; HWCAP2_BF16
  cpu.neonbf16 = (getauxval(AT_HWCAP) & half) == half && (getauxval(AT_HWCAP2) & bf16);
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int there = 0;
    size_t size = sizeof there;
    return sysctlbyname(name, &there, &size, nullptr, 0) == 0 && there != 0;
  };
  cpu.neonbf16 = has("hw.optional.arm.FEAT_FP16") && has("hw.optional.arm.FEAT_BF16");
#elif defined(_WIN32)
  constexpr DWORD half = 67, bf16 = 68;  // PF_ARM_V82_FP16_ and PF_ARM_V86_BF16_INSTRUCTIONS_AVAILABLE
  cpu.neonbf16 = IsProcessorFeaturePresent(half) && IsProcessorFeaturePresent(bf16);
#endif
  return cpu;
}

#else

CpuFeatures cpu_features() noexcept { return {}; }

#endif

bool may_use_amx() noexcept {
  if constexpr (emulated_tiles) return true;
#if defined(__x86_64__) && defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace foveate
