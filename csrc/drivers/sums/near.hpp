// The boxes of points that count at a box of queries, within a tolerance, and what each of them costs.
//
// Of the tolerance an eighth is for large boxes that are left out on the way down the tree, each within its share by its
// number of points; three eighths for small ones that are left out at the end; and a half for polynomials: a quarter for those whose
// error is within that of their own terms, and a quarter for those that are allowed more because the box weighs little.
// Everything is compared with a lower bound of sum_j K |v_j| over all queries of the box, for each column of values.
#pragma once
#include "degrees.hpp"
#include "sources.hpp"

namespace foveate {

struct Near {
  int64_t node;
  Bounds bounds;
  double log_share;  // of the sum, at most
  Polynomial by;     // its degree is 0: pair by pair
};

// What a loop costs, in instructions of a vector of eight numbers, as counted in its kernel.
struct Costs {
  static constexpr double width = 8, exponential = 16, visit = 60;
  static double blocks(int64_t count) {
    return double((count + sum_block_most - 1) / sum_block_most * sum_block_most) / width;
  }
  // By vectors of queries or of points, whichever are filled better.
  static bool rows(int64_t queries, int64_t points) {
    return std::ceil(double(queries) / width) * double(points) <=
           double(queries) * (std::ceil(double(points) / width) + 1);
  }
  static double pairs(int64_t queries, int64_t points, int dims, int64_t columns) {
    const double each = exponential + 2 * dims + 1.5 * double(columns);
    return rows(queries, points) ? 20 + std::ceil(double(queries) / width) * double(points) * each
                                 : double(queries) * (20 + std::ceil(double(points) / width) * each);
  }
  static double series(int64_t queries, int64_t points, int dims, int64_t columns, int64_t terms) {
    const double results = double(columns) * double(terms);
    return blocks(points) * (exponential + 2 * dims + 2.2 * results) + 12 * results +
           blocks(queries) * (exponential + dims + 1.3 * results);
  }
};

class Neighborhood {
 public:
  Neighborhood(const Sources& sources, const Degrees& degrees, double tolerance)
      : sources_(sources), degrees_(degrees), tolerance_(tolerance), log_sum_(size_t(sources.columns())) {}

  // Of queries [first, end) in a box; where one is left out, these are places of the points too. D0 is found for a box, and
  // is 0 for a single query.
  void look(const Box& queries, int64_t first, int64_t end, bool single) {
    queries_ = queries;
    first_ = first;
    end_ = end;
    visited_ = 0;
    std::fill(log_sum_.begin(), log_sum_.end(), none);
    std::fill(d0_, d0_ + most_sum_dims, 0.0);
    near_.clear();
    if (sources_.tree().count == 0) return;
    find_reference(single);
    descend();
    leave_out();
    for (Near& near : near_) choose(near);
  }

  const std::vector<Near>& boxes() const { return near_; }
  const double* d0() const { return d0_; }
  // Whether numbers relative to K(x, ref) are within range for all queries of the box.
  bool in_range() const {
    constexpr double most = 300;
    double log_sum = none;
    bool in = true;
    for (const double x : log_sum_) log_sum = std::max(log_sum, x);
    for (const Near& near : near_) in &= near.bounds.slack <= most;
    return in && (log_sum >= -most || near_.empty());
  }
  double cost(bool single) const {
    const int64_t queries = end_ - first_;
    double sum = 0;
    for (const Near& near : near_) {
      const Node& node = sources_.tree().nodes[size_t(near.node)];
      const int64_t points = node.end - node.first;
      sum += single || near.by.degree == 0
                 ? Costs::pairs(queries, points, sources_.dims(), sources_.wide_columns()) * (single ? 1.3 : 1)
                 : Costs::series(queries, points, sources_.dims(), sources_.wide_columns(),
                                 degrees_.terms(near.by.degree));
    }
    return sum + Costs::visit * double(visited_ + 2 * int64_t(near_.size()));
  }
  // Of one query, if all were taken pair by pair, and nothing was looked for.
  double cost_of_pairs() const {
    double sum = 0;
    for (const Near& near : near_) {
      const Node& node = sources_.tree().nodes[size_t(near.node)];
      sum += double(node.end - node.first);
    }
    return sum / Costs::width * (Costs::exponential + 2 * sources_.dims() + 1.5 * double(sources_.wide_columns()));
  }
  bool owns(const Node& node) const { return sources_.leave_one_out() && node.first < end_ && first_ < node.end; }

