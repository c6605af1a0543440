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
  own_tile  // panel after panel, the keys of each in one tile of its own
};

// What a driver asks of its plan.
struct Needs {
  bool whole_weights = false;  // weights and products of the accumulator's type, where pairs would round them
  Windows windows = Windows::own_tile;
  int64_t tile_keys = 0;  // of the grid, where it is the driver's to say
  int64_t key_step = 0;   // likewise
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
  bool narrow() const { return window_tile_keys > 0; }
  int64_t most_tile_keys() const { return own_tiles ? window_tile_keys : tile_keys; }
  // A range of keys begins and ends at multiples of this, since its ends depend on the company of a query: sums of few
  // columns run in chains over every fourth key, those of 16-bit products in groups of two keys or more.
  int64_t key_step = 1;
  bool ranges = false;  // ids of keys never fall: those of a query's own are an interval
  bool by_ids = false;  // elsewhere they are compared
  bool bits = false;    // there is a mask, or ids to compare: one bit a cell
  // What products read where it stands: values as such, and as the keys of the gradients of the weights.
  bool keys_in_place = false, values_in_place = false, values_as_keys_in_place = false;

  // Scores.
  const void* factors = nullptr;  // of the columns, as the score's kernels take them
  // log2(e) is part of the scale, and the scale part of the queries of an inner product, except of pairs. Elsewhere
  // the softmax multiplies by it; but a bias, or a scale that is not positive or so small that a sink in its units may be
  // none, needs scaled scores. They, and those that have a link by themselves, go through `link`, null where there is none,
  // after which the scale is 1.
  double query_factor = 1.0;
  double scale = 1.0;
  const Link* link = nullptr;
  LinkParameters link_parameters{};
  bool biased = false;
  double softmax_scale() const { return link ? 1.0 : scale; }
  bool link_has_gradient() const { return link && link->gradient; }
  // What the distances from a center are divided by, so that float32 holds them: 1, but where sigma is more than 2^100, and
  // the places of keys, beside it, are all the same.
  double gaussian_unit() const { return problem.sigma > 0x1p100 ? problem.sigma / 0x1p100 : 1; }
  bool compact = false;  // no logits, but weights
  Profile profile = Profile::boxcar;

  // Row of an operand, of a query or a key.
  char* row(const Operand& x, int64_t batch, int64_t group, int64_t index) const {
    return x.data + batch_offset(x, batch) + (group ? group_offset(x, group) : 0) + index * x.row_stride;
  }
  // Byte offset of a batch and of a group within an operand.
  int64_t batch_offset(const Operand& operand, int64_t batch) const { return offset(operand, batch_, batch); }
  int64_t group_offset(const Operand& operand, int64_t group) const { return offset(operand, group_, group); }

 private:
  void scale_by(double factor) noexcept;
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

// The flat index over the leading axes, the last one fastest, under which random numbers are counted.
class LeadingIndex {
 public:
  explicit LeadingIndex(const Plan& plan) noexcept : plan_(plan) {
    int64_t step = 1;  // as if it were an offset
    for (int axis = plan.problem.lead_ndim - 1; axis >= 0; --axis) {
      flat_.lead[axis] = step;
      step *= plan.problem.lead_shape[axis];
    }
  }
  int64_t of(int64_t batch, int64_t group) const {
    return plan_.batch_offset(flat_, batch) + (plan_.groups > 1 ? plan_.group_offset(flat_, group) : 0);
  }

 private:
  const Plan& plan_;
  Operand flat_;
};

// The centers of a batch, where there are any; 0 in place of one that is not finite any more.
class Centers {
 public:
  Centers(const Plan& plan, int64_t batch) noexcept
      : plan_(plan), of_(plan.problem.centers), base_(of_ ? of_.data + plan.batch_offset(of_, batch) : nullptr) {}
  double of(int64_t group, int64_t query) const {
    double center;
    std::memcpy(&center, base_ + (group ? plan_.group_offset(of_, group) : 0) + query * of_.row_stride, sizeof center);
    return center - center == 0 ? center : 0;
  }

 private:
  const Plan& plan_;
  const Operand& of_;
  const char* base_;
};

// The keys of a query's own id, where ids of keys never fall.
class Ranges {
 public:
  Ranges(const Plan& plan, int64_t batch) noexcept
      : plan_(plan),
        of_queries_(plan.problem.query_segments),
        of_keys_(plan.problem.key_segments),
        queries_(plan.ranges ? of_queries_.data + plan.batch_offset(of_queries_, batch) : nullptr),
        keys_(plan.ranges ? of_keys_.data + plan.batch_offset(of_keys_, batch) : nullptr) {}

  Interval of(int64_t group, int64_t query) noexcept {
    const char* const ids = keys_ + (group ? plan_.group_offset(of_keys_, group) : 0);
    int64_t id;
    std::memcpy(&id, queries_ + (group ? plan_.group_offset(of_queries_, group) : 0) + query * of_queries_.row_stride,
                sizeof id);
    if (ids == ids_ && id == id_) return found_;  // as of the query before
    ids_ = ids;
    id_ = id;
    return found_ = {first_key([id](int64_t other) { return other >= id; }),
                     first_key([id](int64_t other) { return other > id; })};
  }

 private:
  template <class Is>
  int64_t first_key(Is&& is) const noexcept {
    int64_t low = 0, high = plan_.problem.keys;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      int64_t other;
      std::memcpy(&other, ids_ + middle * of_keys_.row_stride, sizeof other);
      if (is(other))
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }

  const Plan& plan_;
  const Operand &of_queries_, &of_keys_;
  const char *queries_, *keys_;  // of the batch
  const char* ids_ = nullptr;
  int64_t id_ = 0;
  Interval found_{};
};

// The reach's interval of keys of query `query`, at these batch and group offsets.
struct Reach {
  int64_t offset, keys;  // where query 0 stands; how many keys are valid
  Interval of(int64_t query, int64_t left, int64_t right) const {
    const int64_t at = query + offset;
    int64_t low = left < 0 || at - left < 0 ? 0 : at - left;
    int64_t high = right < 0 || at + right + 1 > keys ? keys : at + right + 1;
    if (high <= low) low = high = 0;
    return {low, high};
  }
};
Reach reach_of(const Plan&, int64_t batch, int64_t group) noexcept;

// The keys 0 <= j < keys with |j - center| <= half_width.
Interval round_center(double center, double half_width, int64_t keys) noexcept;

// The sink of a leading index, or -inf: in natural units, and in those of the scores of a softmax, of which a finite one
// stays finite as a bias does.
double sink_of(const Plan&, int64_t batch, int64_t group) noexcept;
double sink_score_of(const Plan&, int64_t batch, int64_t group) noexcept;

// The logarithm of a softmax's denominator, natural; and what it is made of, the largest score as the kernels hold it and
// the logarithm of the sum of the weights beside that. Where scores are huge, lse alone has no digits left for the sum.
struct Lse {
  double lse, high, low;
};
// Of the largest score m and the sum l; of a query that sees nothing: the sink, or -inf.
Lse lse_of(const Plan&, double m, double l) noexcept;
Lse lse_of_nothing(const Plan&, int64_t batch, int64_t group) noexcept;

// An element of lse: float32, float64, or all three numbers of float64. Of one number, or beside a high part of NaN, the parts
// are made.
void write_lse(const Operand& lse, char* at, const Lse&) noexcept;
Lse read_lse(const Plan&, const char* at) noexcept;

}  // namespace foveate
