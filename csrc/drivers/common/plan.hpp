// How a problem is cut up and which kernels serve it, for every driver. Leading axes along which keys or values move make
// batches; the others (grouped queries) are folded into the rows, so that one pass over the keys serves the whole group:
// row r is query r / groups of group r % groups. A plan depends on the problem and on the driver's needs alone, and never
// on the number of threads; it is made before the scratch memory of the call, and completed by prepare() after it.
#pragma once
#include <cstring>

#include "problem.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/kernel_session.hpp"
#include "runtime/logarithms.hpp"
#include "traversal.hpp"

namespace foveate {

// Tiles: 168 keys, a multiple of every register tile; rates are flat within 1.5% from 56 to 896 keys, so it is fixed,
// for the sake of the same bits. A panel's own tile, where windows are narrow, takes up to twice as many. Arithmetics that
// are much faster have fewer: 96 keys, values and scores stay in 48 KB beside a panel (15% over 168; 64 and 128 are alike).
constexpr int64_t default_tile_keys = 168;
constexpr int64_t most_window_tile_keys = 2 * default_tile_keys;

// What becomes of narrow windows, of which a panel of neighbors sees few keys.
enum class Windows {
  shared,   // nothing: the panels of a block go over the tiles of the grid together, and rows come as they stand
  on_grid,  // panel after panel, each over the tiles of the grid that it sees
  own_tile  // panel after panel, the keys of each in one tile of its own, from a whole key_step on: a query's answer is
            // then one chain over its own keys, to which those that it does not see add zeros, whoever shares its panel
};

// The links that scores go through one after the other: that of the score, then the softcap; or the scale alone.
struct Links {
  void add(const Link& link, double scale, double parameter = 0) {
    if (count > 0) by[count - 1].unit = 1;
    by[count] = {scale, parameter, log2_e};
    link_of[count++] = &link;
  }
  bool has_gradient() const { return count > 0 && link_of[0]->gradient; }

  // `kept`, where it is not null, has room for as many cells for each link.
  void apply(void* scores, int32_t vectors, int64_t count_of_keys, char* kept, int64_t bytes) const {
    for (int i = 0; i < count; ++i)
      link_of[i]->apply(scores, vectors, count_of_keys, by[i], kept ? kept + i * bytes : nullptr);
  }
  void pull_back(const char* kept, int64_t bytes, void* d_scores, int32_t vectors, int64_t count_of_keys) const {
    for (int i = count; i-- > 0;) link_of[i]->gradient(kept + i * bytes, d_scores, vectors, count_of_keys, by[i]);
  }

  // How scores move through the links, from the tangents of what goes into the first. inputs: room for the tangents of what
  // goes into each, or null.
  void move(const char* kept, char* inputs, int64_t bytes, void* tangents, int32_t vectors, int64_t count_of_keys,
            int64_t bytes_of_keys) const {
    for (int i = 0; i < count; ++i) {
      if (inputs) std::memcpy(inputs + i * bytes, tangents, size_t(bytes_of_keys));
      link_of[i]->gradient(kept + i * bytes, tangents, vectors, count_of_keys, by[i]);
    }
  }
  // pull_back, and how that moves.
  void pull_back_moving(const char* kept, const char* inputs, int64_t bytes, void* d_scores, void* moved,
                        int32_t vectors, int64_t count_of_keys) const {
    for (int i = count; i-- > 0;)
      link_of[i]->curvature(kept + i * bytes, inputs + i * bytes, d_scores, moved, vectors, count_of_keys, by[i]);
  }

  int count = 0;

 private:
  const Link* link_of[2];
  LinkParameters by[2];
};

// What a driver asks of its plan.
struct Needs {
  bool whole_weights = false;  // weights of the accumulator's type, where pairs would round them
  Windows windows = Windows::own_tile;
  int64_t tile_keys = 0;  // of the grid; 0: as the arithmetic has it
  int64_t key_step = 0;   // 0: likewise
  bool grouped = true;    // queries that share their keys are rows of one batch
};

struct Plan {
  Plan(const Problem&, const Kernels&, const Needs& = {}) noexcept;

  const Problem& problem;
  const Kernels& kernels;
  const Arithmetic& arithmetic;
  const Scoring& scoring;

  // What is made before the first task, in memory that lasts as long as the call: the score's factors as kernels take them,
  // and the order of the rows. Bytes, for so many threads; and the making, false where the call was told to stop.
  int64_t prepared_size(int threads) const noexcept;
  bool prepare(int threads, char* memory) noexcept;

  // Rows.
  int64_t batches = 1, groups = 1;
  int64_t rows = 0;  // of a batch: groups * queries
  // Where rows do not come in the order in which they stand on the key axis, order[batch * rows + i] is the i-th.
  bool scattered = false;
  const int64_t* order = nullptr;

