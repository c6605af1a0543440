// The gradient of the score, from that of the logits, dS, of a tile.
//   inner product   dQ += dS K a panel, dK += dS^T Q a block; both products leave inf and NaN of keys and queries out where
//                   they may meet cells that are not seen, and add them for those that are
//   others          column by column (kernels/score/columns.hpp), where a cell of dS = 0 adds nothing
#pragma once
#include "backward.hpp"
#include "rows.hpp"

namespace foveate {

// Which cells of a block are seen, where it has to be known: one word a key for each panel.
struct SeenCells {
  const uint32_t* bits;  // [panel][key of the tile]
  int64_t width, keys;
  bool of(int64_t query, int64_t key) const { return bits[query / width * keys + key] >> (query % width) & 1; }
};

// A cell of weights or of d_scores, as the products hold them for query_sum.
template <class T>
T cell_at(const Arithmetic& arithmetic, const char* cells, int64_t i) {
  T cell;
  if (arithmetic.pairs) {
    uint16_t high;
    std::memcpy(&high, cells + i * 2, sizeof high);
    const uint32_t bits = uint32_t(high) << 16;
    float as_float;
    std::memcpy(&as_float, &bits, sizeof bits);
    return T(as_float);
  }
  std::memcpy(&cell, cells + i * int64_t(sizeof cell), sizeof cell);
  return cell;
}

// to[key][column] += sum over the block's queries of cells[key][query] rows[query][column], for the keys low..high - 1.
template <class T>
class QuerySum {
 public:
  QuerySum(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan), arithmetic_(plan.arithmetic), width_(blocks.width) {
    const int64_t columns = padded(plan, std::max(plan.problem.head_size, plan.problem.value_size));
    finite_ = carver.take(blocks.rows * columns * arithmetic_.cell_size);
    row_ = carver.take<T>(columns);
  }
  // keys: of the tile; among: the rows of the block that may see them, from the first of a panel.
  void add(const char* cells, int64_t stride, Interval keys, Interval among, const BlockRows<T>& rows,
           const Summands& of, const SeenCells& seen, T* to) noexcept {
    const int64_t count = rows.count(), low = keys.low, high = keys.high;
    if (!of.finite)
      for (int64_t first = 0; first < count; first += width_)
        of.load(arithmetic_, int(first / width_), width_, int32_t(std::min(width_, count - first)), true, finite_);
    const char* const summands = of.finite ? of.data : finite_;
    arithmetic_.query_sum(cells + (low * stride + among.low) * arithmetic_.cell_size, stride, high - low,
                          among.high - among.low, summands + among.low * of.columns * arithmetic_.cell_size, of.columns,
                          to + low * of.columns);
    if (of.finite) return;
    for (int64_t q = 0; q < count; ++q) {
      rows.load_row(of.rows[q], of.operand, of.size, row_);
      for (int64_t d = 0; d < of.size; ++d) {
        if (std::isfinite(row_[d])) continue;
        for (int64_t j = low; j < high; ++j)
          if (seen.of(q, j)) to[j * of.columns + d] += cell_at<T>(arithmetic_, cells, j * stride + q) * row_[d];
      }
    }
  }

