// The forward pass along the edges of a graph: the answer of each query, its weights, or the keys that it chooses.
#include "along_edges.hpp"
#include "drivers/hard/shortlist.hpp"
#include "edges.hpp"

namespace foveate {
namespace {

enum class Answer { output, weights, choice };

template <class T>
class EdgeForward {
 public:
  EdgeForward(const Plan& plan, const EdgeFactors<T>& factors, Answer answer, int64_t most_edges, int64_t heads,
              Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        answer_(answer),
        row_(plan, factors, most_edges, carver),
        values_(plan, stored_values(plan.problem), plan.problem.value_size, carver),
        choices_(plan, carver),
        numbers_(plan.problem),
        several_(p_.selection == FV_TOP || p_.selection == FV_DISTINCT) {
    heads_ = carver.take<Head>(heads);
    output_ = carver.take<T>(std::max(values_.columns(), answer == Answer::weights ? p_.keys : 0));
    more_ = carver.take<T>(values_.columns());
    const bool distinct = answer == Answer::choice && draws_distinct(p_);
    own_ = carver.take<T>(answer == Answer::choice ? row_.room() : 0);
    uniform_ = carver.take<T>(distinct ? row_.room() : 0);
    noisy_ = carver.take<T>(distinct ? row_.room() : 0);
    shift_ = carver.take<T>(most_lanes);
    candidates_ = carver.take<Candidate>(answer == Answer::choice && several_ ? row_.room() : 0);
    row_.set_value_stride(p_.value.row_stride);
  }
  void prepare() noexcept {
    row_.prepare();
    values_.prepare();
    if (answer_ == Answer::weights) std::fill_n(output_, p_.keys, T(0));
  }

  void run(Interval batches, Interval queries) noexcept {
    int64_t count = 0;
    for (int64_t batch = batches.low; batch < batches.high; ++batch)
      for (int64_t group = 0; group < plan_.groups; ++group) {
        const auto at = [&](const Operand& x) { return x ? plan_.row(x, batch, group, 0) : nullptr; };
        heads_[count++] = {batch,        group,      at(p_.query), at(p_.key),
                           at(p_.value), at(p_.out), at(p_.lse),   sink_score_of(plan_, batch, group)};
      }
    const GatheredRows<T>* const values = answer_ == Answer::output ? &values_ : nullptr;
    for (int64_t i = queries.low; i < queries.high; ++i) {
      row_.start(i);
      for (int64_t h = 0; h < count; ++h) {
        const Head& head = heads_[h];
        const int64_t edges = row_.list(head.batch, head.group);
        if (asked_to_stop(4.0 * double(edges + 4) * double(p_.head_size + p_.value_size + 8))) return;
        row_.prefetch(i + 1, head.keys, head.values, values);
        attend(i, head);
      }
    }
  }

 private:
  struct Head {
    int64_t batch, group;
    char *query, *keys, *values, *out, *lse;
    double sink;
  };

  void attend(int64_t i, const Head& head) noexcept {
    const int64_t count = row_.count();
    T* const s = row_.score(head.query + i * p_.query.row_stride, head.keys, head.batch, head.group, nullptr);
    T m = T(p_.sink ? head.sink : -std::numeric_limits<double>::infinity()), l = T(p_.sink ? 1 : 0);
    int64_t best = -1;
    if (answer_ == Answer::choice && p_.selection == FV_ARGMAX) best = first_of_largest(s, count);
    if (answer_ == Answer::choice && several_) std::copy_n(s, count, own_);
    plan_.arithmetic.decode_soft(s, 1, count, plan_.softmax_scale(), &m, &l, nullptr, 0, 0);
    if (answer_ == Answer::choice) return choose(i, head, s, best, m, l);
    const T factor = count > 0 ? T(row_.kept_factor()) / l : T(0);
    if (answer_ == Answer::weights) return write_weights(i, head, s, factor);
    if (row_.drops()) row_.each_dropped(head.batch, head.group, [&](int64_t e) { s[e] *= T(0); });
    sum_values(head, s);
    for (int64_t d = 0; d < p_.value_size; ++d) output_[d] *= factor;
    store_row(plan_, output_, p_.value_size, head.out + i * p_.out.row_stride, p_.out);
    if (p_.lse)
      write_lse(p_.lse, head.lse + i * p_.lse.row_stride,
                count > 0 ? lse_of(plan_, double(m), double(l)) : lse_of_nothing(plan_, head.batch, head.group));
  }

  void sum_values(const Head& head, const T* weights) noexcept {
    const int64_t columns = values_.columns();
    bool any = false;
    values_.each_tile(head.values, head.batch, head.group, row_.keys(), row_.value_offsets(), row_.count(),
                      [&](const EdgeRows& rows, int64_t first, int64_t some) {
                        edge_kernels(plan_).sum(weights + first, rows, some, columns, any ? more_ : output_);
                        for (int64_t d = 0; any && d < columns; ++d) output_[d] += more_[d];
                        any = true;
                      });
    if (row_.count() == 0) std::fill_n(output_, columns, T(0));
  }

  // A whole row, of zeros where there is no edge.
  void write_weights(int64_t i, const Head& head, const T* s, T factor) noexcept {
    for (int64_t e = 0; e < row_.count(); ++e) output_[row_.keys()[e]] = s[e] * factor;
    store_row(plan_, output_, p_.keys, head.out + i * p_.out.row_stride, p_.out);
    for (int64_t e = 0; e < row_.count(); ++e) output_[row_.keys()[e]] = T(0);
  }

  static int64_t first_of_largest(const T* s, int64_t count) {
    int64_t best = -1;
    T top = -std::numeric_limits<T>::infinity();
    for (int64_t e = 0; e < count; ++e)
      if (s[e] > top) {
        top = s[e];
        best = e;
      }
    return best;
  }

  // Draws as the tiles of keys do that the numbers are counted by (hard/tiled.cpp): one number for each tile that has edges,
  // whose key replaces the one that was drawn before with the tile's share of the weight so far.
  int64_t draw(int64_t i, int64_t draw, int64_t lead, const T* s) noexcept {
    const int64_t* const keys = row_.keys();
    int64_t chosen = -1, block = -1;
    RandomBlock random{};
    T so_far = 0;
    for (int64_t first = 0, end; first < row_.count(); first = end) {
      const int64_t tile = keys[first] / default_tile_keys;
      T own = 0;
      for (end = first; end < row_.count() && keys[end] / default_tile_keys == tile; ++end) own_[end] = own += s[end];
      so_far += own;
      if (tile / random_words != block) random = choices_.numbers(block = tile / random_words, draw, i, lead);
      const T target = uniform<T>(random.words[tile % random_words]) * so_far;
      if (!(target < own)) continue;
      for (chosen = first; chosen + 1 < end && !(own_[chosen] > target);) ++chosen;
    }
    return chosen;
  }

  // The keys with the numbers that say which are best: scores, in own_, or scores with noise; how many there are.
  int64_t list_candidates(int64_t i, int64_t lead, T m) noexcept {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const int64_t count = row_.count(), whole = row_.vectors() * plan_.arithmetic.lanes;
    const T* numbers = own_;
    if (draws_distinct(p_)) {
      std::fill(own_ + count, own_ + whole, -infinity);
      std::fill_n(uniform_, whole, T(0.5));
      for (int64_t e = 0; e < count; ++e) numbers_.make(row_.keys()[e], 1, i + p_.first_row, lead, uniform_ + e, 1);
      std::fill_n(shift_, most_lanes, m > -infinity ? m : T(0));
      plan_.arithmetic.add_noise(own_, 1, row_.vectors(), plan_.softmax_scale(), shift_, uniform_, noisy_);
      numbers = noisy_;
    }
    int64_t listed = 0;
    for (int64_t e = 0; e < count; ++e)
      if (numbers[e] > -infinity) candidates_[listed++] = {double(numbers[e]), double(own_[e]), row_.keys()[e]};
    return listed;
  }

  void choose(int64_t i, const Head& head, const T* s, int64_t best, T m, T l) noexcept {
    const bool seen = row_.count() > 0;
    const double log_l = std::log(double(l));
    const int64_t lead = choices_.lead(head.batch, head.group);
    const Cells cells{plan_.row(p_.index, head.batch, head.group, i),
                      plan_.row(p_.log_prob, head.batch, head.group, i),
                      plan_.row(p_.out, head.batch, head.group, i),
                      {plan_, stored_choices(p_), head.batch, head.group}};
    if (several_) {
      const int64_t count = list_candidates(i, lead, m);
      return write_best(choices_, cells, candidates_, count, p_.draws, double(m), log_l, seen);
    }
    for (int64_t d = 0; d < p_.draws; ++d) {
      const int64_t e = choices_.sampled() ? draw(i, d, lead, s) : best;
      choices_.write(cells, d, e < 0 ? -1 : row_.keys()[e], e < 0 ? 0 : double(s[e]), double(m), double(m), log_l,
                     seen);
    }
  }

  const Plan& plan_;
  const Problem& p_;
  const Answer answer_;
  EdgeRow<T> row_;
  GatheredRows<T> values_;
  Choices<T> choices_;
  KeyNumbers<T> numbers_;
  bool several_;
  Head* heads_;
  T *output_, *more_, *own_, *uniform_, *noisy_, *shift_;
  Candidate* candidates_;
};

template <class T>
fv_status run(const Plan& plan, Answer answer, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  const Graph graph(p);
  const HeadBlocks blocks(plan);
  const Runs runs(p.queries, [&](int64_t i) { return graph.begin(i); });
  const int64_t most_edges = graph.most_edges(), tasks = blocks.count * runs.count();
  const double flops = 2.0 * double(plan.batches * plan.groups) * double(p.edges + 4 * p.queries) *
                       double(p.head_size + p.value_size + 16);
  const int threads = threads_for(tasks, flops);
  using Forward = Workers<EdgeForward<T>>;
  Carver shared(nullptr);
  EdgeFactors<T> counted(plan, shared);
  const size_t bytes =
      shared.used() + size_t(threads) * Forward::size_of_one(plan, counted, answer, most_edges, blocks.heads());
  const Workspace workspace(bytes);
  if (!workspace.data()) return no_memory(error, double(bytes));
  Carver carver(workspace.data());
  EdgeFactors<T> factors(plan, carver);
  factors.prepare();
  const Forward workers(workspace.data() + shared.used(), threads, plan, factors, answer, most_edges, blocks.heads());
  for (int t = 0; t < threads; ++t) workers.of(t).prepare();
  const bool done = run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
    const KernelSession session(plan.arithmetic);
    workers.of(task.thread).run(blocks.batches(task.index / runs.count()), runs.of(task.index % runs.count()));
  });
  return done ? FV_OK : FV_INTERRUPTED;
}

fv_status run(const Problem& problem, Answer answer, fv_error* error) noexcept {
  const Plan plan(problem, kernels(), needs_of_edges);
  return plan.arithmetic.element_size == 8 ? run<double>(plan, answer, error) : run<float>(plan, answer, error);
}

}  // namespace

fv_status attention_along_edges(const Problem& problem, fv_error* error) noexcept {
  return run(problem, Answer::output, error);
}
fv_status weights_along_edges(const Problem& problem, fv_error* error) noexcept {
  return run(problem, Answer::weights, error);
}
fv_status choices_along_edges(const Problem& problem, fv_error* error) noexcept {
  return run(problem, Answer::choice, error);
}

}  // namespace foveate
