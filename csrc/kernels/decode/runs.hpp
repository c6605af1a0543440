// Rows as few queries read them: whole rows in the order in which they stand, as a few long runs, since memory is fast only
// for streams. What was measured on Zen 4: hardware prefetching alone gives the full bandwidth to a loop that does little
// with a stream of rows, and is disturbed by more. A loop that computes for a while with each line wants prefetching in the
// order of the stream, 4 to 16 KB ahead; then rows that follow each other may be read side by side.
#pragma once
#include "../pack.hpp"
#include "load.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int64_t prefetch_ahead = 8192;  // bytes
constexpr int64_t line_bytes = 64;

// Where a line is used a few times and no more, what is far ahead goes to L2, which takes more at once than L1, and what is
// near to L1: each line once, in the order of the stream. Both stand before the loads, where the compiler may not move them:
// behind them they are half as fast.
constexpr int64_t far_ahead = 16384;  // bytes
#if defined(__x86_64__)
[[gnu::always_inline]] inline void prefetch_far(const char* p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }
[[gnu::always_inline]] inline void prefetch_near(const char* p) { asm volatile("prefetcht0 %0" : : "m"(*p)); }
#else
[[gnu::always_inline]] inline void prefetch_far(const char* p) { __builtin_prefetch(p, 0, 2); }
[[gnu::always_inline]] inline void prefetch_near(const char* p) { __builtin_prefetch(p); }
#endif
inline int64_t rows_near(int64_t row_bytes, int64_t bytes) { return row_bytes < bytes ? bytes / row_bytes : 1; }
// x is loaded once, whatever it is used for: rows begin anywhere, and a load of two lines costs two.
template <class V>
[[gnu::always_inline]] inline void load_once([[maybe_unused]] V& x) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(x));
#endif
}
// Rows that are not widened, in vectors of a line each, which more queries than one read in an order of their own, with the
// bits of any other.
template <class T>
constexpr bool in_lines(Dtype dtype) {
  return sizeof(Vec<T>) == line_bytes && size_of(dtype) == sizeof(T);
}

// The rows that this is, in whole steps of any kernel.
inline int64_t rows_ahead(int64_t row_bytes, int64_t ahead = prefetch_ahead) {
  return round_up(ahead / (row_bytes > 16 ? row_bytes : 16), 16);
}

// Rows at data + j * stride, of which those that will be read next begin at `ahead`, as far apart.
struct Run {
  const char *data, *ahead;
  int64_t stride;
};

constexpr int64_t gather_bytes = 32768;

// Calls run(first, count, Run, rows) for runs of all rows, `bytes` of each from byte `at` on, with the rows of the run. All
// but the last have a multiple of `step` rows: where pages that follow each other in memory have fewer, so many are copied.
// Such rows that are too long for it come as they are.
template <class F>
void in_runs(const Rows& rows, int64_t count, int64_t at, int64_t bytes, int64_t step, F&& run,
             int64_t ahead = prefetch_ahead) {
  const int64_t far = rows_ahead(bytes, ahead), stride = rows.row_stride, size = rows.page_rows;
  if (!rows.list) return run(int64_t(0), count, Run{rows.data + at, rows.data + at + far * stride, stride}, rows);
  alignas(line_bytes) char copies[gather_bytes];
  const auto follows = [&](int64_t page) {
    return rows.list[page + 1] - rows.list[page] == size * stride &&
           (!rows.scale_list || rows.scale_list[page + 1] - rows.scale_list[page] == size * rows.scale_stride);
  };
  int64_t page = rows.first / size, within = rows.first % size;
  for (int64_t j = 0, n; j < count; j += n) {
    const int64_t left = count - j, least = left < step ? left : step;
    int64_t last = page;  // of the run
    for (n = size - within; n < left && follows(last); n += size) ++last;
    n = n < left ? n : left;
    const char* const next = rows.list[last + 1 < rows.listed ? last + 1 : last] + at;
    if (n < least && least * bytes <= gather_bytes) {
      n = least;
      for (int64_t i = 0; i < n; ++i) memcpy(copies + i * bytes, rows.row(j + i) + at, size_t(bytes));
      run(j, n, Run{copies, next, bytes}, rows.from(j));
    } else {
      if (n > step && n < left) n -= n % step;
      Rows together = rows;
      together.list = together.scale_list = nullptr;
      together.data = rows.list[page] + within * stride;
      if (rows.scale_list) together.scale = rows.scale_list[page] + within * rows.scale_stride;
      const char* const here = together.data + at;
      const int64_t head = n > far ? (n - far) / step * step : 0;  // behind it, what to prefetch is in the next page
      if (head > 0) run(j, head, Run{here, here + far * stride, stride}, together);
      run(j + head, n - head, Run{here + head * stride, next, stride}, together.from(head));
    }
    page += (within + n) / size;
    within = (within + n) % size;
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
