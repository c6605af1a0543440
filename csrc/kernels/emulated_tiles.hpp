// For tests (-DFOVEATE_EMULATED_TILES=ON): the tile registers of AMX and what amx.hpp does with them, in AVX-512, so that
// its kernels run on every CPU that has AVX512-BF16. They take memory as plain loads and stores, which sanitizers see.
// A thread that has not configured its registers traps, as with those of the CPU. Other builds contain nothing of this.
#pragma once
#include "simd.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

struct EmulatedTiles {
  bool configured;
  alignas(64) float row[8][16][16];
};
thread_local EmulatedTiles emulated_tiles;

inline float (*emulated_tile(int number))[16] {
  if (!emulated_tiles.configured) __builtin_trap();
  return emulated_tiles.row[number];
}

inline void emulate_load(int tile, const void* base, int64_t stride) {
  for (int i = 0; i < 16; ++i) memcpy(emulated_tile(tile)[i], static_cast<const char*>(base) + i * stride, 64);
}
inline void emulate_store(int tile, void* base, int64_t stride) {
  for (int i = 0; i < 16; ++i) memcpy(static_cast<char*>(base) + i * stride, emulated_tile(tile)[i], 64);
}

// As tdpbf16ps: float32, subnormals taken as 0; a chain of 16 for even elements and one for odd ones, added to each other
// and then to C.
inline void emulate_product(int c, int a, int b) {
  const unsigned flags = _mm_getcsr();
  _mm_setcsr(flags | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
  for (int i = 0; i < 16; ++i) {
    __m512 even = _mm512_setzero_ps(), odd = even;
    for (int k = 0; k < 16; ++k) {
      const __m512i x = _mm512_castps_si512(_mm512_set1_ps(emulated_tile(a)[i][k]));
      const __m512i y = _mm512_load_si512(emulated_tile(b)[k]), high = _mm512_set1_epi32(int(0xffff0000));
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                             _mm512_castsi512_ps(_mm512_slli_epi32(y, 16)), even);
      odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)),
                            _mm512_castsi512_ps(_mm512_and_si512(y, high)), odd);
    }
    float* const sums = emulated_tile(c)[i];
    _mm512_store_ps(sums, _mm512_load_ps(sums) + (even + odd));
  }
  _mm_setcsr(flags);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) (void)(config), emulated_tiles.configured = true
#define _tile_release() emulated_tiles.configured = false
#define _tile_zero(tile) memset(emulated_tile(tile), 0, sizeof emulated_tiles.row[0])
#define _tile_loadd(tile, base, stride) emulate_load(tile, base, stride)
#define _tile_stored(tile, base, stride) emulate_store(tile, base, stride)
#define _tile_dpbf16ps(c, a, b) emulate_product(c, a, b)
