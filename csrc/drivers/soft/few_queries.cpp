// Few queries against many keys, bound by memory: the keys are split into chunks of fixed size, whose answers are merged in
// order, so that any number of threads gives the same bits.
#include "few_queries.hpp"

#include <cmath>

#include "few_softmax.hpp"

namespace foveate {
namespace {

constexpr int64_t chunk_keys = 2048;  // a unit of work for a thread
// Keys of a tile, then its values, in long streams, since each begins slowly. Of long rows a tile stays in L2: the values of
// latent attention are a view of the keys, and come from there.
constexpr int64_t long_row = 256;
int64_t tile_of(const Problem& p) { return std::clamp<int64_t>(p.keys, 1, p.head_size > long_row ? 256 : 1024); }

template <class T>
class Decode : private FewSoftmax<T> {
 public:
  explicit Decode(Plan& plan) noexcept : Base(plan, tile_of(plan.problem), true), plan_(plan) {
    chunks_ = std::max<int64_t>(1, (p_.keys + chunk_keys - 1) / chunk_keys);
    values_contiguous_ = this->is_contiguous(p_.value);
    values_by_digits_ = digits_ && digits_->takes_values(dtype_of(p_.value), p_.value_block);
    values_by_pairs_ = pairs_ && dtype_of(p_.value) == Dtype::bfloat16;
  }

  fv_status run(fv_error* error) noexcept {
    const int64_t tasks = plan_.batches * row_blocks_ * chunks_;
    const double cells = double(plan_.batches) * double(plan_.rows) * double(p_.keys);
    const int threads = threads_for(tasks, 2.0 * cells * double(p_.head_size + p_.value_size));
    const int64_t rows = plan_.batches * plan_.rows;
    return this->with_scratch(
        plan_, threads, error, [&](Carver& carver) { carve_partial(carver, chunks_ > 1 ? rows * chunks_ : 0); },
        [&](Carver& carver) { return Scratch(*this, carver); },
        [&](auto&& scratch_of) {
          const bool done = run_tasks(tasks, threads, Order::by_ranges, [&](const Task& task) {
            const KernelSession session(arithmetic_);
            Scratch scratch = scratch_of(task);
            chunk(task.index, scratch);
          });
          if (!done || chunks_ == 1) return done;
          return run_tasks(rows, threads, Order::by_ranges, [&](const Task& row) {
            const KernelSession session(arithmetic_);
            merge(row.index);
          });
        });
  }

 private:
  using Base = FewSoftmax<T>;
  using Base::arithmetic_;
  using Base::count_of_digits_;
  using Base::digits_;
  using Base::p_;
  using Base::pairs_;
  using Base::row_blocks_;
  using Base::tile_;
  using Base::value_stride_;
  using typename Base::Scratch;

  void carve_partial(Carver& carver, int64_t count) {
    partial_ = carver.take<T>(count * value_stride_);
    partial_m_ = carver.take<T>(count);
    partial_l_ = carver.take<T>(count);
    partial_seen_ = carver.take<uint8_t>(count);
  }

  void chunk(int64_t task, Scratch& scratch) noexcept {
    const int64_t chunk = task % chunks_;
    const int64_t batch = task / chunks_ / row_blocks_;
    const int64_t first_row = task / chunks_ % row_blocks_ * task_rows;
    const int query_groups = this->start(batch, first_row, scratch);
    pass(batch, chunk, 0, query_groups, false, scratch);
    for (int i = 0; i < query_groups; ++i) {
      if (scratch.panels[i].hidden && !this->all_finite(i, scratch)) pass(batch, chunk, i, i + 1, true, scratch);
      for (int32_t q = 0; q < scratch.panels[i].live; ++q)
        finish(batch, chunk, first_row + i * query_group + q, i, q, scratch);
    }
  }

  // The keys of a chunk against the query groups first..last-1. exact: values that are not finite are left out of the sum,
  // and added for the queries that see them.
  void pass(int64_t batch, int64_t chunk, int first, int last, bool exact, Scratch& scratch) noexcept {
    int64_t begin = p_.keys, end = 0;
    for (int i = first; i < last; ++i) {
      begin = std::min(begin, scratch.panels[i].low_first);
      end = std::max(end, scratch.panels[i].high_last);
      this->reset(batch, i, chunk == 0, scratch);
    }
    const StoredRows stored_rows(plan_, stored_values(p_), batch);
    begin = std::max(begin, chunk * chunk_keys);
    end = std::min(end, (chunk + 1) * chunk_keys);
    for (Traversal tiles = Traversal::grid({begin, end}, tile_, p_.keys); !tiles.done(); tiles.next()) {
      const KeyTile tile = tiles.tile();
      if (!this->sees_some(tile, first, last, scratch)) continue;
      const Rows keys = this->keys_of(batch, tile, scratch);
      const Rows stored = stored_rows.in_pages(tile.first, tile.count, scratch.value_list);
      Rows values = stored;
      if (exact || !values_contiguous_) {
        values = this->loaded(stored, tile.count, p_.value_size, exact, !exact, scratch.values);
        if (values_by_pairs_) values = this->narrowed(values, tile.count, p_.value_size, scratch.values);
      }
      TileIds ids;
      KeyRange seen[task_groups];
      for (int i = first; i < last; ++i) seen[i] = this->scores(i, tile, keys, ids, scratch);
      for (int i = first; i < last; ++i)
        if (!seen[i].empty())
          select(i, seen[i], values.from(seen[i].begin), exact ? stored.from(seen[i].begin) : Rows{}, scratch);
    }
  }

