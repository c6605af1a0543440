// What the drivers of hard attention share: where the random numbers of a query are counted, and how a choice is written.
//   log_prob = log P(key) = log w + scale (m' - m) - log l,   with the weight w and the maximum m' when it was chosen.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "drivers/common/leading_index.hpp"
#include "drivers/common/prefetch.hpp"
#include "drivers/common/query_block.hpp"
#include "drivers/common/rows.hpp"
#include "runtime/random.hpp"
#include "runtime/workspace.hpp"

namespace foveate {

static_assert(kKeysANumber == default_tile_keys);
constexpr int64_t random_words = 4;  // tiles of keys that one block of random numbers serves

// Few queries against many keys, as soft/few_queries.hpp is to soft attention; the draws are the same, up to rounding.
fv_status hard_attention_of_few(const Problem&, fv_error*) noexcept;
fv_status several_choices(const Problem&, fv_error*) noexcept;  // top.cpp, and of few queries top_of_few.cpp
fv_status several_choices_of_few(const Problem&, fv_error*) noexcept;

// A query's outputs, and the values to choose from.
struct Cells {
  char *index, *log_prob, *out;
  StoredRows values;
};

template <class T>
class Choices {
 public:
  Choices(const Plan& plan, Carver& carver) noexcept
      : plan_(plan),
        problem_(plan.problem),
        plain_(sizeof(T) == 8 ? plan.kernels.float64 : plan.kernels.float32),
        philox_(problem_.random.key[0], problem_.random.key[1]),
        leading_index_(plan) {
    value_ = carver.take<T>(problem_.value_size);
  }

  bool sampled() const { return problem_.selection == FV_SAMPLE; }

  int64_t lead(int64_t batch, int64_t group) const { return leading_index_.of(batch, group); }
  // The number of a tile, where random numbers are counted.
  int64_t counted(int64_t tile) const { return tile + problem_.first_key / default_tile_keys; }
  // The numbers of tiles block * random_words and on.
  RandomBlock numbers(int64_t block, int64_t draw, int64_t query, int64_t lead) const {
    return philox_(Stream::hard_attention, uint64_t(block), uint64_t(draw), uint64_t(query + problem_.first_row),
                   uint64_t(lead));
  }

  // key: -1 where none was chosen. m, log_l: of all keys that are seen.
  void write(const Cells& cells, int64_t draw, int64_t key, double weight, double chosen_m, double m, double log_l,
             bool seen) noexcept {
    const bool chosen = key >= 0 && log_l == log_l;  // else nothing is seen, or NaN is
    const int64_t index = chosen ? key : -1;
    T log_prob = seen ? std::numeric_limits<T>::quiet_NaN() : T(0);
    if (problem_.before && !chosen && std::isfinite(log_l)) {
      write(cells, draw, -1, -std::numeric_limits<T>::infinity(), T(0));
      return;
    }
    if (chosen && problem_.gives_scores) {
      write(cells, draw, index, std::log(weight) + chosen_m * unit(), T(0));
      return;
    }
    if (chosen) log_prob = T(std::log(weight) - log_l + (chosen_m - m) * plan_.softmax_scale() * ln_2);
    write(cells, draw, index, double(log_prob), log_prob);
  }

  // A softmax's m and l before the first tile of a query: of the keys before these.
  void start_behind(const char* before, T* m, T* l) const noexcept {
    *m = T(sum_at(before, 1));
    *l = T(sum_at(before, 2));
  }
  void write_sums(char* after, double m, double l) const noexcept {
    const double sums[3] = {l == 0 ? -std::numeric_limits<double>::infinity() : m * unit() + std::log(l), m, l};
    for (int i = 0; i < 3; ++i) std::memcpy(after + i * problem_.after.column_stride, &sums[i], sizeof sums[i]);
  }

  // Asks for the value of a key that is written soon: these stand anywhere. In line, since GCC 12 drops calls of a function
  // that does nothing but prefetch.
  [[gnu::always_inline]] void fetch(const Cells& cells, int64_t key) const {
    constexpr int64_t most_fetched = 64;  // lines of a row
    const Operand& value = problem_.choices;
    const Prefetch::Part row =
        lines_of(cells.values.row(key).data, {problem_.value_size, value.column_stride}, item_size(value));
    const int64_t lines = std::min(row.touches, most_fetched);
    for (int64_t at = 0; at < lines; ++at) __builtin_prefetch(row.row + at * row.step);
  }

  // Where all keys that are seen were chosen before.
  void write_none(const Cells& cells, int64_t draw, double log_l, bool seen) noexcept {
    constexpr T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
    const bool none = seen && !(log_l > -std::numeric_limits<double>::infinity());  // there is no distribution
    write(cells, draw, -1, none ? nan : -infinity, none ? nan : T(0));
  }

 private:
  double unit() const { return plan_.softmax_scale() * ln_2; }
  double sum_at(const char* before, int64_t i) const {
    double number;
    std::memcpy(&number, before + i * problem_.before.column_stride, sizeof number);
    return number;
  }

  void write(const Cells& cells, int64_t draw, int64_t index, double log_prob, T otherwise) noexcept {
    std::memcpy(cells.index + draw * problem_.index.column_stride, &index, sizeof index);
    char* const to = cells.log_prob + draw * problem_.log_prob.column_stride;
    const T rounded = T(log_prob);
    if (problem_.gives_scores)
      std::memcpy(to, &log_prob, sizeof log_prob);
    else
      std::memcpy(to, &rounded, sizeof rounded);
    write_value(index >= 0 ? cells.values.row(index) : Rows{}, otherwise, cells.out + draw * problem_.out_draw_stride);
  }

  // A row of the values; without one all columns are `otherwise`.
  void write_value(const Rows& row, T otherwise, char* to) noexcept {
    const Operand &value = problem_.choices, &out = problem_.out;
    const int64_t size = problem_.value_size;
    const int64_t item = item_size(value);
    if (row.data && value.dtype == out.dtype && value.column_stride == item && out.column_stride == item) {
      std::memcpy(to, row.data, size_t(size * item));
      return;
    }
    if (row.data)
      plain_.load_values(row, 1, size, false, value_);
    else
      for (int64_t d = 0; d < size; ++d) value_[d] = otherwise;
    plain_.store_row(value_, size, to, dtype_of(out), out.column_stride);
  }

  const Plan& plan_;
  const Problem& problem_;
  const Arithmetic& plain_;
  Philox philox_;
  LeadingIndex leading_index_;
  T* value_;
};

// Runs Worker<T> over all blocks of queries. The grid of tiles decides what is drawn.
template <template <class> class Worker>
fv_status run_choices(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), {.windows = Windows::on_grid, .tile_keys = default_tile_keys});
  const double flops =
      2.0 * double(plan.batches) * double(plan.rows) * double(problem.keys) * double(problem.head_size);
  return plan.arithmetic.element_size == 8
             ? run_blocks<double, Worker>(plan, Worker<double>::bytes_a_query(plan), flops, error)
             : run_blocks<float, Worker>(plan, Worker<float>::bytes_a_query(plan), flops, error);
}

}  // namespace foveate
