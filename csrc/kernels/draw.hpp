// Draws from categories by inversion of their cumulated weights. For one draw, or a few: the sums of 64 classes of each
// block of 4096 categories, at the speed of memory; then a class by its sum, and a category of that class. For many draws
// from a row: cumulated weights in fixed point, and a guide into them (H.-C. Chen and Y. Asau, "On Generating Random
// Variates from an Empirical Distribution", AIIE Transactions 6, 1974).
//
// Sums of a class are of T, 64 terms at most: relative error 64 * 2^-24 in float32. All else is float64 or integers. A
// class is drawn by its sum, and a category by its share of what its class has: light categories beside heavy ones keep
// their probability to that relative error. Weights that are not negative are assumed; what is doubtful is reported.
#pragma once
#include "math.hpp"
#include "pack.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// ---- Loading: a vector of T from k elements on, of contiguous rows at any address.

template <class T>
struct LoadSame {
  const char* data;
  Vec<T> operator()(int64_t k) const { return load_anywhere<T>(data + k * int64_t(sizeof(T))); }
};

struct LoadBfloat16 {
  typedef uint16_t Anywhere __attribute__((vector_size(vector_bytes / 2), aligned(1), may_alias));
  const char* data;
  Vec<float> operator()(int64_t k) const {
    using Wide = VectorOf<float>::Unsigned;
    const Wide wide = __builtin_convertvector(*reinterpret_cast<const Anywhere*>(data + 2 * k), Wide);
    return from_bits<float>(IntVec<float>(wide << 16));
  }
};

#if defined(__AVX512F__)
struct LoadFloat16 {
  const char* data;
  Vec<float> operator()(int64_t k) const {
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i_u*)(data + 2 * k)));
  }
};
#elif defined(__F16C__)
struct LoadFloat16 {
  const char* data;
  Vec<float> operator()(int64_t k) const { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u*)(data + 2 * k))); }
};
#elif defined(FOVEATE_NEON)
struct LoadFloat16 {
  const char* data;
  Vec<float> operator()(int64_t k) const { return load_wide<float, Dtype::float16>(data + 2 * k); }
};
#endif

// Calls f(load, first) with the way to load the whole vectors of a block, or what it was copied to.
template <class T, class F>
inline auto with_loader(const Categories& c, void* buffer, F&& f) {
  if (c.count <= 1 || c.stride == size_of(c.dtype)) {
    if (c.dtype == (sizeof(T) == 8 ? Dtype::float64 : Dtype::float32)) return f(LoadSame<T>{c.data});
    if constexpr (sizeof(T) == 4) {
      if (c.dtype == Dtype::bfloat16) return f(LoadBfloat16{c.data});
#if defined(__AVX512F__) || defined(__F16C__) || defined(FOVEATE_NEON)
      if (c.dtype == Dtype::float16) return f(LoadFloat16{c.data});
#endif
    }
  }
  load_row<T>(c.data, c.dtype, c.stride, c.count, static_cast<T*>(buffer));
  return f(LoadSame<T>{static_cast<const char*>(buffer)});
}

// The elements that are left over after whole classes, with `fill` after the last.
template <class T>
inline void load_rest(const Categories& c, int64_t first, T fill, T* rest) {
  const int64_t count = c.count - first;
  load_row<T>(c.data + first * c.stride, c.dtype, c.stride, count, rest);
  for (int64_t i = count; i < draw_classes; ++i) rest[i] = fill;
}

// ---- Weights of logits: 2^((x - top) * log2 e)

template <class T>
inline Vec<T> weight_of(Vec<T> logit, T top) {
  return exp2<T>((logit - top) * Math<T>::log2_e);
}

// The largest logit; NaN is passed over.
template <class T, class Load>
inline T largest(Load load, const T* rest, int64_t whole) {
  constexpr int width = draw_classes / lanes<T> < 8 ? draw_classes / lanes<T> : 8;
  Vec<T> tops[width];
  unroll<width>([&](int v) INLINED { tops[v] = minus_infinity<T>(); });
  for (int64_t k = 0; k < whole; k += width * lanes<T>) {
    unroll<width>([&](int v) INLINED { tops[v] = max(load(k + v * lanes<T>), tops[v]); });
  }
  for (int k = 0; rest && k < draw_classes; k += lanes<T>)
    tops[0] = max(foveate::FOVEATE_ISA::load<T>(rest + k), tops[0]);
  unroll<width>([&](int v) INLINED { tops[0] = max(tops[v], tops[0]); });
  T top = tops[0][0];
  for (int i = 1; i < lanes<T>; ++i) top = tops[0][i] > top ? tops[0][i] : top;
  return top;
}

