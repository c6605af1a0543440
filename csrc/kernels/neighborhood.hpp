// Neighborhoods as stencils. A row of places stands on the lanes, a strip of them at a time, and what they see as columns,
// [d][place]: what all places of a strip see at the same distance is then a vector from somewhere in that row, and a cell
// is computed for no place that does not see it. Rows of queries that see the same row of keys share its loads.
//   place_scores:  S[e][q] = sum_d Q[d][q] K[d][place(q) + e]           (a chain over d)
//   sum_steps:    O[q][d] += sum_e P[e][q] V[place(q) + e][d]           (one chain over all rows and e)
// Sums want no columns: rows as they stand times weights that are broadcast. As rows of places that are seen pass by, those
// that see them are kept in slots of registers, which one leaves as another enters. Gradients are the same two, with the
// parts of queries and keys exchanged.
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

// Rows of places to columns: to[d][i] = factor rows[i][d]. Rows often begin a page each, where the machine fetches nothing
// ahead: a vector of places fetches the next one, column by column.
template <class T>
void load_places(const char* const* rows, Dtype dtype, int64_t column_stride, int64_t count, int64_t columns,
                 double factor, T* scratch, int64_t stride, int64_t vector_stride, T* to) {
  const bool in_place = size_of(dtype) == sizeof(T) && column_stride == sizeof(T);
  const T* plain[lanes<T>];
  for (int64_t first = 0; first < count; first += lanes<T>, to += vector_stride) {
    const int live = int(count - first < lanes<T> ? count - first : lanes<T>);
    const bool more = count - first >= 2 * lanes<T>;
    const char* const* const next = rows + (more ? first + lanes<T> : first);
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
      if (live == lanes<T>)
        unroll<lanes<T>>([&](int i) INLINED { square[i] = load_anywhere<T>(plain[i] + d) * T(factor); });
      else
        for (int i = 0; i < lanes<T>; ++i) square[i] = i < live ? load_anywhere<T>(plain[i] + d) * T(factor) : Vec<T>{};
      if (more && in_place)
        for (int i = 0; i < lanes<T>; ++i) __builtin_prefetch(next[i] + d * int64_t(sizeof(T)));
      transpose<T>(square);
      unroll<lanes<T>>([&](int i) INLINED { store<T>(to + (d + i) * stride, square[i]); });
    }
    for (; d < columns; ++d)
      for (int i = 0; i < lanes<T>; ++i) to[d * stride + i] = i < live ? load_one(plain[i] + d) * T(factor) : T(0);
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

#if defined(__AVX512F__)
// The same of one run or two: a vector of each serves as many distances as it has columns for, one permutation of both each.
template <class T>
void gather_from_two(const T* from, int64_t stride, int64_t columns, const StripRun* runs, int32_t run_count,
                     const uint32_t* seen, int64_t window, int64_t step, T* to) {
  const StripRun &first = runs[0], &second = runs[run_count - 1];
  IntVec<T> place{};
  int32_t last = 0;
  for (int i = 0; i < lanes<T>; ++i) {
    const bool in_first = first.lanes >> i & 1, live = in_first || second.lanes >> i & 1;
    const int32_t at = !live ? 0 : in_first ? first.place[i] : second.place[i];
    last = at > last ? at : last;
    place[i] = in_first ? at : lanes<T> + at;
  }
  const uint32_t live = first.lanes | second.lanes;
  const int64_t at_once = (lanes<T> - 1 - last) / step + 1;
  for (int64_t d = 0; d < columns; ++d, from += stride) {
    for (int64_t e = 0; e < window;) {
      const Vec<T> a = load(from + first.column + e * step), b = load(from + second.column + e * step);
      IntVec<T> at = place;
      for (const int64_t end = window - e < at_once ? window : e + at_once; e < end; ++e, to += lanes<T>) {
        if constexpr (sizeof(T) == 4)
          store<T>(to, _mm512_maskz_permutex2var_ps(__mmask16(live & seen[e]), a, (__m512i)at, b));
        else
          store<T>(to, _mm512_maskz_permutex2var_pd(__mmask8(live & seen[e]), a, (__m512i)at, b));
        at += typename VectorOf<T>::Bits(step);
      }
    }
  }
}
#endif

// What a strip sees of such columns, where its places do not see columns one after the other: to[d][e][lane].
template <class T>
void gather_places(const T* from, int64_t stride, int64_t columns, const StripRun* runs, int32_t run_count,
                   const uint32_t* seen, int64_t window, int64_t step, T* to) {
#if defined(__AVX512F__)
  if (run_count <= 2) return gather_from_two<T>(from, stride, columns, runs, run_count, seen, window, step, to);
#endif
  const auto run = run_count == 1 ? gather_by_runs<T, 1> : run_count == 2 ? gather_by_runs<T, 2> : gather_by_runs<T, 0>;
  run(from, stride, columns, runs, run_count, seen, window, step, to);
}

// In a register of its own: the compiler would rather read it again for every product.
template <class T>
[[gnu::always_inline]] inline Vec<T> kept_in_register(Vec<T> x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#endif
  return x;
}

template <class T, int rows, int cells>
[[gnu::noinline]] void scores_of_cells(const void* const* queries, const T* keys, int64_t stride, int64_t step,
                                       int64_t columns, void* const* scores, int64_t first, const char* ahead) {
  Vec<T> sum[rows][cells] = {};
  const T* query[rows];
  unroll<rows>([&](int y) INLINED { query[y] = static_cast<const T*>(queries[y]); });
  for (int64_t d = 0; d < columns; ++d, keys += stride) {
    Vec<T> key[cells];
    unroll<cells>([&](int e) INLINED { key[e] = load(keys + e * step); });
    __builtin_prefetch(ahead + d * vector_bytes, 0, 2);
    unroll<rows>([&](int y) INLINED {
      const Vec<T> q = kept_in_register<T>(load(query[y] + d * lanes<T>));
      unroll<cells>([&](int e) INLINED { sum[y][e] += q * key[e]; });
    });
  }
  unroll<rows>([&](int y) INLINED {
    unroll<cells>([&](int e) INLINED { store<T>(static_cast<T*>(scores[y]) + (first + e) * lanes<T>, sum[y][e]); });
  });
}

template <class T, int rows, int cells = stencil_cells>
inline void scores_of_some(int64_t count, const void* const* queries, const T* keys, int64_t stride, int64_t step,
                           int64_t columns, void* const* scores, int64_t first, const char* ahead) {
  if constexpr (cells > 0) {
    if (count == cells)
      scores_of_cells<T, rows, cells>(queries, keys, stride, step, columns, scores, first, ahead);
    else
      scores_of_some<T, rows, cells - 1>(count, queries, keys, stride, step, columns, scores, first, ahead);
  }
}

// Slots first_slot, ... and `count` vectors of columns from byte `at` on, at each of the places, some of them together.
template <class T, int slots, int count, int together = 1>
[[gnu::noinline]] void sums_of_slots(const SumStep* steps, int64_t step_count, int32_t first_slot,
                                     const SumPlace* places, int32_t place_count, int64_t step, int64_t at) {
  const auto each = [&](uint32_t bits, auto&& f) INLINED {
    if (bits >>= first_slot; bits & ((1u << slots) - 1))
      unroll<slots>([&](int y) INLINED {
        if (bits >> y & 1) unroll<together>([&](int p) INLINED { f(y, p); });
      });
  };
  for (const SumPlace* const end = places + place_count; places < end; places += together) {
    Vec<T> sum[slots][together][count] = {};
    for (const SumStep *s = steps, *const last = steps + step_count; s < last; ++s) {
      const auto kept = [&](int y, int p) INLINED {
        return static_cast<T*>(s->sums[first_slot + y]) + places[p].sums + at / int64_t(sizeof(T));
      };
      const auto answer = [&](int y, int p) INLINED { return s->answers[first_slot + y] + places[p].answers + at; };
      each(s->begin, [&](int y, int p) INLINED {
        for (int b = 0; b < count * vector_bytes; b += 64) __builtin_prefetch(answer(y, p) + b, 1);
        unroll<count>([&](int c) INLINED { sum[y][p][c] = Vec<T>{}; });
      });
      each(s->resume, [&](int y, int p) INLINED {
        unroll<count>([&](int c) INLINED { sum[y][p][c] = load(kept(y, p) + c * lanes<T>); });
      });
      const char* values[together];
      unroll<together>([&](int p) INLINED { values[p] = s->values + places[p].values + at; });
      const int64_t window = places->count;
      const char* ahead = values[together - 1] + (window + 1) * step;  // of the place after the next one
      const T* weight[slots];
      unroll<slots>([&](int y) INLINED { weight[y] = static_cast<const T*>(s->weights[first_slot + y]); });
      for (int64_t e = 0; e < window; ++e, ahead += 64) {
        __builtin_prefetch(ahead);
        unroll<together>([&](int p) INLINED {
          Vec<T> value[count];
          unroll<count>([&](int c) INLINED { value[c] = load_anywhere<T>(values[p] + c * vector_bytes); });
          values[p] += step;
          const int64_t here = places[p].weights[e];
          unroll<slots>([&](int y) INLINED {
            const Vec<T> w = broadcast(weight[y][here]);
            unroll<count>([&](int c) INLINED { sum[y][p][c] += w * value[c]; });
          });
        });
      }
      each(s->leave, [&](int y, int p) INLINED {
        unroll<count>([&](int c) INLINED { store<T>(kept(y, p) + c * lanes<T>, sum[y][p][c]); });
      });
      each(s->end, [&](int y, int p) INLINED {
        const Vec<T> by = broadcast(static_cast<const T*>(s->factors[first_slot + y])[places[p].factors]);
        unroll<count>([&](int c) INLINED { store_anywhere<T>(answer(y, p) + c * vector_bytes, sum[y][p][c] * by); });
      });
    }
  }
}

// Two places at a time where the columns leave registers for them: weights of places side by side are in one cache line.
template <class T, int slots>
void sums_of_two(const SumStep* steps, int64_t step_count, int32_t first_slot, const SumPlace* places,
                 int32_t place_count, int64_t step, int64_t at) {
  for (const SumPlace* const end = places + place_count; places < end;) {
    int32_t pairs = 0;
    while (places + 2 * pairs + 2 <= end && places[2 * pairs].count == places[2 * pairs + 1].count) ++pairs;
    sums_of_slots<T, slots, 2, 2>(steps, step_count, first_slot, places, 2 * pairs, step, at);
    places += 2 * pairs;
    if (places == end) break;
    sums_of_slots<T, slots, 2>(steps, step_count, first_slot, places, 1, step, at);
    ++places;
  }
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

// Rows are fetched ahead while products are made, a line each step: where nothing else is done, they come slowly.
template <class T>
void place_scores(const void* const* queries, int32_t rows, const T* keys, int64_t stride, int64_t step,
                  int64_t columns, int64_t window, void* const* scores, const char* const* ahead) {
  by_stencil_rows(rows, [&](auto count, int32_t at) {
    const int64_t parts = (window + stencil_cells - 1) / stencil_cells;
    for (int64_t part = 0, first = 0; part < parts; ++part) {
      const int64_t cells = (window - first + parts - part - 1) / (parts - part);
      scores_of_some<T, count>(cells, queries + at, keys + first * step, stride, step, columns, scores + at, first,
                               ahead[part == 0 && at == 0 ? 0 : 1]);
      first += cells;
    }
  });
}

template <class T>
void sum_steps(const SumStep* steps, int64_t count, int32_t slots, const SumPlace* places, int32_t place_count,
               int64_t step, int64_t columns) {
  by_stencil_rows(slots, [&](auto rows, int32_t first) {
    const int64_t vectors = columns / lanes<T>;
    for (int64_t c = 0; c < vectors;) {
      const int64_t at = c * vector_bytes;
      if (vectors - c >= stencil_columns) {
        sums_of_slots<T, rows, stencil_columns>(steps, count, first, places, place_count, step, at);
        c += stencil_columns;
      } else if (vectors - c >= 2) {
        const auto run = stencil_columns == 4 ? sums_of_two<T, rows> : sums_of_slots<T, rows, 2>;
        run(steps, count, first, places, place_count, step, at);
        c += 2;
      } else {
        sums_of_slots<T, rows, 1>(steps, count, first, places, place_count, step, at);
        c += 1;
      }
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
