// Points in boxes: a k-d tree, each node the smallest box of its points. A box is cut in the middle of its longest side, by
// bandwidths, and so the order of the points and the tree depend on the points alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/table.hpp"
#include "runtime/operand.hpp"

namespace foveate {

constexpr int64_t few_points = 8;    // a box of so many is not cut
constexpr double finest_side = 0.5;  // nor is one with shorter sides, in bandwidths

struct Box {
  double center[most_sum_dims];
  double half[most_sum_dims];  // of its sides, in bandwidths
};

struct Node {
  Box box;
  int64_t first, end;  // its points
  int64_t next;    // the first node that is not in it; the one behind it is its first child, whose `next` is the other
  double longest;  // of the halves
};

class Tree {
 public:
  // Rows (count, dims) of float64. Boxes of more than `most` points are cut whatever their sides.
  Tree(const Operand& rows, int64_t count, int dims, const double* w, int64_t most);

  bool leaf(int64_t node) const { return nodes[size_t(node)].next == node + 1; }

  int dims;
  int64_t count;
  std::vector<Node> nodes;   // each before its children
  std::vector<int64_t> row;  // of the point at each place
  std::vector<double> at;    // [place][dims], as they came
};

}  // namespace foveate
