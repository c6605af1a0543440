// The gradients of attention over a neighborhood, by stencils twice: queries see keys, for dQ; and keys are seen by queries,
// for dK and dV. Each computes its own weights, two products more than one pass would need, and nothing is added to by two
// threads. Of the second pass a query's lse and delta are columns beside its Q and dO, which keys multiply by 1:
//   P = 2^(s - lse),  dS = P (dP - delta),  dQ_i = sum_j dS_ij K_j,  dK_j = sum_i dS_ij Q_i,  dV_j = sum_i P_ij dO_i
#include <limits>
#include <new>

#include "drivers/common/lse.hpp"
#include "neighborhood.hpp"
#include "worker.hpp"

namespace foveate {
namespace {

// Of each row of all heads: lse in base 2, high + low, and what is taken off dP; all negative.
template <class T>
struct NegativeSums {
  T *high, *low, *delta;
};
constexpr int64_t sum_rows = 64;  // of a task

template <class T>
class RowSumsWorker {
 public:
  RowSumsWorker(const Plan& plan, const NegativeSums<T>& to, Carver& carver) noexcept
      : plan_(plan),
        to_(to),
        columns_((plan.problem.value_size + plan.arithmetic.lanes - 1) / plan.arithmetic.lanes *
                 plan.arithmetic.lanes) {
    out_ = carver.take<T>(columns_);
    d_out_ = carver.take<T>(columns_);
  }
  int64_t tasks() const { return plan_.batches * plan_.groups * tasks_of_head(); }

  void run(int64_t task) noexcept {
    const Problem& p = plan_.problem;
    const int64_t head = task / tasks_of_head(), batch = head / plan_.groups, group = head % plan_.groups;
    const int64_t first = task % tasks_of_head() * sum_rows, last = std::min(p.queries, first + sum_rows);
    std::fill_n(out_, columns_, T(0));
    std::fill_n(d_out_, columns_, T(0));
    for (int64_t i = first; i < last; ++i) {
      load(p.out, plan_.row(p.out, batch, group, i), out_);
      load(p.d_out, plan_.row(p.d_out, batch, group, i), d_out_);
      T delta;
      plan_.arithmetic.dot_rows(out_, d_out_, 1, columns_, &delta);
      T d_lse = 0;
      if (p.d_lse) std::memcpy(&d_lse, plan_.row(p.d_lse, batch, group, i), sizeof d_lse);
      const Lse lse = read_lse(plan_, plan_.row(p.lse, batch, group, i));
      const int64_t row = head * p.queries + i;
      const bool nothing = lse.lse == -std::numeric_limits<double>::infinity();  // no weight
      to_.high[row] = nothing ? T(0) : -T(lse.high);
      to_.low[row] = nothing ? -std::numeric_limits<T>::infinity() : -T(lse.low * log2_e);
      to_.delta[row] = d_lse - delta;
    }
  }

 private:
  int64_t tasks_of_head() const { return (plan_.problem.queries + sum_rows - 1) / sum_rows; }
  void load(const Operand& x, const char* from, T* to) noexcept {
    plan_.arithmetic.load_values({from, dtype_of(x), 0, x.column_stride}, 1, plan_.problem.value_size, false, to);
  }
  const Plan& plan_;
  NegativeSums<T> to_;
  int64_t columns_;
  T *out_, *d_out_;
};

// What both passes have: two operands that are seen and two of the block's own, scores and gradients of weights.
template <class T>
class GradientStencil : protected StencilWorker<T> {
 protected:
  using Base = StencilWorker<T>;
  using Base::arithmetic_, Base::block_, Base::lanes_, Base::plan_, Base::stencil_;

