// The poisoned build for tests, -DFOVEATE_POISON=ON: outputs and scratch memory hold signaling values before every
// call, so that what is never written, or is read before it is written, shows in the answer; and invariants are
// checked. Other builds contain nothing of this.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace foveate {

#ifdef FOVEATE_POISON
constexpr bool poisoned = true;
#else
constexpr bool poisoned = false;
#endif

// NaN in float16, bfloat16, float32 and, signaling, float64; as an integer beyond any length; no address.
constexpr uint16_t poison_word = 0x7ff1;

// bytes: even
inline void poison(char* to, size_t bytes) noexcept {
  for (size_t i = 0; i < bytes; i += sizeof poison_word) std::memcpy(to + i, &poison_word, sizeof poison_word);
}

inline bool holds_poison(const char* from, size_t bytes) noexcept {
  for (size_t i = 0; i < bytes; i += sizeof poison_word)
    if (std::memcmp(from + i, &poison_word, sizeof poison_word) != 0) return false;
  return true;
}

// Ends the process of a poisoned build where this does not hold.
inline void insist([[maybe_unused]] bool holds, [[maybe_unused]] const char* what) noexcept {
  if constexpr (poisoned) {
    if (holds) return;
    std::fprintf(stderr, "foveate: it does not hold that %s\n", what);
    std::abort();
  }
}

}  // namespace foveate
