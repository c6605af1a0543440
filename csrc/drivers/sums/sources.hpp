// The points that are summed over, in boxes, with their values, and how much a box may weigh at a box of queries.
//
// All is measured against K(x, ref) for a place `ref` of the queries' box, so that far tails are as any other place. With c
// the center of the queries, D = c - (the box's center) and D0 = c - ref, x = c + dx and y any point of the box,
//   K(x, y) / K(x, ref) = exp((|D0|^2 - |c - y|^2) / 2 + dx . (y - ref)),   |dx . (y - ref)| <= slack,
// where |c - y| is between the distances of the box's nearest and farthest places: an upper and a lower bound.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "sums.hpp"
#include "tree.hpp"

namespace foveate {

constexpr double none = -std::numeric_limits<double>::infinity();  // the logarithm of 0

struct Bounds {
  double upper, lower;  // of log(K(x, y) / K(x, ref))
  double slack;
  double offset[most_sum_dims];  // D
  double stretch;                // most of |D . dy|
};

class Sources {
 public:
  Sources(const Tree& tree, const double* w, int64_t columns, bool leave_one_out)
      : tree_(tree), dims_(tree.dims), columns_(columns), leave_one_out_(leave_one_out) {
    std::copy_n(w, dims_, w_);
  }

  // Values as the tree has its points, the largest of each column between 1/2 and 1; scale(c) is what they were divided by.
  void take_values(const Operand& values) {
    const int64_t count = tree_.count;
    values_.resize(size_t(count * columns_));
    scale_.assign(size_t(columns_), 1);
    for (int64_t c = 0; c < columns_; ++c) {
      double largest = 0;
      double* const to = values_.data() + c * count;
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(to + i, values.data + tree_.row[size_t(i)] * values.row_stride + c * values.column_stride,
                    sizeof *to);
        largest = std::max(largest, std::fabs(to[i]));
      }
      if (largest == 0) continue;
      int exponent;
      std::frexp(largest, &exponent);
      scale_[size_t(c)] = exponent;
      for (int64_t i = 0; i < count; ++i) to[i] = std::ldexp(to[i], -exponent);
    }
    weigh();
  }

  // The boxes that are not cut further from now on; coordinates are from their centers, by bandwidths.
  void cut(double side, bool directions) {
    side_ = side;
    directions_ = directions;
    const int64_t count = tree_.count, wide = wide_columns();
    leaves_.clear();
    for (int64_t node = 0; node < int64_t(tree_.nodes.size());) {
      if (!is_leaf(node)) {
        ++node;
        continue;
      }
      leaves_.push_back(node);
      node = tree_.nodes[size_t(node)].next;
    }
    at_.resize(size_t(count * dims_));
    values_.resize(size_t(count * wide));
  }
  const std::vector<int64_t>& leaves() const { return leaves_; }
  // Fills what `cut` made room for, a leaf at a time.
  void localize(int64_t leaf) {
    const Node& node = tree_.nodes[size_t(leaf)];
    const int64_t count = tree_.count;
    for (int64_t i = node.first; i < node.end; ++i)
      for (int k = 0; k < dims_; ++k)
        at_[size_t(k * count + i)] = (tree_.at[size_t(i * dims_ + k)] - node.box.center[k]) * w_[k];
    if (!directions_) return;
    for (int64_t c = 0; c < columns_; ++c)
      for (int k = 0; k < dims_; ++k)
        for (int64_t i = node.first; i < node.end; ++i)
          values_[size_t((columns_ + c * dims_ + k) * count + i)] =
              values_[size_t(c * count + i)] * at_[size_t(k * count + i)];
  }
  SumPoints points() const { return {at_.data(), values_.data(), tree_.count, int32_t(wide_columns())}; }

  const Tree& tree() const { return tree_; }
  int dims() const { return dims_; }
  const double* w() const { return w_; }
  int64_t columns() const { return columns_; }
  int64_t wide_columns() const { return directions_ ? columns_ * (1 + dims_) : columns_; }
  bool directions() const { return directions_; }
  bool leave_one_out() const { return leave_one_out_; }
  int exponent(int64_t column) const { return scale_[size_t(column)]; }
  double side() const { return side_; }
  void set_side(double side) { side_ = side; }
  bool is_leaf(int64_t node) const { return tree_.leaf(node) || 2 * tree_.nodes[size_t(node)].longest <= side_; }
  // log sum |v| of a column over the box; without its largest.
  const double* log_total(int64_t node) const { return log_total_.data() + node * columns_; }
  const double* log_others(int64_t node) const { return log_others_.data() + node * columns_; }
  double value(int64_t column, int64_t place) const { return values_[size_t(column * tree_.count + place)]; }

  Bounds bounds(const Box& queries, const double* d0, int64_t node) const {
    const Box& box = tree_.nodes[size_t(node)].box;
    Bounds b{};
    double near = 0, far = 0, here = 0;
    for (int k = 0; k < dims_; ++k) {
      const double offset = (queries.center[k] - box.center[k]) * w_[k], apart = std::fabs(offset);
      const double outside = std::max(apart - box.half[k], 0.0), across = apart + box.half[k];
      b.offset[k] = offset;
      near += outside * outside;
      far += across * across;
      here += d0[k] * d0[k];
      b.slack += queries.half[k] * (std::fabs(offset - d0[k]) + box.half[k]);
      b.stretch += apart * box.half[k];
    }
    b.upper = (here - near) / 2 + b.slack;
    b.lower = (here - far) / 2 - b.slack;
    return b;
  }

 private:
  void weigh() {
    const int64_t count = tree_.count;
    const auto nodes = int64_t(tree_.nodes.size());
    log_total_.assign(size_t(nodes * columns_), none);
    if (leave_one_out_) log_others_.assign(size_t(nodes * columns_), none);
    std::vector<double> total(static_cast<size_t>(nodes)), largest(static_cast<size_t>(nodes));
    for (int64_t c = 0; c < columns_; ++c) {
      for (int64_t node = nodes; node-- > 0;) {
        double sum = 0, most = 0;
        const Node& here = tree_.nodes[size_t(node)];
        if (tree_.leaf(node)) {
          for (int64_t i = here.first; i < here.end; ++i) {
            const double size = std::fabs(values_[size_t(c * count + i)]);
            sum += size;
            most = std::max(most, size);
          }
        } else {
          const auto left = size_t(node + 1), right = size_t(tree_.nodes[left].next);
          sum = total[left] + total[right];
          most = std::max(largest[left], largest[right]);
        }
        total[size_t(node)] = sum;
        largest[size_t(node)] = most;
        log_total_[size_t(node * columns_ + c)] = std::log(sum);
        // Rounding of the sum must not pass for weight.
        if (leave_one_out_) log_others_[size_t(node * columns_ + c)] = std::log(std::max(sum * (1 - 1e-9) - most, 0.0));
      }
    }
  }

  const Tree& tree_;
  int dims_;
  int64_t columns_;
  bool leave_one_out_, directions_ = false;
  double w_[most_sum_dims] = {};
  double side_ = 0;
  std::vector<int> scale_;
  std::vector<double> values_, at_, log_total_, log_others_;
  std::vector<int64_t> leaves_;
};

}  // namespace foveate
