// The gradients of a score that is a sum over columns of a function of query and key there, from a tile of d_scores:
//   additive   s = sum_h v_h f(a_h + b_h)        to_query = to_key = f',              to_factors = f
//   distance   s = sum_h (w_h (a_h - b_h))^2     to_query = -to_key = w_h (a_h - b_h), to_factors = w_h (a_h - b_h)^2
//   to_query[h][q] += sum_j dS[j][q] (..),  to_key[j][h] += sum_q dS[j][q] (..),  to_factors[h][lane] += sum_jq dS[j][q] (..)
// What is constant in a column, v_h or 2 w_h and its sign, is left to the driver. Sums over the keys run from 0 in a
// tile, sums over the queries from 0 in a panel. Cells of dS = 0, those that are not seen among them, add 0 whatever
// query and key hold.
#pragma once
#include "../gemm.hpp"
#include "../math.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// The slope of a score in a column: what goes to query and key, and what goes to the factors. A policy F has `of` for one
// column, and `of_two` for two.
template <class T>
struct Slope {
  Vec<T> operand, factor;
};
// Functions whose columns share nothing.
template <class F>
struct Alone {
  template <class T>
  static void of_two(const Vec<T> (&a)[2], const Vec<T> (&b)[2], const Vec<T> (&w)[2], Slope<T> (&slope)[2]) {
    for (int i = 0; i < 2; ++i) slope[i] = F::template of<T>(a[i], b[i], w[i]);
  }
};

// The sum over the lanes, by halves.
template <class T, int count = lanes<T>>
inline T sum_of_lanes(const Vec<T>& x) {
  T part[count];
  for (int i = 0; i < count; ++i) part[i] = x[i];
  for (int half = count / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
}

// Few columns are summed over the lanes one by one, more by a transpose of a whole square of them.
constexpr int single_columns = 4;

template <class T, class F, int vectors>
[[gnu::noinline]] void column_square(const T* panel, const T* keys, int64_t key_stride, int64_t count, int columns,
                                     const T* factors, const T* d_scores, T* to_query, T* to_key, int64_t to_key_stride,
                                     T* to_factors) {
  constexpr int width = vectors * lanes<T>;
  alignas(vector_bytes) T of_queries[lanes<T> * width] = {}, of_factors[lanes<T> * lanes<T>] = {};
  for (int64_t j = 0; j < count; ++j, keys += key_stride, to_key += to_key_stride) {
    Vec<T> d_score[vectors];
    IntVec<T> nothing[vectors];
    unroll<vectors>([&](int v) INLINED {
      d_score[v] = load(d_scores + j * width + v * lanes<T>);
      nothing[v] = d_score[v] == T(0);
    });
    Vec<T> of_key[lanes<T>] = {};
    const auto add = [&](int h, auto v, const Slope<T>& slope) {
      T *const of_query = of_queries + h * width + v * lanes<T>, *const of_factor = of_factors + h * lanes<T>;
      const Vec<T> part = nothing[v] ? Vec<T>{} : d_score[v] * slope.operand;
      store<T>(of_query, load(of_query) + part);
      of_key[h] += part;
      store<T>(of_factor, load(of_factor) + (nothing[v] ? Vec<T>{} : d_score[v] * slope.factor));
    };
    int h = 0;
    for (; h + 1 < columns; h += 2) {
      const Vec<T> b[2] = {broadcast(keys[h]), broadcast(keys[h + 1])};
      const Vec<T> w[2] = {broadcast(factors[h]), broadcast(factors[h + 1])};
      unroll<vectors>([&](int v) INLINED {
        const T* const query = panel + h * width + v * lanes<T>;
        const Vec<T> a[2] = {load(query), load(query + width)};
        Slope<T> slope[2];
        F::template of_two<T>(a, b, w, slope);
        add(h, v, slope[0]);
        add(h + 1, v, slope[1]);
      });
    }
    if (h < columns)
      unroll<vectors>([&](int v) INLINED {
        const Vec<T> a = load(panel + h * width + v * lanes<T>);
        add(h, v, F::template of<T>(a, broadcast(keys[h]), broadcast(factors[h])));
      });
    if (columns <= single_columns) {
      for (int h = 0; h < columns; ++h) to_key[h] += sum_of_lanes<T>(of_key[h]);
    } else {
      transpose<T>(of_key);
      for (int half = lanes<T> / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) of_key[i] += of_key[i + half];
      store<T>(to_key, load(to_key) + of_key[0]);
    }
  }
  for (int64_t i = 0; i < columns * width; i += lanes<T>)
    store<T>(to_query + i, load(to_query + i) + load(of_queries + i));
  for (int64_t i = 0; i < columns * lanes<T>; i += lanes<T>)
    store<T>(to_factors + i, load(to_factors + i) + load(of_factors + i));
}

// d_scores: [key][vectors * lanes], 0 in lanes without a query. factors: T[columns] of distances, the slope of a leaky relu
// in each column. to_key: rows of whole
// vectors; to_factors: a vector for each column.
template <class T, class F>
void column_gradients(const T* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t columns,
                      const T* factors, const T* d_scores, T* to_query, T* to_key, T* to_factors) {
  by_width(vectors, [&](auto v) {
    constexpr int width = v * lanes<T>;
    const int64_t to_key_stride = (columns + lanes<T> - 1) / lanes<T> * lanes<T>;
    const T* const rows = static_cast<const T*>(keys.data);
    T ones[lanes<T>];
    for (int i = 0; i < lanes<T>; ++i) ones[i] = T(1);
    for (int64_t h = 0; h < columns; h += lanes<T>) {
      const int some = columns - h < lanes<T> ? int(columns - h) : lanes<T>;
      column_square<T, F, v>(panel + h * width, rows + h, keys.row_stride / int64_t(sizeof(T)), count, some,
                             factors ? factors + h : ones, d_scores, to_query + h * width, to_key + h, to_key_stride,
                             to_factors + h * lanes<T>);
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
