// soft.hpp's online softmax with its tangent: beside the weights P of a tile, P t of the tangents t of its scores, and
//   d' = alpha d + sum_j P_j t_j        d / l is how the logarithm of the denominator moves
// in the chains of l. The weights and l have the bits of soft.hpp. A cell that is not seen has P t = 0, whatever t holds.
#pragma once
#include "soft.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// t = factor (tangents + more), where there is more. Vector after vector of queries: two sums in four chains are enough.
template <class T, int vectors>
[[gnu::noinline]] void soft_tangent_tile(T* scores, T* tangents, const T* more, int64_t count, T scale, T factor,
                                         const T* top, T* m, T* l, T* d, T* alpha) {
  constexpr int width = vectors * lanes<T>, chains = sum_chains;
  const Vec<T> lowest = minus_infinity<T>();
  Vec<T> offset[vectors];
  soft_offset<T, vectors>(top, scale, m, l, alpha, offset);
  for (int v = 0; v < vectors; ++v) {
    const Vec<T> largest = offset[v];
    Vec<T> sum[chains] = {}, moved[chains] = {};
    const auto add = [&](int c, int64_t j) INLINED {
      const int64_t cell = j * width + v * lanes<T>;
      const Vec<T> score = load(scores + cell);
      const Vec<T> weight = exp2<T>((score - largest) * scale);
      Vec<T> tangent = load(tangents + cell);
      if (more) tangent += load(more + cell);
      tangent *= factor;
      const Vec<T> product = score == lowest ? Vec<T>{} : weight * tangent;
      sum[c] += weight;
      moved[c] += product;
      store<T>(scores + cell, weight);
      store<T>(tangents + cell, product);
    };
    const int64_t whole = count & -int64_t(chains);
    for (int64_t j = 0; j < whole; j += chains) unroll<chains>([&](int c) INLINED { add(c, j + c); });
    unroll<chains - 1>([&](int c) INLINED {
      if (whole + c < count) add(c, whole + c);
    });
    const int at = v * lanes<T>;
    store<T>(l + at, load(l + at) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    store<T>(d + at, load(d + at) * load(alpha + at) + ((moved[0] + moved[1]) + (moved[2] + moved[3])));
  }
}

template <class T>
void soft_tangent(T* scores, T* tangents, const T* more, int32_t vectors, int64_t count, double scale, double factor,
                  const T* top, T* m, T* l, T*, T* d, T*, T* alpha) {
  by_width(vectors, [&](auto v) {
    soft_tangent_tile<T, v>(scores, tangents, more, count, T(scale), T(factor), top, m, l, d, alpha);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