// ---- Sums of classes

// Whether any lane has its sign bit set.
template <class T>
inline bool any_sign(IntVec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_movepi32_mask((__m512i)x) != 0;
  else
    return _mm512_movepi64_mask((__m512i)x) != 0;
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4)
    return _mm256_movemask_ps((__m256)x) != 0;
  else
    return _mm256_movemask_pd((__m256d)x) != 0;
#elif defined(FOVEATE_NEON)
  if constexpr (sizeof(T) == 4)
    return vminvq_s32(x) < 0;
  else
    return (x[0] | x[1]) < 0;
#else
  bool any = false;
  for (int i = 0; i < lanes<T>; ++i) any |= x[i] < 0;
  return any;
#endif
}

// Loads once: otherwise each use of x is a load of its own, and there are more of them than a cycle has room for.
template <class T>
inline void keep_in_register([[maybe_unused]] Vec<T>& x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(FOVEATE_SSE)
  asm("" : "+x"(x));
#elif defined(FOVEATE_NEON)
  asm("" : "+w"(x));
#endif
}

// Class by class, in order; as many vectors at a time as there are registers for. Returns whether a sign bit is set.
template <class T, class Load, class Weigh>
inline bool sum_classes(Load load, const T* rest, int64_t whole, Weigh weigh, T* classes) {
  constexpr int vectors = draw_classes / lanes<T>, width = vectors < 8 ? vectors : 8;
  bool negative = false;
  for (int at = 0; at < draw_classes; at += width * lanes<T>) {
    Vec<T> sums[width] = {};
    IntVec<T> signs[2] = {};
    const auto add = [&](Vec<T> x, int v) INLINED {
      keep_in_register<T>(x);
      signs[v & 1] |= as_bits<T>(x);
      sums[v] += weigh(x);
    };
    for (int64_t k = at; k < whole; k += draw_classes) {
      unroll<width>([&](int v) INLINED { add(load(k + v * lanes<T>), v); });
    }
    if (rest) unroll<width>([&](int v) INLINED { add(foveate::FOVEATE_ISA::load<T>(rest + at + v * lanes<T>), v); });
    unroll<width>([&](int v) INLINED { store<T>(classes + at + v * lanes<T>, sums[v]); });
    negative |= any_sign<T>(signs[0] | signs[1]);
  }
  return negative;
}

// 64 numbers in eight columns, number i in column i % 8, cumulated down each column; and the columns' cumulated sums.
struct Columns {
  double down[8][8];  // of which `rows` are made
  double across[8];
  int32_t rows;
  double total() const { return across[7]; }
  const double* sums() const { return down[rows - 1]; }
};

inline Vec<double> load_as_double(const double* p) { return load(p); }
inline Vec<double> load_as_double(const float* p) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p));
#elif defined(__AVX__)
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  return Vec<double>{double(p[0]), double(p[1])};
#endif
}

template <class T>
inline void cumulate_columns(const T* numbers, int32_t rows, Columns& to) {
  constexpr int width = 8 / lanes<double>;
  Vec<double> sums[width] = {};
  to.rows = rows;
  for (int32_t i = 0; i < rows; ++i)
    unroll<width>([&](int v) INLINED {
      sums[v] += load_as_double(numbers + i * 8 + v * lanes<double>);
      store<double>(to.down[i] + v * lanes<double>, sums[v]);
    });
  double sum = 0;
  unroll<8>([&](int j) INLINED { to.across[j] = sum += sums[j / lanes<double>][j % lanes<double>]; });
}

