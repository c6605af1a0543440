// sum_j K(x_i, y_j) v_j for all i, K(x, y) = exp(-|w (x - y)|^2 / 2), within a relative tolerance. Queries and points stand in
// boxes. A box of queries looks for the boxes of points that count there (near.hpp) and adds them up one by one: with
// x = c + dx, y = s + dy, D = c - s, D0 = c - ref,
//
//   K(x, y) = K(x, ref) exp((|D0|^2 - |D|^2) / 2 - (D - D0) . dx) exp(D . dy - |dy|^2 / 2) exp(dx . dy),
//
// of which only the last factor is no product of a function of x and one of y. It is a polynomial with a relative error,
// however small K is (degrees.hpp). So a box of points becomes moments, sum_j v_j exp(D . dy_j - |dy_j|^2 / 2) dy_j^a, and queries are
// put into a polynomial: (queries + points) x terms instead of queries x points. Or pairs are taken one by one.
//
// Every box of queries is a task, and its sum goes over boxes in the order of the tree: the same bits for any threads.
#include "sums.hpp"

#include <atomic>
#include <cstring>
#include <memory>
#include <new>

#include "near.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/kernel_session.hpp"
#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"

namespace foveate {
namespace {

constexpr double sides[] = {finest_side, 0.75, 1.1, 1.6, 2.4, 3.6};  // of boxes, in bandwidths, to choose from
constexpr int samples = 10;                                          // queries whose boxes are looked at for that
constexpr int64_t fewest_tasks = 16;                                 // boxes of queries, where there are enough queries
constexpr int64_t fewest_queries = 2048;                             // of a box that is cut for that
constexpr int64_t at_once = 1 << 15;  // points or queries of a box, between two looks at Ctrl-C
constexpr double tree_cost = 400;     // for each point, as Costs counts

double read(const Operand& x, int64_t i) {
  double value;
  std::memcpy(&value, x.data + i * x.column_stride, sizeof value);
  return value;
}
void write(const Operand& x, int64_t row, int64_t column, double value) {
  std::memcpy(x.data + row * x.row_stride + column * x.column_stride, &value, sizeof value);
}

// A box of queries that is one task.
bool is_block(const Tree& tree, int64_t node, double side, int64_t most) {
  const Node& n = tree.nodes[size_t(node)];
  return tree.leaf(node) || (2 * n.longest <= side && n.end - n.first <= most);
}
// So sparse that each query looks for itself.
bool is_sparse(const Node& node, double side) { return 2 * node.longest > 2 * side; }

struct Output {
  const SumsOfGaussians& problem;
  const Tree& queries;
  const Sources& sources;
  const Degrees& degrees;
  const SumKernels& kernels;
  double side;
};

// What a thread needs for a box of queries.
class Worker {
 public:
  Worker(const Output& output, double tolerance)
      : o_(output), near_(output.sources, output.degrees, tolerance), points_(output.sources.points()) {
    sums_.resize(size_t(o_.sources.wide_columns()));
  }

  void run(int64_t block) {
    const Node& node = o_.queries.nodes[size_t(block)];
    if (!is_sparse(node, o_.side)) {
      near_.look(node.box, node.first, node.end, false);
      if (near_.in_range()) return sum_box(node);
    }
    for (int64_t i = node.first; i < node.end; ++i) {
      if (asked_to_stop(0)) return;
      sum_one(i);
    }
  }

 private:
  int dims() const { return o_.sources.dims(); }

  void sum_box(const Node& node) {
    const int64_t count = node.end - node.first, columns = o_.sources.columns(), wide = o_.sources.wide_columns();
    const double* const d0 = near_.d0();
    stride_ = (count + sum_block_most - 1) / sum_block_most * sum_block_most;
    x_.assign(size_t(stride_ * dims()), 0.0);
    totals_.assign(size_t(stride_ * wide), 0.0);
    for (int64_t i = 0; i < count; ++i)
      for (int k = 0; k < dims(); ++k)
        x_[size_t(k * stride_ + i)] =
            (o_.queries.at[size_t((node.first + i) * dims() + k)] - node.box.center[k]) * o_.sources.w()[k];
    squares_.assign(size_t(stride_), 0.0);  // |x - ref|^2 / 2
    for (int k = 0; k < dims(); ++k)
      for (int64_t i = 0; i < stride_; ++i) {
        const double from = d0[k] + x_[size_t(k * stride_ + i)];
        squares_[size_t(i)] += from * from / 2;
      }
    for (const Near& near : near_.boxes()) {
      const Node& box = o_.sources.tree().nodes[size_t(near.node)];
      if (near.by.degree > 0)
        add_series(near, box, d0);
      else
        add_pairs(near, box, node);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = o_.queries.row[size_t(node.first + i)];
      write(o_.problem.log_scale, 0, row, -squares_[size_t(i)]);
      for (int64_t c = 0; c < wide; ++c) {
        double sum = totals_[size_t(c * stride_ + i)];
        if (c >= columns)
          sum -=
              x_[size_t((c - columns) % dims() * stride_ + i)] * totals_[size_t((c - columns) / dims() * stride_ + i)];
        put(row, c, sum);
      }
    }
  }