  // more: columns beside those of queries and keys, and of dO and values
  GradientStencil(const Plan& plan, const Stencil& stencil, const NegativeSums<T>& sums, int64_t more,
                  Carver& carver) noexcept
      : Base(plan, stencil, std::max(plan.problem.head_size, plan.problem.value_size) + more,
             std::max(plan.problem.head_size, plan.problem.value_size), carver),
        sums_(sums),
        width_(plan.problem.head_size + more),
        value_width_(plan.problem.value_size + more) {
    const int64_t rows = stencil.most_rows();
    seen_ = carver.take<T>(this->seen_size(width_));
    seen_values_ = carver.take<T>(this->seen_size(value_width_));
    own_ = carver.take<T>(rows * width_ * lanes_);
    own_values_ = carver.take<T>(rows * value_width_ * lanes_);
    cells_ = carver.take<T>(rows * this->cells_stride());
    d_cells_ = carver.take<T>(rows * this->cells_stride());
    factors_ = carver.take<T>(lanes_);
  }

  // Scores and gradients of weights become weights and gradients of scores: top, rest and shift of each lane.
  void select(const Strip& strip, int64_t i, const T* top, const T* rest, const T* shift) noexcept {
    T* const cells = cells_ + i * this->cells_stride();
    const int64_t count = this->cells_of(strip, i);
    if (const uint32_t* seen = this->hidden(strip)) arithmetic_.hide_unset(cells, 1, count, seen);
    arithmetic_.soft_gradient(cells, d_cells_ + i * this->cells_stride(), 1, count, 1, top, rest, shift, cells, nullptr,
                              lanes_);
  }

  void answer(const Strip& strip, const T* cells, const typename Base::SumRows& rows,
              const typename Base::SumRows& answers, double factor) noexcept {
    std::fill_n(factors_, lanes_, T(factor));
    this->sums(strip, cells, rows, answers, factors_, 0);
  }

  bool stops(const Strip& strip, double products) const noexcept {
    const double cells = double(block_.rows * this->cells_of(strip, 0) * lanes_);
    return asked_to_stop(products * cells * double(plan_.problem.head_size + plan_.problem.value_size));
  }

  NegativeSums<T> sums_;
  int64_t width_, value_width_;
  T *seen_, *seen_values_, *own_, *own_values_, *cells_, *d_cells_, *factors_;
};

template <class T>
class QueryGradients : GradientStencil<T> {
  using Base = GradientStencil<T>;
  using Base::block_, Base::lanes_, Base::plan_, Base::stencil_, Base::sums_;

 public:
  static constexpr bool of_keys = false;
  static constexpr int64_t more = 0;
  QueryGradients(const Plan& plan, const Stencil& stencil, const NegativeSums<T>& sums, Carver& carver) noexcept
      : Base(plan, stencil, sums, more, carver),
        keys_(this->seen_rows(plan.problem.key, plan.problem.head_size, carver)),
        d_queries_(this->answer_rows(plan.problem.d_query, plan.problem.head_size, carver)) {}

  void run(int64_t task) noexcept {
    const Problem& p = plan_.problem;
    this->start(task);
    this->load_seen(p.key, p.head_size, 0, this->seen_);
    this->load_seen(p.value, p.value_size, 0, this->seen_values_);
    this->load_rows(keys_);
    for (int64_t s = 0; s < block_.chunk->strips; ++s) {
      const Strip& strip = stencil_.strip(block_.chunk->first_strip + s);
      if (this->stops(strip, 3)) return;
      this->fetch_next(s, {p.query, p.d_out}, {p.key, p.value});
      this->pack(strip, p.query, p.head_size, plan_.query_factor, p.head_size * lanes_, this->own_);
      this->pack(strip, p.d_out, p.value_size, 1, p.value_size * lanes_, this->own_values_);
      this->scores(strip, this->own_, p.head_size * lanes_, this->seen_, p.head_size, p.head_size, this->cells_);
      this->scores(strip, this->own_values_, p.value_size * lanes_, this->seen_values_, p.value_size, p.value_size,
                   this->d_cells_);
      for (int64_t i = 0; i < block_.rows; ++i) {
        T top[most_lanes] = {}, rest[most_lanes] = {}, shift[most_lanes] = {};
        for (int32_t lane = 0; lane < strip.live; ++lane) {
          const int64_t row = block_.head * p.queries + this->place_of(strip, i, lane);
          top[lane] = -sums_.high[row];
          rest[lane] = -sums_.low[row];
          shift[lane] = -sums_.delta[row];
        }
        this->select(strip, i, top, rest, shift);
      }
      this->answer(strip, this->d_cells_, keys_, d_queries_, p.scale);
    }
  }

