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
// The rows that this is, in whole steps of any kernel.
inline int64_t rows_ahead(int64_t row_bytes) {
  return round_up(prefetch_ahead / (row_bytes > 16 ? row_bytes : 16), 16);
}

// Rows at data + j * stride, of which those that will be read next begin at `ahead`, as far apart.
struct Run {
  const char *data, *ahead;
  int64_t stride;
};

constexpr int64_t gather_bytes = 32768;

// Calls run(first, count, Run) for runs of all rows, `bytes` of each from byte `at` on. All but the last have a multiple of
// `step` rows: rows of a list that stand apart are copied, `step` at a time. Such rows that are too long for it come as
// they are.
template <class F>
void in_runs(const Rows& rows, int64_t count, int64_t at, int64_t bytes, int64_t step, F&& run) {
  const int64_t far = rows_ahead(bytes), stride = rows.row_stride;
  if (!rows.list) return run(int64_t(0), count, Run{rows.data + at, rows.data + at + far * stride, stride});
  const auto follows = [&](int64_t j) { return rows.list[j] - rows.list[j - 1] == stride; };
  alignas(line_bytes) char copies[gather_bytes];
  for (int64_t j = 0, n; j < count; j += n) {
    const int64_t most = count - j, least = most < step ? most : step;
    for (n = 1; n < most && follows(j + n); ++n)
      if (n % step == 0 && j + n + far < count && !follows(j + n + far)) break;  // what to prefetch stands elsewhere
    const char* const ahead = rows.list[j + far < count ? j + far : count - 1] + at;
    if (n < least && least * bytes <= gather_bytes) {
      n = least;
      for (int64_t i = 0; i < n; ++i) memcpy(copies + i * bytes, rows.list[j + i] + at, size_t(bytes));
      run(j, n, Run{copies, ahead, bytes});
    } else {
      if (n > step && n < most) n -= n % step;
      run(j, n, Run{rows.list[j] + at, ahead, stride});
    }
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
