// Boxes are cut from the first one down, with a stack of those that are still to be cut.
#include "tree.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "runtime/parallel.hpp"

namespace foveate {
namespace {

double element(const Operand& rows, int64_t i, int k) {
  double x;
  std::memcpy(&x, rows.data + i * rows.row_stride + k * rows.column_stride, sizeof x);
  return x;
}

}  // namespace

Tree::Tree(const Operand& rows, int64_t count_, int dims_, const double* w, int64_t most) : dims(dims_), count(count_) {
  row.resize(size_t(count));
  at.resize(size_t(count * dims));
  for (int64_t i = 0; i < count; ++i) {
    row[size_t(i)] = i;
    for (int k = 0; k < dims; ++k) at[size_t(i * dims + k)] = element(rows, i, k);
  }
  if (count == 0) return;
  // Nodes that are waiting: their points, and of which node this is the second child (-1: the first one, or a first child).
  struct Waiting {
    int64_t first, end;
  };
  std::vector<Waiting> waiting{{0, count}};
  while (!waiting.empty()) {
    const auto [first, end] = waiting.back();
    waiting.pop_back();
    if (asked_to_stop(4.0 * double(end - first) * dims)) return;
    Node node{};
    node.first = first;
    node.end = end;
    double low[most_sum_dims], high[most_sum_dims];
    const double* const p = at.data();
    for (int k = 0; k < dims; ++k) low[k] = high[k] = p[first * dims + k];
    for (int64_t i = first + 1; i < end; ++i)
      for (int k = 0; k < dims; ++k) {
        const double x = p[i * dims + k];
        low[k] = x < low[k] ? x : low[k];
        high[k] = x > high[k] ? x : high[k];
      }
    int widest = 0;
    for (int k = 0; k < dims; ++k) {
      node.box.center[k] = low[k] + (high[k] - low[k]) / 2;
      const double half = std::max(high[k] - node.box.center[k], node.box.center[k] - low[k]) * w[k];
      node.box.half[k] = half * (1 + 0x1p-50);
      if (node.box.half[k] > node.box.half[widest]) widest = k;
    }
    node.longest = node.box.half[widest];
    nodes.push_back(node);
    if (end - first <= few_points || (2 * node.longest <= finest_side && end - first <= most)) continue;
    const double middle = node.box.center[widest];
    int64_t left = first, right = end;  // those before `left` are below the middle, those from `right` on are not
    while (left < right) {
      if (at[size_t(left * dims + widest)] <= middle) {
        ++left;
      } else {
        --right;
        std::swap(row[size_t(left)], row[size_t(right)]);
        for (int k = 0; k < dims; ++k) std::swap(at[size_t(left * dims + k)], at[size_t(right * dims + k)]);
      }
    }
    if (left == first || left == end) continue;  // all at one place
    waiting.push_back({left, end});
    waiting.push_back({first, left});
  }
  // A node ends where the first one begins that has later points: nodes stand in the order of their points.
  const auto total = int64_t(nodes.size());
  std::vector<int64_t> open;
  for (int64_t i = 0; i < total; ++i) {
    while (!open.empty() && nodes[size_t(open.back())].end <= nodes[size_t(i)].first) {
      nodes[size_t(open.back())].next = i;
      open.pop_back();
    }
    open.push_back(i);
  }
  for (const int64_t i : open) nodes[size_t(i)].next = total;
}

}  // namespace foveate
