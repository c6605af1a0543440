// Soft attention with its tangent: the forward pass, and beside it, with t the tangents of the scores,
//   D = sum_j P_j t_j / l,   O' = sum_j P_j t_j V_j + sum_j P_j V'_j - D O
// in one pass over the keys. The output and the lse have the bits of soft/tiled.hpp, which a Gaussian after the softmax may
// round otherwise. D, with the sink's part, is how the lse moves. Of up to six products those of operands that do not move
// are left out, and that of the output where it is given.
#include <cmath>

#include "drivers/drivers.hpp"
#include "drivers/soft/tiled.hpp"
#include "operands.hpp"

namespace foveate {
namespace {

template <class T>
class ForwardTangent : private Forward<T> {
  using Base = Forward<T>;
  using Base::alpha_, Base::block_, Base::dropout_, Base::exact_, Base::l_, Base::m_, Base::plan_, Base::width_;
  using Base::with_exact, Base::output;

 public:
  ForwardTangent(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : Base(plan, blocks, carver), p_(plan.problem), moves_(plan, blocks, carver) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    moved_ = carver.take<T>(queries * p_.value_size);
    d_ = carver.take<T>(queries);
    d_exact_ = carver.take<T>(with_exact() ? queries : 0);
    ones_ = carver.take<T>(width_);
    const bool links = moves_.scored() && plan.links.has_gradient();
    link_kept_ = carver.take(links ? plan.links.count * block_.link_bytes() : 0);
  }

  void run(int64_t task, int64_t next) noexcept {
    std::fill_n(ones_, width_, T(1));
    block_.start(task, next);
    while (block_.next_panels()) {
      moves_.pack(block_);
      const int count = block_.panels();
      pass(0, count, false);
      if (block_.stopped()) return;
      for (int p = 0; p < count; ++p) {
        if (finish(p) || !block_.panel(p).hidden) continue;
        pass(p, p + 1, true);  // as Forward::run
        finish(p);
      }
    }
  }

 private:
  T* moved(int p) { return moved_ + int64_t(p) * width_ * p_.value_size; }
  T* d(int p) { return d_ + p * width_; }
  T* d_exact(int p) { return with_exact() ? d_exact_ + p * width_ : nullptr; }

  void pass(int first, int last, bool exact) noexcept {
    for (int p = first; p < last; ++p) reset(p);
    for (Traversal tiles = block_.tiles(first, last); block_.open(tiles); tiles.next()) {
      moves_.open();
      for (int p = first; p < last; ++p) add_tile(p, exact);
    }
  }

  // What the sink's logit moves by; a sink of -inf does not.
  T sink_tangent(int p, int lane) const {
    if (!p_.t_sink || !p_.sink) return 0;
    const int64_t group = block_.panel(p).group[lane];
    const bool none = std::isinf(sink_of(plan_, block_.batch(), group));
    return none ? T(0) : T(plan_.template value<double>(p_.t_sink, block_.batch(), group));
  }

  void reset(int p) noexcept {
    Base::reset(p);
    std::fill_n(moved(p), block_.vectors(p) * plan_.arithmetic.lanes * p_.value_size, T(0));
    for (int i = 0; i < width_; ++i) d(p)[i] = i < block_.panel(p).live ? sink_tangent(p, i) : T(0);
    if (with_exact()) std::copy_n(d(p), width_, d_exact(p));
  }

  void add_tile(int p, bool exact) noexcept {
    const Arithmetic& arithmetic = plan_.arithmetic;
    const bool scored = moves_.scored();
    const KeyRange range = block_.score(p, exact, scored && plan_.links.has_gradient() ? link_kept_ : nullptr);
    if (range.empty()) return;
    const int32_t vectors = block_.vectors(p), width = vectors * arithmetic.lanes;
    const int64_t count = range.count();
    const bool careful = exact && range.hidden;
    const LoadedRows values = block_.values(range.begin, careful);
    char* const weights = block_.scores();
    if (scored)
      select(p, range, moves_.score(block_, p, range, link_kept_));
    else
      select_still(p, range, values);
    const auto add = [&](const void* cells, const LoadedRows& rows, const Rows& as_they_lie, const T* alpha, T* to,
                         const Prefetch& ahead) {
      arithmetic.weighted_sum(cells, vectors, rows, count, p_.value_size, alpha, to, block_.partial(), ahead);
      if (careful) arithmetic.add_not_finite(cells, width, as_they_lie, count, p_.value_size, range.bits, to, width, 1);
    };
    if (scored)
      add(moves_.tangents(), values, block_.value_rows(range.begin), alpha_, moved(p),
          p_.answered ? block_.values_ahead(p) : Prefetch{});
    if (p_.t_value)
      add(weights, moves_.values(block_, range.begin, careful), moves_.value_rows(block_, range.begin),
          scored ? ones_ : alpha_, moved(p), block_.next_tile_of(p_.t_value, p_.value_size, p));
    if (!p_.answered) add(weights, values, block_.value_rows(range.begin), alpha_, output(p), block_.values_ahead(p));
  }

