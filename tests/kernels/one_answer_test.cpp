// The answers to some problems, bit for bit, on every instruction set that has fused multiply-adds: AVX2, AVX-512 and NEON do
// the same chain of them for each element, by whichever compiler and C library. With `one_order` few queries are among them,
// whose scores are summed over the lanes of a vector otherwise. bfloat16 is not, as products differ.
//
// The numbers below are what one machine gave. Whoever changes the order of a sum changes them, on all machines alike: the
// lines of a check that fails are the new ones.
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "call.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

// FNV-1a of the elements as numbers, so that the order of their bytes does not matter.
uint64_t digest(const Tensor& t) {
  uint64_t sum = 0xcbf29ce484222325u;
  for (int64_t i = 0; i < t.count(); ++i) {
    const double x = t.get(i);
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof x);
    for (int shift = 0; shift < 64; shift += 8) sum = (sum ^ (bits >> shift & 255)) * 0x100000001b3u;
  }
  return sum;
}

struct Known {
  const char* problem;
  Case (*make)(fv_dtype);
  struct {
    uint64_t output, lse;
  } of_float32, of_float64;
};

Case many(fv_dtype dtype) { return Case(dtype, 2, 2, 150, 333, 48, 48, 1); }
Case causal(fv_dtype dtype) {
  Case c(dtype, 2, 1, 300, 300, 64, 40, 2);
  c.right = 0;
  return c;
}
Case softcap(fv_dtype dtype) {
  Case c(dtype, 1, 1, 20, 5000, 48, 48, 3);
  c.softcap = 3;
  return c;
}
Case window(fv_dtype dtype) {
  Case c(dtype, 1, 2, 200, 200, 32, 32, 4);
  c.left = 50;
  c.right = 7;
  c.sink = Tensor(FV_FLOAT64, {1, 2}, 0.25);
  return c;
}
Case gaussian(fv_dtype dtype) {
  Case c(dtype, 2, 1, 90, 150, 3, 5, 5);
  c.kind = kGaussian;
  c.scale = 1;
  return c;
}
Case additive(fv_dtype dtype) {
  Case c(dtype, 1, 1, 90, 150, 9, 5, 6);
  c.kind = kTanh;
  c.scale = 1;
  c.factors = Tensor::random(lse_dtype(dtype), {9}, 1.0, 7);
  return c;
}
Case dropped(fv_dtype dtype) {
  Case c(dtype, 1, 1, 40, 500, 48, 48, 9);
  c.dropout = 0.3;
  return c;
}
Case tokens(fv_dtype dtype) { return Case(dtype, 2, 1, 2, 700, 48, 48, 8); }

template <Case (*of)(fv_dtype)>
Case in_order(fv_dtype dtype) {
  Case c = of(dtype);
  c.one_order = 1;
  return c;
}

const Known all_known[] = {
    {"many queries", many, {0x2d00769298008735, 0x08b660e17a84d7b0}, {0x6ec92ff7df726a91, 0x92e4ebfff520d91c}},
    {"causal", causal, {0xa67c92096f9d9004, 0x0227c98cf5174570}, {0xe716325ca6ea7b62, 0x61efc40944bd113d}},
    {"softcap", softcap, {0x32f4fd81dcebdaeb, 0xc0b58c57b1c70e93}, {0x02e7f915e0345770, 0xa7a1f26f14602263}},
    {"window, sink", window, {0x7c369cf2f4ad0e75, 0x866a65a4c820ca8b}, {0x23b5f804ebbf0ca6, 0xf0ede2dc6d5b4a2f}},
    {"dropout", dropped, {0x4a087bda21c1a995, 0x8c1648babe4bf5d4}, {0x15bac6b14b6a3073, 0xb48da996e8cd0971}},
    {"gaussian", gaussian, {0x163d4218b77305f5, 0x850e5458a1d8edfd}, {0x28f8d6c44a99ffc3, 0x4b86a318b91f1b19}},
    {"tanh", additive, {0xecdfe423082a1b49, 0x3ceb9b24cb6e7c8c}, {0x42216c9ca787d264, 0x9f210be673e95203}},
    {"in one order, causal",
     in_order<causal>,
     {0xa67c92096f9d9004, 0x0227c98cf5174570},
     {0xe716325ca6ea7b62, 0x61efc40944bd113d}},
    {"in one order, window, sink",
     in_order<window>,
     {0x3168db835e3578da, 0xa2902b0183de358c},
     {0xc82c0292a2c8bb35, 0xd4226b0606231900}},
    {"in one order, gaussian",
     in_order<gaussian>,
     {0x163d4218b77305f5, 0x850e5458a1d8edfd},
     {0x28f8d6c44a99ffc3, 0x4b86a318b91f1b19}},
    {"in one order, tanh",
     in_order<additive>,
     {0xecdfe423082a1b49, 0x3ceb9b24cb6e7c8c},
     {0x42216c9ca787d264, 0x9f210be673e95203}},
    {"in one order, few queries",
     in_order<tokens>,
     {0x99cc69b005aad99e, 0xc984bfba987094a9},
     {0xf822fbb58df46961, 0x4770737f8191e024}},
};

std::string hex(uint64_t x) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%016" PRIx64, x);
  return text;
}

}  // namespace

void test_one_answer(Report& report, const std::string& isa) {
  if (isa.rfind("avx", 0) != 0 && isa != "neon") return;
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64})
    for (const Known& known : all_known) {
      const Result r = run(known.make(dtype));
      const auto wanted = dtype == FV_FLOAT32 ? known.of_float32 : known.of_float64;
      const uint64_t output = digest(r.output), lse = digest(r.lse);
      report.that(isa + ": " + name_of(dtype) + ", " + known.problem, output == wanted.output && lse == wanted.lse,
                  "{" + hex(output) + ", " + hex(lse) + "}");
    }
}

}  // namespace kernel_tests
