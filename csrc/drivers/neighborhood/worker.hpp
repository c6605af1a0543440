// What the passes over a grid share: scores of strips with what a block sees, in columns, and sums of rows by weights.
#pragma once
#include <cstring>
#include <functional>
#include <initializer_list>

#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"
#include "stencil.hpp"

namespace foveate {

template <class T>
class StencilWorker {
 public:
  // columns: of the wider one of both operands that are seen; packed: of the widest row of a block.
  StencilWorker(const Plan& plan, const Stencil& stencil, int64_t columns, int64_t packed, Carver& carver) noexcept
      : plan_(plan),
        arithmetic_(plan.arithmetic),
        kernels_(sizeof(T) == 8 ? *plan.kernels.stencils_float64 : *plan.kernels.stencils_float32),
        stencil_(stencil),
        lanes_(plan.arithmetic.lanes) {
    first_ = carver.take<SeenPlaces>(stencil.most_rows());
    addresses_ = carver.take<const char*>(std::max(stencil.row_stride(), stencil.most_rows() * lanes_));
    ahead_ = carver.take<const char*>(most_ahead);
    of_block_ = carver.take<void*>(stencil.most_rows());
    of_cells_ = carver.take<void*>(stencil.most_rows());
    const int64_t most_parts = (stencil.most_rows() + most_sum_slots - 1) / most_sum_slots;
    steps_ = carver.take<SumStep>(stencil.most_seen_rows() * most_parts);
    step_runs_ = carver.take<StepRun>(stencil.most_seen_rows() * most_parts);
    weight_at_ = carver.take<int32_t>(lanes_ * stencil.most_window());
    partial_ = carver.take<T>(stencil.most_rows() * lanes_ * whole(packed));
    gathered_ = carver.take<T>(columns * stencil.most_window() * lanes_);
    scratch_ = carver.take<T>(std::max(columns, packed) * lanes_);
    seen_ = carver.take<uint32_t>(stencil.most_cells());
  }

 protected:
  int64_t cells_stride() const { return stencil_.most_cells() * lanes_; }
  // With what a gathered vector reads beyond the last column.
  int64_t seen_size(int64_t columns) const {
    return stencil_.most_seen_rows() * columns * stencil_.row_stride() + lanes_;
  }
  int64_t whole(int64_t columns) const { return (columns + lanes_ - 1) / lanes_ * lanes_; }

  void start(int64_t task) noexcept {
    for (int64_t lane = 0, n = 0; lane < lanes_; ++lane)
      for (int64_t e = 0; e < stencil_.most_window(); ++e) weight_at_[n++] = int32_t(e * lanes_ + lane);
    block_ = stencil_.block(task);
    steps_of_ = nullptr;
    batch_ = block_.head / plan_.groups;
    group_ = block_.head % plan_.groups;
    for (int64_t i = 0; i < block_.rows; ++i) {
      first_[i] = stencil_.seen(1, y_of(i));
      first_[i].first /= stencil_.axis(1).dilation;
    }
  }
  int64_t y_of(int64_t i) const { return (block_.first_row + i) * stencil_.axis(1).dilation + block_.group; }
  int64_t place_of(const Strip& strip, int64_t i, int32_t lane) const {
    return stencil_.row_of(block_.z, y_of(i)) + strip.place[lane];
  }
  int64_t cells_of(const Strip& strip, int64_t i) const { return block_.seen_z.count * first_[i].count * strip.window; }

  // f(number, place) of each row that the block sees, `place` its first one.
  template <class F>
  void each_seen_row(F&& f) const {
    int64_t number = 0;
    for (int64_t z = 0; z < block_.seen_z.count; ++z)
      for (int64_t y = block_.low; y < block_.high; ++y)
        f(number++, stencil_.row_of(block_.seen_z.first + z * stencil_.axis(0).dilation,
                                    y * stencil_.axis(1).dilation + block_.group));
  }

  // What the block sees of an operand, in columns: [row][column][place]; `extra` more of them are left free.
  void load_seen(const Operand& x, int64_t columns, int64_t extra, T* to) noexcept {
    const Chunk& chunk = *block_.chunk;
    const char* const base = plan_.row(x, batch_, group_, 0);
    each_seen_row([&](int64_t number, int64_t place) {
      for (int64_t c = 0; c < chunk.columns; ++c) addresses_[c] = base + (place + chunk.column + c) * x.row_stride;
      kernels_.load_places(addresses_, dtype_of(x), x.column_stride, chunk.columns, columns, 1, scratch_,
                           stencil_.row_stride(), lanes_, to + number * (columns + extra) * stencil_.row_stride());
    });
  }