 private:
  struct Step {
    int64_t node;
    Bounds bounds;
  };

  const Node& node_of(int64_t node) const { return sources_.tree().nodes[size_t(node)]; }

  // Lower bounds of the sums, from a box that none, some or all queries have their own points in.
  void count_in(int64_t node, double lower) {
    const bool own = owns(node_of(node));
    const double* const weight = own ? sources_.log_others(node) : sources_.log_total(node);
    if (own && !sources_.is_leaf(node)) return;
    for (int64_t c = 0; c < sources_.columns(); ++c)
      log_sum_[size_t(c)] = std::max(log_sum_[size_t(c)], weight[c] + lower);
  }

  // ref: the place nearest to the queries' center in a box that is near; and a bound from some of that box's points.
  void find_reference(bool single) {
    int64_t node = 0;
    while (!sources_.is_leaf(node)) {
      const int64_t left = node + 1, right = node_of(left).next;
      const double nothing[most_sum_dims] = {};
      const Bounds a = sources_.bounds(queries_, nothing, left), b = sources_.bounds(queries_, nothing, right);
      const double from_a = a.upper - a.slack, from_b = b.upper - b.slack;
      node = from_a > from_b || (from_a == from_b && a.lower + a.slack >= b.lower + b.slack) ? left : right;
      visited_ += 2;
    }
    const Node& leaf = node_of(node);
    const double nothing[most_sum_dims] = {};
    const Bounds b = sources_.bounds(queries_, nothing, node);
    if (!single)
      for (int k = 0; k < sources_.dims(); ++k)
        d0_[k] = std::copysign(std::max(std::fabs(b.offset[k]) - leaf.box.half[k], 0.0), b.offset[k]);
    if (owns(leaf)) return;
    const int64_t step = std::max<int64_t>(1, (leaf.end - leaf.first) / some_points);
    double sums[most_counted] = {};
    const auto counted = std::min<int64_t>(sources_.columns(), most_counted);
    for (int64_t i = leaf.first; i < leaf.end; i += step) {
      double exponent = 0;
      for (int k = 0; k < sources_.dims(); ++k) {
        const double from =
            (queries_.center[k] - sources_.tree().at[size_t(i * sources_.dims() + k)]) * sources_.w()[k];
        exponent += (d0_[k] * d0_[k] - from * from) / 2 - queries_.half[k] * std::fabs(from - d0_[k]);
      }
      const double factor = std::exp(exponent);
      for (int64_t c = 0; c < counted; ++c) sums[c] += factor * std::fabs(sources_.value(c, i));
    }
    for (int64_t c = 0; c < counted; ++c) log_sum_[size_t(c)] = std::log(sums[c]);
  }

  // The most that a box adds, by the sum that it is added to, over all columns.
  double log_share(int64_t node, const Bounds& bounds) {
    double most = none;
    for (const double x : log_sum_) most = std::max(most, x);
    const double floor = most - digits, *const total = sources_.log_total(node);
    double share = none;
    for (int64_t c = 0; c < sources_.columns(); ++c)
      if (total[c] > none) share = std::max(share, total[c] - std::max(log_sum_[size_t(c)], floor));
    share += bounds.upper;
    if (sources_.directions() && share > none) {  // times the distance, against 1 + distance
      double far = 0;
      const Box& box = node_of(node).box;
      for (int k = 0; k < sources_.dims(); ++k) {
        const double across = std::fabs(bounds.offset[k]) + box.half[k] + queries_.half[k];
        far += across * across;
      }
      share += std::log1p(std::sqrt(far));
    }
    return share;
  }