template <class T>
BlockSum sum_block(const Categories& c, void* to, void* buffer) {
  T* const classes = static_cast<T*>(to);
  alignas(vector_bytes) T rest_of[draw_classes];
  const int64_t whole = c.count / draw_classes * draw_classes;
  T* const rest = whole < c.count ? rest_of : nullptr;
  if (rest) load_rest<T>(c, whole, c.logits ? minus_infinity<T>()[0] : T(0), rest);
  BlockSum block = {};
  if (c.logits) {
    with_loader<T>(c, buffer, [&](auto load) {
      const T top = largest<T>(load, rest, whole), shift = top == minus_infinity<T>()[0] ? T(0) : top;
      sum_classes<T>(load, rest, whole, [&](Vec<T> x) { return weight_of<T>(x, shift); }, classes);
      block.top = double(shift);
    });
  } else {
    block.doubtful = with_loader<T>(
        c, buffer, [&](auto load) { return sum_classes<T>(load, rest, whole, [](Vec<T> x) { return x; }, classes); });
  }
  Columns columns;
  cumulate_columns<T>(classes, 8, columns);
  block.total = columns.total();
  return block;
}

// ---- One draw

struct Pick {
  int32_t number;
  double fraction;  // of that number's own weight, in [0, 1)
};

inline double below(double x) {  // the next smaller number, of a positive one
  int64_t bits;
  memcpy(&bits, &x, 8);
  --bits;
  memcpy(&x, &bits, 8);
  return x;
}

// x as it is rounded: a product that is used again is not to be fused into a sum, where it would be another number.
inline double rounded(double x) {
#if defined(FOVEATE_SSE)
  asm("" : "+x"(x));
  return x;
#elif defined(FOVEATE_NEON)
  asm("" : "+w"(x));
  return x;
#else
  volatile const double stored = x;
  return stored;
#endif
}

// The number at a fraction of the weight of 64 numbers, column by column. Cumulated sums do not grow where a number is
// 0, and a number is taken where its sum is strictly more than the target: never one that is 0. The target is less than
// the total: the fraction is at most 1 - 2^-53, and the product rounds to less. In the column it is kept below the sum,
// which rounding could pass.
template <class T>
inline Pick pick_number(const T* numbers, int32_t rows, double fraction) {
  Columns columns;
  cumulate_columns<T>(numbers, rows, columns);
  const double target = rounded(fraction * columns.total());
  int32_t column = 0;
  unroll<7>([&](int j) INLINED { column += columns.across[j] <= target; });
  const double before = column ? columns.across[column - 1] : 0.0;
  const double last = below(columns.sums()[column]);
  const double rest = target - before < last ? target - before : last;
  int32_t row = 0;
  for (int32_t i = 0; i + 1 < rows; ++i) row += columns.down[i][column] <= rest;
  const double above = row ? columns.down[row - 1][column] : 0.0;
  const double share = (rest - above) / double(numbers[row * 8 + column]);
  return {row * 8 + column, share < 1.0 ? share : 1.0 - 0x1p-53};
}

constexpr int32_t rows_of(int64_t numbers) { return numbers < 64 ? int32_t(numbers + 7) / 8 : 8; }
constexpr int64_t in_class(int64_t count, int64_t first) { return (count - first + draw_classes - 1) / draw_classes; }

// The weights of a class, in order, with zeros up to a whole row.
template <class T>
inline void load_class(const Categories& c, int64_t first, int32_t rows, T* to) {
  const int64_t step = draw_classes * c.stride, count = in_class(c.count, first);
  const char* at = c.data + first * c.stride;
  if (c.dtype == (sizeof(T) == 8 ? Dtype::float64 : Dtype::float32)) {
    for (int64_t m = 0; m < count; ++m, at += step) memcpy(to + m, at, sizeof(T));
  } else {
    for (int64_t m = 0; m < count; ++m, at += step) to[m] = element<T>(at, c.dtype);
  }
  const T none = c.logits ? minus_infinity<T>()[0] : T(0);
  for (int64_t m = count; m < rows * 8; ++m) to[m] = none;
}

template <class T>
inline void weigh_class(T top, int32_t rows, T* numbers) {
  for (int32_t k = 0; k < rows * 8; k += lanes<T>) store<T>(numbers + k, weight_of<T>(load<T>(numbers + k), top));
}

