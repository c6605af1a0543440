// What is kept of a row while it is filtered, and lists of the numbers that pass a threshold.
#pragma once
#include "candidates.hpp"
#include "runtime/workspace.hpp"
#include "sharing.hpp"

namespace foveate {

constexpr int64_t list_room = draw_block + draw_classes;  // of a list of a block's numbers
constexpr int64_t spans_a_block = draw_block / filter_span;
constexpr int64_t most_sampled = int64_t(1) << 12;

struct Listed {
  double value;  // the key of a category, or the weight up to and including it
  int64_t place;
};

struct FilteredRow {
  FilteredRow(int64_t categories, int64_t item, bool values, bool listed, Carver& carver) noexcept : item(item) {
    blocks = (categories + draw_block - 1) / draw_block;
    tops = carver.take<char>(blocks * spans_a_block * item);
    block_tops = carver.take<BlockTop>(blocks);
    parts = carver.take<WeightParts>(blocks);
    counts = carver.take<int64_t>(blocks);
    sums = carver.take<double>(blocks);
    if (values) {
      list = carver.take<char>(blocks * list_room * item);
      sampled = carver.take<char>(2 * (most_sampled + draw_classes) * item);
    }
    if (listed) this->listed = carver.take<Listed>(categories);
  }
  char* tops_of(int64_t b) const { return tops + b * spans_a_block * item; }
  char* sampled_weights() const { return sampled + (most_sampled + draw_classes) * item; }

  // f(block, thread) for each block
  template <class Each, class F>
  bool each_block(const Each& each, F&& f) const noexcept {
    return each((blocks + span - 1) / span, [&](int64_t i, int thread) {
      for (int64_t b = i * span; b < std::min(blocks, (i + 1) * span); ++b) f(b, thread);
    });
  }

  int64_t keep(const CandidateRow& row, const Threshold& by, int64_t b, void* values, int32_t* places) const noexcept {
    const Threshold own = by.in_block(b);
    return row.filtering().keep(row.block(b), tops_of(b), own.least, own.equals, values, places);
  }

  // Lists what f(block, to) lists of each block, one after the other, and says how many that are.
  template <class Each, class F>
  bool gather(const Each& each, F&& f, int64_t* total) const noexcept {
    *total = 0;
    if constexpr (!Each::is_shared) {
      for (int64_t b = 0; b < blocks; ++b) *total += counts[b] = f(b, list + *total * item);
      return true;
    } else {
      if (!each_block(each, [&](int64_t b, int) { counts[b] = f(b, list + b * list_room * item); })) return false;
      for (int64_t b = 0; b < blocks; *total += counts[b++])
        std::memmove(list + *total * item, list + b * list_room * item, size_t(counts[b] * item));
      return true;
    }
  }

  // The same of a list of about so many numbers: where they are few, threads are not worth their start.
  bool are_few(int64_t count) const { return count <= 4 * blocks; }
  template <class Each, class F>
  bool gather_few(int64_t count, const Each& each, F&& f, int64_t* total) const noexcept {
    if (!are_few(count)) return gather(each, f, total);
    each.in_between([&] { gather(Alone{each.thread}, f, total); });
    return true;
  }

  int64_t item, blocks;
  char* tops;  // of spans
  BlockTop* block_tops;
  WeightParts* parts;                        // of blocks
  int64_t* counts;                           // of what is listed of each block
  double* sums;                              // of weights, up to and including each block
  char *list = nullptr, *sampled = nullptr;  // of numbers
  Listed* listed = nullptr;                  // categories
};

}  // namespace foveate
