// The sum of values by the weights of few queries: O[q][d] += sum_j P[j][q] V[j][d], the dimensions on the lanes, in chains
// over `sum_rows` keys, from 0. Numbers of few bits are widened and scaled in registers.
#pragma once
#include "runs.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int64_t sum_rows = 16;  // whose values stay in L1 for further queries or columns

// What to prefetch with each row of a pass, so that every pass takes its share: in the order in which rows stand.
struct Ahead {
  const char* first;
  int64_t step, bytes;
};

// Vectors of the output held in registers are queries * vectors. values: whose scales are those of the run.
template <class T, Dtype dtype, int queries, int vectors>
[[gnu::noinline]] void decode_sum_block(const T* weights, int32_t weight_stride, const char* row, int64_t row_stride,
                                        const Rows& values, int64_t count, int64_t column, Ahead ahead, T* output,
                                        int64_t output_stride) {
  constexpr int64_t step = byte_of(dtype, lanes<T>);
  constexpr bool busy = queries == query_group;  // see runs.hpp
  Vec<T> sum[queries][vectors] = {};
  for (int64_t j = 0; j < count; ++j, row += row_stride, weights += weight_stride) {
    if constexpr (busy) {
      for (int64_t at = 0; at < ahead.bytes; at += line_bytes) __builtin_prefetch(ahead.first + at);
      ahead.first += ahead.step;
    }
    unroll<vectors>([&](int v) INLINED {
      Vec<T> value = load_any<T, dtype>(row + v * step);
      if constexpr (is_few_bits(dtype)) value *= T(scale_of_column(values, j, column + v * lanes<T>));
      unroll<queries>([&](int q) INLINED { sum[q][v] += broadcast(weights[q]) * value; });
    });
  }
  unroll<queries>([&](int q) INLINED {
    unroll<vectors>([&](int v) INLINED {
      T* cell = output + q * output_stride + v * lanes<T>;
      store<T>(cell, load(cell) + sum[q][v]);
    });
  });
}

// Passes over whole vectors of a row: of 8 at a time, which four queries leave no room for, then of 4, then of 1.
template <int queries, class F>
void in_passes(int64_t vectors, F&& pass) {
  int64_t v = 0;
  if constexpr (queries < 4)
    for (; v + 8 <= vectors; v += 8) pass(Constant<8>{}, v);
  for (; v + 4 <= vectors; v += 4) pass(Constant<4>{}, v);
  for (; v < vectors; ++v) pass(Constant<1>{}, v);
}

// The last columns, fewer than a vector.
template <class T, Dtype dtype, int queries>
void decode_sum_rest(const T* weights, int32_t weight_stride, const char* row, int64_t row_stride, const Rows& values,
                     int64_t count, int64_t column, int64_t columns, T* output, int64_t output_stride) {
  Vec<T> sum[queries] = {};
  for (int64_t j = 0; j < count; ++j, row += row_stride, weights += weight_stride) {
    Vec<T> value = load_some<T, dtype>(row, columns);
    if constexpr (is_few_bits(dtype)) value *= T(scale_of_column(values, j, column));
    unroll<queries>([&](int q) INLINED { sum[q] += broadcast(weights[q]) * value; });
  }
  unroll<queries>([&](int q) INLINED {
    T* cell = output + q * output_stride;
    store<T>(cell, load(cell) + sum[q]);
  });
}

// A run of values, some queries together; from `column` on.
template <class T, Dtype dtype, int together>
void decode_sum_of(const T* weights, int32_t queries, const Run& run, const Rows& values, int64_t count, int64_t column,
                   int64_t columns, T* output, int64_t output_stride) {
  const int64_t bytes = row_bytes(dtype, columns), whole = columns / lanes<T>;
  int64_t passes = 0;
  in_passes<together>(whole, [&](auto, int64_t) { ++passes; });
  passes *= queries / together;
  const bool one_stream = run.stride == bytes;
  for (int64_t first = 0; first < count; first += sum_rows) {
    const int64_t now = count - first < sum_rows ? count - first : sum_rows;
    const Rows some = values.from(first);
    const char* const row = run.data + first * run.stride;
    const int64_t share = passes > 0 ? bytes / passes : 0;
    Ahead ahead = {run.ahead + first * run.stride, one_stream ? share : run.stride, share};
    for (int32_t q = 0; q < queries; q += together) {
      const T* const from = weights + first * queries + q;
      T* const to = output + q * output_stride;
      in_passes<together>(whole, [&](auto vectors, int64_t v) {
        const int64_t d = v * lanes<T>;
        decode_sum_block<T, dtype, together, vectors>(from, queries, row + byte_of(dtype, d), run.stride, some, now,
                                                      column + d, ahead, to + d, output_stride);
        ahead.first += one_stream ? sum_rows * share : share;
      });
      const int64_t d = whole * lanes<T>;
      if (d < columns)
        decode_sum_rest<T, dtype, together>(from, queries, row + byte_of(dtype, d), run.stride, some, now, column + d,
                                            columns - d, to + d, output_stride);
    }
  }
}

