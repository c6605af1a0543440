// The additive family: s[j][q] = sum_h v_h act(A[h][q] + B[j][h]), A and B the projections of queries and keys.
//
// relu and leaky relu are the formula. tanh takes one of three ways, by the largest |A| of the query plus the largest |B| of the key:
//   small   <= 1: a polynomial of the sum.
//   shared  <= limit: the exponentials belong to the inputs, and two terms share one division:
//             v tanh(a + b) = v - 2 / t,  t = (1 + e^2a e^2b) / v,   1 / t0 + 1 / t1 = (t0 + t1) / (t0 t1)
//           limit keeps t0 t1 finite: 2 (|a| + |b|) + log(1 / |v|) < log(largest) / 2 for the smallest |v|.
//   direct: tanh of the sum, whatever its size.
// A register tile goes one way where all its pairs do, else it takes those it needs and picks: a score depends on its
// query and its key alone. The scores are those of v over a power of 2 near its largest element, which goes into the
// scale. Error of a score: the shared way 2.5 ulp of sum_h |v_h|, less where terms have both signs; small and direct:
// relative to each term, as the formula. NaN does not enter the maxima, inf never takes the shared way.
#pragma once
#include "../gemm.hpp"
#include "../math.hpp"
#include "../pack.hpp"
#include "columns.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int additive_rows = 4;  // keys of a register tile: from 1 to 6 the shared way is as fast

template <class T>
struct Shared;
template <>
struct Shared<float> {
  static constexpr float log_half_range = 43;  // t0 t1 < e^88
  static constexpr float least = 0x1p-40f;     // a smaller |v| (over that power of 2) counts as this
  static constexpr float of_zero = 0x1p+20f;   // t where v is 0
};
template <>
struct Shared<double> {
  static constexpr double log_half_range = 354;  // < e^709
  static constexpr double least = 0x1p-100;
  static constexpr double of_zero = 0x1p+50;
};

// v, prepared once for a call: sum(v), the limit and the slope of a leaky relu, then v, 1 / v as added to t, and 1 / v as
// multiplied into e^2a.
template <class T>
struct Factors {
  T sum, limit, slope;
  const T *v, *inverse, *for_powers;
  Factors(const T* prepared, int64_t size) {
    sum = prepared[0];
    limit = prepared[1];
    slope = prepared[2];
    v = prepared + head;
    inverse = v + even(size);
    for_powers = inverse + even(size);
  }
  static constexpr int64_t head = 3;
  static int64_t even(int64_t size) { return size + (size & 1); }  // terms go in pairs; the last may be one of v = 0
};

template <class T>
int64_t prepared_size(int64_t size) {
  return (Factors<T>::head + 3 * Factors<T>::even(size)) * int64_t(sizeof(T));
}

template <class T>
inline T magnitude(T x) {
  return x < 0 ? -x : x;
}

// The power of 2 at or below x, or the least normal one; 1 for 0.
template <class T>
inline T power_of_2(T x) {
  const Vec<T> power = from_bits<T>(as_bits<T>(broadcast(x)) & Math<T>::infinity);
  return power[0] > 0 ? power[0] : x > 0 ? Math<T>::tiny : T(1);
}

