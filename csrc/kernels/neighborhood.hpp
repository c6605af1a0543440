// Neighborhoods as stencils. A row of places stands on the lanes, a strip of them at a time, and what they see as columns,
// [d][place]: what all places of a strip see at the same distance is then a vector from somewhere in that row, and a cell
// is computed for no place that does not see it. Rows of queries that see the same row of keys share its loads.
//   place_scores:  S[e][q] = sum_d Q[d][q] K[d][place(q) + e]           (a chain over d)
//   place_sums:   O[d][q] += sum_e P[e][q] V[d][place(q) + e]          (one chain over all rows and e)
// Gradients are the same two, with the parts of queries and keys exchanged.
#pragma once
#include "pack.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

#if defined(__AVX512F__) || defined(FOVEATE_NEON)
constexpr int stencil_rows = 7, stencil_cells = 4, stencil_columns = 4;
#else
constexpr int stencil_rows = 4, stencil_cells = 3, stencil_columns = 3;
#endif

// Rows of places to columns: to[d][i] = rows[i][d], `stride` apart.
template <class T>
void load_places(const char* const* rows, Dtype dtype, int64_t column_stride, int64_t count, int64_t columns,
                 T* scratch, int64_t stride, T* to) {
  const bool in_place = size_of(dtype) == sizeof(T) && column_stride == sizeof(T);
  const T* plain[lanes<T>];
  for (int64_t first = 0; first < count; first += lanes<T>) {
    const int live = int(count - first < lanes<T> ? count - first : lanes<T>);
    for (int i = 0; i < live; ++i) {
      plain[i] = reinterpret_cast<const T*>(rows[first + i]);
      if (in_place) continue;
      T* row = scratch + i * columns;
      load_row<T>(rows[first + i], dtype, column_stride, columns, row);
      plain[i] = row;
    }
    int64_t d = 0;
    for (; d + lanes<T> <= columns; d += lanes<T>) {
      Vec<T> square[lanes<T>];
      for (int i = 0; i < lanes<T>; ++i) square[i] = i < live ? load_anywhere<T>(plain[i] + d) : Vec<T>{};
      transpose<T>(square);
      for (int i = 0; i < lanes<T>; ++i) store<T>(to + (d + i) * stride + first, square[i]);
    }
    for (; d < columns; ++d)
      for (int i = 0; i < lanes<T>; ++i) to[d * stride + first + i] = i < live ? load_one(plain[i] + d) : T(0);
  }
}

// from[place[lane]] of each lane.
template <class T>
inline Vec<T> permuted(const T* from, IntVec<T> place) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_maskz_permutexvar_ps(0xffff, (__m512i)place, load(from));
  else
    return _mm512_maskz_permutexvar_pd(0xff, (__m512i)place, load(from));
#else
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return _mm256_permutevar8x32_ps(load(from), (__m256i)place);
#endif
  Vec<T> all;
  for (int i = 0; i < lanes<T>; ++i) all[i] = from[place[i]];
  return all;
#endif
}

template <class T, int known>
[[gnu::noinline]] void gather_by_runs(const T* from, int64_t stride, int64_t columns, const StripRun* runs,
                                      int32_t run_count, const uint32_t* seen, int64_t window, int64_t step, T* to) {
  if constexpr (known > 0) run_count = known;
  IntVec<T> place[known > 0 ? known : most_lanes];
  for (int32_t r = 0; r < run_count; ++r)
    for (int i = 0; i < lanes<T>; ++i) place[r][i] = runs[r].place[i];
  for (int64_t d = 0; d < columns; ++d, from += stride) {
    for (int64_t e = 0; e < window; ++e, to += lanes<T>) {
      Vec<T> all = {};
      const auto add = [&](int r) INLINED {
        all = select_bits<T>(runs[r].lanes & seen[e], permuted<T>(from + runs[r].column + e * step, place[r]), all);
      };
      if constexpr (known > 0)
        unroll<known>(add);
      else
        for (int32_t r = 0; r < run_count; ++r) add(r);
      store<T>(to, all);
    }
  }
}

// What a strip sees of such columns, where its places do not see columns one after the other: to[d][e][lane].
template <class T>
void gather_places(const T* from, int64_t stride, int64_t columns, const StripRun* runs, int32_t run_count,
                   const uint32_t* seen, int64_t window, int64_t step, T* to) {
  const auto run = run_count == 1 ? gather_by_runs<T, 1> : run_count == 2 ? gather_by_runs<T, 2> : gather_by_runs<T, 0>;
  run(from, stride, columns, runs, run_count, seen, window, step, to);
}

