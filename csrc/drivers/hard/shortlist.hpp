// What the drivers of several different choices share: the keys of the largest numbers, best first, written with their
// probabilities, and the random numbers of draws without replacement, which are the largest of noisy scores.
#pragma once
#include <algorithm>

#include "choices.hpp"

namespace foveate {

// Numbers are scores, or scores with noise. More than fit are cut to the largest so many, and some more.
inline int64_t most_after_cut(int64_t size) { return size + std::max<int64_t>(8, size / 4); }

struct Candidate {
  double number, score;
  int64_t key;
};
inline bool is_before(const Candidate& a, const Candidate& b) {
  return a.number > b.number || (a.number == b.number && a.key < b.key);
}

inline bool draws_distinct(const Problem& p) { return p.selection == FV_DISTINCT; }

// Sorts the best of a query's candidates, and writes them. m, log_l: of all keys that are seen.
template <class T>
void write_best(Choices<T>& choices, const Cells& cells, Candidate* candidates, int64_t count, int64_t size, double m,
                double log_l, bool seen) noexcept {
  if (count > size) {
    std::nth_element(candidates, candidates + size, candidates + count, is_before);
    count = size;
  }
  std::sort(candidates, candidates + count, is_before);
  constexpr int64_t ahead = 4;
  for (int64_t i = 0; i < size; ++i) {
    if (i + ahead < count) choices.fetch(cells, candidates[i + ahead].key);
    if (i < count)
      choices.write(cells, i, candidates[i].key, 1, candidates[i].score, m, log_l, seen);
    else
      choices.write_none(cells, i, log_l, seen);
  }
}

// Numbers u in (0, 1), one for each query and key: half a word, the first half for even keys. Where the half is small, what
// is below it comes from a word of its own, for keys that are next to never drawn.
template <class T>
class KeyNumbers {
 public:
  explicit KeyNumbers(const Problem& p) noexcept : philox_(p.random.key[0], p.random.key[1]), first_key_(p.first_key) {}

  // Of keys first .. first + count - 1, `step` apart.
  void make(int64_t first, int64_t count, int64_t query, int64_t lead, T* to, int64_t step) const noexcept {
    first += first_key_;
    const int64_t end = first + count;
    for (int64_t block = first / keys_a_block; block * keys_a_block < end; block += 2) {
      const uint64_t word = Philox::first_word(Stream::distinct_keys, uint64_t(block));
      uint64_t two[2][4] = {{word, 0, uint64_t(query), uint64_t(lead)}, {word + 1, 0, uint64_t(query), uint64_t(lead)}};
      philox_.replace(two);
      T numbers[2 * keys_a_block];
      uint32_t least = ~uint32_t(0);
      for (int64_t i = 0; i < keys_a_block; ++i) {
        const uint64_t pair = two[i / 4][i % 4];
        const auto even = uint32_t(pair), odd = uint32_t(pair >> 32);
        least = std::min(least, std::min(even, odd));
        numbers[2 * i] = number(even, 0.5);
        numbers[2 * i + 1] = number(odd, 0.5);
      }
      const int64_t begin = block * keys_a_block;
      if (least < small)
        for (int64_t i = 0; i < 2 * keys_a_block; ++i) {
          const auto half = uint32_t(two[i / 8][i % 8 / 2] >> (i % 2 * 32));
          if (half < small) numbers[i] = number(half, below(begin + i, query, lead));
        }
      const int64_t from = std::max(first, begin), until = std::min(end, begin + 2 * keys_a_block);
      for (int64_t key = from; key < until; ++key) to[(key - first) * step] = numbers[key - begin];
    }
  }

 private:
  static constexpr int64_t keys_a_block = 8;
  static constexpr uint32_t small = 1 << 12;

  static T number(uint32_t half, double below) {
    constexpr T below_one = sizeof(T) == 8 ? T(1 - 0x1p-53) : T(1 - 0x1p-24);
    return std::min(T((double(half) + below) * 0x1p-32), below_one);
  }
  // What is below the half word of a key.
  double below(int64_t key, int64_t query, int64_t lead) const noexcept {
    const uint64_t block = uint64_t(key / keys_a_block), draw = uint64_t(1 + key % keys_a_block);
    const RandomBlock own = philox_(Stream::distinct_keys, block, draw, uint64_t(query), uint64_t(lead));
    return uniform<double>(own.words[0]) + 0x1p-54;
  }

  Philox philox_;
  int64_t first_key_;
};

}  // namespace foveate