// Returns the factor that the scale needs. If some v is not finite, all goes the direct way.
template <class T>
double prepare(const T* v, int64_t size, double slope, T* to) {
  constexpr int64_t head = Factors<T>::head;
  const int64_t even = Factors<T>::even(size);
  T largest = 0, smallest = 1;
  bool finite = true;
  for (int64_t h = 0; h < size; ++h) {
    finite = finite && is_finite(v[h]);
    largest = magnitude(v[h]) > largest ? magnitude(v[h]) : largest;
  }
  const T scale = finite ? power_of_2(largest) : T(1);
  double sum = 0;
  for (int64_t h = 0; h < even; ++h) {
    const T one = h < size ? v[h] / scale : T(0);
    T inverse = Shared<T>::of_zero, for_powers = 0;  // a constant t, given back here
    sum += double(one);
    if (one == 0) {
      sum += 2 / double(inverse);
    } else {
      const T least = one < 0 ? -Shared<T>::least : Shared<T>::least;
      inverse = for_powers = 1 / (magnitude(one) < Shared<T>::least ? least : one);
    }
    smallest = 1 / magnitude(inverse) < smallest ? 1 / magnitude(inverse) : smallest;
    to[head + h] = one;
    to[head + even + h] = inverse;
    to[head + 2 * even + h] = for_powers;
  }
  to[0] = T(sum);
  to[1] = finite ? (Shared<T>::log_half_range + log<T>(broadcast(smallest))[0]) / 2 : T(-1);
  to[2] = T(slope);
  return double(scale);
}

// A panel of queries: A, then e^2a / v, `even` rows each, then the largest |A| of each query, and of all the least and
// the most.
template <class T>
int64_t additive_panel_size(int64_t size) {
  return (2 * Factors<T>::even(size) + 2) * int64_t(sizeof(T));
}
template <class T>
void pack_additive_queries(const char* const* rows, Dtype dtype, int64_t column_stride, int32_t live, int32_t vectors,
                           int64_t size, double, const T* prepared, T* scratch, T* panel) {
  const Factors<T> factors(prepared, size);
  const int64_t width = vectors * lanes<T>, even = Factors<T>::even(size);
  T *powers = panel + even * width, *largest = powers + even * width;
  pack_queries<T>(rows, dtype, column_stride, live, vectors, size, 1, nullptr, scratch, panel);
  for (int64_t i = size * width; i < even * width; ++i) panel[i] = 0;
  for (int64_t i = 0; i < width; i += lanes<T>) {
    Vec<T> top = {};
    for (int64_t h = 0; h < even; ++h) {
      const Vec<T> a = load(panel + h * width + i);
      top = max(absolute<T>(a), top);
      store<T>(powers + h * width + i, exp_twice<T>(a) * broadcast(factors.for_powers[h]));
    }
    store<T>(largest + i, top);
  }
  T least = largest[0], most = largest[0];
  for (int32_t i = 1; i < live; ++i) {
    least = largest[i] < least ? largest[i] : least;
    most = largest[i] > most ? largest[i] : most;
  }
  largest[width] = least;
  largest[width + 1] = most;
}

// A row of keys: B, then e^2b, in whole vectors each, then the largest |B|.
template <class T>
struct AdditiveRow {
  static int64_t padded(int64_t size) { return (size + lanes<T> - 1) / lanes<T> * lanes<T>; }
  static int64_t length(int64_t size) { return 2 * padded(size) + lanes<T>; }
};
template <class T>
int64_t additive_row_size(int64_t size) {
  return AdditiveRow<T>::length(size) * int64_t(sizeof(T));
}
template <class T>
void load_additive_keys(const Rows& from, int64_t count, int64_t size, T* row) {
  const int64_t padded = AdditiveRow<T>::padded(size);
  for (int64_t j = 0; j < count; ++j, row += AdditiveRow<T>::length(size)) {
    load_values<T>(from.from(j), 1, size, false, row);
    for (int64_t h = size; h < padded; ++h) row[h] = 0;
    Vec<T> top = {};
    for (int64_t h = 0; h < padded; h += lanes<T>) {
      const Vec<T> b = load(row + h);
      top = max(absolute<T>(b), top);
      store<T>(row + padded + h, exp_twice<T>(b));
    }
    T largest = 0;
    for (int lane = 0; lane < lanes<T>; ++lane) largest = top[lane] > largest ? top[lane] : largest;
    row[2 * padded] = largest;
  }
}