  // What the products of strip s fetch ahead: of the first operands what the next strip packs, here or in the block below;
  // of the others its share of the rows that the block below will see.
  void fetch_next(int64_t s, std::initializer_list<std::reference_wrapper<const Operand>> own,
                  std::initializer_list<std::reference_wrapper<const Operand>> seen) noexcept {
    const Chunk& chunk = *block_.chunk;
    const int64_t step = stencil_.axis(1).dilation, end = (stencil_.axis(1).length - 1 - block_.group) / step + 1;
    const bool last = s + 1 == chunk.strips;
    const Strip& next = stencil_.strip(chunk.first_strip + (last ? 0 : s + 1));
    const int64_t vectors = (chunk.columns + lanes_ - 1) / lanes_, rows = block_.rows;
    ahead_count_ = 0;
    const auto fetch = [&](const Operand& x, int64_t z, int64_t y, int64_t column) {
      if (y < end && ahead_count_ < most_ahead)
        ahead_[ahead_count_++] = plan_.row(x, batch_, group_, stencil_.row_of(z, y * step + block_.group) + column);
    };
    for (const Operand& x : seen)
      for (int64_t n = rows * vectors * s / chunk.strips; n < rows * vectors * (s + 1) / chunk.strips; ++n)
        fetch(x, block_.seen_z.first, block_.high + n / vectors, chunk.column + n % vectors * lanes_);
    for (const Operand& x : own)
      for (int64_t i = 0; i < rows; ++i) fetch(x, block_.z, block_.first_row + i + (last ? rows : 0), next.place[0]);
  }

  // The block's own rows of an operand on the lanes of a strip: to[i][column][lane], `stride` apart.
  void pack(const Strip& strip, const Operand& x, int64_t columns, double factor, int64_t stride, T* to) noexcept {
    const char* const base = plan_.row(x, batch_, group_, 0);
    for (int64_t i = 0; i < block_.rows; ++i)
      for (int64_t lane = 0; lane < lanes_; ++lane)  // those that are not live hold what another does
        addresses_[i * lanes_ + lane] = base + place_of(strip, i, lane < strip.live ? int32_t(lane) : 0) * x.row_stride;
    kernels_.load_places(addresses_, dtype_of(x), x.column_stride, block_.rows * lanes_, columns, factor, scratch_,
                         lanes_, stride, to);
  }

  // cells[i] = the products of the block's rows with the first `columns` of those that there are of what they see.
  void scores(const Strip& strip, const T* rows, int64_t stride, const T* seen, int64_t columns, int64_t of_columns,
              T* cells) noexcept {
    products(strip, rows, stride, seen, columns, of_columns, cells,
             [&](int64_t count, const T* at, int64_t column_stride, int64_t step) {
               const char* ahead[2];
               for (const char*& place : ahead)
                 place = ahead_count_ > 0 ? ahead_[--ahead_count_] : static_cast<const char*>(of_block_[0]);
               kernels_.place_scores(of_block_, int32_t(count), at, column_stride, step, columns, strip.window,
                                     of_cells_, ahead);
             });
  }

  // Rows that sums are made of, or that they are: as they stand in memory, or in whole vectors of T.
  class SumRows {
   public:
    SumRows() = default;
    SumRows(const StencilWorker& worker, const Operand& x, int64_t columns, int64_t rows, Carver& carver) noexcept
        : x_(&x), columns_(columns), whole_(worker.whole(columns)) {
      constexpr Dtype own = sizeof(T) == 8 ? Dtype::float64 : Dtype::float32;
      in_place_ = dtype_of(x) == own && x.column_stride == sizeof(T) && columns == whole_;
      if (!in_place_) room_ = carver.take<T>(rows * whole_);
    }
    const Operand& operand() const { return *x_; }
    bool in_place() const { return in_place_; }
    int64_t columns() const { return columns_; }
    int64_t whole() const { return whole_; }
    T* row(int64_t number) const { return room_ + number * whole_; }
    int64_t step() const { return in_place_ ? x_->row_stride : whole_ * int64_t(sizeof(T)); }

   private:
    const Operand* x_ = nullptr;
    int64_t columns_ = 0, whole_ = 0;
    bool in_place_ = true;
    T* room_ = nullptr;
  };
  SumRows seen_rows(const Operand& x, int64_t columns, Carver& carver) const noexcept {
    return {*this, x, columns, stencil_.most_seen_rows() * stencil_.most_columns(), carver};
  }
  SumRows answer_rows(const Operand& x, int64_t columns, Carver& carver) const noexcept {
    return {*this, x, columns, stencil_.most_rows() * lanes_, carver};
  }