  void add_series(const Near& near, const Node& box, const double* d0) {
    const int64_t terms = o_.degrees.terms(near.by.degree), wide = o_.sources.wide_columns();
    coefficients_.resize(std::max(coefficients_.size(), size_t(terms * wide)));
    some_.resize(coefficients_.size());
    scratch_.resize(std::max(scratch_.size(), size_t(terms * wide * o_.kernels.lanes)));
    std::fill_n(coefficients_.begin(), terms * wide, 0.0);
    for (int64_t first = box.first; first < box.end; first += at_once) {
      if (asked_to_stop(8 * Costs::series(0, at_once, dims(), wide, terms))) return;
      o_.kernels.moments(points_, first, std::min(box.end, first + at_once), near.bounds.offset, near.by.degree, terms,
                         scratch_.data(), some_.data());
      for (int64_t i = 0; i < terms * wide; ++i) coefficients_[size_t(i)] += some_[size_t(i)];
    }
    for (int64_t c = 0; c < wide; ++c) Degrees::scale(dims(), near.by, coefficients_.data() + c * terms);
    for_directions([&](int64_t of, int64_t to, int k) {  // dy becomes y - c
      for (int64_t a = 0; a < terms; ++a)
        coefficients_[size_t(to * terms + a)] -= near.bounds.offset[k] * coefficients_[size_t(of * terms + a)];
    });
    double tilt[most_sum_dims], shift = 0;
    for (int k = 0; k < dims(); ++k) {
      const double d = near.bounds.offset[k];
      tilt[k] = d - d0[k];
      shift += (d0[k] - d) * (d0[k] + d) / 2;
    }
    for (int64_t first = 0; first < stride_; first += at_once) {
      if (asked_to_stop(8 * Costs::series(at_once, 0, dims(), wide, terms))) return;
      o_.kernels.series(x_.data() + first, stride_, std::min(at_once, stride_ - first), tilt, shift, near.by.degree,
                        terms, coefficients_.data(), int32_t(wide), totals_.data() + first);
    }
  }

  void add_pairs(const Near& near, const Node& box, const Node& node) {
    const int64_t wide = o_.sources.wide_columns(), count = node.end - node.first;
    const bool own = near_.owns(box), rows = !own && Costs::rows(count, box.end - box.first);
    const auto take_rows = [&](std::vector<double>& to) {
      constexpr int64_t together = 512;
      for (int64_t first = 0; first < count; first += together) {
        const int64_t some = std::min(together, count - first);
        if (asked_to_stop(8 * Costs::pairs(some, box.end - box.first, dims(), wide))) return;
        o_.kernels.pairs_of_rows(points_, box.first, box.end, x_.data() + first, stride_, some, near.bounds.offset,
                                 squares_.data() + first, to.data() + first);
      }
    };
    if (rows && !o_.sources.directions()) return take_rows(totals_);
    if (rows) {
      parts_.assign(totals_.size(), 0.0);
      take_rows(parts_);
      for_directions([&](int64_t of, int64_t to, int k) {
        for (int64_t i = 0; i < count; ++i)
          parts_[size_t(to * stride_ + i)] -= near.bounds.offset[k] * parts_[size_t(of * stride_ + i)];
      });
      for (size_t i = 0; i < parts_.size(); ++i) totals_[i] += parts_[i];
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      if (asked_to_stop(8 * Costs::pairs(1, box.end - box.first, dims(), wide))) return;
      double d[most_sum_dims];
      for (int k = 0; k < dims(); ++k) d[k] = near.bounds.offset[k] + x_[size_t(k * stride_ + i)];
      std::fill(sums_.begin(), sums_.end(), 0.0);
      without(own ? node.first + i : -1, box, [&](int64_t first, int64_t end) {
        o_.kernels.pairs(points_, first, end, d, squares_[size_t(i)], sums_.data());
      });
      for_directions(
          [&](int64_t of, int64_t to, int k) { sums_[size_t(to)] -= near.bounds.offset[k] * sums_[size_t(of)]; });
      for (int64_t c = 0; c < wide; ++c) totals_[size_t(c * stride_ + i)] += sums_[size_t(c)];
    }
  }

