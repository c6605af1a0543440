// Elementary functions of a vector, in float32 and float64, the same bits on every ISA with fused multiply-add.
//   exp2(x): error <= 1 ulp; exp2(0) = 1 exactly; results below the smallest normal number are 0, on AVX-512 and NEON
//   where the thread takes subnormal numbers as 0, as those of attention do (subnormals.hpp); -inf gives 0.
//   log(x), x > 0: error <= 1.5 ulp; subnormal x too; 0 gives -inf, negative x NaN, inf inf.
//   tanh(x): error <= 3.5 ulp, near 0 too. tanh_small(x), |x| <= 1: error <= 1.5 ulp.
//   exp_twice_minus_1(x), x >= 0: error <= 2 ulp.
//   exp_twice(x) = e^(2x): error <= 1 ulp where neither it nor its inverse is beyond the normal numbers.
// NaN in, NaN out. Polynomials are Chebyshev interpolants in 40-digit arithmetic, rounded to the dtype.
#pragma once
#include "simd.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
struct Math;

template <>
struct Math<float> {
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  static constexpr int mantissa = 23;
  static constexpr float least_exponent = -126.0f, largest = 0x1.fffffep127f;
  static constexpr float log2_e = 1.44269504088896340736f;
  static constexpr float two_log2_e_high = 0x1.7154760000000p+1f, two_log2_e_low = 0x1.4ae0c00000000p-25f;
  // (2^f - 1) / f on [-1/2, 1/2], relative error 1.2e-8
  static constexpr float exp2m1[] = {0x1.62e430p-1f, 0x1.ebfbe0p-3f,  0x1.c6af6cp-5f,
                                     0x1.3b2a54p-7f, 0x1.5f0890p-10f, 0x1.44138ap-13f};
  // (log((1 + s) / (1 - s)) / s - 2) / s^2 as a polynomial in s^2, |s| <= 0.1716, relative error 1.7e-9
  static constexpr float log_tail[] = {0x1.555556p-1f, 0x1.9999ecp-2f, 0x1.245c44p-2f, 0x1.ddced8p-3f};
  // (tanh(x) / x - 1) / x^2 as a polynomial in x^2 on [0, 1], relative error of tanh 2.4e-8
  static constexpr float tanh_tail[] = {-0x1.555554p-2f, 0x1.110ffep-3f, -0x1.b9d574p-5f, 0x1.62e11cp-6f,
                                        -0x1.0d5150p-7f, 0x1.490d0ap-9f, -0x1.b92196p-12f};
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;  // high: exact times any exponent
  static constexpr float tiny = 0x1p-126f, tiny_scale = 0x1p+24f, tiny_shift = 24.0f;
  static constexpr int32_t one = 0x3f800000, sqrt_half = 0x3f3504f3, infinity = 0x7f800000;
};

template <>
struct Math<double> {
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int mantissa = 52;
  static constexpr double least_exponent = -1022.0, largest = 0x1.fffffffffffffp1023;
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double two_log2_e_high = 0x1.71547652b82fep+1, two_log2_e_low = 0x1.777d0ffda0d24p-55;
  // relative error 2.1e-17
  static constexpr double exp2m1[] = {0x1.62e42fefa39efp-1,  0x1.ebfbdff82c598p-3,  0x1.c6b08d704a0c2p-5,
                                      0x1.3b2ab6fba1ddap-7,  0x1.5d87fe78a5276p-10, 0x1.430913096fd9fp-13,
                                      0x1.ffcbfc670dcd4p-17, 0x1.62bfd47773353p-20, 0x1.b524fae627834p-24,
                                      0x1.e6063f7217bc6p-28, 0x1.e9d3fe3952179p-32};
  // relative error 3.1e-18
  static constexpr double log_tail[] = {0x1.5555555555555p-1, 0x1.9999999999a38p-2, 0x1.2492492476cccp-2,
                                        0x1.c71c720159177p-3, 0x1.745cf9048dd95p-3, 0x1.3b1c355a8f7a2p-3,
                                        0x1.0fbe95d716020p-3, 0x1.0c039c49989c6p-3};
  // relative error 6.9e-17
  static constexpr double tanh_tail[] = {-0x1.5555555555554p-2,  0x1.1111111110d85p-3,   -0x1.ba1ba1b9d921ep-5,
                                         0x1.664f4873514e1p-6,   -0x1.226e337c1456bp-7,  0x1.d6d389a29500ap-9,
                                         -0x1.7d9ff00529386p-10, 0x1.353a84f50cebap-11,  -0x1.f412b74eb8ebap-13,
                                         0x1.902b5522e3175p-14,  -0x1.34ad69ec82d78p-15, 0x1.b07f4e4c6db59p-17,
                                         -0x1.f06b42ce76685p-19, 0x1.8c95e67948caap-21,  -0x1.3e4e5b56742f9p-24};
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double tiny = 0x1p-1022, tiny_scale = 0x1p+54, tiny_shift = 54.0;
  static constexpr int64_t one = 0x3ff0000000000000, sqrt_half = 0x3fe6a09e667f3bcd, infinity = 0x7ff0000000000000;
};