template <class T, int rows, int cells>
[[gnu::noinline]] void scores_of_cells(const void* const* queries, const T* keys, int64_t stride, int64_t step,
                                       int64_t columns, void* const* scores, int64_t first) {
  Vec<T> sum[rows][cells] = {};
  const T* query[rows];
  unroll<rows>([&](int y) INLINED { query[y] = static_cast<const T*>(queries[y]); });
  for (int64_t d = 0; d < columns; ++d, keys += stride) {
    Vec<T> key[cells];
    unroll<cells>([&](int e) INLINED { key[e] = load(keys + e * step); });
    unroll<rows>([&](int y) INLINED {
      const Vec<T> q = load(query[y] + d * lanes<T>);
      unroll<cells>([&](int e) INLINED { sum[y][e] += q * key[e]; });
    });
  }
  unroll<rows>([&](int y) INLINED {
    unroll<cells>([&](int e) INLINED { store<T>(static_cast<T*>(scores[y]) + (first + e) * lanes<T>, sum[y][e]); });
  });
}

template <class T, int rows, int cells = stencil_cells>
inline void scores_of_some(int64_t count, const void* const* queries, const T* keys, int64_t stride, int64_t step,
                           int64_t columns, void* const* scores, int64_t first) {
  if constexpr (cells > 0) {
    if (count == cells)
      scores_of_cells<T, rows, cells>(queries, keys, stride, step, columns, scores, first);
    else
      scores_of_some<T, rows, cells - 1>(count, queries, keys, stride, step, columns, scores, first);
  }
}

template <class T, int rows, int count>
[[gnu::noinline]] void sum_of_columns(const void* const* weights, const T* values, int64_t stride, int64_t step,
                                      int64_t window, void* const* to, int64_t first) {
  Vec<T> sum[rows][count];
  const T* weight[rows];
  unroll<rows>([&](int y) INLINED {
    weight[y] = static_cast<const T*>(weights[y]);
    unroll<count>([&](int c) INLINED { sum[y][c] = load(static_cast<const T*>(to[y]) + (first + c) * lanes<T>); });
  });
  for (int64_t e = 0; e < window; ++e, values += step) {
    Vec<T> value[count];
    unroll<count>([&](int c) INLINED { value[c] = load(values + c * stride); });
    unroll<rows>([&](int y) INLINED {
      const Vec<T> w = load(weight[y] + e * lanes<T>);
      unroll<count>([&](int c) INLINED { sum[y][c] += w * value[c]; });
    });
  }
  unroll<rows>([&](int y) INLINED {
    unroll<count>([&](int c) INLINED { store<T>(static_cast<T*>(to[y]) + (first + c) * lanes<T>, sum[y][c]); });
  });
}

// f(Constant<n>) of these rows; and for as many of them at a time as register tiles hold, with the first.
template <int most = stencil_rows, class F>
[[gnu::always_inline]] inline void with_rows(int32_t rows, F& f) {
  if constexpr (most > 0) {
    if (rows == most)
      f(Constant<most>{});
    else
      with_rows<most - 1>(rows, f);
  }
}
template <class F>
inline void by_stencil_rows(int32_t rows, F&& f) {
  for (int32_t first = 0; first < rows;) {
    const int32_t parts = (rows - first + stencil_rows - 1) / stencil_rows;
    const int32_t count = (rows - first + parts - 1) / parts;
    auto of = [&](auto n) { f(n, first); };
    with_rows(count, of);
    first += count;
  }
}

template <class T>
void place_scores(const void* const* queries, int32_t rows, const T* keys, int64_t stride, int64_t step,
                  int64_t columns, int64_t window, void* const* scores) {
  by_stencil_rows(rows, [&](auto count, int32_t at) {
    const int64_t parts = (window + stencil_cells - 1) / stencil_cells;
    for (int64_t part = 0, first = 0; part < parts; ++part) {
      const int64_t cells = (window - first + parts - part - 1) / (parts - part);
      scores_of_some<T, count>(cells, queries + at, keys + first * step, stride, step, columns, scores + at, first);
      first += cells;
    }
  });
}

template <class T>
void place_sums(const void* const* weights, int32_t rows, const T* values, int64_t stride, int64_t step,
                int64_t columns, int64_t window, void* const* to) {
  by_stencil_rows(rows, [&](auto count, int32_t at) {
    int64_t d = 0;
    for (; d + stencil_columns <= columns; d += stencil_columns)
      sum_of_columns<T, count, stencil_columns>(weights + at, values + d * stride, stride, step, window, to + at, d);
    for (; d < columns; ++d)
      sum_of_columns<T, count, 1>(weights + at, values + d * stride, stride, step, window, to + at, d);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
