// A block of queries as the backward pass takes it: its rows of the queries and of dO as they stand, for the products that
// sum over queries; dO in panels, for dP; lse and shift of each query.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "block.hpp"

namespace foveate {

template <class T>
bool all_finite(const T* x, int64_t count) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits exponent = sizeof(T) == 4 ? Bits(0x7f800000u) : Bits(0x7ff0000000000000u);
  Bits any = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, x + i, sizeof bits);
    any |= Bits((bits & exponent) == exponent);
  }
  return any == 0;
}

// Rows are padded to whole vectors.
inline int64_t padded(const Plan& plan, int64_t columns) {
  const int64_t lanes = plan.family.lanes;
  return (columns + lanes - 1) / lanes * lanes;
}

template <class T>
class BlockRows {
 public:
  BlockRows(const Plan& plan, const Blocks& blocks, Carver& carver) noexcept
      : plan_(plan), p_(plan.problem), width_(blocks.width), room_(blocks.rows) {
    hard_ = bool(p_.advantage);
    query_ = {carver.take<T>(plan.scoring.gradients ? 0 : room_ * padded(plan, p_.head_size)),
              padded(plan, p_.head_size), true};
    d_out_ = {carver.take<T>(hard_ ? 0 : room_ * padded(plan, p_.value_size)), padded(plan, p_.value_size), true};
    panels_ = carver.take<T>(hard_ ? 0 : room_ * p_.value_size);
    scratch_ = carver.take<T>(hard_ ? 0 : width_ * p_.value_size);
    lse_ = carver.take<T>(room_);
    shift_ = carver.take<T>(room_);
  }

  // Rows of whole vectors, the last columns 0.
  struct Matrix {
    T* data;
    int64_t columns;
    bool finite;
  };

  // Once, before the first block.
  void clear() noexcept {
    if (!plan_.scoring.gradients) std::fill_n(query_.data, room_ * query_.columns, T(0));
    if (!hard_) std::fill_n(d_out_.data, room_ * d_out_.columns, T(0));
  }

  // lse and shift: of the rows of the batch as they stand. scale: of dO in panels.
  void load(const Block& block, const T* lse, const T* shift, bool with_panels, double scale) noexcept {
    count_ = 0;
    for (int p = 0; p < block.panels(); ++p) {
      const Panel& panel = block.panel(p);
      const char* d_out[most_lanes];
      for (int32_t i = 0; i < panel.live; ++i, ++count_) {
        const int64_t row = panel.row[i] * plan_.groups + panel.group[i];
        lse_[p * width_ + i] = lse[row];
        shift_[p * width_ + i] = shift[row];
        if (!plan_.scoring.gradients)
          load_row(row_of(plan_, p_.query, block.batch(), panel, i), p_.query, p_.head_size,
                   query_.data + count_ * query_.columns);
        if (hard_) continue;
        T* const to = d_out_.data + count_ * d_out_.columns;
        load_row(row_of(plan_, p_.d_out, block.batch(), panel, i), p_.d_out, p_.value_size, to);
        d_out[i] = reinterpret_cast<const char*>(to);
      }
      for (int64_t i = panel.live; i < width_; ++i) {  // a lane without a query has no weight
        lse_[p * width_ + i] = std::numeric_limits<T>::infinity();
        shift_[p * width_ + i] = 0;
      }
      if (with_panels && !hard_)
        plan_.family.inner.pack_queries(d_out, sizeof(T) == 8 ? Dtype::float64 : Dtype::float32, sizeof(T), panel.live,
                                        block.vectors(p), p_.value_size, scale, nullptr, scratch_,
                                        panels_ + p * width_ * p_.value_size);
    }
    if (!plan_.scoring.gradients) query_.finite = all_finite(query_.data, count_ * query_.columns);
    if (!hard_) d_out_.finite = all_finite(d_out_.data, count_ * d_out_.columns);
  }

  void load_row(const char* from, const Operand& x, int64_t columns, T* to) const {
    plan_.family.load_values({from, dtype_of(x), 0, x.column_stride}, 1, columns, false, to);
  }

  int64_t count() const { return count_; }
  const Matrix& query() const { return query_; }  // of inner products
  const Matrix& d_out() const { return d_out_; }  // of soft attention
  const T* d_out_panel(int p) const { return panels_ + p * width_ * p_.value_size; }
  const T* lse(int p) const { return lse_ + p * width_; }
  const T* shift(int p) const { return shift_ + p * width_; }
  bool finite() const { return query_.finite && d_out_.finite; }

 private:
  const Plan& plan_;
  const Problem& p_;
  int64_t width_, room_;
  bool hard_;
  Matrix query_, d_out_;
  T *panels_, *scratch_, *lse_, *shift_;
  int64_t count_ = 0;
};

}  // namespace foveate
