// Sums of Gaussians between boxes of points, K(x, y) = exp(-|x - y|^2 / 2), in float64.
//   moments   to[c][a] = sum_j v_jc exp(D . y_j - |y_j|^2 / 2) y_j^a, of the monomials a of degree < `degree`
//   series    sums[c][i] += exp(shift - tilt . x_i) sum_a coefficient[c][a] x_i^a
//   pairs     sums[c] += sum_j v_jc exp(shift - |D - y_j|^2 / 2)
//   pairs_of_rows   sums[c][i] += sum_j v_jc exp(shift_i - |D + x_i - y_j|^2 / 2), the queries on the lanes
//   nearest   min_j |D - y_j|^2
// Points y stand one dimension after the other, and so do values. Monomials are in the order of nested loops over the powers
// of each dimension, the last one fastest. Exponents are at most about 700; where one is below -745 the term is 0.
#pragma once
#include "math.hpp"
#include "score/columns.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int sum_vectors = 4;  // side by side, to hide the latency of products
constexpr int sum_block = sum_vectors * lanes<double>;
static_assert(sum_block_most % sum_block == 0);

struct SumVectors {
  Vec<double> part[sum_vectors];
};

inline Vec<double> exp_of(Vec<double> x) { return exp2<double>(x * Math<double>::log2_e); }

// Adds a block of weights times monomials of `dims` dimensions to sums, a vector for each monomial.
template <int dims>
[[gnu::always_inline]] inline void add_monomials(SumVectors g, const double* const* y, int left, double*& sums) {
  SumVectors at;
  unroll<sum_vectors>([&](int i) INLINED { at.part[i] = load(y[0] + i * lanes<double>); });
  for (int power = 0; power < left; ++power) {
    if constexpr (dims == 1) {
      const Vec<double> sum = (g.part[0] + g.part[1]) + (g.part[2] + g.part[3]);
      store<double>(sums, load(sums) + sum);
      sums += lanes<double>;
    } else {
      add_monomials<dims - 1>(g, y + 1, left - power, sums);
    }
    unroll<sum_vectors>([&](int i) INLINED { g.part[i] *= at.part[i]; });
  }
}

template <int dims>
[[gnu::noinline]] void moments(const SumPoints& points, int64_t first, int64_t end, const double* d, int32_t degree,
                               int64_t terms, double* scratch, double* to) {
  const int32_t columns = points.columns;
  for (int64_t i = 0; i < columns * terms; ++i) store<double>(scratch + i * lanes<double>, Vec<double>{});
  double tail[most_sum_dims][sum_block], tail_value[sum_block];
  for (int64_t j = first; j < end; j += sum_block) {
    const int64_t some = end - j < sum_block ? end - j : sum_block;
    const double* y[dims];
    for (int k = 0; k < dims; ++k) {
      y[k] = points.at + k * points.stride + j;
      if (some == sum_block) continue;
      for (int64_t i = 0; i < sum_block; ++i) tail[k][i] = i < some ? y[k][i] : 0;
      y[k] = tail[k];
    }
    SumVectors weight;
    unroll<sum_vectors>([&](int i) INLINED {
      Vec<double> exponent{};
      for (int k = 0; k < dims; ++k) {
        const Vec<double> at = load(y[k] + i * lanes<double>);
        exponent += at * (d[k] - at * 0.5);
      }
      weight.part[i] = exp_of(exponent);
    });
    double* sums = scratch;
    for (int32_t c = 0; c < columns; ++c) {
      const double* value = points.values + c * points.stride + j;
      if (some < sum_block) {
        for (int64_t i = 0; i < sum_block; ++i) tail_value[i] = i < some ? value[i] : 0;
        value = tail_value;
      }
      SumVectors g;
      unroll<sum_vectors>([&](int i) INLINED { g.part[i] = weight.part[i] * load(value + i * lanes<double>); });
      add_monomials<dims>(g, y, degree, sums);
    }
  }
  for (int64_t i = 0; i < columns * terms; ++i) to[i] = sum_of_lanes<double>(load(scratch + i * lanes<double>));
}

// A polynomial by Horner's rule in each dimension; `coefficients` is behind the last one, and moves to the first.
template <int dims>
[[gnu::always_inline]] inline SumVectors polynomial_of(const SumVectors* x, int left, const double*& coefficients) {
  SumVectors sum;
  if constexpr (dims == 1) {
    unroll<sum_vectors>([&](int i) INLINED { sum.part[i] = broadcast(coefficients[-1]); });
    --coefficients;
    for (int power = left - 1; power > 0; --power) {
      const Vec<double> next = broadcast(*--coefficients);
      unroll<sum_vectors>([&](int i) INLINED { sum.part[i] = sum.part[i] * x[0].part[i] + next; });
    }
  } else {
    unroll<sum_vectors>([&](int i) INLINED { sum.part[i] = Vec<double>{}; });
    for (int power = left - 1; power >= 0; --power) {
      const SumVectors next = polynomial_of<dims - 1>(x + 1, left - power, coefficients);
      unroll<sum_vectors>([&](int i) INLINED { sum.part[i] = sum.part[i] * x[0].part[i] + next.part[i]; });
    }
  }
  return sum;
}

