// A panel of queries: one vector of them or `panel_vectors`, and the register tiles that its products work in. Kernels
// are written for a number of vectors known at compile time; by_width chooses between the two.
#pragma once
#include "simd.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Register tiles, by the number of vector registers: measured on AVX-512 (14 x 2: 97% of peak by itself, 12 x 2 and
// 8 x 3 within 2%) and AVX2 (4 x 3, and on AVX 5% faster than 4 x 2); one register stays free, or compilers spill.
#if defined(__AVX512F__)
constexpr int panel_vectors = 2;
template <int vectors>
constexpr int key_rows = vectors == 1 ? 28 : 14;
template <int vectors>
constexpr int value_columns = vectors == 1 ? 16 : 8;
#elif defined(FOVEATE_NEON)
constexpr int panel_vectors = 3;
template <int vectors>
constexpr int key_rows = 8;
template <int vectors>
constexpr int value_columns = 8;
#elif defined(__AVX__)
constexpr int panel_vectors = 3;
template <int vectors>
constexpr int key_rows = vectors == 1 ? 8 : 4;
template <int vectors>
constexpr int value_columns = vectors == 1 ? 8 : 4;
#else
constexpr int panel_vectors = 2;  // a product needs a register of its own without fused multiply-add
template <int vectors>
constexpr int key_rows = 4;
template <int vectors>
constexpr int value_columns = 4;
#endif

// Keys that one vector or half of one sees alone: as many as hide the latency, and of 8 or 16 none are left over.
constexpr int end_rows = key_rows<1> < 8 ? key_rows<1> : 8;

// f(Constant<vectors>) for the two widths of a panel, and what it returns.
template <class F>
inline auto by_width(int32_t vectors, F&& f) {
  return vectors == 1 ? f(Constant<1>{}) : f(Constant<panel_vectors>{});
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