// Step by step for some blocks together: each step is a short chain of much latency, and these overlap; and what is
// stored one by one is read as vectors only when it has arrived.
template <class T>
void pick(const Categories* blocks, const void* const* classes, const double* fractions, int64_t count,
          int64_t* index) {
  constexpr int64_t most = 8;
  alignas(vector_bytes) T weights[most][draw_classes + lanes<T>];
  for (int64_t first = 0; first < count; first += most) {
    const int64_t some = count - first < most ? count - first : most;
    Pick picks[most];
    for (int64_t i = 0; i < some; ++i) {
      const int32_t rows = rows_of(blocks[first + i].count);
      picks[i] = pick_number<T>(static_cast<const T*>(classes[first + i]), rows, fractions[first + i]);
      index[first + i] = picks[i].number;
    }
    for (int64_t i = 0; i < some; ++i) {
      const Categories& block = blocks[first + i];
      if (block.count > draw_classes)
        load_class<T>(block, picks[i].number, rows_of(in_class(block.count, 0)), weights[i]);
    }
    for (int64_t i = 0; i < some; ++i) {
      const Categories& block = blocks[first + i];
      int64_t& chosen = index[first + i];
      if (block.count > draw_classes) {
        const int32_t rows = rows_of(in_class(block.count, 0));
        if (block.logits) weigh_class<T>(T(block.top), rows, weights[i]);
        chosen += draw_classes * int64_t(pick_number<T>(weights[i], rows, picks[i].fraction).number);
      }
      chosen =
          chosen < block.count ? chosen : block.count - 1;  // where a class lost all its weight since it was summed
    }
  }
}

// ---- Many draws

template <class T>
int64_t cumulate(const Categories& c, double scale, int64_t* to, void* buffer) {
  T* weights = static_cast<T*>(buffer);
  if (c.logits) {
    load_row<T>(c.data, c.dtype, c.stride, c.count, weights);
    for (int64_t k = c.count; k % lanes<T>; ++k) weights[k] = T(0);
    for (int64_t k = 0; k < c.count; k += lanes<T>) store<T>(weights + k, weight_of<T>(load<T>(weights + k), T(c.top)));
  } else {
    load_row<T>(c.data, c.dtype, c.stride, c.count, weights);
  }
  uint64_t sum = 0;  // without a sign: weights that changed since they were summed may overflow
  for (int64_t k = 0; k < c.count; ++k)
    to[k] = int64_t(sum += static_cast<uint64_t>(static_cast<int64_t>(double(weights[k]) * scale)));
  return int64_t(sum);
}

// How many of a group are at most x.
inline int32_t count_at_most(const int64_t* group, int64_t x) {
#if defined(__AVX512F__)
  return __builtin_popcount(_mm512_cmple_epi64_mask(_mm512_load_si512(group), _mm512_set1_epi64(x)));
#else
  int32_t count = 0;
  unroll<draw_group>([&](int i) INLINED { count += group[i] <= x; });
  return count;
#endif
}

// In batches: what each draw needs is fetched while others are looked up.
void look_up(const DrawTable& table, const uint64_t* words, int64_t count, int64_t* index) {
  __extension__ using Wide = unsigned __int128;
  constexpr int64_t most = 128;
  int64_t targets[most];
  uint32_t groups[most];
  for (int64_t first = 0; first < count; first += most) {
    const int64_t some = count - first < most ? count - first : most;
    for (int64_t i = 0; i < some; ++i) {
      targets[i] = static_cast<int64_t>(static_cast<uint64_t>(Wide(words[first + i]) * uint64_t(table.total) >> 64));
      __builtin_prefetch(table.guide + (targets[i] >> table.shift));
    }
    for (int64_t i = 0; i < some; ++i) {
      groups[i] = table.guide[targets[i] >> table.shift];
      __builtin_prefetch(table.cumulated + int64_t(groups[i]) * draw_group);
    }
    for (int64_t i = 0; i < some; ++i) {
      const int64_t* group = table.cumulated + int64_t(groups[i]) * draw_group;
      int32_t place = count_at_most(group, targets[i]);
      while (place == draw_group) place = count_at_most(group += draw_group, targets[i]);
      index[first + i] = group - table.cumulated + place;
    }
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
