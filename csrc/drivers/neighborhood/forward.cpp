// Soft attention over a neighborhood: of each strip all scores, its softmax, and the sums of the values.
#include <limits>
#include <new>

#include "drivers/common/lse.hpp"
#include "neighborhood.hpp"
#include "worker.hpp"

namespace foveate {
namespace {

template <class T>
class ForwardStencil : StencilWorker<T> {
  using Base = StencilWorker<T>;
  using Base::arithmetic_, Base::block_, Base::lanes_, Base::plan_, Base::stencil_;

 public:
  ForwardStencil(const Plan& plan, const Stencil& stencil, Carver& carver) noexcept
      : Base(plan, stencil, std::max(plan.problem.head_size, plan.problem.value_size),
             std::max(plan.problem.head_size, plan.problem.value_size), carver) {
    const Problem& p = plan.problem;
    const int64_t rows = stencil.most_rows();
    keys_ = carver.take<T>(this->seen_size(p.head_size));
    values_ = this->seen_rows(p.value, p.value_size, carver);
    queries_ = carver.take<T>(rows * p.head_size * lanes_);
    outputs_ = this->answer_rows(p.out, p.value_size, carver);
    cells_ = carver.take<T>(rows * this->cells_stride());
    factors_ = carver.take<T>(rows * lanes_);
  }

  void run(int64_t task) noexcept {
    const Problem& p = plan_.problem;
    this->start(task);
    this->load_seen(p.key, p.head_size, 0, keys_);
    this->load_rows(values_);
    for (int64_t s = 0; s < block_.chunk->strips; ++s) {
      const Strip& strip = stencil_.strip(block_.chunk->first_strip + s);
      const double cells = double(block_.rows * this->cells_of(strip, 0) * lanes_);
      if (asked_to_stop(2.0 * cells * double(p.head_size + p.value_size))) return;
      this->fetch_next(s, {p.query}, {p.key});
      this->pack(strip, p.query, p.head_size, plan_.query_factor, p.head_size * lanes_, queries_);
      this->scores(strip, queries_, p.head_size * lanes_, keys_, p.head_size, p.head_size, cells_);
      for (int64_t i = 0; i < block_.rows; ++i) select(strip, i);
      this->sums(strip, cells_, values_, outputs_, factors_, lanes_);
    }
  }

 private:
  void select(const Strip& strip, int64_t i) noexcept {
    const Problem& p = plan_.problem;
    T m[most_lanes], l[most_lanes], alpha[most_lanes], top[most_lanes];
    T* const cells = cells_ + i * this->cells_stride();
    const int64_t count = this->cells_of(strip, i);
    plan_.links.apply(cells, 1, count, nullptr, 0);
    if (const uint32_t* seen = this->hidden(strip)) arithmetic_.hide_unset(cells, 1, count, seen);
    arithmetic_.find_top(cells, 1, count, top);
    const double sink =
        p.sink ? sink_score_of(plan_, this->batch_, this->group_) : -std::numeric_limits<double>::infinity();
    std::fill_n(m, lanes_, T(sink));
    std::fill_n(l, lanes_, T(p.sink ? 1 : 0));
    arithmetic_.soft(cells, 1, count, plan_.softmax_scale(), top, m, l, nullptr, alpha, nullptr, Prefetch{});
    for (int32_t lane = 0; lane < lanes_; ++lane) factors_[i * lanes_ + lane] = T(1) / l[lane];
    if (!p.lse) return;
    char* const lse = plan_.row(p.lse, this->batch_, this->group_, 0);
    for (int32_t lane = 0; lane < strip.live; ++lane)
      write_lse(p.lse, lse + this->place_of(strip, i, lane) * p.lse.row_stride,
                lse_of(plan_, double(m[lane]), double(l[lane])));
  }

  T *keys_, *queries_, *cells_, *factors_;
  typename Base::SumRows values_, outputs_;
};

template <class T>
fv_status run_forward_stencil(const Plan& plan, fv_error* error) noexcept {
  const Problem& p = plan.problem;
  Carver size(nullptr);
  const Stencil sizes(plan, false, p.head_size, 0, size);
  const size_t shared = size.used();
  Carver part_size(nullptr);
  part_size.take<ForwardStencil<T>>(1);
  ForwardStencil<T>(plan, sizes, part_size);
  const size_t part = part_size.used();
  const double flops =
      2.0 * double(plan.batches * plan.rows) * double(sizes.most_cells()) * double(p.head_size + p.value_size);
  const int threads = threads_for(sizes.tasks(), flops);
  const double bytes = double(shared) + double(part) * threads;
  const Workspace workspace(shared + part * size_t(threads));
  if (!workspace.data()) return no_memory(error, bytes);
  Carver carver(workspace.data());
  Stencil stencil(plan, false, p.head_size, 0, carver);
  stencil.build();
  const bool done =
      run_stencil<ForwardStencil<T>>(plan, stencil, threads, workspace.data() + shared, part, [&](Carver& of_thread) {
        new (of_thread.take<ForwardStencil<T>>(1)) ForwardStencil<T>(plan, stencil, of_thread);
      });
  return done ? FV_OK : FV_INTERRUPTED;
}

}  // namespace

fv_status neighborhood_attention(const Problem& problem, fv_error* error) noexcept {
  const Plan plan(problem, kernels(), {.whole_weights = true});
  return plan.arithmetic.element_size == 8 ? run_forward_stencil<double>(plan, error)
                                           : run_forward_stencil<float>(plan, error);
}

}  // namespace foveate