  // A query far from others, or from all points: K is by the nearest point that counts.
  void sum_one(int64_t place) {
    Box box{};
    for (int k = 0; k < dims(); ++k) box.center[k] = o_.queries.at[size_t(place * dims() + k)];
    near_.look(box, place, place + 1, true);
    const int64_t row = o_.queries.row[size_t(place)];
    double least = std::numeric_limits<double>::infinity();
    const auto each = [&](auto&& f) {
      for (const Near& near : near_.boxes()) {
        const Node& at = o_.sources.tree().nodes[size_t(near.node)];
        without(near_.owns(at) ? place : -1, at, [&](int64_t first, int64_t end) { f(near, first, end); });
      }
    };
    each([&](const Near& near, int64_t first, int64_t end) {
      least = std::min(least, o_.kernels.nearest(points_, first, end, near.bounds.offset));
    });
    sums_.assign(sums_.size(), 0.0);
    totals_.assign(sums_.size(), 0.0);
    each([&](const Near& near, int64_t first, int64_t end) {
      std::fill(sums_.begin(), sums_.end(), 0.0);
      o_.kernels.pairs(points_, first, end, near.bounds.offset, least / 2, sums_.data());
      for_directions(
          [&](int64_t of, int64_t to, int k) { sums_[size_t(to)] -= near.bounds.offset[k] * sums_[size_t(of)]; });
      for (size_t c = 0; c < sums_.size(); ++c) totals_[c] += sums_[c];
    });
    write(o_.problem.log_scale, 0, row, least < std::numeric_limits<double>::infinity() ? -least / 2 : 0);
    for (int64_t c = 0; c < o_.sources.wide_columns(); ++c) put(row, c, totals_[size_t(c)]);
  }

  // The points of a box but one.
  template <class F>
  static void without(int64_t own, const Node& box, F&& f) {
    if (own < box.first || own >= box.end) return f(box.first, box.end);
    if (box.first < own) f(box.first, own);
    if (own + 1 < box.end) f(own + 1, box.end);
  }

  // For each column `of` of values and dimension k the column `to` of its products with the distance.
  template <class F>
  void for_directions(F&& f) const {
    if (!o_.sources.directions()) return;
    const int64_t columns = o_.sources.columns();
    for (int64_t c = 0; c < columns; ++c)
      for (int k = 0; k < dims(); ++k) f(c, columns + c * dims() + k, k);
  }

  void put(int64_t row, int64_t column, double sum) {
    const int64_t columns = o_.sources.columns();
    const int64_t of = column < columns ? column : (column - columns) / dims();
    write(o_.problem.sums, row, column, std::ldexp(sum, o_.sources.exponent(of)));
  }

