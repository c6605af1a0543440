// A block of queries as the backward pass takes it: the rows of Q and dO, for the products that sum over queries; dO in
// panels, for dP; and of each query its lse, as scale lse_high + lse_low in base 2, and delta = rowsum(dO O) - dlse.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "drivers/common/query_block.hpp"

namespace foveate {

// Of float64, float32, or the bits of bfloat16.
template <class T>
bool all_finite(const T* x, int64_t count) {
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  constexpr Bits exponent = Bits(sizeof(T) == 2 ? 0x7f80u : sizeof(T) == 4 ? 0x7f800000u : 0x7ff0000000000000u);
  Bits any = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, x + i, sizeof bits);
    any |= Bits((bits & exponent) == exponent);
  }
  return any == 0;
}

// Calls f(draw, key) for the choices of a query of hard attention: a key, or -1.
template <class F>
void each_choice(const Plan& plan, int64_t batch, int64_t group, int64_t row, F&& f) {
  const Operand& index = plan.problem.index;
  const char* at = plan.row(index, batch, group, row);
  for (int64_t draw = 0; draw < plan.problem.draws; ++draw, at += index.column_stride) {
    int64_t key;
    std::memcpy(&key, at, sizeof key);
    f(draw, key < plan.problem.keys ? std::max<int64_t>(key, -1) : -1);
  }
}

// Rows are padded to whole vectors.
inline int64_t padded(const Plan& plan, int64_t columns) {
  const int64_t lanes = plan.arithmetic.lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

// The block's rows of an operand, as query_sum takes them.
struct Summands {
  Summands(const Plan& plan, const Operand& x, int64_t size, int64_t room, Carver& carver) noexcept
      : operand(x), size(size), columns(padded(plan, size)) {
    data = carver.take(room * columns * plan.arithmetic.cell_size);
    rows = carver.take<const char*>(room);
  }
  // Panel p, of rows that were set.
  bool load(const Arithmetic& arithmetic, int p, int64_t width, int32_t live, bool as_finite, char* to) const noexcept {
    return arithmetic.load_summands(rows + p * width, dtype_of(operand), operand.column_stride, live, size, as_finite,
                                    to, p * width);
  }

  const Operand& operand;
  int64_t size, columns;  // columns: of whole vectors
  char* data;
  const char** rows;  // as they lie in memory
  bool finite = true;
};

// Of each row: lse in base 2, scale lse_high + lse_low with the scale of the scores, and what is taken off dP.
template <class T>
struct RowSums {
  T *lse_high, *lse_low, *delta;
};

template <class T>
class BlockRows {
 public:
  BlockRows(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : BlockRows(plan, plan.problem.query, plan.problem.d_out, blocks, carver) {}
  // Of other rows than those of the problem's query and gradient of the output; null where there are none.
  BlockRows(const Plan& plan, const Operand& query, const Operand& d_out, const QueryBlocks& blocks,
            Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        arithmetic_(plan.arithmetic),
        width_(blocks.width),
        no_d_out_(p_.advantage || !d_out),
        no_query_(plan.scoring.gradients || !query),
        query_(plan, query, p_.head_size, no_query_ ? 0 : blocks.rows, carver),
        d_out_(plan, d_out, p_.value_size, no_d_out_ ? 0 : blocks.rows, carver) {
    panel_bytes_ = width_ * arithmetic_.inner.panel_size(p_.value_size);
    panels_ = carver.take(no_d_out_ ? 0 : blocks.panels * panel_bytes_);
    scratch_ = carver.take(no_d_out_ ? 0 : panel_bytes_);
    lse_high_ = carver.take<T>(blocks.rows);
    lse_low_ = carver.take<T>(blocks.rows);
    delta_ = carver.take<T>(blocks.rows);
  }

  // of: the rows of the batch as they stand. scale: of dO in panels.
  void load(const QueryBlock& block, const RowSums<T>& of, bool with_panels, double scale) noexcept {
    count_ = 0;
    query_.finite = d_out_.finite = true;
    for (int p = 0; p < block.panels(); ++p) {
      const Panel& panel = block.panel(p);
      for (int32_t i = 0; i < panel.live; ++i, ++count_) {
        const int64_t row = panel.row[i] * plan_.groups + panel.group[i];
        lse_high_[p * width_ + i] = of.lse_high[row];
        lse_low_[p * width_ + i] = of.lse_low[row];
        delta_[p * width_ + i] = of.delta[row];
        if (!no_query_) query_.rows[count_] = row_of(plan_, query_.operand, block.batch(), panel, i);
        if (!no_d_out_) d_out_.rows[count_] = row_of(plan_, d_out_.operand, block.batch(), panel, i);
      }
      for (int64_t i = panel.live; i < width_; ++i) {  // a lane without a query has no weight
        lse_high_[p * width_ + i] = 0;
        lse_low_[p * width_ + i] = std::numeric_limits<T>::infinity();
        delta_[p * width_ + i] = 0;
      }
      if (!no_query_ && !query_.load(arithmetic_, p, width_, panel.live, false, query_.data)) query_.finite = false;
      if (no_d_out_) continue;
      if (!d_out_.load(arithmetic_, p, width_, panel.live, false, d_out_.data)) d_out_.finite = false;
      if (with_panels)
        arithmetic_.inner.pack_queries(d_out_.rows + p * width_, dtype_of(d_out_.operand), d_out_.operand.column_stride,
                                       panel.live, block.vectors(p), p_.value_size, scale, nullptr, scratch_,
                                       panels_ + p * panel_bytes_);
    }
  }

  // A row as it lies in memory, as T.
  void load_row(const char* from, const Operand& x, int64_t columns, T* to) const {
    plain_arithmetic(plan_).load_values({from, dtype_of(x), 0, x.column_stride}, 1, columns, false, to);
  }

  int64_t count() const { return count_; }
  const Summands& query() const { return query_; }  // of inner products
  const Summands& d_out() const { return d_out_; }  // of soft attention
  const void* d_out_panel(int p) const { return panels_ + p * panel_bytes_; }
  const T* lse_high(int p) const { return lse_high_ + p * width_; }
  const T* lse_low(int p) const { return lse_low_ + p * width_; }
  const T* delta(int p) const { return delta_ + p * width_; }
  bool finite() const { return query_.finite && d_out_.finite; }

 private:
  const Plan& plan_;
  const Problem& p_;
  const Arithmetic& arithmetic_;
  int64_t width_;
  bool no_d_out_, no_query_;
  Summands query_, d_out_;
  int64_t panel_bytes_;
  char *panels_, *scratch_;
  T *lse_high_, *lse_low_, *delta_;
  int64_t count_ = 0;
};

}  // namespace foveate