// A way, for a register tile: part[j][v] += the terms begin..end - 1; and what the sum of all becomes.
struct SharedWay {
  template <class T, int vectors, int rows, int all>
  static void add(const T* panel, const T* keys, int64_t key_stride, int64_t size, const Factors<T>& factors,
                  int64_t begin, int64_t end, Vec<T> (&part)[rows][vectors]) {
    constexpr int width = all * lanes<T>;
    const T* powers = panel + Factors<T>::even(size) * width;
    keys += AdditiveRow<T>::padded(size);
    for (int64_t h = begin; h < end; h += 2) {
      const Vec<T> inverse[2] = {broadcast(factors.inverse[h]), broadcast(factors.inverse[h + 1])};
      Vec<T> a[2][vectors];
      unroll<2>([&](int i) INLINED {
        unroll<vectors>([&](int v) INLINED { a[i][v] = load(powers + (h + i) * width + v * lanes<T>); });
      });
      unroll<rows>([&](int j) INLINED {
        const T* key = keys + j * key_stride + h;
        const Vec<T> b[2] = {broadcast(key[0]), broadcast(key[1])};
        unroll<vectors>([&](int v) INLINED {
          const Vec<T> t0 = a[0][v] * b[0] + inverse[0], t1 = a[1][v] * b[1] + inverse[1];
          part[j][v] += (t0 + t1) / (t0 * t1);
        });
      });
    }
  }
  template <class T>
  static Vec<T> finish(Vec<T> sum, const Factors<T>& factors) {
    return factors.sum - T(2) * sum;
  }
};

template <class Activation>
struct DirectWay {
  template <class T, int vectors, int rows, int all>
  static void add(const T* panel, const T* keys, int64_t key_stride, int64_t, const Factors<T>& factors, int64_t begin,
                  int64_t end, Vec<T> (&part)[rows][vectors]) {
    constexpr int width = all * lanes<T>;
    const Vec<T> slope = broadcast(factors.slope);
    for (int64_t h = begin; h < end; ++h) {
      const Vec<T> factor = broadcast(factors.v[h]);
      Vec<T> a[vectors];
      unroll<vectors>([&](int v) INLINED { a[v] = load(panel + h * width + v * lanes<T>); });
      unroll<rows>([&](int j) INLINED {
        const Vec<T> b = broadcast(keys[j * key_stride + h]);
        unroll<vectors>([&](int v) INLINED { part[j][v] += Activation::template of<T>(a[v] + b, slope) * factor; });
      });
    }
  }
  template <class T>
  static Vec<T> finish(Vec<T> sum, const Factors<T>&) {
    return sum;
  }
};
struct Tanh {
  template <class T>
  static Vec<T> of(Vec<T> x, Vec<T>) {
    return tanh<T>(x);
  }
};
struct SmallTanh {
  template <class T>
  static Vec<T> of(Vec<T> x, Vec<T>) {
    return tanh_small<T>(x);
  }
};
struct Relu {
  template <class T>
  static Vec<T> of(Vec<T> x, Vec<T>) {
    return at_least<T>(0, x);
  }
};
// steep: the slope is above 1, and the smaller of the two is the one.
template <bool steep>
struct LeakyRelu {
  template <class T>
  static Vec<T> of(Vec<T> x, Vec<T> slope) {
    return steep ? -max(-slope * x, -x) : max(slope * x, x);
  }
};

// For `vectors` of a panel that has `all`.
template <class Way, class T, int vectors, int rows, int all = vectors>
[[gnu::noinline]] void additive_block(const T* panel, const T* keys, int64_t key_stride, int64_t size,
                                      const Factors<T>& factors, T* scores, T* top) {
  Vec<T> sum[rows][vectors] = {};
  sum_in_parts<T, vectors, rows>(size, sum, [&](int64_t begin, int64_t end, auto& part) {
    Way::template add<T, vectors, rows, all>(panel, keys, key_stride, size, factors, begin, end, part);
  });
  unroll<rows>([&](int j) INLINED {
    unroll<vectors>([&](int v) INLINED { sum[j][v] = Way::template finish<T>(sum[j][v], factors); });
  });
  store_scores<T, vectors, rows, all>(sum, scores, top);
}

