#include "dropout.hpp"

#include <algorithm>
#include <cstring>

namespace foveate {

Dropout::Dropout(const Plan& plan, Carver& carver) noexcept
    : plan_(plan),
      rate_(plan.problem.dropout),
      leads_(plan),
      philox_(plan.problem.random.key[0], plan.problem.random.key[1]),
      least_kept_(uint8_t(rate_ * 256)),
      rest_(rate_ * 256 - least_kept_) {
  // blocks begin where they do, not where a tile does
  const int64_t keys = (plan.span > 0 ? plan.span : tile_keys) + 2 * block_keys;
  kept_ = carver.take<uint32_t>(any() ? keys : 0);
}

const uint32_t* Dropout::kept(const Panel& panel, int64_t batch, int64_t first_key, int64_t count) noexcept {
  for (int32_t i = 0; i < panel.live; ++i) lead_[i] = uint64_t(leads_.of(batch, panel.group[i]));
  const int64_t first = first_key / block_keys, end = (first_key + count + block_keys - 1) / block_keys;
  for (int64_t block = first; block < end; ++block) decide(panel, block, kept_ + (block - first) * block_keys);
  return kept_ + first_key % block_keys;
}

// The numbers of a query go across its bit of all keys, so that nothing is transposed but bytes.
void Dropout::decide(const Panel& panel, int64_t block, uint32_t* to) noexcept {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bytes of a word are taken from the lowest");
  constexpr int together = 2, lanes_a_byte = 8, bytes = most_lanes / lanes_a_byte;
  uint8_t kept[bytes][block_keys] = {}, equal[bytes][block_keys] = {};
  const uint64_t word = Philox::first_word(Stream::dropout, uint64_t(block));
  for (int first = 0; first < panel.live; first += together) {
    uint64_t counters[together][4];
    for (int i = 0; i < together; ++i) {
      const int lane = std::min(first + i, panel.live - 1);
      const uint64_t counter[4] = {word, 0, uint64_t(panel.row[lane]), lead_[lane]};
      std::memcpy(counters[i], counter, sizeof counter);
    }
    philox_.replace(counters);
    for (int i = 0; i < together && first + i < panel.live; ++i) {
      const int lane = first + i;
      const uint8_t bit = uint8_t(1 << lane % lanes_a_byte), least = least_kept_;
      uint8_t *const of_kept = kept[lane / lanes_a_byte], *const of_equal = equal[lane / lanes_a_byte];
      uint8_t numbers[block_keys];
      std::memcpy(numbers, counters[i], sizeof numbers);
      for (int j = 0; j < block_keys; ++j) of_kept[j] |= numbers[j] >= least ? bit : uint8_t(0);
      for (int j = 0; j < block_keys; ++j) of_equal[j] |= numbers[j] == least ? bit : uint8_t(0);
    }
  }
  const auto word_of = [](const uint8_t(&parts)[bytes][block_keys], int64_t j) {
    return uint32_t(parts[0][j]) | uint32_t(parts[1][j]) << 8 | uint32_t(parts[2][j]) << 16 |
           uint32_t(parts[3][j]) << 24;
  };
  for (int64_t j = 0; j < block_keys; ++j) to[j] = word_of(kept, j);
  if (rest_ == 0) return;
  for (int64_t j = 0; j < block_keys; ++j)
    for (uint32_t lanes = word_of(equal, j); lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      if (second_drops(lane, block * block_keys + j, panel)) to[j] &= ~(uint32_t(1) << lane);
    }
}

bool Dropout::second_drops(int lane, int64_t key, const Panel& panel) const noexcept {
  const uint64_t in_block = uint64_t(key % block_keys);
  const RandomBlock random =
      philox_(Stream::dropout, uint64_t(key / block_keys), 1 + in_block / 4, uint64_t(panel.row[lane]), lead_[lane]);
  return uniform<double>(random.words[in_block % 4]) < rest_;
}

}  // namespace foveate