  const Output& o_;
  Neighborhood near_;
  const SumPoints points_;
  int64_t stride_ = 0;
  std::vector<double> x_, squares_, totals_, parts_, sums_, coefficients_, some_, scratch_;
};

// Of all queries, by some of them; and if all pairs were taken that are near.
struct Estimate {
  double cost = 0, near_pairs = 0;
};

Estimate cost_of(const Tree& queries, Sources& sources, Neighborhood& near, double side, int64_t most) {
  sources.set_side(side);
  Estimate sum;
  const double each = double(queries.count) / samples;
  for (int i = 0; i < samples; ++i) {
    const int64_t place = (2 * i + 1) * queries.count / (2 * samples);
    int64_t node = 0;
    while (!is_block(queries, node, side, most)) {
      const int64_t right = queries.nodes[size_t(node + 1)].next;
      node = place < queries.nodes[size_t(right)].first ? node + 1 : right;
    }
    const Node& block = queries.nodes[size_t(node)];
    bool single = is_sparse(block, side);
    if (!single) {
      near.look(block.box, block.first, block.end, false);
      single = !near.in_range();
    }
    if (single) {
      Box box{};
      for (int k = 0; k < queries.dims; ++k) box.center[k] = queries.at[size_t(place * queries.dims + k)];
      near.look(box, place, place + 1, true);
    }
    sum.cost += each * near.cost(single) / double(single ? 1 : block.end - block.first);
    sum.near_pairs += each * near.cost_of_pairs();
  }
  return sum;
}

fv_status run(const SumsOfGaussians& p, fv_error* error) {
  const int dims = int(p.dims);
  double w[most_sum_dims];
  for (int k = 0; k < dims; ++k) w[k] = read(p.w, k);
  const int64_t wide = p.directions ? p.columns * (1 + p.dims) : p.columns;
  const double all_pairs = Costs::pairs(1, p.points, dims, wide) * double(p.queries);
  if (p.declined != nullptr && p.pair_cost * all_pairs < tree_cost * double(p.queries + p.points)) {
    *p.declined = 1;
    return FV_OK;
  }
  const int64_t most = std::max(fewest_queries, p.queries / fewest_tasks);
  const bool one = p.leave_one_out;
  std::unique_ptr<Tree> trees[2];
  std::atomic<bool> fits{true};
  const auto guarded = [&](auto&& f) {  // nothing may be thrown out of a task
    try {
      f();
    } catch (const std::bad_alloc&) {
      fits.store(false, std::memory_order_relaxed);
    }
  };
  const int builders = threads_for(one ? 1 : 2, tree_cost * double(p.queries + p.points));
  bool done = run_tasks(one ? 1 : 2, builders, Order::in_order, [&](const Task& task) {
    guarded([&] {
      const bool of_points = task.index == 1;
      trees[task.index] = std::make_unique<Tree>(of_points ? p.y : p.x, of_points ? p.points : p.queries, dims, w,
                                                 of_points ? p.points : most);
    });
  });
  if (!done) return FV_INTERRUPTED;
  if (!fits) throw std::bad_alloc();
  const Tree &queries = *trees[0], &points = *trees[one ? 0 : 1];
  Sources sources(points, w, p.columns, one);
  sources.take_values(p.values);
  const Degrees degrees(dims, p.tolerance / 64);
  double side = sides[0];
  Estimate best{std::numeric_limits<double>::infinity(), 0};
  {
    Neighborhood near(sources, degrees, p.tolerance);
    for (const double tried : sides) {
      const Estimate found = cost_of(queries, sources, near, tried, most);
      if (found.cost < best.cost) {
        best = found;
        side = tried;
      }
    }
  }
  if (p.declined != nullptr) {
    *p.declined = best.cost > p.pair_cost * (p.skips_far ? best.near_pairs : all_pairs);
    if (*p.declined) return FV_OK;
  }
  sources.cut(side, p.directions);
  const std::vector<int64_t>& leaves = sources.leaves();
  constexpr int64_t together = 64;
  const int64_t groups = (int64_t(leaves.size()) + together - 1) / together;
  done = run_tasks(groups, threads_for(groups, 8.0 * double(p.points * wide)), Order::by_ranges, [&](const Task& task) {
    const int64_t end = std::min<int64_t>(int64_t(leaves.size()), (task.index + 1) * together);
    for (int64_t i = task.index * together; i < end; ++i) sources.localize(leaves[size_t(i)]);
    asked_to_stop(0);
  });
  if (!done) return FV_INTERRUPTED;
  std::vector<int64_t> blocks;
  for (int64_t node = 0; node < int64_t(queries.nodes.size());) {
    const bool block = is_block(queries, node, side, most);
    if (block) blocks.push_back(node);
    node = block ? queries.nodes[size_t(node)].next : node + 1;
  }
  const Output output{p, queries, sources, degrees, kernels().sums_of_gaussians[dims - 1], side};
  const int threads = threads_for(int64_t(blocks.size()), 8 * best.cost);
  std::vector<std::unique_ptr<Worker>> workers;
  for (int t = 0; t < threads; ++t) workers.push_back(std::make_unique<Worker>(output, p.tolerance));
  done = run_tasks(int64_t(blocks.size()), threads, Order::by_ranges, [&](const Task& task) {
    const KernelSession session(kernels().float64);
    guarded([&] { workers[size_t(task.thread)]->run(blocks[size_t(task.index)]); });
  });
  if (!fits) throw std::bad_alloc();
  static_cast<void>(error);
  return done ? FV_OK : FV_INTERRUPTED;
}

}  // namespace

fv_status sums_of_gaussians(const SumsOfGaussians& problem, fv_error* error) noexcept {
  try {
    return run(problem, error);
  } catch (const std::bad_alloc&) {
    return no_memory(error, 8.0 * double(problem.points) * double(problem.dims + problem.columns));
  }
}

}  // namespace foveate
