// Dropout (N. Srivastava et al., JMLR 2014): which weights of a tile are kept, one bit a cell. Each has a number of 8 bits
// of its own; with t = 2^8 rate it is dropped where that is below floor(t), and where it is floor(t), once in 256, a
// second number decides: dropped where uniform<double> is below t - floor(t). So the probability is the rate itself, up to
// 2^-61. Numbers are counted by (leading index, query; key), whatever the tile: key j of a query has
//   byte j % 8, from the lowest, of word (j / 8) % 4 of the block at (first_word(dropout, j / 32), 0, query, lead), and as
//   second number word j % 4 of the block at (first_word(dropout, j / 32), 1 + (j / 4) % 8, query, lead).
#pragma once
#include "leading_index.hpp"
#include "reach.hpp"
#include "runtime/random.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

class Dropout {
 public:
  Dropout(const Plan&, Carver&) noexcept;

  bool any() const { return rate_ > 0; }
  double factor() const { return 1 / (1 - rate_); }  // of the weights that are kept

  // Bit i of word j is set where query i of the panel keeps key first_key + j; for the keys of a tile at most, until the
  // next call.
  const uint32_t* kept(const Panel&, int64_t batch, int64_t first_key, int64_t count) noexcept;

 private:
  static constexpr int64_t block_keys = 32;  // served by a block of numbers

  void decide(const Panel&, int64_t block, uint32_t* to) noexcept;
  bool second_drops(int lane, int64_t key, const Panel&) const noexcept;

  const double rate_;
  const int64_t first_row_;
  LeadingIndex leading_index_;
  Philox philox_;
  uint8_t least_kept_;  // floor(t)
  double rest_;         // t - floor(t)
  uint64_t lead_[most_lanes];
  uint32_t* kept_;
};

}  // namespace foveate