// Rows of `vectors` vectors. kept: the sums so far, from 0 where these rows are the first of a chain, of which the last add
// theirs to the output.
template <class T, int queries, int vectors>
[[gnu::always_inline]] inline void sum_block_in_lines(const T* weights, const char* row, int64_t row_stride,
                                                      int64_t count, const char* far, const char* near, int64_t step,
                                                      Vec<T>* kept, bool first, bool last, T* output,
                                                      int64_t output_stride) {
  Vec<T> sum[queries][vectors] = {};
  if (!first)
    unroll<queries>([&](int q) INLINED { unroll<vectors>([&](int v) INLINED { sum[q][v] = kept[q * vectors + v]; }); });
  for (int64_t j = 0; j < count; ++j, row += row_stride, weights += queries, far += step, near += step) {
    unroll<vectors>([&](int v) INLINED {
      prefetch_far(far + v * line_bytes);
      prefetch_near(near + v * line_bytes);
    });
    Vec<T> weight[queries];
    unroll<queries>([&](int q) INLINED { weight[q] = broadcast(weights[q]); });
    unroll<vectors>([&](int v) INLINED {
      Vec<T> value = load_anywhere<T>(row + v * line_bytes);
      load_once(value);
      unroll<queries>([&](int q) INLINED { sum[q][v] += weight[q] * value; });
    });
  }
  unroll<queries>([&](int q) INLINED {
    unroll<vectors>([&](int v) INLINED {
      T* const cell = output + q * output_stride + v * lanes<T>;
      if (last)
        store<T>(cell, load(cell) + sum[q][v]);
      else
        kept[q * vectors + v] = sum[q][v];
    });
  });
}

constexpr int64_t most_lines = gather_bytes / sum_rows / line_bytes;  // of the values that are summed together

// A run of values of at most most_lines vectors a row. Where a row takes more than one pass, so few rows
// are summed together that what they bring stays in the order in which it stands.
template <class T, Dtype dtype, int queries>
[[gnu::noinline]] void sum_in_lines(const T* weights, const Run& run, const Rows& values, int64_t count,
                                    int64_t columns, T* output, int64_t output_stride) {
  constexpr int64_t most = 16 / queries;  // vectors of a pass
  const int64_t bytes = columns * int64_t(sizeof(T)), whole = columns / lanes<T>;
  const int64_t near = rows_near(bytes, 2048) * run.stride, together = whole > most ? 4 : sum_rows;
  const bool one_stream = run.stride == bytes;
  Vec<T> kept[most_lines * queries];
  for (int64_t begin = 0; begin < count; begin += together) {
    const int64_t now = count - begin < together ? count - begin : together;
    const bool first = begin % sum_rows == 0, last = (begin + now) % sum_rows == 0 || begin + now == count;
    const char* const row = run.data + begin * run.stride;
    const char *far = run.ahead + begin * run.stride, *next = row + near;
    const auto pass = [&](auto vectors, int64_t v) INLINED {
      const int64_t lines = vectors * line_bytes;
      sum_block_in_lines<T, queries, vectors>(weights + begin * queries, row + v * line_bytes, run.stride, now, far,
                                              next, one_stream ? lines : run.stride, kept + v * queries, first, last,
                                              output + v * lanes<T>, output_stride);
      far += one_stream ? now * lines : lines;
      next += one_stream ? now * lines : lines;
    };
    int64_t v = 0;
    for (; v + most <= whole; v += most) pass(Constant<most>{}, v);
    for (; v < whole; ++v) pass(Constant<1>{}, v);
  }
  const int64_t d = whole * lanes<T>;
  if (d < columns)
    for (int64_t first = 0; first < count; first += sum_rows)
      decode_sum_rest<T, dtype, queries>(
          weights + first * queries, queries, run.data + first * run.stride + d * int64_t(sizeof(T)), run.stride,
          values, count - first < sum_rows ? count - first : sum_rows, d, columns - d, output + d, output_stride);
}

// values: contiguous columns. output: rows of T, of whole vectors.
template <class T>
void decode_sum(const T* weights, int32_t queries, const Rows& values, int64_t count, int64_t value_size, T* output,
                int64_t output_stride) {
  with_any_dtype<T>(values.dtype, [&](auto dtype) {
    constexpr bool lines = in_lines<T>(dtype);
    constexpr int64_t longest = gather_bytes / sum_rows / size_of(dtype);  // columns whose rows can be copied
    const bool in_slices = values.list || (lines && queries > 2);
    const int64_t slice = in_slices && value_size > longest ? longest : value_size;
    for (int64_t d = 0; d < value_size; d += slice) {
      const int64_t columns = value_size - d < slice ? value_size - d : slice;
      in_runs(
          values, count, byte_of(dtype, d), row_bytes(dtype, columns), sum_rows,
          [&](int64_t first, int64_t some, const Run& run, const Rows& rows) {
            const T* const from = weights + first * queries;
            T* const to = output + d;
            if (queries == 1) decode_sum_of<T, dtype, 1>(from, 1, run, rows, some, d, columns, to, output_stride);
            if (queries == 2) decode_sum_of<T, dtype, 2>(from, 2, run, rows, some, d, columns, to, output_stride);
            if constexpr (lines) {
              if (queries == 4) sum_in_lines<T, dtype, 4>(from, run, rows, some, columns, to, output_stride);
            } else {
              // values that must be widened are widened once, for all queries; others are best read in rows as long as can be
              constexpr int most = size_of(dtype) == sizeof(T) ? 2 : 4;
              if (queries == 4) decode_sum_of<T, dtype, most>(from, 4, run, rows, some, d, columns, to, output_stride);
            }
          },
          lines && queries > 2 ? far_ahead : prefetch_ahead);
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