  // Keys.
  int64_t tile_keys;          // of the grid
  int64_t widest_window = 0;  // keys that a query sees at most, by a window or a center: an estimate of the work
  // Windows are narrow: panels are taken one by one, none of which sees more keys than this. Else 0.
  int64_t window_tile_keys = 0;
  bool own_tiles = false;  // and these keys are one tile
  bool apart = false;      // neighbors may see keys far from each other: a panel ends between them
  bool narrow() const { return window_tile_keys > 0; }
  int64_t most_tile_keys() const { return own_tiles ? window_tile_keys : tile_keys; }
  // A range of keys begins and ends at multiples of this, since its ends depend on the company of a query: sums of few
  // columns run in chains over every fourth key, those of 16-bit products in groups of two keys or more, and chains over these.
  int64_t key_step = 1;
  bool ranges = false;  // ids of keys never fall: those of a query's own are an interval
  bool by_ids = false;  // elsewhere they are compared
  bool bits = false;    // there is a mask, or ids to compare: one bit a cell
  bool holes = false;   // a rule may leave out keys between those that a query sees: several intervals, or blocks
  // Whether a query sees any key is known when tiles were looked at.
  bool looked_up() const { return bits || holes; }
  // What products read where it stands: values as such, and as the keys of the gradients of the weights.
  bool keys_in_place = false, values_in_place = false, values_as_keys_in_place = false;
  bool t_keys_in_place = false, t_values_in_place = false;  // likewise of their tangents

  // Scores.
  const void* factors = nullptr;  // of the columns, as the score's kernels take them
  // log2(e) is part of the scale, and the scale part of the queries of an inner product, except of pairs. Elsewhere
  // the softmax multiplies by it; but a bias, or a scale that is not positive or so small that a sink in its units may be
  // none, needs scaled scores. They, and those that have links by themselves, go through `links`, after which the scale is 1.
  double query_factor = 1.0;
  double scale = 1.0;
  Links links;
  bool biased = false;  // by a mask of floats
  bool any_bias() const { return biased || problem.table; }
  Operand places;  // the lines of a bias by place, of each batch
  int64_t line_bytes = 0;
  double softmax_scale() const { return links.count ? 1.0 : scale; }
  // What the distances from a center are divided by, so that float32 holds them: 1, but where sigma is more than 2^100, and
  // the places of keys, beside it, are all the same.
  double gaussian_unit() const { return problem.sigma > 0x1p100 ? problem.sigma / 0x1p100 : 1; }
  bool compact = false;  // no logits, but weights
  Profile profile = Profile::boxcar;
  // Weights that are a function of a score and a threshold; none: shares of a softmax.
  Normalizer normalizer = Normalizer::none;
  bool has_threshold() const { return foveate::has_threshold(problem.weighing); }

  // Row of an operand, of a query or a key.
  char* row(const Operand& x, int64_t batch, int64_t group, int64_t index) const {
    return x.data + batch_offset(x, batch) + (group ? group_offset(x, group) : 0) + index * x.row_stride;
  }
  // An element of an operand that has one for each leading index.
  template <class T>
  T value(const Operand& x, int64_t batch, int64_t group) const {
    T value;
    std::memcpy(&value, x.data + batch_offset(x, batch) + group_offset(x, group), sizeof value);
    return value;
  }
  // Byte offset of a batch and of a group within an operand.
  int64_t batch_offset(const Operand& operand, int64_t batch) const { return offset(operand, batch_, batch); }
  int64_t group_offset(const Operand& operand, int64_t group) const { return offset(operand, group_, group); }

  // Whether a batch is the first of those that share a part of an operand.
  bool first_of(const Operand& operand, int64_t batch) const {
    for (int a = batch_.count; a-- > 0;) {
      const int64_t extent = problem.lead_shape[batch_.axis[a]];
      if (operand.lead[batch_.axis[a]] == 0 && batch % extent != 0) return false;
      batch /= extent;
    }
    return true;
  }

 private:
  void scale_by(double factor) noexcept;
  void place_lines() noexcept;
  void fit_windows(const Needs&) noexcept;
  struct Axes {
    int count = 0;
    int axis[FV_MAX_DIMS];
  };
  int64_t offset(const Operand& operand, const Axes& axes, int64_t index) const {
    int64_t bytes = 0;
    for (int a = axes.count - 1; a > 0 && index; --a) {
      const int64_t extent = problem.lead_shape[axes.axis[a]];
      bytes += index % extent * operand.lead[axes.axis[a]];
      index /= extent;
    }
    return axes.count ? bytes + index * operand.lead[axes.axis[0]] : 0;
  }
  Axes batch_, group_;
};

// The arithmetic that has single rows as its accumulators, whatever the products.
inline const Arithmetic& plain_arithmetic(const Plan& plan) {
  return plan.arithmetic.element_size == 8 ? plan.kernels.float64 : plan.kernels.float32;
}

}  // namespace foveate
