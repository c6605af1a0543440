// The gradients of attention along the edges of a graph, in two walks over them. By queries: weights P and the gradients dS
// of the scores are computed again, kept for each edge of a block of heads, and give dQ and the gradients of the bias, the
// sink and the factors. By keys, along the edges turned round: dV = P^T dO and dK. Each sum belongs to one task, and runs in
// the order of its edges.
#include <new>

#include "along_edges.hpp"
#include "drivers/backward/rows.hpp"
#include "edges.hpp"

namespace foveate {
namespace {

// What is kept of an edge for a head. weight: below 0 where it is not seen.
template <class T>
struct EdgeCell {
  T weight, d_score;
};

// The edges by key, those of a key by query.
struct Turned {
  Turned(const Problem& p, bool wanted, Carver& carver) noexcept
      : begins_(carver.take<int64_t>(wanted ? p.keys + 2 : 0)),
        slots_(carver.take<Slot>(wanted ? p.edges : 0)),
        edges_(p.edges) {}

  // By counting. The graph is read twice; what changes in between is left within bounds.
  void turn(const Graph& graph) const noexcept {
    const Problem& p = graph.p;
    std::fill_n(begins_, p.keys + 2, int64_t(0));
    std::fill_n(slots_, p.edges, Slot{0, 0});
    for (int64_t e = 0; e < p.edges; ++e) ++begins_[graph.key(e) + 2];
    for (int64_t j = 2; j < p.keys + 2; ++j) begins_[j] += begins_[j - 1];
    for (int64_t i = 0, e = 0; i < p.queries; ++i)
      for (const int64_t end = graph.begin(i + 1); e < end; ++e) {
        const int64_t at = begins_[graph.key(e) + 1]++;
        slots_[std::min(at, p.edges - 1)] = {e, i};
      }
  }
  int64_t most_edges(int64_t keys) const noexcept {
    int64_t most = 0;
    for (int64_t j = 0; j < keys; ++j) most = std::max(most, begin(j + 1) - begin(j));
    return most;
  }
  // Of a key, after all have been counted.
  int64_t begin(int64_t key) const { return std::min(begins_[key], edges_); }

  struct Slot {
    int64_t edge, query;
  };
  const Slot& at(int64_t n) const { return slots_[n]; }