 private:
  typename Base::SumRows keys_, d_queries_;
};

template <class T>
class KeyGradients : GradientStencil<T> {
  using Base = GradientStencil<T>;
  using Base::block_, Base::lanes_, Base::plan_, Base::stencil_, Base::sums_;

 public:
  static constexpr bool of_keys = true;
  static constexpr int64_t more = 2;
  KeyGradients(const Plan& plan, const Stencil& stencil, const NegativeSums<T>& sums, Carver& carver) noexcept
      : Base(plan, stencil, sums, more, carver) {
    const Problem& p = plan.problem;
    if (p.d_key) {
      queries_ = this->seen_rows(p.query, p.head_size, carver);
      d_keys_ = this->answer_rows(p.d_key, p.head_size, carver);
    }
    if (p.d_value) {
      d_out_ = this->seen_rows(p.d_out, p.value_size, carver);
      d_values_ = this->answer_rows(p.d_value, p.value_size, carver);
    }
  }

  void run(int64_t task) noexcept {
    const Problem& p = plan_.problem;
    const int64_t width = this->width_, value_width = this->value_width_;
    this->start(task);
    this->load_seen(p.query, p.head_size, more, this->seen_);
    this->load_seen(p.d_out, p.value_size, more, this->seen_values_);
    this->load_rows(queries_);
    this->load_rows(d_out_);
    this->each_seen_row([&](int64_t number, int64_t place) {
      const auto column = [&](T* to, int64_t columns, int64_t at, const T* from) {
        to += (number * columns + at) * stencil_.row_stride();
        std::copy_n(from + block_.head * p.queries + place + block_.chunk->column, block_.chunk->columns, to);
      };
      column(this->seen_, width, p.head_size, sums_.high);
      column(this->seen_, width, p.head_size + 1, sums_.low);
      column(this->seen_values_, value_width, p.value_size, sums_.delta);
    });
    for (int64_t s = 0; s < block_.chunk->strips; ++s) {
      const Strip& strip = stencil_.strip(block_.chunk->first_strip + s);
      if (this->stops(strip, 4)) return;
      this->fetch_next(s, {p.key, p.value}, {p.query, p.d_out});
      this->pack(strip, p.key, p.head_size, plan_.query_factor, width * lanes_, this->own_);
      this->pack(strip, p.value, p.value_size, 1, value_width * lanes_, this->own_values_);
      for (int64_t i = 0; i < block_.rows; ++i) {
        std::fill_n(this->own_ + (i * width + p.head_size) * lanes_, 2 * lanes_, T(1));
        std::fill_n(this->own_values_ + (i * value_width + p.value_size) * lanes_, lanes_, T(1));
      }
      this->scores(strip, this->own_, width * lanes_, this->seen_, p.head_size + 2, width, this->cells_);
      this->scores(strip, this->own_values_, value_width * lanes_, this->seen_values_, p.value_size + 1, value_width,
                   this->d_cells_);
      const T zeros[most_lanes] = {};
      for (int64_t i = 0; i < block_.rows; ++i) this->select(strip, i, zeros, zeros, zeros);
      if (p.d_key) this->answer(strip, this->d_cells_, queries_, d_keys_, p.scale);
      if (p.d_value) this->answer(strip, this->cells_, d_out_, d_values_, 1);
    }
  }

 private:
  typename Base::SumRows queries_, d_out_, d_keys_, d_values_;
};

// A pass over the grid, in memory that passes share.
template <class T, template <class> class Worker>
class Pass {
 public:
  Pass(const Plan& plan, const NegativeSums<T>& sums, double flops) noexcept : plan_(plan), sums_(sums) {
    Carver shared(nullptr), part(nullptr);
    const Stencil sizes = stencil(shared);
    part.take<Worker<T>>(1);
    Worker<T>(plan, sizes, sums, part);
    shared_ = shared.used();
    part_ = part.used();
    threads_ = threads_for(sizes.tasks(), flops);
  }
  size_t bytes() const { return shared_ + part_ * size_t(threads_); }
  bool run(char* memory) const noexcept {
    Carver carver(memory);
    Stencil grid = stencil(carver);
    grid.build();
    return run_stencil<Worker<T>>(plan_, grid, threads_, memory + shared_, part_, [&](Carver& of_thread) {
      new (of_thread.take<Worker<T>>(1)) Worker<T>(plan_, grid, sums_, of_thread);
    });
  }

