// The cells of a tile in the backward pass: weights P and gradients of the scores dS, made from scores and the gradients of
// the weights dP, and laid out for the sums over queries. A cell that is not seen is 0 in both, whatever dP holds.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// s and d_weights are [key][vectors * lanes]; dS takes the place of dP. Weights, and dS too unless d_scores is null, also
// go to rows `stride` apart, in which the panels of a block stand side by side: they point at this panel's first column.
// cell(v, s, dP): weight and dS of the queries of vector v
template <class T, int vectors, class Cell>
inline void each_cell(const T* s, T* d_weights, int64_t count, T* weights, T* d_scores, int64_t stride, Cell&& cell) {
  constexpr int width = vectors * lanes<T>;
  const auto run = [&](auto beside) {
    for (int64_t j = 0; j < count; ++j)
      unroll<vectors>([&](int v) INLINED {
        const int64_t here = j * width + v * lanes<T>, there = j * stride + v * lanes<T>;
        Vec<T> weight, d_score;
        cell(v, load(s + here), load(d_weights + here), weight, d_score);
        store<T>(weights + there, weight);
        if constexpr (beside) store<T>(d_scores + there, d_score);
        store<T>(d_weights + here, d_score);
      });
  };
  if (d_scores)
    run(Constant<1>{});
  else
    run(Constant<0>{});
}

// The second half, where d_scores changed after the first: their rows.
template <class T, int vectors>
void store_cells(const T* d_weights, int64_t count, T* d_scores, int64_t stride) {
  constexpr int width = vectors * lanes<T>;
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      store<T>(d_scores + j * stride + v * lanes<T>, load(d_weights + j * width + v * lanes<T>));
    });
}
template <class T>
void store_cells(const T* d_weights, int32_t vectors, int64_t count, T* d_scores, int64_t stride) {
  by_width(vectors, [&](auto v) { store_cells<T, v>(d_weights, count, d_scores, stride); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