  void descend() {
    const double log_all = std::log(double(sources_.tree().count));
    stack_.clear();
    stack_.push_back({0, sources_.bounds(queries_, d0_, 0)});
    while (!stack_.empty()) {
      const Step step = stack_.back();
      stack_.pop_back();
      ++visited_;
      const Node& node = node_of(step.node);
      const double share = log_share(step.node, step.bounds);
      if (share <= std::log(tolerance_ / 8 * double(node.end - node.first)) - log_all) continue;
      if (sources_.is_leaf(step.node)) {
        near_.push_back({step.node, step.bounds, share, {}});
        continue;
      }
      const int64_t left = step.node + 1, right = node_of(left).next;
      Step a{left, sources_.bounds(queries_, d0_, left)}, b{right, sources_.bounds(queries_, d0_, right)};
      count_in(left, a.bounds.lower);
      count_in(right, b.bounds.lower);
      if (a.bounds.upper - a.bounds.slack > b.bounds.upper - b.bounds.slack) std::swap(a, b);
      stack_.push_back(a);  // the nearer one comes first, so that bounds are found early
      stack_.push_back(b);
    }
  }

  // With the sum of all lower bounds, leaves out those that are small together.
  void leave_out() {
    for (int64_t c = 0; c < sources_.columns(); ++c) {
      double sum = 0;
      const double shift = log_sum_[size_t(c)];
      if (shift == none) continue;
      for (const Near& near : near_) {
        const bool own = owns(node_of(near.node));
        sum += std::exp((own ? sources_.log_others(near.node) : sources_.log_total(near.node))[c] + near.bounds.lower -
                        shift);
      }
      if (sum > 1) log_sum_[size_t(c)] += std::log(sum);
    }
    const double allowed = 3 * tolerance_ / 8;
    shares_.resize(near_.size());
    for (size_t i = 0; i < near_.size(); ++i) {
      near_[i].log_share = log_share(near_[i].node, near_[i].bounds);
      shares_[i] = std::exp(std::min(near_[i].log_share, 1.0));
    }
    double below = allowed / double(std::max<size_t>(1, near_.size()));
    for (const double times : {256.0, 64.0, 16.0, 4.0}) {
      double sum = 0;
      for (const double share : shares_) sum += share <= times * below ? share : 0;
      if (sum > allowed) continue;
      below *= times;
      break;
    }
    size_t kept = 0;
    for (size_t i = 0; i < near_.size(); ++i)
      if (!(shares_[i] <= below)) near_[kept++] = near_[i];
    near_.resize(kept);
  }

  void choose(Near& near) {
    const Node& node = node_of(near.node);
    if (owns(node) || near.bounds.stretch > 300) return;
    double z = 0, radius = 0;
    for (int k = 0; k < sources_.dims(); ++k) {
      z += queries_.half[k] * node.box.half[k];
      radius += node.box.half[k] * node.box.half[k];
    }
    const double little = std::min(0.0, std::log(double(near_.size())) + near.log_share);
    double log_error = std::log(tolerance_ / 4) - little;
    if (sources_.directions()) log_error -= std::log1p(2 * std::sqrt(radius));
    const Polynomial by = degrees_.least(z, log_error);
    if (by.degree == 0) return;
    const int64_t queries = end_ - first_, points = node.end - node.first, wide = sources_.wide_columns();
    const double by_series = Costs::series(queries, points, sources_.dims(), wide, degrees_.terms(by.degree));
    if (by_series < Costs::pairs(queries, points, sources_.dims(), wide)) near.by = by;
  }

  static constexpr int64_t some_points = 24, most_counted = 16;
  static constexpr double digits = 36.7;  // 2^-53: a column's sum is not followed below that share of the largest one

  const Sources& sources_;
  const Degrees& degrees_;
  double tolerance_;
  std::vector<double> log_sum_, shares_;
  std::vector<Step> stack_;
  std::vector<Near> near_;
  Box queries_{};
  int64_t first_ = 0, end_ = 0, visited_ = 0;
  double d0_[most_sum_dims] = {};
};

}  // namespace foveate