  // The scores of a tile become weights, and their sum of the values of its range. stored: where some may be not finite,
  // which were left out of `values`, the values as they stand.
  void select(int i, const KeyRange& range, const Rows& values, const Rows& stored, Scratch& scratch) noexcept {
    const Panel& panel = scratch.panels[i];
    const int32_t queries = this->width(panel);
    const int64_t count = range.count();
    T* s = this->scores_of(i, scratch);
    T* output = this->output_of(i, scratch);
    arithmetic_.decode_soft(s, queries, count, plan_.softmax_scale(), scratch.m + i * query_group,
                            scratch.l + i * query_group, output, value_stride_, p_.value_size);
    if (values_by_digits_ && is_few_bits(values.dtype))
      digits_->sum(s, queries, count_of_digits_, values, count, p_.value_size, output, value_stride_);
    else if (values_by_pairs_)
      pairs_->sum(s, queries, values, count, p_.value_size, output, value_stride_);
    else
      arithmetic_.decode_sum(s, queries, values, count, p_.value_size, output, value_stride_);
    if (stored.data)
      this->add_not_finite(i, this->scores_of(i, scratch), range.hidden ? scratch.bits : nullptr, stored, range.count(),
                           scratch);
  }

  // Writes the answer, or keeps the chunk's part of it.
  void finish(int64_t batch, int64_t chunk, int64_t row, int i, int32_t q, const Scratch& scratch) noexcept {
    const Panel& panel = scratch.panels[i];
    const bool seen = panel.seen >> q & 1;
    const T m = scratch.m[i * query_group + q], l = scratch.l[i * query_group + q];
    T* output = scratch.outputs + (i * query_group + q) * value_stride_;
    if (chunks_ == 1) {
      this->write(batch, panel, q, seen, m, l, output);
      return;
    }
    const int64_t at = (batch * plan_.rows + row) * chunks_ + chunk;
    std::copy_n(output, p_.value_size, partial_ + at * value_stride_);
    partial_m_[at] = m;
    partial_l_[at] = l;
    partial_seen_[at] = seen;
  }

  // The chunks of one row, in order.
  void merge(int64_t index) noexcept {
    const int64_t batch = index / plan_.rows, row = index % plan_.rows;
    Panel panel;
    start_panel(plan_, batch, row, 1, panel);
    const T* m = partial_m_ + index * chunks_;
    const T* l = partial_l_ + index * chunks_;
    T* parts = partial_ + index * chunks_ * value_stride_;
    bool seen = false;
    T top = -std::numeric_limits<T>::infinity();
    for (int64_t c = 0; c < chunks_; ++c) {
      seen = seen || partial_seen_[index * chunks_ + c];
      top = m[c] > top ? m[c] : top;
    }
    const T offset = top == -std::numeric_limits<T>::infinity() ? T(0) : top;
    T sum = 0;
    for (int64_t c = 0; c < chunks_; ++c) {
      // a chunk of which nothing is seen adds nothing
      if (!partial_seen_[index * chunks_ + c] && l[c] == T(0)) {
        if (c == 0) std::fill_n(parts, p_.value_size, T(0));
        continue;
      }
      const T factor = std::exp2((m[c] - offset) * T(plan_.softmax_scale()));
      sum += l[c] * factor;
      const T* part = parts + c * value_stride_;
      for (int64_t d = 0; d < p_.value_size; ++d) parts[d] = (c == 0 ? T(0) : parts[d]) + part[d] * factor;
    }
    this->write(batch, panel, 0, seen, top, sum, parts);
  }

  Plan& plan_;
  int64_t chunks_;
  bool values_contiguous_, values_by_digits_, values_by_pairs_;
  T *partial_ = nullptr, *partial_m_ = nullptr, *partial_l_ = nullptr;
  uint8_t* partial_seen_ = nullptr;
};

}  // namespace

fv_status decode(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), needs_of_few);
  return plan.arithmetic.element_size == 8 ? Decode<double>(plan).run(error) : Decode<float>(plan).run(error);
}

}  // namespace foveate
