// Which weights of a panel are kept: 32 keys at a time by a byte of random bits each, and by a second number where the
// byte alone does not decide.
#include "dropout.hpp"

#include <algorithm>
#include <cstring>

namespace foveate {

Dropout::Dropout(const Plan& plan, Carver& carver) noexcept
    : rate_(plan.problem.dropout),
      first_row_(plan.problem.first_row),
      leading_index_(plan),
      philox_(plan.problem.random.key[0], plan.problem.random.key[1]),
      least_kept_(uint8_t(rate_ * 256)),
      rest_(rate_ * 256 - least_kept_) {
  // blocks begin where they do, not where a tile does
  const int64_t keys = plan.most_tile_keys() + 2 * block_keys;
  kept_ = carver.take<uint32_t>(any() ? keys : 0);
}

const uint32_t* Dropout::kept(const Panel& panel, int64_t batch, int64_t first_key, int64_t count) noexcept {
  for (int32_t i = 0; i < panel.live; ++i) lead_[i] = uint64_t(leading_index_.of(batch, panel.group[i]));
  const int64_t first = first_key / block_keys, end = (first_key + count + block_keys - 1) / block_keys;
  for (int64_t block = first; block < end; ++block) decide(panel, block, kept_ + (block - first) * block_keys);
  return kept_ + first_key % block_keys;
}

// One bit of a byte for each of eight queries, 32 keys side by side; then only bytes have to be transposed. The numbers are
// made for all queries first: to load bytes that were stored as words just before would stall.
void Dropout::decide(const Panel& panel, int64_t block, uint32_t* to) noexcept {
  using Bytes [[gnu::vector_size(16)]] = uint8_t;
  constexpr int halves = block_keys / 16;
  constexpr int together = 2, group = 8, groups = most_lanes / group;
  uint64_t numbers[most_lanes][4];
  const uint64_t word = Philox::first_word(Stream::dropout, uint64_t(block));
  for (int lane = 0; lane < panel.live; lane += together) {
    uint64_t counters[together][4];
    for (int i = 0; i < together; ++i) {
      const int of = std::min(lane + i, panel.live - 1);
      const uint64_t counter[4] = {word, 0, uint64_t(panel.row[of] + first_row_), lead_[of]};
      std::memcpy(counters[i], counter, sizeof counter);
    }
    philox_.replace(counters);
    if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)  // bytes of a word are taken from the lowest
      for (auto& words : counters)
        for (uint64_t& bytes : words) bytes = __builtin_bswap64(bytes);
    std::memcpy(numbers[lane], counters, sizeof counters);
  }
  const Bytes least = Bytes{} + least_kept_;
  uint8_t kept[groups][block_keys] = {}, equal[groups][block_keys] = {};
  for (int g = 0; g * group < panel.live; ++g) {
    Bytes kept_of[halves] = {}, equal_of[halves] = {};
    for (int i = 0; i < group && g * group + i < panel.live; ++i) {
      const uint8_t one = uint8_t(1 << i);  // named: a checked shift in place is no scalar of the vector to GCC
      const Bytes bit = Bytes{} + one;
      for (int h = 0; h < halves; ++h) {
        Bytes number;
        std::memcpy(&number, numbers[g * group + i] + h * 2, sizeof number);
        kept_of[h] |= Bytes(number >= least) & bit;
        equal_of[h] |= Bytes(number == least) & bit;
      }
    }
    std::memcpy(kept[g], kept_of, sizeof kept_of);
    std::memcpy(equal[g], equal_of, sizeof equal_of);
  }
  const auto join = [](const uint8_t (&parts)[groups][block_keys], uint32_t* words) {
    for (int64_t j = 0; j < block_keys; ++j)
      words[j] = uint32_t(parts[0][j]) | uint32_t(parts[1][j]) << 8 | uint32_t(parts[2][j]) << 16 |
                 uint32_t(parts[3][j]) << 24;
  };
  join(kept, to);
  if (rest_ == 0) return;
  uint32_t undecided[block_keys];
  join(equal, undecided);
  for (int64_t j = 0; j < block_keys; ++j)
    for (uint32_t lanes = undecided[j]; lanes; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      if (second_drops(lane, block * block_keys + j, panel)) to[j] &= ~(uint32_t(1) << lane);
    }
}

bool Dropout::second_drops(int lane, int64_t key, const Panel& panel) const noexcept {
  const uint64_t in_block = uint64_t(key % block_keys);
  const RandomBlock random = philox_(Stream::dropout, uint64_t(key / block_keys), 1 + in_block / 4,
                                     uint64_t(panel.row[lane] + first_row_), lead_[lane]);
  return uniform<double>(random.words[in_block % 4]) < rest_;
}

}  // namespace foveate
