// One vector of the ISA that this translation unit is compiled for, over the GCC/Clang vector extensions: arithmetic
// is written with operators (the compiler contracts a * b + c to a fused multiply-add where the ISA has one), and
// intrinsics stand only where the language has no word. Everything has internal linkage: one copy an ISA.
#pragma once
#include <stdint.h>
#include <string.h>

// Whose intrinsics there are. Those of AVX and later go by the compiler's own macros. The ISA `generic` takes none on any
// machine (FOVEATE_GENERIC): every #if of the kernels ends in plain C++.
#if defined(FOVEATE_GENERIC)
#elif defined(__x86_64__)
#define FOVEATE_SSE
#include <immintrin.h>
#elif defined(__aarch64__)
#define FOVEATE_NEON
#include <arm_neon.h>
#endif

namespace foveate::FOVEATE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float Vec __attribute__((vector_size(vector_bytes)));
  typedef int32_t Int __attribute__((vector_size(vector_bytes)));
  typedef uint32_t Unsigned __attribute__((vector_size(vector_bytes)));
  typedef float Elements __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
  typedef float Anywhere __attribute__((vector_size(vector_bytes), aligned(1), may_alias));
  using Bits = int32_t;
};
template <>
struct VectorOf<double> {
  typedef double Vec __attribute__((vector_size(vector_bytes)));
  typedef int64_t Int __attribute__((vector_size(vector_bytes)));
  typedef uint64_t Unsigned __attribute__((vector_size(vector_bytes)));
  typedef double Elements __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
  typedef double Anywhere __attribute__((vector_size(vector_bytes), aligned(1), may_alias));
  using Bits = int64_t;
};

template <class T>
using Vec = typename VectorOf<T>::Vec;
template <class T>
using IntVec = typename VectorOf<T>::Int;  // as many integers as a Vec<T> has elements; also what a comparison gives
template <class T>
constexpr int lanes = vector_bytes / int(sizeof(T));

template <class T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // x - 0, not 0 + x, which would lose the sign of -0
}
// Elements stand at multiples of their size, or anywhere, which some machines read byte by byte: so rows of arrays may that
// came from outside, and pairs of bfloat16 stand at multiples of 2.
template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::Elements*>(p);
}
template <class T>
inline void store(T* p, Vec<T> x) {
  *reinterpret_cast<typename VectorOf<T>::Elements*>(p) = x;
}
template <class T>
inline Vec<T> load_anywhere(const void* p) {
  return *static_cast<const typename VectorOf<T>::Anywhere*>(p);
}
template <class T>
inline void store_anywhere(void* p, Vec<T> x) {
  *static_cast<typename VectorOf<T>::Anywhere*>(p) = x;
}
template <class T>
inline T load_one(const T* p) {  // anywhere
  T x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
inline IntVec<T> as_bits(Vec<T> x) {
  return reinterpret_cast<IntVec<T>>(x);
}
template <class T>
inline Vec<T> from_bits(IntVec<T> x) {
  return reinterpret_cast<Vec<T>>(x);
}

// Arithmetic on the bits of a float, which may wrap.
template <class T>
inline IntVec<T> add_bits(IntVec<T> a, typename VectorOf<T>::Bits b) {
  using Unsigned = typename VectorOf<T>::Unsigned;
  return (IntVec<T>)((Unsigned)a + (Unsigned)(IntVec<T>{} + b));
}
template <class T>
inline IntVec<T> shift_left(IntVec<T> a, int bits) {
  return (IntVec<T>)((typename VectorOf<T>::Unsigned)a << bits);
}

// max(a, b) of numbers; b where a is NaN.
inline Vec<float> max(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX__)
  return _mm256_max_ps(a, b);
#elif defined(FOVEATE_SSE)
  return _mm_max_ps(a, b);
#elif defined(FOVEATE_NEON)
  return vmaxnmq_f32(a, b);
#else
  return a > b ? a : b;
#endif
}
inline Vec<double> max(Vec<double> a, Vec<double> b) {
#if defined(__AVX512F__)
  return _mm512_max_pd(a, b);
#elif defined(__AVX__)
  return _mm256_max_pd(a, b);
#elif defined(FOVEATE_SSE)
  return _mm_max_pd(a, b);
#elif defined(FOVEATE_NEON)
  return vmaxnmq_f64(a, b);
#else
  return a > b ? a : b;
#endif
}

