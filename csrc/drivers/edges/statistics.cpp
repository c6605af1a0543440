// Statistics of the weights along the edges of a graph. A task is some runs of queries, whose sums for each key it adds up in
// float64; these parts are added in order. They depend on the graph alone, and so do the bits.
#include <new>

#include "along_edges.hpp"
#include "drivers/statistics/summary.hpp"
#include "edges.hpp"

namespace foveate {
namespace {

constexpr int64_t most_parts = 4;  // each has a number for every key of the heads of a block

template <class T>
class EdgeStatistics {
 public:
  EdgeStatistics(const Plan& plan, const EdgeFactors<T>& factors, int64_t most_edges, int64_t heads,
                 Carver& carver) noexcept
      : plan_(plan), p_(plan.problem), row_(plan, factors, most_edges, carver) {
    heads_ = carver.take<Head>(heads);
    scores_ = carver.take<T>(row_.room());
  }
  void prepare() noexcept { row_.prepare(); }

  // sums: [head][key], to which those of the queries are added; or null.
  void run(Interval batches, Interval queries, double* sums) noexcept {
    int64_t count = 0;
    for (int64_t batch = batches.low; batch < batches.high; ++batch)
      for (int64_t group = 0; group < plan_.groups; ++group)
        heads_[count++] = {batch, group, plan_.row(p_.query, batch, group, 0), plan_.row(p_.key, batch, group, 0)};
    for (int64_t i = queries.low; i < queries.high; ++i) {
      row_.start(i);
      const bool counts = sums && p_.first_query <= i && i < p_.end_query;
      for (int64_t h = 0; h < count; ++h) {
        const int64_t edges = row_.list(heads_[h].batch, heads_[h].group);
        if (asked_to_stop(4.0 * double(edges + 4) * double(p_.head_size + 8))) return;
        summarize(i, heads_[h], counts ? sums + h * p_.keys : nullptr);
      }
    }
  }

 private:
  struct Head {
    int64_t batch, group;
    char *query, *keys;
  };

  void summarize(int64_t i, const Head& head, double* sums) noexcept {
    const int64_t count = row_.count();
    T* const s = row_.score(head.query + i * p_.query.row_stride, head.keys, head.batch, head.group, nullptr);
    std::copy_n(s, count, scores_);
    T m = -std::numeric_limits<T>::infinity(), l = 0;
    plan_.arithmetic.decode_soft(s, 1, count, plan_.softmax_scale(), &m, &l, nullptr, 0, 0);
    const double offset = std::isfinite(double(m)) ? double(m) : 0, scale = plan_.softmax_scale();
    double t = 0;
    int64_t place = -1;
    for (int64_t e = count - 1; e >= 0; --e) {
      if (s[e] != T(0)) t += double(s[e]) * (double(scores_[e]) - offset) * scale;
      if (scores_[e] == m && m > -std::numeric_limits<T>::infinity()) place = row_.keys()[e];
    }
    const Summary summary(plan_, double(m), double(l), t, head.batch, head.group);
    write_summary(p_, summary, count > 0, place,
                  [&](const Operand& x) { return plan_.row(x, head.batch, head.group, i); });
    if (!sums) return;
    // a query without a distribution has NaN at every key that it sees
    for (int64_t e = 0; e < count; ++e)
      sums[row_.keys()[e]] += summary.valid() ? double(s[e]) * summary.largest : summary.largest;
  }

  const Plan& plan_;
  const Problem& p_;
  EdgeRow<T> row_;
  Head* heads_;
  T* scores_;
};

template <class T>
fv_status run(const Plan& plan, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  const Graph graph(p);
  const HeadBlocks blocks(plan);
  const Runs runs(p.queries, [&](int64_t i) { return graph.begin(i); });
  const int64_t parts = std::min(runs.count(), most_parts), most_edges = graph.most_edges(), heads = blocks.heads();
  const bool sums = wants_sums(p);
  const double cells = double(plan.batches * plan.groups) * double(p.edges + 4 * p.queries);
  const int threads = threads_for(blocks.count * parts, 2.0 * cells * double(p.head_size + 16));
  using Statistics = Workers<EdgeStatistics<T>>;
  Carver shared(nullptr);
  EdgeFactors<T> counted(plan, shared);
  shared.take<double>(sums ? blocks.count * parts * heads * p.keys : 0);
  const size_t bytes = shared.used() + size_t(threads) * Statistics::size_of_one(plan, counted, most_edges, heads);
  const Workspace workspace(bytes);
  if (!workspace.data()) return no_memory(error, double(bytes));
  Carver carver(workspace.data());
  EdgeFactors<T> factors(plan, carver);
  factors.prepare();
  double* const all_sums = carver.take<double>(sums ? blocks.count * parts * heads * p.keys : 0);
  const auto sums_of = [&](int64_t task) { return sums ? all_sums + task * heads * p.keys : nullptr; };
  const Statistics workers(workspace.data() + shared.used(), threads, plan, factors, most_edges, heads);
  for (int t = 0; t < threads; ++t) workers.of(t).prepare();
  bool done = run_tasks(blocks.count * parts, threads, Order::by_ranges, [&](const Task& task) {
    const KernelSession session(plan.arithmetic);
    double* const to = sums_of(task.index);
    if (to) std::fill_n(to, heads * p.keys, 0.0);
    const int64_t part = task.index % parts;
    const Interval queries = {runs.of(part * runs.count() / parts).low,
                              runs.of((part + 1) * runs.count() / parts - 1).high};
    workers.of(task.thread).run(blocks.batches(task.index / parts), queries, to);
  });
  if (!done || !sums) return done ? FV_OK : FV_INTERRUPTED;
  done = run_tasks(blocks.count, threads, Order::by_ranges, [&](const Task& task) {
    double* const total = sums_of(task.index * parts);
    const Interval batches = blocks.batches(task.index);
    const int64_t own = (batches.high - batches.low) * plan.groups;
    for (int64_t part = 1; part < parts; ++part) {
      const double* const more = sums_of(task.index * parts + part);
      for (int64_t j = 0; j < own * p.keys; ++j) total[j] += more[j];
    }
    for (int64_t h = 0; h < own; ++h)
      for (int64_t j = 0; j < p.keys; ++j)
        write_number(p.key_sum, plan.row(p.key_sum, batches.low + h / plan.groups, h % plan.groups, j),
                     total[h * p.keys + j]);
  });
  return done ? FV_OK : FV_INTERRUPTED;
}

}  // namespace

fv_status statistics_along_edges(const Problem& problem, fv_error* error) noexcept {
  const Plan plan(problem, kernels(), needs_of_edges);
  return plan.arithmetic.element_size == 8 ? run<double>(plan, error) : run<float>(plan, error);
}

}  // namespace foveate