 private:
  int64_t* begins_;  // begins_[key + 1]: where the next edge of a key goes
  Slot* slots_;
  int64_t edges_;
};

template <class T>
struct Shared {
  EdgeFactors<T> factors;
  Turned turned;
  EdgeCell<T>* cells;  // [edge][head of the block]
  T* delta_of_sink;    // [query][head of the block]: what the sink's gradient sums up
  double* d_factors;   // [run][column]
  double* sum_of_factors;
  Shared(const Plan& plan, const HeadBlocks& blocks, int64_t runs, Carver& carver) noexcept
      : factors(plan, carver), turned(plan.problem, plan.problem.d_key || plan.problem.d_value, carver) {
    const Problem& p = plan.problem;
    cells = carver.take<EdgeCell<T>>(p.d_key || p.d_value ? p.edges * blocks.heads() : 0);
    delta_of_sink = carver.take<T>(p.d_sink ? p.queries * blocks.heads() : 0);
    d_factors = carver.take<double>(p.d_factors ? runs * p.head_size : 0);
    sum_of_factors = carver.take<double>(p.d_factors ? p.head_size : 0);
  }
};

template <class T>
struct BackwardHead {
  int64_t batch, group;
  char *query, *keys, *values, *out, *d_out, *lse, *d_lse, *d_query, *d_edge_bias;
  double sink;
};

// The walk by queries.
template <class T>
class QueryWalk {
 public:
  QueryWalk(const Plan& plan, const Shared<T>& shared, int64_t most_edges, int64_t heads, Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        shared_(shared),
        scoring_(edge_scoring(plan)),
        row_(plan, shared.factors, most_edges, carver),
        values_(plan, stored_values(plan.problem), plan.problem.value_size, carver) {
    heads_ = carver.take<BackwardHead<T>>(heads);
    linked_ = plan.links.has_gradient();
    link_kept_ = carver.take(linked_ ? plan.links.count * row_.link_bytes() : 0);
    columns_ = row_.key_rows().columns();
    value_columns_ = values_.columns();
    out_ = carver.take<T>(value_columns_);
    d_out_ = carver.take<T>(value_columns_);
    d_weights_ = carver.take<T>(row_.room());
    weights_ = carver.take<T>(row_.room());
    d_query_ = carver.take<T>(columns_);
    more_ = carver.take<T>(columns_);
    of_factors_ = carver.take<T>(p_.d_factors ? columns_ : 0);
    constants_ = carver.take<T>(3 * most_lanes);
    row_.set_value_stride(p_.value.row_stride);
  }
  void prepare() noexcept {
    row_.prepare();
    values_.prepare();
    std::fill_n(out_, value_columns_, T(0));
    std::fill_n(d_out_, value_columns_, T(0));
  }

  void run(Interval batches, Interval queries, int64_t run) noexcept {
    int64_t count = 0;
    for (int64_t batch = batches.low; batch < batches.high; ++batch)
      for (int64_t group = 0; group < plan_.groups; ++group) {
        const auto at = [&](const Operand& x) { return x ? plan_.row(x, batch, group, 0) : nullptr; };
        heads_[count++] = {batch,        group,          at(p_.query),       at(p_.key),
                           at(p_.value), at(p_.out),     at(p_.d_out),       at(p_.lse),
                           at(p_.d_lse), at(p_.d_query), at(p_.d_edge_bias), sink_score_of(plan_, batch, group)};
      }
    double* const d_factors = p_.d_factors ? shared_.d_factors + run * p_.head_size : nullptr;
    if (d_factors) std::fill_n(d_factors, p_.head_size, 0.0);
    for (int64_t i = queries.low; i < queries.high; ++i) {
      row_.start(i);
      for (int64_t h = 0; h < count; ++h) {
        const BackwardHead<T>& head = heads_[h];
        const int64_t edges = row_.list(head.batch, head.group);
        if (asked_to_stop(8.0 * double(edges + 4) * double(p_.head_size + p_.value_size + 8))) return;
        row_.prefetch(i + 1, head.keys, head.values, p_.advantage ? nullptr : &values_);
        pull_back(i, h, count, head, d_factors);
      }
    }
  }

 private:
  void pull_back(int64_t i, int64_t h, int64_t heads, const BackwardHead<T>& head, double* d_factors) noexcept {
    const int64_t count = row_.count(), lanes = plan_.arithmetic.lanes;
    const Lse lse = read_lse(plan_, head.lse + i * p_.lse.row_stride);
    const T delta = p_.advantage ? sum_of_advantages(i, head) : sum_of_output(i, head);
    const bool nothing = lse.lse == -std::numeric_limits<double>::infinity();
    const T high = nothing ? T(0) : T(lse.high),
            low = nothing ? std::numeric_limits<T>::infinity() : T(lse.low * log2_e);
    if (p_.d_sink) {
      const double above = (head.sink - double(high)) * plan_.softmax_scale();
      shared_.delta_of_sink[i * heads + h] = nothing ? T(0) : T(std::exp2(above - double(low)) * double(delta));
    }
    if ((p_.d_key || p_.d_value) && count < row_.all())
      for (int64_t e = row_.begin(); e < row_.begin() + row_.all(); ++e) shared_.cells[e * heads + h] = {T(-1), T(0)};
    if (count == 0) {
      std::fill_n(d_query_, columns_, T(0));
      if (p_.d_query) store(d_query_, i, head);
      return;
    }
    T* const s = row_.score(head.query + i * p_.query.row_stride, head.keys, head.batch, head.group,
                            linked_ ? link_kept_ : nullptr);
    if (p_.advantage)
      std::fill_n(d_weights_, count, T(0));
    else
      values_.each_tile(head.values, head.batch, head.group, row_.keys(), row_.value_offsets(), count,
                        [&](const EdgeRows& rows, int64_t first, int64_t some) {
                          edge_kernels(plan_).inner.scores(d_out_, rows, some, value_columns_, d_out_, 0,
                                                           d_weights_ + first);
                        });
    const int64_t vectors = row_.vectors();
    for (int64_t e = count; e < vectors * lanes; ++e) {
      s[e] = -std::numeric_limits<T>::infinity();
      d_weights_[e] = 0;
    }
    const T kept = T(row_.kept_factor());
    if (row_.drops()) {
      for (int64_t e = 0; e < count; ++e) d_weights_[e] *= kept;
      row_.each_dropped(head.batch, head.group, [&](int64_t e) { d_weights_[e] *= T(0); });
    }
    std::fill_n(constants_, lanes, high);
    std::fill_n(constants_ + most_lanes, lanes, low);
    std::fill_n(constants_ + 2 * most_lanes, lanes, delta);
    plan_.arithmetic.soft_gradient(s, d_weights_, 1, vectors, plan_.softmax_scale(), constants_,
                                   constants_ + most_lanes, constants_ + 2 * most_lanes, weights_, nullptr, lanes);
    if (row_.drops()) {
      for (int64_t e = 0; e < count; ++e) weights_[e] *= kept;
      row_.each_dropped(head.batch, head.group, [&](int64_t e) { weights_[e] *= T(0); });
    }
    if (p_.advantage) add_choices(i, head);
    const int64_t* const edges = row_.edges();
    if (p_.d_edge_bias)
      for (int64_t e = 0; e < count; ++e)
        add(head.d_edge_bias + edges[e] * p_.d_edge_bias.row_stride, double(d_weights_[e]));
    if (linked_) plan_.links.pull_back(link_kept_, row_.link_bytes(), d_weights_, 1, vectors);
    if (p_.d_key || p_.d_value)
      for (int64_t e = 0; e < count; ++e) shared_.cells[edges[e] * heads + h] = {weights_[e], d_weights_[e]};
    if (p_.d_query || d_factors) sum_keys(head, d_factors);
    if (p_.d_query) store(d_query_, i, head);
  }

  // What is taken off the gradients of a query's weights: dO O, without the gradient of lse.
  T sum_of_output(int64_t i, const BackwardHead<T>& head) noexcept {
    load_row(plan_, head.out + i * p_.out.row_stride, p_.out, p_.value_size, T(1), out_);
    load_row(plan_, head.d_out + i * p_.d_out.row_stride, p_.d_out, p_.value_size, T(1), d_out_);
    T delta, d_lse = 0;
    plan_.arithmetic.dot_rows(out_, d_out_, 1, value_columns_, &delta);
    if (p_.d_lse) std::memcpy(&d_lse, head.d_lse + i * p_.d_lse.row_stride, sizeof d_lse);
    return delta - d_lse;
  }

  // Of hard attention, dS = sum_s advantage_s ([the key is the s-th choice] - P).
  T sum_of_advantages(int64_t i, const BackwardHead<T>& head) const noexcept {
    double sum = 0;
    each_choice(plan_, head.batch, head.group, i, [&](int64_t draw, int64_t key) {
      if (key >= 0) sum += double(advantage(i, draw, head));
    });
    return T(sum);
  }
  void add_choices(int64_t i, const BackwardHead<T>& head) noexcept {
    const int64_t *const keys = row_.keys(), *const end = keys + row_.count();
    each_choice(plan_, head.batch, head.group, i, [&](int64_t draw, int64_t key) {
      const int64_t* const at = std::lower_bound(keys, end, key);
      if (at != end && *at == key) d_weights_[at - keys] += advantage(i, draw, head);
    });
  }
  T advantage(int64_t i, int64_t draw, const BackwardHead<T>& head) const noexcept {
    T one;
    std::memcpy(&one, plan_.row(p_.advantage, head.batch, head.group, i) + draw * p_.advantage.column_stride,
                sizeof one);
    return one;
  }

  static void add(char* to, double x) {
    double sum;
    std::memcpy(&sum, to, sizeof sum);
    sum += x;
    std::memcpy(to, &sum, sizeof sum);
  }

  // The gradient of the query, without what is constant in a column, from the scores' in d_weights_.
  void sum_keys(const BackwardHead<T>& head, double* d_factors) noexcept {
    // an additive score or a distance takes the query without a factor, which it has none of
    bool any = false;
    row_.each_key_tile(head.keys, head.batch, head.group, [&](const EdgeRows& rows, int64_t first, int64_t some) {
      T* const to = any ? more_ : d_query_;
      if (scoring_.gradients)
        scoring_.gradients(row_.query(), rows, some, columns_, shared_.factors.of_gradients, d_weights_ + first, to,
                           d_factors ? of_factors_ : nullptr);
      else
        edge_kernels(plan_).sum(d_weights_ + first, rows, some, columns_, to);
      for (int64_t d = 0; any && d < columns_; ++d) d_query_[d] += more_[d];
      for (int64_t d = 0; d_factors && d < p_.head_size; ++d) d_factors[d] += double(of_factors_[d]);
      any = true;
    });
  }

  void store(T* row, int64_t i, const BackwardHead<T>& head) const noexcept {
    for (int64_t d = 0; d < p_.head_size; ++d) row[d] *= T(shared_.factors.of_columns[d]);
    store_row(plan_, row, p_.head_size, head.d_query + i * p_.d_query.row_stride, p_.d_query);
  }

  const Plan& plan_;
  const Problem& p_;
  const Shared<T>& shared_;
  const EdgeScoring& scoring_;
  EdgeRow<T> row_;
  GatheredRows<T> values_;
  BackwardHead<T>* heads_;
  bool linked_;
  char* link_kept_;
  int64_t columns_, value_columns_;
  T *out_, *d_out_, *d_weights_, *weights_, *d_query_, *more_, *of_factors_, *constants_;
};

// The walk by keys.
template <class T>
class KeyWalk {
 public:
  KeyWalk(const Plan& plan, const Shared<T>& shared, int64_t most_edges, int64_t heads, Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        shared_(shared),
        scoring_(edge_scoring(plan)),
        queries_(plan, queries_of(plan.problem), plan.problem.head_size, carver),
        d_outs_(plan, d_outs_of(plan.problem), plan.problem.value_size, carver) {
    columns_ = queries_.columns();
    value_columns_ = d_outs_.columns();
    const int64_t room = most_edges + most_lanes;
    heads_ = carver.take<Head>(heads);
    query_ = carver.take<int64_t>(room);
    offset_ = carver.take<int64_t>(room);
    d_out_offset_ = carver.take<int64_t>(room);
    weight_ = carver.take<T>(room);
    d_score_ = carver.take<T>(room);
    key_ = carver.take<T>(columns_);
    d_key_ = carver.take<T>(columns_);
    d_value_ = carver.take<T>(value_columns_);
    more_ = carver.take<T>(std::max(columns_, value_columns_));
  }
  void prepare() noexcept {
    queries_.prepare();
    d_outs_.prepare();
    std::fill_n(key_, columns_, T(0));
  }

  void run(Interval batches, Interval keys) noexcept {
    const Turned& turned = shared_.turned;
    const int64_t heads = (batches.high - batches.low) * plan_.groups;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t batch = batches.low + h / plan_.groups, group = h % plan_.groups;
      const auto at = [&](const Operand& x) { return x ? plan_.row(x, batch, group, 0) : nullptr; };
      heads_[h] = {batch, group, at(p_.query), at(p_.d_out), at(p_.key), at(p_.d_key), at(p_.d_value)};
    }
    for (int64_t j = keys.low; j < keys.high; ++j) {
      const int64_t begin = turned.begin(j), end = turned.begin(j + 1);
      const int64_t ahead = std::min(turned.begin(std::min(j + 2, p_.keys)), end + most_prefetched);
      for (int64_t h = 0; h < heads; ++h) {
        const Head& head = heads_[h];
        if (asked_to_stop(4.0 * double(end - begin + 4) * double(p_.head_size + p_.value_size + 8))) return;
        if (head.group == 0) {
          std::fill_n(d_key_, columns_, T(0));
          std::fill_n(d_value_, value_columns_, T(0));
          if (p_.d_key && scoring_.gradients)
            load_row(plan_, head.keys + j * p_.key.row_stride, p_.key, p_.head_size, T(1), key_);
        }
        for (int64_t n = end; n < ahead; ++n) {
          const int64_t query = turned.at(n).query;
          if (h == 0) __builtin_prefetch(shared_.cells + turned.at(n).edge * heads);
          if (p_.d_key) queries_.prefetch(head.queries, queries_.offset(query));
          if (p_.d_value && !p_.advantage) d_outs_.prefetch(head.d_outs, d_outs_.offset(query));
        }
        if (p_.advantage && p_.d_value) add_chosen(head, j, begin, end);
        add(head, begin, end, h, heads);
        if (head.group + 1 < plan_.groups) continue;
        if (p_.d_key) {
          for (int64_t d = 0; d < p_.head_size; ++d) d_key_[d] *= T(shared_.factors.of_columns[d]);
          store_row(plan_, d_key_, p_.head_size, head.d_keys + j * p_.d_key.row_stride, p_.d_key);
        }
        if (p_.d_value)
          store_row(plan_, d_value_, p_.value_size, head.d_values + j * p_.d_value.row_stride, p_.d_value);
      }
    }
  }