// Half a vector, for lanes that alone have something to do: pipes of half the width, which take two passes for a vector,
// take one for it.
#if defined(__AVX512F__)
constexpr bool has_halves = true;
template <class T>
struct HalfOf;
template <>
struct HalfOf<float> {
  typedef float Vec __attribute__((vector_size(vector_bytes / 2)));
};
template <>
struct HalfOf<double> {
  typedef double Vec __attribute__((vector_size(vector_bytes / 2)));
};
template <class T>
using Half = typename HalfOf<T>::Vec;

inline Half<float> max(Half<float> a, Half<float> b) { return _mm256_max_ps(a, b); }
inline Half<double> max(Half<double> a, Half<double> b) { return _mm256_max_pd(a, b); }
#else
constexpr bool has_halves = false;
template <class T>
using Half = Vec<T>;
#endif

// Of a vector, or half of one.
template <class V, class T>
inline V load_as(const T* p) {
  V x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class V, class T>
inline void store_as(T* p, V x) {
  memcpy(p, &x, sizeof x);
}

// max(low, x) of a number `low`; NaN stays NaN.
template <class T>
inline Vec<T> at_least(T low, Vec<T> x) {
#if defined(FOVEATE_NEON)
  if constexpr (sizeof(T) == 4)
    return vmaxq_f32(broadcast(low), x);
  else
    return vmaxq_f64(broadcast(low), x);
#else
  return max(broadcast(low), x);
#endif
}

template <class T>
inline Vec<T> absolute(Vec<T> x) {
  return from_bits<T>(as_bits<T>(x) & ~as_bits<T>(broadcast(T(-0.0))));
}

inline Vec<float> square_root(Vec<float> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX__)
  return _mm256_sqrt_ps(x);
#elif defined(FOVEATE_SSE)
  return _mm_sqrt_ps(x);
#elif defined(FOVEATE_NEON)
  return vsqrtq_f32(x);
#else
  for (int i = 0; i < lanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
inline Vec<double> square_root(Vec<double> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xff, x);
#elif defined(__AVX__)
  return _mm256_sqrt_pd(x);
#elif defined(FOVEATE_SSE)
  return _mm_sqrt_pd(x);
#elif defined(FOVEATE_NEON)
  return vsqrtq_f64(x);
#else
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// x where bit `lane` of `bits` is set, else y.
template <class T>
inline Vec<T> select_bits(uint32_t bits, Vec<T> x, Vec<T> y) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_mask_blend_ps(__mmask16(bits), y, x);
  else
    return _mm512_mask_blend_pd(__mmask8(bits), y, x);
#elif defined(__AVX__) && !defined(__AVX2__)  // compares no integers of 32 bytes, but converts them
  if constexpr (sizeof(T) == 4) {
    const IntVec<T> lane_bit = {1, 2, 4, 8, 16, 32, 64, 128};
    return _mm256_cvtepi32_ps((__m256i)((IntVec<T>{} + int32_t(bits)) & lane_bit)) != T(0) ? x : y;
  } else {
    const __m128i lane_bit = _mm_setr_epi32(1, 2, 4, 8);
    return _mm256_cvtepi32_pd(_mm_and_si128(_mm_set1_epi32(int32_t(bits)), lane_bit)) != T(0) ? x : y;
  }
#else
  IntVec<T> lane_bit;
  for (int i = 0; i < lanes<T>; ++i) lane_bit[i] = typename VectorOf<T>::Bits(1) << i;
  return ((IntVec<T>{} + typename VectorOf<T>::Bits(bits)) & lane_bit) != 0 ? x : y;
#endif
}

// One bit a lane of what a comparison gave.
template <class T>
inline uint32_t bits_of(IntVec<T> compared) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm512_movepi32_mask((__m512i)compared));
  else
    return uint32_t(_mm512_movepi64_mask((__m512i)compared));
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm256_movemask_ps((__m256)compared));
  else
    return uint32_t(_mm256_movemask_pd((__m256d)compared));