  // What the block sees of an operand, as rows.
  void load_rows(const SumRows& rows) noexcept {
    if (rows.in_place()) return;
    const Operand& x = rows.operand();
    const Chunk& chunk = *block_.chunk;
    const char* const base = plan_.row(x, batch_, group_, 0);
    const int64_t at_once = rows.columns() == rows.whole() ? chunk.columns : 1;
    each_seen_row([&](int64_t number, int64_t place) {
      for (int64_t c = 0; c < chunk.columns; c += at_once)
        arithmetic_.load_values(
            {base + (place + chunk.column + c) * x.row_stride, dtype_of(x), x.row_stride, x.column_stride}, at_once,
            rows.columns(), false, rows.row(number * stencil_.most_columns() + c));
    });
  }

  // answers = the sums of these by cells[i], times factors[i][lane].
  void sums(const Strip& strip, const T* cells, const SumRows& rows, const SumRows& answers, const T* factors,
            int64_t factor_stride) noexcept {
    if (steps_of_ != &answers || steps_window_ != strip.window) {  // else as of the strip before
      run_count_ = make_steps(strip, cells, rows, answers, factors, factor_stride);
      steps_of_ = &answers;
      steps_window_ = strip.window;
    }
    SumPlace places[most_lanes];
    for (int32_t lane = 0; lane < strip.live; ++lane) {
      const SeenPlaces& seen = stencil_.seen_by(strip.place[lane]);
      const int64_t column = rows.in_place() ? seen.first : seen.first - block_.chunk->column;
      const int64_t answer = answers.in_place() ? strip.place[lane] : lane;
      places[lane] = {column * rows.step(),
                      answer * answers.step(),
                      lane * answers.whole(),
                      lane,
                      weight_at_ + lane * stencil_.most_window(),
                      seen.count};
    }
    const SumStep* steps = steps_;
    for (int64_t r = 0; r < run_count_; ++r) {
      kernels_.sum_steps(steps, step_runs_[r].count, step_runs_[r].slots, places, strip.live,
                         stencil_.step() * rows.step(), answers.whole());
      steps += step_runs_[r].count;
    }
    if (answers.in_place()) return;
    const Operand& x = answers.operand();
    char* const base = plan_.row(x, batch_, group_, 0);
    for (int64_t i = 0; i < block_.rows; ++i)
      for (int32_t lane = 0; lane < strip.live; ++lane)
        arithmetic_.store_row(answers.row(i * lanes_ + lane), answers.columns(),
                              base + place_of(strip, i, lane) * x.row_stride, dtype_of(x), x.column_stride);
  }

  // The cells that lanes do not see, as hide_unset takes them: null where there are none.
  const uint32_t* hidden(const Strip& strip) noexcept {
    if (!strip.hidden) return nullptr;
    for (int64_t c = 0; c < stencil_.most_cells(); ++c) seen_[c] = strip.seen[c % strip.window];
    return seen_;
  }

  const Plan& plan_;
  const Arithmetic& arithmetic_;
  const StencilKernels& kernels_;
  const Stencil& stencil_;
  int64_t lanes_;
  Block block_{};
  int64_t batch_ = 0, group_ = 0;
  static constexpr int64_t most_ahead = 256;
  const char** ahead_;
  int64_t ahead_count_ = 0;
  SeenPlaces* first_;  // of each row of the block, in places of its group
  T* scratch_;

 private:
  // run(count, at, stride, step) for each row that is seen, with the block's rows that see it, and their cells.
  template <class Cells, class Run>
  void products(const Strip& strip, const T* rows, int64_t stride, const T* seen, int64_t columns, int64_t of_columns,
                const Cells* cells, Run&& run) noexcept {
    const int64_t row_stride = stencil_.row_stride(), high = block_.high - block_.low;
    const bool moves = strip.run_count == 0;
    seen -= block_.chunk->column;
    for (int64_t z = 0; z < block_.seen_z.count; ++z) {
      int64_t low = 0, end = 0;
      for (int64_t y = block_.low; y < block_.high; ++y) {
        while (low < block_.rows && first_[low].first + first_[low].count <= y) ++low;
        end = std::max(end, low);
        while (end < block_.rows && first_[end].first <= y) ++end;
        if (low == end) continue;
        for (int64_t i = low; i < end; ++i) {
          const int64_t row = z * first_[i].count + y - first_[i].first;
          of_block_[i - low] = const_cast<T*>(rows + i * stride);
          of_cells_[i - low] = const_cast<T*>(cells + i * cells_stride() + row * strip.window * lanes_);
        }
        const T* const at = seen + (z * high + y - block_.low) * of_columns * row_stride;
        if (moves) {
          run(end - low, at + strip.column, row_stride, stencil_.step());
        } else {
          kernels_.gather_places(at, row_stride, columns, strip.runs, strip.run_count, strip.seen, strip.window,
                                 stencil_.step(), gathered_);
          run(end - low, gathered_, strip.window * lanes_, lanes_);
        }
      }
    }
  }

