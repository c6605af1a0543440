// Which instructions this CPU has and its system keeps the registers of. They are asked, not the compiler's runtime
// library: that of zig says no to each __builtin_cpu_supports, and Clang for Windows links none.
#pragma once

namespace foveate {

// By the names of the kernels that need them.
struct CpuFeatures {
  bool baseline = false, avx = false, avx2 = false, avx512 = false, avx512bf16 = false, amx = false, neonbf16 = false;
};
CpuFeatures cpu_features() noexcept;

// Whether this process may use the registers of AMX, for which Linux has to be asked, once and for all threads and
// children. Other systems are not asked: without them pairs of vectors serve, at half the rate of float32.
bool may_use_amx() noexcept;

}  // namespace foveate