#elif defined(FOVEATE_SSE)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm_movemask_ps((__m128)compared));
  else
    return uint32_t(_mm_movemask_pd((__m128d)compared));
#elif defined(FOVEATE_NEON)
  if constexpr (sizeof(T) == 4)
    return vaddvq_u32((uint32x4_t)compared & uint32x4_t{1, 2, 4, 8});
  else
    return uint32_t(vaddvq_u64((uint64x2_t)compared & uint64x2_t{1, 2}));
#else
  uint32_t bits = 0;
  for (int i = 0; i < lanes<T>; ++i) bits |= uint32_t(compared[i] & 1) << i;
  return bits;
#endif
}

template <int n>
struct Constant {
  static constexpr int value = n;
  constexpr operator int() const { return n; }
};

#define INLINED __attribute__((always_inline))  // of a lambda, behind its parameters

template <int... i>
struct Numbers {};
template <int n, int... i>
struct NumbersBelow : NumbersBelow<n - 1, n - 1, i...> {};
template <int... i>
struct NumbersBelow<0, i...> {
  using Type = Numbers<i...>;
};
template <int... i, class F>
[[gnu::always_inline]] inline void call_with_each(Numbers<i...>, [[maybe_unused]] F& f) {
  (f(i), ...);
}
// Calls f(0), ..., f(n - 1): a loop that is certain to be unrolled, so that arrays of vectors indexed by it stay in
// registers (an unroll pragma left them in memory: 39% of peak). f takes an int and is INLINED n times: it is compiled once,
// where a type for each number took GCC half of its time.
template <int n, class F>
[[gnu::always_inline]] inline void unroll(F&& f) {
  call_with_each(typename NumbersBelow<n>::Type{}, f);
}

// a's lanes with bit `block` clear and b's lanes from `block` below; and the rest: the 2 x 2 blocks of (a, b) transposed.
template <class T, int block>
[[gnu::always_inline]] inline void swap_blocks(Vec<T>& a, Vec<T>& b) {
#if defined(__clang__)
  Vec<T> x = a, y = b;
  for (int j = 0; j < lanes<T>; ++j) {
    x[j] = (j & block) == 0 ? a[j] : b[j - block];
    y[j] = (j & block) == 0 ? a[j + block] : b[j];
  }
#else
  IntVec<T> first, second;
  for (int j = 0; j < lanes<T>; ++j) {
    first[j] = (j & block) == 0 ? j : lanes<T> + j - block;
    second[j] = (j & block) == 0 ? j + block : lanes<T> + j;
  }
  const Vec<T> x = __builtin_shuffle(a, b, first), y = __builtin_shuffle(a, b, second);
#endif
  a = x;
  b = y;
}

// In-register transpose of a square of vectors: rows[i][j] <-> rows[j][i], by log2(lanes) rounds of swaps.
template <class T, int block>
[[gnu::always_inline]] inline void transpose_round(Vec<T> (&rows)[lanes<T>]) {
  unroll<lanes<T>>([&](int i) INLINED {
    if ((i & block) == 0) swap_blocks<T, block>(rows[i], rows[i + block]);
  });
}
template <class T>
[[gnu::always_inline]] inline void transpose(Vec<T> (&rows)[lanes<T>]) {
  if constexpr (lanes<T> > 8) transpose_round<T, 8>(rows);
  if constexpr (lanes<T> > 4) transpose_round<T, 4>(rows);
  if constexpr (lanes<T> > 2) transpose_round<T, 2>(rows);
  if constexpr (lanes<T> > 1) transpose_round<T, 1>(rows);
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