template <class T>
inline Vec<T> minus_infinity() {
  return -from_bits<T>(IntVec<T>{} + Math<T>::infinity);
}

// x log2(e), of which a finite x stays finite: the most negative number is a common bias.
template <class T>
inline Vec<T> in_base_2(Vec<T> x) {
  const Vec<T> product = x * Math<T>::log2_e, most = broadcast(Math<T>::largest);
  const Vec<T> bounded = product > most ? most : (product < -most ? -most : product);
  return x - x == T(0) ? bounded : product;
}

// sum(coefficients[i] * x^i), by Horner's rule
template <class T, int n>
[[gnu::always_inline]] inline Vec<T> polynomial(const T (&coefficients)[n], Vec<T> x) {
  Vec<T> sum = broadcast(coefficients[n - 1]);
  unroll<n - 1>([&](int i) INLINED { sum = sum * x + coefficients[n - 2 - i]; });
  return sum;
}

// a * b + c, rounded once where the ISA can: for a product with a second use, which some compilers fuse and some do not.
template <class T>
inline Vec<T> fused(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_fmadd_ps(a, b, c);
  else
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  if constexpr (sizeof(T) == 4)
    return _mm256_fmadd_ps(a, b, c);
  else
    return _mm256_fmadd_pd(a, b, c);
#elif defined(FOVEATE_NEON)
  if constexpr (sizeof(T) == 4)
    return vfmaq_f32(c, a, b);
  else
    return vfmaq_f64(c, a, b);
#else
  return a * b + c;
#endif
}

// x = n + f with n an integer and |f| <= 1/2; n also as an integer, in the low bits of `shifted`. |x| < 2^22.
template <class T>
struct Split {
  Vec<T> whole, fraction;
  IntVec<T> shifted;
};
template <class T>
inline Split<T> split(Vec<T> x) {
  const Vec<T> shifted = x + Math<T>::round_magic;
  const Vec<T> whole = shifted - Math<T>::round_magic;
  return {whole, x - whole, as_bits<T>(shifted)};
}
// Of the product of x and a number, which is not rounded in between.
template <class T>
inline Split<T> split_product(Vec<T> x, T factor) {
  const Vec<T> by = broadcast(factor), shifted = fused<T>(x, by, broadcast(Math<T>::round_magic));
  const Vec<T> whole = shifted - Math<T>::round_magic;
  return {whole, fused<T>(x, by, -whole), as_bits<T>(shifted)};
}

#if defined(FOVEATE_NEON)
// 2^x by coefficients of (2^f - 1) / f on [-1/2, 1/2], with one comparison less than exp2 below: 2^round(x) is 0 from
// least_exponent - 1 on; in between, p * power is subnormal.
template <class T, int n>
inline Vec<T> exp2_by(const T (&coefficients)[n], Vec<T> x) {
  const Split<T> s = split<T>(at_least(Math<T>::least_exponent - 1, x));
  const Vec<T> p = polynomial<T>(coefficients, s.fraction) * s.fraction + T(1);
  return p * from_bits<T>(add_bits<T>(shift_left<T>(s.shifted, Math<T>::mantissa), Math<T>::one));
}
#endif

// x < the largest exponent (scores never exceed the running maximum). The power of two is applied by a product, not by
// adding to the exponent bits, which would turn some NaN into numbers.
template <class T>
inline Vec<T> exp2(Vec<T> x) {
#if defined(__AVX512F__)
  // scalef: p * 2^round(x), over the whole range: also 0 where x is -inf and p NaN
  Vec<T> whole;
  if constexpr (sizeof(T) == 4)
    whole = _mm512_roundscale_ps(x, 8);
  else
    whole = _mm512_roundscale_pd(x, 8);
  const Vec<T> f = x - whole, p = polynomial<T>(Math<T>::exp2m1, f) * f + T(1);
  if constexpr (sizeof(T) == 4)
    return _mm512_scalef_ps(p, whole);
  else
    return _mm512_scalef_pd(p, whole);
#elif defined(FOVEATE_NEON)
  return exp2_by<T>(Math<T>::exp2m1, x);
#else
  const Split<T> s = split<T>(x);
  const Vec<T> p = polynomial<T>(Math<T>::exp2m1, s.fraction) * s.fraction + T(1);
  const Vec<T> power = from_bits<T>(add_bits<T>(shift_left<T>(s.shifted, Math<T>::mantissa), Math<T>::one));
  return x < Math<T>::least_exponent ? Vec<T>{} : p * power;
#endif
}