// x [dims][stride] and sums [columns][stride]; count is a multiple of sum_block_most.
template <int dims>
[[gnu::noinline]] void series(const double* x, int64_t stride, int64_t count, const double* tilt, double shift,
                              int32_t degree, int64_t terms, const double* coefficients, int32_t columns,
                              double* sums) {
  for (int64_t first = 0; first < count; first += sum_block) {
    SumVectors at[dims], factor;
    for (int k = 0; k < dims; ++k)
      unroll<sum_vectors>([&](int i) INLINED { at[k].part[i] = load(x + k * stride + first + i * lanes<double>); });
    unroll<sum_vectors>([&](int i) INLINED {
      Vec<double> exponent = broadcast(shift);
      for (int k = 0; k < dims; ++k) exponent -= at[k].part[i] * tilt[k];
      factor.part[i] = exp_of(exponent);
    });
    for (int32_t c = 0; c < columns; ++c) {
      const double* behind = coefficients + (c + 1) * terms;
      const SumVectors value = polynomial_of<dims>(at, degree, behind);
      double* const to = sums + c * stride + first;
      unroll<sum_vectors>([&](int i) INLINED {
        store<double>(to + i * lanes<double>, load(to + i * lanes<double>) + factor.part[i] * value.part[i]);
      });
    }
  }
}

// A vector of element j and those behind it, up to the end; the rest repeats the last one, or is 0.
inline Vec<double> load_some(const double* p, int64_t some, bool repeats) {
  if (some >= lanes<double>) return load(p);
  Vec<double> x{};
  for (int i = 0; i < lanes<double>; ++i) x[i] = i < some ? p[i] : (repeats ? p[some - 1] : 0);
  return x;
}

template <int dims>
inline Vec<double> squares(const SumPoints& points, int64_t j, int64_t some, const double* d) {
  Vec<double> sum{};
  for (int k = 0; k < dims; ++k) {
    const Vec<double> difference = d[k] - load_some(points.at + k * points.stride + j, some, true);
    sum += difference * difference;
  }
  return sum;
}

template <int dims>
[[gnu::noinline]] void pairs(const SumPoints& points, int64_t first, int64_t end, const double* d, double shift,
                             double* sums) {
  constexpr int64_t most = 256;
  double weights[most];
  for (; first < end; first += most) {
    const int64_t count = end - first < most ? end - first : most;
    for (int64_t j = 0; j < count; j += lanes<double>)
      store<double>(weights + j, exp_of(shift - squares<dims>(points, first + j, count - j, d) * 0.5));
    for (int32_t c = 0; c < points.columns; ++c) {
      const double* const value = points.values + c * points.stride + first;
      Vec<double> sum{};
      for (int64_t j = 0; j < count; j += lanes<double>)
        sum += load(weights + j) * load_some(value + j, count - j, false);
      sums[c] += sum_of_lanes<double>(sum);
    }
  }
}

template <int dims, int vectors>
[[gnu::always_inline]] inline void rows_by_pairs(const SumPoints& points, int64_t first, int64_t end, const double* x,
                                                 int64_t stride, const double* d, const double* shift, double* sums) {
  constexpr int64_t most = 16;
  Vec<double> at[dims][vectors], limit[vectors], weights[most][vectors];
  for (int k = 0; k < dims; ++k)
    unroll<vectors>([&](int i) INLINED { at[k][i] = load(x + k * stride + i * lanes<double>) + d[k]; });
  unroll<vectors>([&](int i) INLINED { limit[i] = load(shift + i * lanes<double>); });
  for (; first < end; first += most) {
    const int64_t count = end - first < most ? end - first : most;
    for (int64_t j = 0; j < count; ++j)
      unroll<vectors>([&](int i) INLINED {
        Vec<double> square{};
        for (int k = 0; k < dims; ++k) {
          const Vec<double> difference = at[k][i] - points.at[k * points.stride + first + j];
          square += difference * difference;
        }
        weights[j][i] = exp_of(limit[i] - square * 0.5);
      });
    for (int32_t c = 0; c < points.columns; ++c) {
      const double* const value = points.values + c * points.stride + first;
      Vec<double> sum[vectors];
      unroll<vectors>([&](int i) INLINED { sum[i] = load(sums + c * stride + i * lanes<double>); });
      for (int64_t j = 0; j < count; ++j) unroll<vectors>([&](int i) INLINED { sum[i] += weights[j][i] * value[j]; });
      unroll<vectors>([&](int i) INLINED { store<double>(sums + c * stride + i * lanes<double>, sum[i]); });
    }
  }
}

// Rows are padded as those of `series`; of `count` there may be less than all.
template <int dims>
[[gnu::noinline]] void pairs_of_rows(const SumPoints& points, int64_t first, int64_t end, const double* x,
                                     int64_t stride, int64_t count, const double* d, const double* shift,
                                     double* sums) {
  int64_t i = 0;
  for (; i + (sum_vectors - 1) * lanes<double> < count; i += sum_block)
    rows_by_pairs<dims, sum_vectors>(points, first, end, x + i, stride, d, shift + i, sums + i);
  for (; i < count; i += lanes<double>)
    rows_by_pairs<dims, 1>(points, first, end, x + i, stride, d, shift + i, sums + i);
}

template <int dims>
[[gnu::noinline]] double nearest(const SumPoints& points, int64_t first, int64_t end, const double* d) {
  Vec<double> most = broadcast(-Math<double>::largest);
  for (int64_t j = first; j < end; j += lanes<double>) most = max(most, -squares<dims>(points, j, end - j, d));
  double least = -most[0];
  for (int i = 1; i < lanes<double>; ++i) least = -most[i] < least ? -most[i] : least;
  return least;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
