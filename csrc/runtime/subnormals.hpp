// Subnormal numbers count as 0, as operands and as results, while an object of this stands on a thread's stack. The
// weights of peaked scores are full of them, and a multiply-add that meets one takes a hundred times as long on many
// CPUs. The mode belongs to the thread; it is set for one task of the kernels, and restored. x86-64 and AArch64 have it.
// RISC-V, z/Architecture, LoongArch and WebAssembly have none, and that of POWER is for AltiVec alone, which the vectors of
// VSX are not: there subnormal numbers count as they are, and these objects do nothing.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace foveate {

class FloatingPointMode {
 protected:
#if defined(__x86_64__)
  using Control = uint32_t;
  static constexpr Control as_zero = 0x8040;  // MXCSR: flush to zero, of results; denormals are zeros, of operands
  static Control control() noexcept { return _mm_getcsr(); }
  static void set_control(Control control) noexcept { _mm_setcsr(control); }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static constexpr Control as_zero = uint64_t(1) << 24;  // FPCR.FZ: both
  static Control control() noexcept {
    Control control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  static void set_control(Control control) noexcept { asm volatile("msr fpcr, %0" : : "r"(control)); }
#else
  using Control = uint32_t;
  static constexpr Control as_zero = 0;
  static Control control() noexcept { return 0; }
  static void set_control(Control) noexcept {}
#endif
  FloatingPointMode() noexcept : before_(control()) {}
  ~FloatingPointMode() { set_control(before_); }
  FloatingPointMode(const FloatingPointMode&) = delete;
  FloatingPointMode& operator=(const FloatingPointMode&) = delete;
  const Control before_;
};

class SubnormalsAsZero : FloatingPointMode {
 public:
  SubnormalsAsZero() noexcept { set_control(before_ | as_zero); }
};

// For other code in between, which must not see that mode.
class SubnormalsAsTheyAre : FloatingPointMode {
 public:
  SubnormalsAsTheyAre() noexcept { set_control(before_ & ~as_zero); }
};

}  // namespace foveate
