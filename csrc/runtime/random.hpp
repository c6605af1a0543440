// Random numbers by counters: Philox 4x64-10 (J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC 2011), the function behind numpy.random.Philox. A number depends on the key and on
// what it is for, so that the same key gives the same draws for any number of threads, any ISA, and any rest of the
// batch.
#pragma once
#include <cstdint>

namespace foveate {

// What a number is for: calls of different kinds with one key have nothing in common.
enum class Stream : uint64_t { multinoulli, hard_attention, multinomial, dropout, distinct, distinct_keys };

struct RandomBlock {
  uint64_t words[4];
};

class Philox {
 public:
  Philox(uint64_t low, uint64_t high) noexcept : low_(low), high_(high) {}

  static uint64_t first_word(Stream stream, uint64_t block) noexcept {
    return block | static_cast<uint64_t>(stream) << 56;
  }

  RandomBlock operator()(uint64_t c0, uint64_t c1, uint64_t c2, uint64_t c3) const noexcept {
    uint64_t c[1][4] = {{c0, c1, c2, c3}};
    replace(c);
    return {{c[0][0], c[0][1], c[0][2], c[0][3]}};
  }

  // Some counters become their blocks side by side: each is a chain of ten products, whose latency the others hide.
  template <int count>
  void replace(uint64_t (&counters)[count][4]) const noexcept {
    uint64_t low = low_, high = high_;
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < count; ++i) step(counters[i], low, high);
      low += weyl_low;
      high += weyl_high;
    }
  }

  // Block `block` of the numbers for one draw of one row (a query, or a row of categories) of a leading index.
  RandomBlock operator()(Stream stream, uint64_t block, uint64_t draw, uint64_t row, uint64_t lead) const noexcept {
    return (*this)(first_word(stream, block), draw, row, lead);
  }

 private:
  static constexpr uint64_t weyl_low = 0x9e3779b97f4a7c15u, weyl_high = 0xbb67ae8584caa73bu;

  static void step(uint64_t (&c)[4], uint64_t low, uint64_t high) noexcept {
    const Product first = multiply(0xd2e7470ee14c6c93u, c[0]), second = multiply(0xca5a826395121157u, c[2]);
    c[0] = second.high ^ c[1] ^ low;
    c[1] = second.low;
    c[2] = first.high ^ c[3] ^ high;
    c[3] = first.low;
  }

  struct Product {
    uint64_t high, low;
  };
  static Product multiply(uint64_t a, uint64_t b) noexcept {
    __extension__ using Wide = unsigned __int128;
    const Wide product = Wide(a) * b;
    return {static_cast<uint64_t>(product >> 64), static_cast<uint64_t>(product)};
  }

  uint64_t low_, high_;
};

// The number in [0, 1) that the leading 53 of 64 random bits stand for as a binary fraction, rounded to T: near 0 it is
// as fine as 2^-53, for keys that are next to never drawn. It is never 1.
template <class T>
inline T uniform(uint64_t bits) noexcept {
  const double fraction = static_cast<double>(static_cast<int64_t>(bits >> 11)) * 0x1p-53;
  if constexpr (sizeof(T) == 8) {
    return fraction;
  } else {
    constexpr float below_one = 1 - 0x1p-24f;
    const float rounded = static_cast<float>(fraction);
    return rounded < below_one ? rounded : below_one;
  }
}

}  // namespace foveate