// Vector by vector on AVX-512, as distances are: a key is broadcast by the addition itself.
template <class Way, class T, int all, int rows>
inline void by_vectors(const T* panel, const T* keys, int64_t key_stride, int64_t size, const Factors<T>& factors,
                       T* scores, T* top) {
  constexpr int vectors = vector_bytes == 64 ? 1 : all;
  unroll<all / vectors>([&](int part) INLINED {
    const int64_t at = int64_t(part) * vectors * lanes<T>;
    additive_block<Way, T, vectors, rows, all>(panel + at, keys, key_stride, size, factors, scores + at, top + at);
  });
}

// The way of a register tile.
struct ChooseTanh {
  template <class T, int vectors, int rows>
  static void block(const T* panel, const T* keys, int64_t key_stride, int64_t size, const Factors<T>& factors,
                    T* scores, T* top) {
    constexpr int width = vectors * lanes<T>;
    const T* queries = panel + 2 * Factors<T>::even(size) * width;
    T reach[rows], least = queries[width], most = queries[width + 1], lowest, highest;
    for (int j = 0; j < rows; ++j) {
      reach[j] = keys[j * key_stride + 2 * AdditiveRow<T>::padded(size)];
      lowest = j == 0 || reach[j] < lowest ? reach[j] : lowest;
      highest = j == 0 || reach[j] > highest ? reach[j] : highest;
    }
    least += lowest;
    most += highest;
    const auto small = additive_block<DirectWay<SmallTanh>, T, vectors, rows>;
    const auto shared = additive_block<SharedWay, T, vectors, rows>;
    const auto direct = additive_block<DirectWay<Tanh>, T, vectors, rows>;
    const T limit = factors.limit > 1 ? factors.limit : T(1);
    if (most <= 1) return small(panel, keys, key_stride, size, factors, scores, top);
    if (least > 1 && most <= limit) return shared(panel, keys, key_stride, size, factors, scores, top);
    if (least > limit) return direct(panel, keys, key_stride, size, factors, scores, top);

    alignas(vector_bytes) T others[rows * width], ignored[width] = {};
    Vec<T> result[rows][vectors];
    const auto take = [&](auto way, T above) {  // for the pairs whose reach is beyond this
      way(panel, keys, key_stride, size, factors, others, ignored);
      unroll<rows>([&](int j) INLINED {
        unroll<vectors>([&](int v) INLINED {
          const Vec<T> score = load(others + j * width + v * lanes<T>);
          result[j][v] = load(queries + v * lanes<T>) + reach[j] > above ? score : result[j][v];
        });
      });
    };
    if (least <= 1) take(small, T(-1));
    if (most > 1 && least <= limit) take(shared, least <= 1 ? T(1) : T(-1));
    if (most > limit) take(direct, limit);
    store_scores<T, vectors, rows>(result, scores, top);
  }
};
struct ChooseRelu {
  template <class T, int vectors, int rows>
  static void block(const T* panel, const T* keys, int64_t key_stride, int64_t size, const Factors<T>& factors,
                    T* scores, T* top) {
    by_vectors<DirectWay<Relu>, T, vectors, rows>(panel, keys, key_stride, size, factors, scores, top);
  }
};
struct ChooseLeakyRelu {
  template <class T, int vectors, int rows>
  static void block(const T* panel, const T* keys, int64_t key_stride, int64_t size, const Factors<T>& factors,
                    T* scores, T* top) {
    const auto one = by_vectors<DirectWay<LeakyRelu<false>>, T, vectors, rows>;
    const auto steep = by_vectors<DirectWay<LeakyRelu<true>>, T, vectors, rows>;
    (factors.slope > 1 ? steep : one)(panel, keys, key_stride, size, factors, scores, top);
  }
};