// exp2 of any x: overflow gives inf.
template <class T>
inline Vec<T> exp2_any(Vec<T> x) {
  const T limit = -Math<T>::least_exponent + 2;  // 2^128 or 2^1024
  const Vec<T> infinity = from_bits<T>(IntVec<T>{} + Math<T>::infinity);
  const IntVec<T> high = x > limit - T(2);  // 2^128 is no float: through half of the result
  const Vec<T> y = exp2<T>(high ? x - T(1) : x);
  return x >= limit ? infinity : (high ? y + y : y);
}

template <class T>
inline Vec<T> log(Vec<T> x) {
  const IntVec<T> subnormal = x < Math<T>::tiny;
  const Vec<T> scaled = subnormal ? x * Math<T>::tiny_scale : x;
  // scaled = 2^e * m, sqrt(1/2) <= m < sqrt(2)
  const IntVec<T> shifted = add_bits<T>(as_bits<T>(scaled), Math<T>::one - Math<T>::sqrt_half);
  const IntVec<T> exponent = (shifted >> Math<T>::mantissa) - (Math<T>::one >> Math<T>::mantissa);
  const IntVec<T> fraction_mask = IntVec<T>{} + ((typename VectorOf<T>::Bits(1) << Math<T>::mantissa) - 1);
  const Vec<T> m = from_bits<T>(add_bits<T>(shifted & fraction_mask, Math<T>::sqrt_half));
  Vec<T> e = __builtin_convertvector(exponent, Vec<T>);
  e = subnormal ? e - Math<T>::tiny_shift : e;
  const Vec<T> f = m - T(1), s = f / (f + T(2)), z = s * s, half_square = f * f * T(0.5);
  const Vec<T> tail = polynomial<T>(Math<T>::log_tail, z) * z;
  const Vec<T> low = fused<T>(s, half_square + tail, e * Math<T>::ln2_low);
  const Vec<T> value = e * Math<T>::ln2_high - ((half_square - low) - f);
  const Vec<T> big = from_bits<T>(IntVec<T>{} + Math<T>::infinity);
  const Vec<T> outside = x == T(0) ? -big : (x == big ? x : (x - x) / (x - x));  // else NaN
  return x > T(0) && x < big ? value : outside;
}

// e^(2x) - 1 = 2^n (2^f - 1) + (2^n - 1), which keeps the digits of a small x; 0 <= x, of which the answer is finite.
template <class T>
inline Vec<T> exp_twice_minus_1(Vec<T> x) {
  const Split<T> s = split_product<T>(x, Math<T>::two_log2_e_high);
  const Vec<T> f = x * Math<T>::two_log2_e_low + s.fraction;
  const Vec<T> power = from_bits<T>(add_bits<T>(shift_left<T>(s.shifted, Math<T>::mantissa), Math<T>::one));
  const Vec<T> fraction = polynomial<T>(Math<T>::exp2m1, f) * f;
  return power * fraction + (power - T(1));
}

// e^|2x| - 1, with the sign of x; as at 30 beyond that, where tanh has long been 1 to the last bit.
template <class T>
inline Vec<T> tanh_growth(Vec<T> x) {
  const IntVec<T> sign = as_bits<T>(x) & as_bits<T>(broadcast(T(-0.0)));
  const Vec<T> magnitude = from_bits<T>(as_bits<T>(x) ^ sign);
  const T limit = T(30);
  const Vec<T> y = magnitude > limit ? broadcast(limit) : magnitude;
  return from_bits<T>(as_bits<T>(exp_twice_minus_1<T>(y)) | sign);
}

// tanh(x) = e / (|e| + 2) of e = tanh_growth(x).
template <class T>
inline Vec<T> tanh_of_growth(Vec<T> e) {
  return e / (absolute<T>(e) + T(2));
}
template <class T>
inline Vec<T> tanh(Vec<T> x) {
  return tanh_of_growth<T>(tanh_growth<T>(x));
}

template <class T>
inline Vec<T> tanh_small(Vec<T> x) {
  const Vec<T> z = x * x;
  return polynomial<T>(Math<T>::tanh_tail, z) * z * x + x;
}

// n log(2) is taken off in two parts, the first exact, so that the error does not grow with x.
template <class T>
inline Vec<T> exp_twice(Vec<T> x) {
  const Split<T> s = split_product<T>(x, Math<T>::two_log2_e_high);
  const Vec<T> rest = (x + x - s.whole * Math<T>::ln2_high) - s.whole * Math<T>::ln2_low, f = rest * Math<T>::log2_e;
  const Vec<T> power = from_bits<T>(add_bits<T>(shift_left<T>(s.shifted, Math<T>::mantissa), Math<T>::one));
  return (polynomial<T>(Math<T>::exp2m1, f) * f + T(1)) * power;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
