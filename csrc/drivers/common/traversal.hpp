// Which tiles of keys a pass goes over, and in which order: a range of the grid that all panels share, the keys of a panel
// as one tile of its own, or a list of tiles (the nearest first, or those that a rule names). A value, made once a pass;
// inside a tile nothing knows of it. A new order is a function that makes one.
#pragma once
#include <algorithm>
#include <cstdint>

namespace foveate {

// Keys low <= j < high.
struct Interval {
  int64_t low, high;
};

struct KeyTile {
  int64_t first, count;
};

//   for (Traversal tiles = ...; !tiles.done(); tiles.next()) ... tiles.tile() ...
class Traversal {
 public:
  Traversal() = default;  // of nothing

  // The tiles of `size` keys, from multiples of it, that hold some of `seen`; the last one of all ends at `keys`.
  static Traversal grid(Interval seen, int64_t size, int64_t keys) {
    if (seen.low >= seen.high) return {};
    return {nullptr, seen.low / size, (seen.high + size - 1) / size, 0, size, seen.high, keys};
  }
  // These keys as one tile.
  static Traversal one(Interval keys) {
    if (keys.low >= keys.high) return {};
    return {nullptr, 0, 1, keys.low, keys.high - keys.low, keys.high, keys.high};
  }
  // The tiles of the grid with these numbers.
  static Traversal list(const int64_t* numbers, int64_t count, int64_t size, int64_t keys) {
    return {numbers, 0, count, 0, size, keys, keys};
  }

  bool done() const { return at_ >= end_; }
  void next() { ++at_; }
  KeyTile tile() const { return tile_at(at_, keys_); }
  // What is seen of the next one, to prefetch: nothing after the last.
  KeyTile following() const { return at_ + 1 < end_ ? tile_at(at_ + 1, seen_end_) : KeyTile{0, 0}; }

 private:
  Traversal(const int64_t* numbers, int64_t at, int64_t end, int64_t origin, int64_t size, int64_t seen_end,
            int64_t keys)
      : numbers_(numbers), at_(at), end_(end), origin_(origin), size_(size), seen_end_(seen_end), keys_(keys) {}

  KeyTile tile_at(int64_t i, int64_t end) const {
    const int64_t first = origin_ + (numbers_ ? numbers_[i] : i) * size_;
    return {first, std::min(size_, end - first)};
  }

  const int64_t* numbers_ = nullptr;
  int64_t at_ = 0, end_ = 0;  // of the numbers
  int64_t origin_ = 0, size_ = 1, seen_end_ = 0, keys_ = 0;
};

}  // namespace foveate
