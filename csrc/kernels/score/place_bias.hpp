// A bias by place: s[j][i] += lines[place of query i - place of key j]. Queries of a panel that stand in a run of places
// read neighbors of a line, whatever the key; and so their gradients are added to neighbors.
#pragma once
#include "../math.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// s[j][first lane of the run ...] += line[run.first - places[j] ...], already in base 2
template <class T>
void add_places(T* scores, int32_t vectors, int64_t count, const PlaceRun* runs, int32_t run_count,
                const int64_t* places, const T* line) {
  const int32_t width = vectors * lanes<T>;
  for (int32_t r = 0; r < run_count; ++r) {
    const PlaceRun& run = runs[r];
    const int32_t shift = run.lane % lanes<T>;
    const T* const from = line + run.first - shift;
    T* cell = scores + run.lane - shift;
    if (run.length == lanes<T>) {
      for (int64_t j = 0; j < count; ++j, cell += width) store<T>(cell, load(cell) + load(from - places[j]));
      continue;
    }
    const uint32_t own = ((uint32_t(1) << run.length) - 1) << shift;  // the line has room for a vector on both sides
    for (int64_t j = 0; j < count; ++j, cell += width)
      store<T>(cell, load(cell) + select_bits<T>(own, load(from - places[j]), Vec<T>{}));
  }
}

inline void add_as_doubles(const float* from, double* to) {
  typedef float Half __attribute__((vector_size(vector_bytes / 2), aligned(4), may_alias));
  for (int i = 0; i < 2; ++i) {
    const Half half = *reinterpret_cast<const Half*>(from + i * lanes<double>);
    store<double>(to + i * lanes<double>, load(to + i * lanes<double>) + __builtin_convertvector(half, Vec<double>));
  }
}
inline void add_as_doubles(const double* from, double* to) { store<double>(to, load(to) + load(from)); }

// sums[run.first - places[j] ...] += d_scores[j][first lane of the run ...]. Keys that are neighbors write into each
// other's sums: they are taken `lanes` apart, so that what one has written is not read again at once.
template <class T>
void sum_places(const T* d_scores, int32_t vectors, int64_t count, const PlaceRun* runs, int32_t run_count,
                const int64_t* places, double* sums) {
  const int32_t width = vectors * lanes<T>;
  for (int32_t r = 0; r < run_count; ++r) {
    const PlaceRun& run = runs[r];
    double* const to = sums + run.first;
    const T* const cells = d_scores + run.lane;
    for (int64_t first = 0; first < lanes<T> && first < count; ++first) {
      if (run.length == lanes<T>) {
        for (int64_t j = first; j < count; j += lanes<T>) add_as_doubles(cells + j * width, to - places[j]);
      } else {
        for (int64_t j = first; j < count; j += lanes<T>)
          for (int32_t i = 0; i < run.length; ++i) to[i - places[j]] += double(cells[j * width + i]);
      }
    }
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
