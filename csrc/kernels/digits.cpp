// Products of bytes, compiled for an ISA that adds them to the kernels of another, as bfloat16.cpp is.
#include "decode/digit_sum.hpp"
#include "untyped.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

#if defined(__AVX512VNNI__)
constexpr Digits by_bytes = {digit_queries_size, untyped<load_digit_queries>, untyped<digit_scores>, takes_values,
                             untyped<digit_sum>};
#endif

}  // namespace

#if defined(__AVX512VNNI__)
extern const Digits digits;
constexpr Digits digits = by_bytes;
#endif

}  // namespace foveate::FOVEATE_ISA