 private:
  const Plan& plan_;
  const Arithmetic& arithmetic_;
  int64_t width_;
  char* finite_;
  T* row_;
};

template <class T>
class ScoreGradient {
 public:
  ScoreGradient(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept : plan_(plan), p_(plan.problem) {
    const bool inner = !plan.scoring.gradients;
    ones_ = carver.take<T>(inner ? blocks.width : 0);
    tile_bytes_ = (plan_.tile_keys + plan.arithmetic.group - 1) / plan.arithmetic.group *
                  plan.arithmetic.value_size(p_.head_size);
    keys_ = carver.take(inner ? tile_bytes_ * (plan.arithmetic.pairs ? group_tiles_of(plan) : 1) : 0);
    spare_ = carver.take<T>(inner ? 0 : blocks.width * p_.head_size);
    factors_ = carver.take<T>(inner ? 0 : padded(plan, 1) * p_.head_size);
    slopes_ = carver.take<T>(p_.family == FV_LEAKY_RELU ? p_.head_size : 0);
    key_factors_ = carver.take<double>(p_.head_size);
  }

  // Once for all tasks. The factors of the columns are read here, where a subnormal weight is not taken as 0: the scale may
  // make up for its size.
  void prepare(const QueryBlocks& blocks) noexcept {
    if (!plan_.scoring.gradients) std::fill_n(ones_, blocks.width, T(1));
    if (p_.family == FV_LEAKY_RELU) std::fill_n(slopes_, p_.head_size, T(p_.slope));
    for (int64_t column = 0; column < p_.head_size; ++column) key_factors_[column] = find_key_factor(column);
  }

  // The keys of a tile, the n-th of its group; whether they are all finite, as far as that has to be known. Where products
  // do not take rows as they are, they are laid out here once for all queries, with 0 for inf and NaN.
  bool look_at(const Rows& rows, int64_t count, int64_t n) noexcept {
    if (plan_.scoring.gradients) return true;
    const Arithmetic& arithmetic = plan_.arithmetic;
    char* const keys = keys_ + (arithmetic.pairs ? n * tile_bytes_ : 0);
    arithmetic.load_values(rows, count, p_.head_size, false, keys);
    if (!arithmetic.pairs) return all_finite(reinterpret_cast<const T*>(keys), count * p_.head_size);
    const int64_t bytes = (count + arithmetic.group - 1) / arithmetic.group * arithmetic.value_size(p_.head_size);
    const bool finite = all_finite(reinterpret_cast<const uint16_t*>(keys), bytes / 2);
    if (!finite) arithmetic.load_values(rows, count, p_.head_size, true, keys);
    return finite;
  }

  // Before the first tile of a task.
  void start() noexcept {
    if (plan_.scoring.gradients) std::fill_n(factors_, padded(plan_, 1) * p_.head_size, T(0));
  }

  // Of a panel, and of the n-th tile of the group: d_query, [column][query], null where it is not wanted; d_key from the
  // range's first key, in rows of whole vectors, which inner products leave to QuerySum.
  void add(const QueryBlock& block, int p, const KeyRange& s, int64_t n, T* d_scores, bool keys_finite,
           const SeenCells& seen, T* d_query, T* d_key) noexcept {
    const Arithmetic& arithmetic = plan_.arithmetic;
    const int32_t vectors = block.vectors(p), width = vectors * arithmetic.lanes;
    LoadedRows keys = block.keys(s.begin);
    if (plan_.scoring.gradients) {
      for (int64_t j = 0; block.panel(p).live < width && j < s.count(); ++j)
        std::fill_n(d_scores + j * width + block.panel(p).live, width - block.panel(p).live, T(0));
      plan_.scoring.gradients(block.packed(p), vectors, keys, s.count(), p_.head_size, of_columns(), d_scores,
                              d_query ? d_query : spare_, d_key, factors_);
      return;
    }
    if (!d_query) return;
    const int64_t row = arithmetic.value_size(p_.head_size);
    if (arithmetic.pairs) {
      keys = {keys_ + n * tile_bytes_ + s.begin / arithmetic.group * row, row};
    } else if (!keys_finite) {
      arithmetic.load_values(block.key_rows(s.begin), s.count(), p_.head_size, true, keys_);
      keys = {keys_, row};
    }
    arithmetic.weighted_sum(d_scores, vectors, keys, s.count(), p_.head_size, ones_, d_query, block.partial(),
                            Prefetch{});
    if (!keys_finite)
      arithmetic.add_not_finite(d_scores, width, block.key_rows(s.begin), s.count(), p_.head_size,
                                seen.bits + p * plan_.tile_keys + s.begin, d_query, width, 1);
  }

  // After the last tile of a task.
  void add_factors(double* sum) const noexcept {
    const int64_t lanes = plan_.arithmetic.lanes;
    for (int64_t h = 0; h < p_.head_size; ++h)
      for (int64_t i = 0; i < lanes; ++i) sum[h] += double(factors_[h * lanes + i]);
  }

  // What the sums of a column lack: the constants of score/columns.hpp, and the scale.
  double query_factor(int64_t column) const {
    return p_.family == FV_DISTANCE ? -key_factor(column) : key_factor(column);
  }
  double key_factor(int64_t column) const { return key_factors_[column]; }
  double factors_scale() const { return is_additive(p_.family) ? p_.scale : plan_.compact ? -2.0 : -p_.scale; }

 private:
  // What the slope of a score in a column depends on.
  const void* of_columns() const {
    if (p_.family == FV_LEAKY_RELU) return slopes_;
    return is_additive(p_.family) ? nullptr : p_.factors;
  }
  double find_key_factor(int64_t column) const {
    if (!plan_.scoring.gradients) return p_.scale;
    const double factor = p_.factors ? double(static_cast<const T*>(p_.factors)[column]) : 1.0;
    return plan_.compact ? 2 * factor : p_.scale * factor;
  }

  const Plan& plan_;
  const Problem& p_;
  int64_t tile_bytes_;
  char* keys_;
  T *ones_, *spare_, *factors_, *slopes_;
  double* key_factors_;
};

}  // namespace foveate
