// The gradient of the score, from that of the logits, dS, of a tile.
//   inner product   dQ += dS K a panel, dK += dS^T Q a block; both products leave inf and NaN of keys and queries out where
//                   they may meet cells that are not seen, and add them for those that are
//   others          column by column (kernels/score/columns.hpp), where a cell of dS = 0 adds nothing
#pragma once
#include "backward_rows.hpp"

namespace foveate {

// Which cells of a block are seen, where it has to be known: one word a key for each panel.
struct SeenCells {
  const uint32_t* bits;  // [panel][tile_keys]
  int64_t width;
  bool of(int64_t query, int64_t key) const { return bits[query / width * tile_keys + key] >> (query % width) & 1; }
};

// to[key][column] += sum over the block's queries of cells[key][query] rows[query][column], for the keys low..high - 1.
template <class T>
class QuerySum {
 public:
  QuerySum(const Plan& plan, int64_t rows, Carver& carver) noexcept : plan_(plan) {
    finite_ = carver.take<T>(rows * padded(plan, std::max(plan.problem.head_size, plan.problem.value_size)));
  }
  void add(const T* cells, int64_t stride, int64_t low, int64_t high, int64_t count,
           const typename BlockRows<T>::Matrix& rows, const SeenCells& seen, T* to) noexcept {
    const T* x = rows.data;
    if (!rows.finite) {
      for (int64_t i = 0; i < count * rows.columns; ++i) finite_[i] = std::isfinite(x[i]) ? x[i] : T(0);
      x = finite_;
    }
    plan_.family.query_sum(cells + low * stride, stride, high - low, count, x, rows.columns, to + low * rows.columns);
    if (rows.finite) return;
    for (int64_t q = 0; q < count; ++q)
      for (int64_t d = 0; d < rows.columns; ++d) {
        const T spoilt = rows.data[q * rows.columns + d];
        if (std::isfinite(spoilt)) continue;
        for (int64_t j = low; j < high; ++j)
          if (seen.of(q, j)) to[j * rows.columns + d] += cells[j * stride + q] * spoilt;
      }
  }

 private:
  const Plan& plan_;
  T* finite_;
};

template <class T>
class ScoreGradient {
 public:
  ScoreGradient(const Plan& plan, const Blocks& blocks, Carver& carver) noexcept : plan_(plan), p_(plan.problem) {
    const bool inner = !plan.scoring.gradients;
    ones_ = carver.take<T>(inner ? blocks.width : 0);
    keys_ = carver.take<T>(inner ? tile_keys * p_.head_size : 0);
    spare_ = carver.take<T>(inner ? 0 : blocks.width * p_.head_size);
    weights_ = carver.take<T>(inner ? 0 : padded(plan, 1) * p_.head_size);
  }

  void clear(const Blocks& blocks) noexcept {
    if (!plan_.scoring.gradients) std::fill_n(ones_, blocks.width, T(1));
  }

  // Whether the keys of a tile are all finite; to be asked of inner products alone.
  bool are_finite(const Rows& rows, int64_t count) noexcept {
    if (plan_.scoring.gradients) return true;
    plan_.family.load_values(rows, count, p_.head_size, false, keys_);
    return all_finite(keys_, count * p_.head_size);
  }

  // Before the first tile of a task.
  void start() noexcept {
    if (plan_.scoring.gradients) std::fill_n(weights_, padded(plan_, 1) * p_.head_size, T(0));
  }

  // Of a panel: d_query, [column][query], null where it is not wanted; d_key from the stretch's first key, in rows of whole
  // vectors, which inner products leave to QuerySum.
  void add(const Block& block, int p, const Stretch& s, T* d_scores, bool keys_finite, const SeenCells& seen,
           T* d_query, T* d_key) noexcept {
    const Family& family = plan_.family;
    const int32_t vectors = block.vectors(p), width = vectors * family.lanes;
    Tile keys = block.keys(s.begin);
    if (plan_.scoring.gradients) {
      for (int64_t j = 0; block.panel(p).live < width && j < s.count(); ++j)
        std::fill_n(d_scores + j * width + block.panel(p).live, width - block.panel(p).live, T(0));
      plan_.scoring.gradients(block.packed(p), vectors, keys, s.count(), p_.head_size,
                              is_additive(p_.kind) ? nullptr : p_.weights, d_scores, d_query ? d_query : spare_, d_key,
                              weights_);
      return;
    }
    if (!d_query) return;
    if (!keys_finite) {
      family.load_values(block.key_rows(s.begin), s.count(), p_.head_size, true, keys_);
      keys = {keys_, p_.head_size * int64_t(sizeof(T))};
    }
    family.weighted_sum(d_scores, vectors, keys, s.count(), p_.head_size, ones_, d_query, block.corners(), Ahead{});
    if (!keys_finite)
      family.add_not_finite(d_scores, width, block.key_rows(s.begin), s.count(), p_.head_size,
                            seen.bits + p * tile_keys + s.begin, d_query, width, 1);
  }

  // After the last tile of a task.
  void add_weights(double* sum) const noexcept {
    const int64_t lanes = plan_.family.lanes;
    for (int64_t h = 0; h < p_.head_size; ++h)
      for (int64_t i = 0; i < lanes; ++i) sum[h] += double(weights_[h * lanes + i]);
  }

  // What the sums of a column lack: the constants of score/columns.hpp, and the scale.
  double query_factor(int64_t column) const {
    return p_.kind >= FV_GAUSSIAN ? -key_factor(column) : key_factor(column);
  }
  double key_factor(int64_t column) const {
    if (!plan_.scoring.gradients) return p_.scale;
    const double weight = p_.weights ? double(static_cast<const T*>(p_.weights)[column]) : 1.0;
    return plan_.compact ? 2 * weight : p_.scale * weight;
  }
  double weights_factor() const { return is_additive(p_.kind) ? p_.scale : plan_.compact ? -2.0 : -p_.scale; }

 private:
  const Plan& plan_;
  const Problem& p_;
  T *ones_, *keys_, *spare_, *weights_;
};

}  // namespace foveate
