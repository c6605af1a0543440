// What the passes over a grid share: the rows that a block sees as columns, and both products of its strips with them.
#pragma once
#include <cstring>

#include "runtime/parallel.hpp"
#include "runtime/refuse.hpp"
#include "stencil.hpp"

namespace foveate {

template <class T>
class StencilWorker {
 public:
  // columns: of the wider one of both operands that are seen; packed: of the widest row of a block.
  StencilWorker(const Plan& plan, const Stencil& stencil, int64_t columns, int64_t packed, Carver& carver) noexcept
      : plan_(plan), arithmetic_(plan.arithmetic), stencil_(stencil), lanes_(plan.arithmetic.lanes) {
    first_ = carver.take<SeenPlaces>(stencil.most_rows());
    addresses_ = carver.take<const char*>(stencil.row_stride());
    of_block_ = carver.take<void*>(stencil.most_rows());
    of_cells_ = carver.take<void*>(stencil.most_rows());
    gathered_ = carver.take<T>(columns * stencil.most_window() * lanes_);
    scratch_ = carver.take<T>(std::max(columns, packed) * lanes_);
    seen_ = carver.take<uint32_t>(stencil.most_cells());
  }

 protected:
  int64_t cells_stride() const { return stencil_.most_cells() * lanes_; }
  int64_t seen_size(int64_t columns) const { return stencil_.most_seen_rows() * columns * stencil_.row_stride(); }

  void start(int64_t task) noexcept {
    block_ = stencil_.block(task);
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
      arithmetic_.load_places(addresses_, dtype_of(x), x.column_stride, chunk.columns, columns, scratch_,
                              stencil_.row_stride(),
                              to + number * (columns + extra) * stencil_.row_stride() + stencil_.margin());
    });
  }

  // The block's own rows of an operand on the lanes of a strip: to[i][column][lane], `stride` apart.
  void pack(const Strip& strip, const Operand& x, int64_t columns, double factor, int64_t stride, T* to) noexcept {
    const char* rows[most_lanes];
    const char* const base = plan_.row(x, batch_, group_, 0);
    for (int64_t i = 0; i < block_.rows; ++i, to += stride) {
      for (int32_t lane = 0; lane < strip.live; ++lane) rows[lane] = base + place_of(strip, i, lane) * x.row_stride;
      arithmetic_.inner.pack_queries(rows, dtype_of(x), x.column_stride, strip.live, 1, columns, factor, nullptr,
                                     scratch_, to);
    }
  }

  // cells[i] = the products of the block's rows with the first `columns` of those that there are of what they see.
  void scores(const Strip& strip, const T* rows, int64_t stride, const T* seen, int64_t columns, int64_t of_columns,
              T* cells) noexcept {
    products(strip, rows, stride, seen, columns, of_columns, cells,
             [&](int64_t count, const T* at, int64_t column_stride, int64_t step) {
               arithmetic_.place_scores(of_block_, int32_t(count), at, column_stride, step, columns, strip.window,
                                        of_cells_);
             });
  }
  // rows[i] += the sums of these by cells[i].
  void sums(const Strip& strip, const T* cells, const T* seen, int64_t columns, int64_t of_columns, T* rows,
            int64_t stride) noexcept {
    products(strip, rows, stride, seen, columns, of_columns, cells,
             [&](int64_t count, const T* at, int64_t column_stride, int64_t step) {
               arithmetic_.place_sums(of_cells_, int32_t(count), at, column_stride, step, columns, strip.window,
                                      of_block_);
             });
  }

  // The cells that lanes do not see, as hide_unset takes them: null where there are none.
  const uint32_t* hidden(const Strip& strip) noexcept {
    if (!strip.hidden) return nullptr;
    for (int64_t c = 0; c < stencil_.most_cells(); ++c) seen_[c] = strip.seen[c % strip.window];
    return seen_;
  }

  // The block's rows of an answer, from to[i][column][lane], times factors[i][lane].
  void write(const Strip& strip, const Operand& x, const T* from, int64_t stride, int64_t columns, const T* factors,
             int64_t factor_stride) noexcept {
    char* rows[most_lanes];
    char* const base = plan_.row(x, batch_, group_, 0);
    for (int64_t i = 0; i < block_.rows; ++i) {
      for (int32_t lane = 0; lane < strip.live; ++lane) rows[lane] = base + place_of(strip, i, lane) * x.row_stride;
      arithmetic_.store_rows(from + i * stride, 1, columns, factors + i * factor_stride, strip.live, scratch_, rows,
                             dtype_of(x), x.column_stride);
    }
  }

  const Plan& plan_;
  const Arithmetic& arithmetic_;
  const Stencil& stencil_;
  int64_t lanes_;
  Block block_{};
  int64_t batch_ = 0, group_ = 0;
  SeenPlaces* first_;  // of each row of the block, in places of its group
  T* scratch_;

 private:
  // run(count, at, stride, step) for each row that is seen, with the block's rows that see it, and their cells.
  template <class Cells, class Run>
  void products(const Strip& strip, const T* rows, int64_t stride, const T* seen, int64_t columns, int64_t of_columns,
                const Cells* cells, Run&& run) noexcept {
    const int64_t row_stride = stencil_.row_stride(), high = block_.high - block_.low;
    const bool moves = strip.run_count == 0;
    seen += stencil_.margin() - block_.chunk->column;
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
          arithmetic_.gather_places(at, row_stride, columns, strip.runs, strip.run_count, strip.seen, strip.window,
                                    stencil_.step(), gathered_);
          run(end - low, gathered_, strip.window * lanes_, lanes_);
        }
      }
    }
  }

  const char** addresses_;
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