  struct StepRun {
    int64_t count;
    int32_t slots;
  };

  // The rows that are seen, as steps, in runs of which as many rows of the block see each, slots of them at a time: a row
  // that sees another is followed by the next one that does not see that one.
  int64_t make_steps(const Strip& strip, const T* cells, const SumRows& rows, const SumRows& answers, const T* factors,
                     int64_t factor_stride) noexcept {
    const char* const values = rows.in_place() ? plan_.row(rows.operand(), batch_, group_, 0) : nullptr;
    char* const to = answers.in_place() ? plan_.row(answers.operand(), batch_, group_, 0) : nullptr;
    SumStep* step = steps_;
    int64_t run_count = 0;
    for (int64_t z = 0; z < block_.seen_z.count; ++z) {
      int64_t low = 0, high = 0;  // the rows that see y
      const auto seen_from = [&](int64_t y) {
        while (low < block_.rows && first_[low].first + first_[low].count <= y) ++low;
        high = std::max(high, low);
        while (high < block_.rows && first_[high].first <= y) ++high;
        return high - low;
      };
      for (int64_t y = block_.low; y < block_.high;) {
        const int64_t begin = y, first_low = low, first_high = high, count = seen_from(y);
        for (++y; y < block_.high && seen_from(y) == count;) ++y;
        if (count == 0) continue;
        const int64_t parts = (count + most_sum_slots - 1) / most_sum_slots;
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t first_slot = count * part / parts, slots = count * (part + 1) / parts - first_slot;
          step_runs_[run_count++] = {y - begin, int32_t(slots)};
          low = first_low;
          high = first_high;
          for (int64_t at = begin; at < y; ++at, ++step) {
            seen_from(at);
            const int64_t number = z * (block_.high - block_.low) + at - block_.low;
            const int64_t place = stencil_.row_of(block_.seen_z.first + z * stencil_.axis(0).dilation,
                                                  at * stencil_.axis(1).dilation + block_.group);
            step->values = rows.in_place() ? values + place * rows.step()
                                           : reinterpret_cast<const char*>(rows.row(number * stencil_.most_columns()));
            step->begin = step->resume = step->leave = step->end = 0;
            for (int64_t slot = 0; slot < slots; ++slot) {
              const int64_t i = low + (first_slot + slot + count - low % count) % count;
              const SeenPlaces& y_seen = first_[i];
              const uint32_t bit = uint32_t(1) << slot;
              const bool first = at == y_seen.first, last = at == y_seen.first + y_seen.count - 1;
              if (first && z == 0)
                step->begin |= bit;
              else if (first || at == begin)
                step->resume |= bit;
              if (last && z == block_.seen_z.count - 1)
                step->end |= bit;
              else if (last || at == y - 1)
                step->leave |= bit;
              const int64_t row = z * y_seen.count + at - y_seen.first;
              step->weights[slot] = cells + i * cells_stride() + row * strip.window * lanes_;
              step->sums[slot] = partial_ + i * lanes_ * answers.whole();
              step->factors[slot] = factors + i * factor_stride;
              step->answers[slot] = to ? to + stencil_.row_of(block_.z, y_of(i)) * answers.step()
                                       : reinterpret_cast<char*>(answers.row(i * lanes_));
            }
          }
        }
      }
    }
    return run_count;
  }

  const char** addresses_;
  SumStep* steps_;
  StepRun* step_runs_;
  int64_t run_count_ = 0;
  const SumRows* steps_of_ = nullptr;  // the answers of the steps that were made last
  int64_t steps_window_ = 0;
  int32_t* weight_at_;  // [lane][row that is seen]: in a row of cells
  T* partial_;
  void **of_block_, **of_cells_;
  T* gathered_;
  uint32_t* seen_;
};

// Runs the tasks of a stencil by workers made by make(carver), each of `part` bytes, from `parts` on.
template <class Worker, class Make>
bool run_stencil(const Plan& plan, const Stencil& stencil, int threads, char* parts, size_t part,
                 Make&& make) noexcept {
  for (int t = 0; t < threads; ++t) {
    Carver carver(parts + part * size_t(t));
    make(carver);
  }
  return run_tasks(stencil.tasks(), threads, Order::by_ranges, [&](const Task& task) {
    const KernelSession session(plan.arithmetic);
    reinterpret_cast<Worker*>(parts + part * size_t(task.thread))->run(task.index);
  });
}

}  // namespace foveate