  // The scores become weights, and their tangents weights times tangents.
  void select(int p, const KeyRange& range, const T* more) noexcept {
    const Arithmetic& arithmetic = plan_.arithmetic;
    const int32_t vectors = block_.vectors(p);
    const int64_t count = range.count();
    arithmetic.soft_tangent(block_.scores(), moves_.tangents(), more, vectors, count, block_.softmax_scale(),
                            moves_.factor(), block_.row_max(), m_ + p * width_, l_ + p * width_,
                            with_exact() ? exact_ + p * width_ : nullptr, d(p), d_exact(p), alpha_);
    const auto both = [&](auto&& f) {
      f(static_cast<void*>(block_.scores()));
      f(static_cast<void*>(moves_.tangents()));
    };
    if (p_.sigma > 0) {
      const Gaussian gaussian = block_.gaussian(p, range);
      both([&](void* cells) { arithmetic.multiply_gaussian(cells, vectors, count, gaussian); });
    }
    if (!dropout_.any()) return;
    const uint32_t* const kept = dropout_.kept(block_.panel(p), block_.batch(), block_.key_of(range), count);
    both([&](void* cells) { arithmetic.clear_unset(cells, vectors, count, kept); });
  }

  // Where no score moves.
  void select_still(int p, const KeyRange& range, const LoadedRows& values) noexcept {
    Base::select(p, range, values);
    for (int i = 0; i < width_; ++i) d(p)[i] *= alpha_[i];
    for (int i = 0; with_exact() && i < width_; ++i) d_exact(p)[i] *= alpha_[i];
  }

  // Divides by l and writes, both; whether all is finite.
  bool finish(int p) noexcept {
    const bool finite = p_.answered ? take_answer(p) : Base::finish(p);  // from here on alpha is what divides
    const Panel& panel = block_.panel(p);
    const int64_t width = block_.vectors(p) * plan_.arithmetic.lanes;
    const T *l = l_ + p * width_, *exact = with_exact() ? exact_ + p * width_ : l;
    const T* const sums = with_exact() ? d_exact(p) : d(p);
    char* const out = block_.base(p_.t_out);
    char* const lses = p_.t_lse ? block_.base(p_.t_lse) : nullptr;
    char* rows[most_lanes];
    T share[most_lanes] = {};
    for (int i = 0; i < panel.live; ++i) {
      const bool seen = panel.seen >> i & 1;
      if (seen) share[i] = d(p)[i] / l[i];
      rows[i] = block_.row(p_.t_out, out, p, i);
      if (!p_.t_lse) continue;
      const T d_lse = seen ? sums[i] / exact[i] : sink_tangent(p, i);
      std::memcpy(block_.row(p_.t_lse, lses, p, i), &d_lse, sizeof d_lse);
    }
    T* const tangent = moved(p);
    const T* const answer = output(p);
    for (int64_t c = 0; c < p_.value_size; ++c)
      for (int64_t i = 0; i < width; ++i) tangent[c * width + i] -= share[i] * answer[c * width + i];
    return plan_.arithmetic.store_rows(tangent, block_.vectors(p), p_.value_size, alpha_, panel.live, block_.scratch(),
                                       rows, dtype_of(p_.t_out), p_.t_out.column_stride) &&
           finite;
  }

  // In place of Base::finish, the output as it is given, times l again.
  bool take_answer(int p) noexcept {
    const Panel& panel = block_.panel(p);
    const int64_t width = block_.vectors(p) * plan_.arithmetic.lanes;
    const T factor = T(dropout_.factor());
    char* const out = block_.base(p_.out);
    T *const row = static_cast<T*>(block_.scratch()), *const to = output(p);
    for (int i = 0; i < width_; ++i) {
      const bool seen = i < panel.live && (panel.seen >> i & 1);
      alpha_[i] = seen ? factor / l_[p * width_ + i] : T(0);
      if (!seen) continue;
      const Rows rows = {block_.row(p_.out, out, p, i), dtype_of(p_.out), 0, p_.out.column_stride};
      plain_arithmetic(plan_).load_values(rows, 1, p_.value_size, false, row);
      for (int64_t c = 0; c < p_.value_size; ++c) to[c * width + i] = row[c] / alpha_[i];
    }
    return true;
  }

  const Problem& p_;
  TangentOperands<T> moves_;
  T *moved_, *d_, *d_exact_, *ones_;
  char* link_kept_;
};

}  // namespace

fv_status attention_tangent(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels());
  const double cells = double(plan.batches) * double(plan.rows) * double(plan.widest_window);
  const double flops = 6.0 * cells * double(problem.head_size + problem.value_size);
  const int64_t bytes =
      2 * (plan.scoring.panel_size(problem.head_size) + problem.value_size * plan.arithmetic.element_size);
  return plan.arithmetic.element_size == 8 ? run_blocks<double, ForwardTangent>(plan, bytes, flops, error)
                                           : run_blocks<float, ForwardTangent>(plan, bytes, flops, error);
}

}  // namespace foveate