 private:
  Stencil stencil(Carver& carver) const noexcept {
    const Problem& p = plan_.problem;
    return Stencil(plan_, Worker<T>::of_keys, p.head_size + p.value_size + 2 * Worker<T>::more,
                   plan_.arithmetic.element_size, carver);
  }
  const Plan& plan_;
  const NegativeSums<T>& sums_;
  size_t shared_, part_;
  int threads_;
};

template <class T>
fv_status run_backward_stencil(const Plan& plan, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  const int64_t rows = plan.batches * plan.rows;
  NegativeSums<T> sums{};
  const auto lay_out = [&](char* base) {
    Carver carver(base);
    sums = {carver.take<T>(rows), carver.take<T>(rows), carver.take<T>(rows)};
    return carver.used();
  };
  Carver part_size(nullptr);
  part_size.take<RowSumsWorker<T>>(1);
  const int64_t row_tasks = RowSumsWorker<T>(plan, sums, part_size).tasks();
  const size_t shared = lay_out(nullptr), part = part_size.used();
  const int threads = threads_for(row_tasks, 64.0 * double(rows) * double(p.value_size));
  double cells = double(rows);
  for (int a = 0; a < p.neighbor_axes; ++a) cells *= double(p.neighbor_axis[a].window);
  const double flops = 4.0 * cells * double(p.head_size + p.value_size);
  const Pass<T, QueryGradients> of_queries(plan, sums, flops);
  const Pass<T, KeyGradients> of_keys(plan, sums, flops);
  size_t bytes = part * size_t(threads);
  if (p.d_query) bytes = std::max(bytes, of_queries.bytes());
  if (p.d_key || p.d_value) bytes = std::max(bytes, of_keys.bytes());
  const Workspace workspace(shared + bytes);
  if (!workspace.data()) return no_memory(error, double(shared) + double(bytes));
  lay_out(workspace.data());
  const auto parts = workspace.data() + shared;
  for (int t = 0; t < threads; ++t) {
    Carver carver(parts + part * size_t(t));
    new (carver.take<RowSumsWorker<T>>(1)) RowSumsWorker<T>(plan, sums, carver);
  }
  const bool done = run_tasks(row_tasks, threads, Order::by_ranges, [&](const Task& task) {
    const KernelSession session(plan.arithmetic);
    reinterpret_cast<RowSumsWorker<T>*>(parts + part * size_t(task.thread))->run(task.index);
  });
  if (!done || (p.d_query && !of_queries.run(parts)) || ((p.d_key || p.d_value) && !of_keys.run(parts)))
    return FV_INTERRUPTED;
  return FV_OK;
}

}  // namespace

bool backward_by_stencil(const Problem& p) noexcept {
  if (!by_stencil(p) || p.advantage || p.link >= 0 || p.softcap > 0) return false;
  if (p.d_mask || p.d_sink || p.d_factors || p.d_centers || p.d_sigma || p.d_table || p.d_edge_bias) return false;
  for (int a = 0; a < p.lead_ndim; ++a) {
    if (p.lead_shape[a] == 0) return false;
    if (p.lead_shape[a] == 1) continue;
    if ((p.d_key && !p.d_key.moves(a)) || (p.d_value && !p.d_value.moves(a))) return false;  // sums over heads
  }
  return true;
}

fv_status neighborhood_attention_backward(const Problem& problem, fv_error* error) noexcept {
  const Plan plan(problem, kernels(), {.whole_weights = true});
  return plan.arithmetic.element_size == 8 ? run_backward_stencil<double>(plan, error)
                                           : run_backward_stencil<float>(plan, error);
}

}  // namespace foveate