 private:
  static Stored queries_of(const Problem& p) { return {p.query, none(), none(), 0}; }
  static Stored d_outs_of(const Problem& p) { return {p.d_out, none(), none(), 0}; }
  static const Operand& none() {
    static const Operand nothing;
    return nothing;
  }

  struct Head {
    int64_t batch, group;
    char *queries, *d_outs, *keys, *d_keys, *d_values;
  };
  static constexpr int64_t most_prefetched = 32;

  void add(const Head& head, int64_t begin, int64_t end, int64_t h, int64_t heads) noexcept {
    const Turned& turned = shared_.turned;
    int64_t count = 0;
    for (int64_t n = begin; n < end; ++n) {
      const EdgeCell<T>& cell = shared_.cells[turned.at(n).edge * heads + h];
      if (cell.weight < 0) continue;
      query_[count] = turned.at(n).query;
      weight_[count] = cell.weight;
      d_score_[count] = cell.d_score;
      offset_[count] = queries_.offset(query_[count]);
      d_out_offset_[count] = d_outs_.offset(query_[count]);
      ++count;
    }
    if (count == 0) return;
    if (p_.d_value && !p_.advantage)
      d_outs_.each_tile(head.d_outs, head.batch, head.group, query_, d_out_offset_, count,
                        [&](const EdgeRows& rows, int64_t first, int64_t some) {
                          edge_kernels(plan_).sum(weight_ + first, rows, some, value_columns_, more_);
                          for (int64_t d = 0; d < value_columns_; ++d) d_value_[d] += more_[d];
                        });
    if (p_.d_key)
      queries_.each_tile(head.queries, head.batch, head.group, query_, offset_, count,
                         [&](const EdgeRows& rows, int64_t first, int64_t some) {
                           if (scoring_.gradients)
                             scoring_.gradients(key_, rows, some, columns_, shared_.factors.of_gradients,
                                                d_score_ + first, more_, nullptr);
                           else
                             edge_kernels(plan_).sum(d_score_ + first, rows, some, columns_, more_);
                           for (int64_t d = 0; d < columns_; ++d) d_key_[d] += more_[d];
                         });
  }