template <class T, class Choose>
void additive_scores(const T* panel, int32_t vectors, LoadedRows tile, int64_t count, int64_t size, const T* prepared,
                     T* scores, T* top, const PartialKeys&, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    const Factors<T> factors(prepared, size);
    const T* const keys = static_cast<const T*>(tile.data);
    const int64_t stride = tile.row_stride / int64_t(sizeof(T));
    start_top<T, v>(top);
    Prefetcher prefetcher(ahead, count / additive_rows);
    int64_t j = 0;
    for (; j + additive_rows <= count; j += additive_rows) {
      prefetcher.step();
      Choose::template block<T, v, additive_rows>(panel, keys + j * stride, stride, size, factors,
                                                  scores + j * v * lanes<T>, top);
    }
    for (; j < count; ++j)
      Choose::template block<T, v, 1>(panel, keys + j * stride, stride, size, factors, scores + j * v * lanes<T>, top);
  });
}

// The slopes, for column_gradients.
// With e = e^|2x| - 1: tanh|x| = e / (e + 2) and 1 - tanh^2 = 4 (e + 1) / (e + 2)^2, which keeps its digits where tanh is
// next to 1. Two columns of one query share a division, which costs as much as all else: `limit` keeps the inverse of both in
// range. Beyond it tanh is 1 and flat to the last bit; NaN counts as beyond: its cells are 0 or NaN already.
struct TanhSlope {
  template <class T>
  static constexpr T limit = sizeof(T) == 4 ? T(21) : T(170);

  template <class T>
  static Slope<T> of(Vec<T> a, Vec<T> b, Vec<T>) {
    const Vec<T> x = a + b, e = grown<T>(x);
    return from<T>(x, e, T(1) / (e + T(2)));
  }
  template <class T>
  static void of_two(const Vec<T> (&a)[2], const Vec<T> (&b)[2], const Vec<T> (&)[2], Slope<T> (&slope)[2]) {
    const Vec<T> x[2] = {a[0] + b[0], a[1] + b[1]}, e[2] = {grown<T>(x[0]), grown<T>(x[1])};
    const Vec<T> both = T(1) / ((e[0] + T(2)) * (e[1] + T(2)));
    slope[0] = from<T>(x[0], e[0], both * (e[1] + T(2)));
    slope[1] = from<T>(x[1], e[1], both * (e[0] + T(2)));
  }

 private:
  template <class T>
  static Vec<T> grown(Vec<T> x) {
    const Vec<T> magnitude = absolute<T>(x);
    return exp_twice_minus_1<T>(magnitude < limit<T> ? magnitude : broadcast(limit<T>));
  }
  template <class T>
  static Slope<T> from(Vec<T> x, Vec<T> e, Vec<T> inverse) {
    const IntVec<T> sign = as_bits<T>(x) & as_bits<T>(broadcast(T(-0.0)));
    const Vec<T> slope = absolute<T>(x) < limit<T> ? (e + T(1)) * inverse * (inverse * T(4)) : Vec<T>{};
    return {slope, from_bits<T>(as_bits<T>(e * inverse) | sign)};
  }
};

struct ReluSlope : Alone<ReluSlope> {
  template <class T>
  static Slope<T> of(Vec<T> a, Vec<T> b, Vec<T>) {
    const Vec<T> sum = a + b;
    return {sum > T(0) ? broadcast(T(1)) : Vec<T>{}, at_least<T>(0, sum)};
  }
};

struct LeakyReluSlope : Alone<LeakyReluSlope> {
  template <class T>
  static Slope<T> of(Vec<T> a, Vec<T> b, Vec<T> slope) {
    const Vec<T> sum = a + b, there = sum > T(0) ? broadcast(T(1)) : slope;
    return {there, sum * there};
  }
};
}  // namespace
}  // namespace foveate::FOVEATE_ISA