  // The gradients of what was made of a value that was chosen.
  void add_chosen(const Head& head, int64_t j, int64_t begin, int64_t end) noexcept {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t query = shared_.turned.at(n).query;
      each_choice(plan_, head.batch, head.group, query, [&](int64_t draw, int64_t key) {
        if (key != j) return;
        load_row(plan_, head.d_outs + query * p_.d_out.row_stride + draw * p_.d_out_draw_stride, p_.d_out,
                 p_.value_size, T(1), more_);
        for (int64_t d = 0; d < p_.value_size; ++d) d_value_[d] += more_[d];
      });
    }
  }

  const Plan& plan_;
  const Problem& p_;
  const Shared<T>& shared_;
  const EdgeScoring& scoring_;
  GatheredRows<T> queries_, d_outs_;
  int64_t columns_, value_columns_;
  Head* heads_;
  int64_t *query_, *offset_, *d_out_offset_;
  T *weight_, *d_score_, *key_, *d_key_, *d_value_, *more_;
};

template <class T>
fv_status run(const Plan& plan, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  const Graph graph(p);
  const HeadBlocks blocks(plan);
  const Runs runs(p.queries, [&](int64_t i) { return graph.begin(i); });
  const bool by_keys = p.d_key || p.d_value;
  Carver counted(nullptr);
  Shared<T>(plan, blocks, runs.count(), counted);
  const Workspace memory(counted.used());
  if (!memory.data()) return no_memory(error, double(counted.used()));
  Carver carver(memory.data());
  const Shared<T> shared(plan, blocks, runs.count(), carver);
  shared.factors.prepare();
  if (by_keys) shared.turned.turn(graph);
  const Runs key_runs(by_keys ? p.keys : 0, [&](int64_t j) { return shared.turned.begin(j); });

  const double flops =
      6.0 * double(blocks.heads()) * double(p.edges + 4 * p.queries) * double(p.head_size + p.value_size + 16);
  const int threads = threads_for(std::max(runs.count(), key_runs.count()), flops);
  const int64_t of_query = graph.most_edges(), of_key = by_keys ? shared.turned.most_edges(p.keys) : 0;
  using Queries = Workers<QueryWalk<T>>;
  using Keys = Workers<KeyWalk<T>>;
  const size_t queries_bytes = size_t(threads) * Queries::size_of_one(plan, shared, of_query, blocks.heads());
  const size_t keys_bytes = size_t(threads) * Keys::size_of_one(plan, shared, of_key, blocks.heads());
  const Workspace of_workers(queries_bytes + keys_bytes);
  if (!of_workers.data()) return no_memory(error, double(queries_bytes + keys_bytes));
  const Queries by_query(of_workers.data(), threads, plan, shared, of_query, blocks.heads());
  const Keys by_key(of_workers.data() + queries_bytes, threads, plan, shared, of_key, blocks.heads());
  for (int t = 0; t < threads; ++t) {
    by_query.of(t).prepare();
    by_key.of(t).prepare();
  }
  const auto each = [&](int64_t tasks, auto&& f) {
    return run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
      const KernelSession session(plan.arithmetic);
      f(task);
    });
  };
  if (p.d_factors) std::fill_n(shared.sum_of_factors, p.head_size, 0.0);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const Interval batches = blocks.batches(block);
    const int64_t heads = (batches.high - batches.low) * plan.groups;
    if (!each(runs.count(),
              [&](const Task& task) { by_query.of(task.thread).run(batches, runs.of(task.index), task.index); }))
      return FV_INTERRUPTED;
    if (by_keys && !each(key_runs.count(),
                         [&](const Task& task) { by_key.of(task.thread).run(batches, key_runs.of(task.index)); }))
      return FV_INTERRUPTED;
    for (int64_t run = 0; p.d_factors && run < runs.count(); ++run)
      for (int64_t d = 0; d < p.head_size; ++d) shared.sum_of_factors[d] += shared.d_factors[run * p.head_size + d];
    for (int64_t h = 0; p.d_sink && h < heads; ++h) {
      double sum = 0;
      for (int64_t i = 0; i < p.queries; ++i) sum -= double(shared.delta_of_sink[i * heads + h]);
      std::memcpy(plan.row(p.d_sink, batches.low + h / plan.groups, h % plan.groups, 0), &sum, sizeof sum);
    }
  }
  for (int64_t d = 0; p.d_factors && d < p.head_size; ++d) {
    const double sum = shared.sum_of_factors[d] * shared.factors.scale_of_factors();
    std::memcpy(p.d_factors.data + d * p.d_factors.row_stride, &sum, sizeof sum);
  }
  return FV_OK;
}

}  // namespace

fv_status gradients_along_edges(const Problem& problem, fv_error* error) noexcept {
  const Plan plan(problem, kernels(), needs_of_edges);
  return plan.arithmetic.element_size == 8 ? run<double>(plan, error) : run<float>(plan, error);
}

}  // namespace foveate
