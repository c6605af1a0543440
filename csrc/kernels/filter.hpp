// Filters of categories, by their numbers (logits, or weights) alone: the largest of each span of 128, what passes a
// threshold, and the weights of that. Thresholds by rank and by share of the weight: filter_ranks.hpp.
//
// A draw by what passed is an inversion in the order of the categories. Sums have 64 classes, as those of draw.hpp:
// relative error 64 * 2^-24 in float32. Shares of the weight are integers, whose sums are exact in any order.
#pragma once
#include "draw.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// ---- Spans

// Two rows that are added on the way.
template <class T>
struct LoadSum {
  const char *data, *bias;
  Vec<T> operator()(int64_t k) const {
    return load_anywhere<T>(data + k * int64_t(sizeof(T))) + load_anywhere<T>(bias + k * int64_t(sizeof(T)));
  }
};

template <class T>
constexpr Dtype dtype_as = sizeof(T) == 8 ? Dtype::float64 : Dtype::float32;

// `count` numbers from place `first` on, with -inf up to the end of a span.
template <class T>
[[gnu::noinline]] void load_span(const Candidates& c, int64_t first, int64_t count, T* to) {
  load_row<T>(c.data + first * c.stride, c.dtype, c.stride, count, to);
  if (c.bias) {
    alignas(vector_bytes) T bias[filter_span];
    load_row<T>(c.bias + first * c.bias_stride, c.bias_dtype, c.bias_stride, count, bias);
    for (int64_t i = 0; i < count; ++i) to[i] += bias[i];
  }
  for (int64_t i = count; i < filter_span; ++i) to[i] = minus_infinity<T>()[0];
}

// Calls f(span), where span(s, g) calls g(load) with the way to load the whole vectors of span s.
template <class T, class F>
inline void with_spans(const Candidates& c, F&& f) {
  alignas(vector_bytes) T copy[filter_span];
  const auto copied = [&](int64_t s, auto&& g) INLINED {
    const int64_t first = s * filter_span;
    load_span<T>(c, first, c.count - first < filter_span ? c.count - first : filter_span, copy);
    g(LoadSame<T>{reinterpret_cast<const char*>(copy)});
  };
  const auto in_place = [&](auto load) INLINED {
    f([&](int64_t s, auto&& g) INLINED {
      const int64_t first = s * filter_span;
      if (c.count - first < filter_span) return copied(s, g);
      g([&](int64_t k) INLINED { return load(first + k); });
    });
  };
  const bool packed = c.stride == size_of(c.dtype);
  if (packed && c.dtype == dtype_as<T> && !c.bias) return in_place(LoadSame<T>{c.data});
  if (packed && c.dtype == dtype_as<T> && c.bias_dtype == c.dtype && c.bias_stride == c.stride)
    return in_place(LoadSum<T>{c.data, c.bias});
  if constexpr (sizeof(T) == 4) {
    if (packed && c.dtype == Dtype::bfloat16 && !c.bias) return in_place(LoadBfloat16{c.data});
#if defined(__AVX512F__) || defined(__F16C__) || defined(FOVEATE_NEON)
    if (packed && c.dtype == Dtype::float16 && !c.bias) return in_place(LoadFloat16{c.data});
#endif
  }
  f(copied);
}

constexpr int64_t spans_of(int64_t count) { return (count + filter_span - 1) / filter_span; }

template <class T>
inline T largest_lane(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_reduce_max_ps(x);
  else
    return _mm512_reduce_max_pd(x);
#else
  T top = x[0];
  for (int i = 1; i < lanes<T>; ++i) top = x[i] > top ? x[i] : top;
  return top;
#endif
}

// Whether a or b has a NaN, lane by lane, or'd up.
template <class T>
struct Unordered {
#if defined(__AVX512F__)
  uint32_t found = 0;
  void look(Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 4)
      found |= _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
    else
      found |= _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q);
  }
  bool any() const { return found != 0; }
#else
  IntVec<T> found = {};
  void look(Vec<T> a, Vec<T> b) { found |= (a != a) | (b != b); }
  bool any() const { return any_sign<T>(found); }
#endif
};

template <class T, bool weights>
BlockTop tops_of_spans(const Candidates& c, void* to) {
  T* const tops = static_cast<T*>(to);
  constexpr int vectors = filter_span / lanes<T>, width = vectors < 8 ? vectors : 8;
  Vec<T> whole = minus_infinity<T>();
  IntVec<T> signs = {};
  Unordered<T> unordered;
  with_spans<T>(c, [&](auto span) INLINED {
    for (int64_t s = 0; s < spans_of(c.count); ++s)
      span(s, [&](auto load) INLINED {
        Vec<T> top = minus_infinity<T>();
        for (int at = 0; at < vectors; at += width) {
          Vec<T> x[width];
          unroll<width>([&](int v) INLINED {
            x[v] = load((at + v) * lanes<T>);
            keep_in_register<T>(x[v]);
          });
          unroll<width / 2>([&](int v) INLINED {
            unordered.look(x[2 * v], x[2 * v + 1]);
            if constexpr (weights) signs |= as_bits<T>(x[2 * v]) | as_bits<T>(x[2 * v + 1]);
          });
          unroll<width / 2>([&](int v) INLINED { x[v] = max(x[v], x[v + width / 2]); });
          unroll<width / 2>([&](int v) INLINED { top = max(x[v], top); });
        }
        tops[s] = largest_lane<T>(top);
        whole = max(top, whole);
      });
  });
  return {double(largest_lane<T>(whole)), unordered.any() || (weights && any_sign<T>(signs))};
}
template <class T>
BlockTop span_tops(const Candidates& c, bool weights, void* to) {
  return weights ? tops_of_spans<T, true>(c, to) : tops_of_spans<T, false>(c, to);
}

// ---- What passes

// Appends the lanes whose bits are set. There is room for a whole vector behind the last.
template <class T>
inline T* append(T* to, Vec<T> x, uint32_t bits) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    store<T>(to, _mm512_maskz_compress_ps(__mmask16(bits), x));
  else
    store<T>(to, _mm512_maskz_compress_pd(__mmask8(bits), x));
  return to + __builtin_popcount(bits);
#else
  for (; bits; bits &= bits - 1) *to++ = x[__builtin_ctz(bits)];
  return to;
#endif
}

template <class T>
inline uint32_t bits_from(Vec<T> x, T least) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_cmp_ps_mask(x, broadcast(least), _CMP_GE_OQ);
  else
    return _mm512_cmp_pd_mask(x, broadcast(least), _CMP_GE_OQ);
#else
  return bits_of<T>(x >= least);
#endif
}
template <class T>
inline uint32_t bits_above(Vec<T> x, T least) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_cmp_ps_mask(x, broadcast(least), _CMP_GT_OQ);
  else
    return _mm512_cmp_pd_mask(x, broadcast(least), _CMP_GT_OQ);
#else
  return bits_of<T>(x > least);
#endif
}

// Of equals of the threshold, those pass that stand before place `equals`. places may be null.
template <class T>
int64_t keep(const Candidates& c, const void* tops_of_spans, double threshold, int64_t equals, void* values,
             int32_t* places) {
  const T* const tops = static_cast<const T*>(tops_of_spans);
  const T least = T(threshold);
  T* to = static_cast<T*>(values);
  with_spans<T>(c, [&](auto span) INLINED {
    for (int64_t s = 0; s < spans_of(c.count); ++s) {
      if (!(tops[s] >= least)) continue;
      const int64_t first = s * filter_span;
      span(s, [&](auto load) INLINED {
        for (int32_t k = 0; k < filter_span; k += lanes<T>) {
          const Vec<T> x = load(k);
          const int64_t some = equals - (first + k);  // lanes that may be equal
          uint32_t bits = some > 0 ? bits_from<T>(x, least) : bits_above<T>(x, least);
          if (some > 0 && some < lanes<T>) bits &= bits_above<T>(x, least) | low_bits(some);
          if (places)
            for (uint32_t left = bits; left; left &= left - 1) *places++ = int32_t(first) + k + __builtin_ctz(left);
          to = append<T>(to, x, bits);
        }
      });
    }
  });
  return to - static_cast<T*>(values);
}

// The place behind the number *rank of those that are equal to this one; -1, and so many less in *rank, if there are fewer.
template <class T>
int64_t place_of_equal(const Candidates& c, const void* tops_of_spans, double number, int64_t* rank) {
  const T* const tops = static_cast<const T*>(tops_of_spans);
  const T wanted = T(number);
  int64_t place = -1;
  with_spans<T>(c, [&](auto span) INLINED {
    for (int64_t s = 0; s < spans_of(c.count) && place < 0; ++s) {
      if (!(tops[s] >= wanted)) continue;
      span(s, [&](auto load) INLINED {
        for (int32_t k = 0; k < filter_span && place < 0; k += lanes<T>) {
          const Vec<T> x = load(k);
          for (uint32_t left = bits_from<T>(x, wanted) & ~bits_above<T>(x, wanted); left; left &= left - 1)
            if (--*rank == 0) place = s * filter_span + k + __builtin_ctz(left) + 1;
        }
      });
    }
  });
  return place;
}

// ---- Weights

// exp2 of x <= 0 that costs two thirds of it: less than the least normal numbers counts as one of these.
template <class T>
inline Vec<T> exp2_normal(Vec<T> x) {
  const Split<T> s = split<T>(at_least(Math<T>::least_exponent + 1, x));
  const Vec<T> p = polynomial<T>(Math<T>::exp2m1, s.fraction) * s.fraction + T(1);
  using Unsigned = typename VectorOf<T>::Unsigned;
  return from_bits<T>((IntVec<T>)((Unsigned)as_bits<T>(p) + (Unsigned)shift_left<T>(s.shifted, Math<T>::mantissa)));
}

// Calls f(weigh) with the function that makes weights, at most 1, of a vector of numbers.
template <class T, class F>
inline auto with_weigh(const Weighing& by, F&& f) {
  if (by.logits) {
    const T top = T(by.top), rate = T(by.rate * Math<double>::log2_e);
    return f([=](Vec<T> x) INLINED { return exp2_normal<T>((x - top) * rate); });
  }
  // two powers of two, whose product may be beyond T, that take the largest to [1/2, 1)
  const T first = T(by.scale[0]), second = T(by.scale[1]);
  if (by.rate == 1) return f([=](Vec<T> x) INLINED { return x * first * second; });
  const Vec<T> top = log<T>(broadcast(T(by.top)) * first * second);
  const T rate = T(by.rate * Math<double>::log2_e);
  return f([=](Vec<T> x) INLINED { return exp2_normal<T>((log<T>(x * first * second) - top) * rate); });
}

// Candidates without weight after the last, up to whole classes.
template <class T>
inline int64_t pad(T* numbers, int64_t count, bool logits) {
  const int64_t whole = round_up(count, draw_classes);
  for (int64_t i = count; i < whole; ++i) numbers[i] = logits ? minus_infinity<T>()[0] : T(0);
  return whole;
}

template <class T>
double total_of(const T* classes) {
  Columns columns;
  cumulate_columns<T>(classes, 8, columns);
  return columns.total();
}

template <class T>
double sum_weights(void* numbers, int64_t count, const Weighing& by) {
  if (count == 0) return 0;
  T* const values = static_cast<T*>(numbers);
  const int64_t whole = pad(values, count, by.logits);
  alignas(vector_bytes) T classes[draw_classes];
  with_weigh<T>(by, [&](auto weigh) INLINED {
    sum_classes<T>(LoadSame<T>{reinterpret_cast<const char*>(values)}, static_cast<const T*>(nullptr), whole, weigh,
                   classes);
  });
  return total_of<T>(classes);
}

template <class T>
inline Vec<T> where_from(Vec<T> x, T least, Vec<T> weight) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, broadcast(least), _CMP_GE_OQ), weight);
  else
    return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, broadcast(least), _CMP_GE_OQ), weight);
#else
  return from_bits<T>((x >= least) & as_bits<T>(weight));
#endif
}

template <class T>
WeightParts sum_parts(const Candidates& c, double low, double high, const Weighing& by, void* values) {
  constexpr int vectors = draw_classes / lanes<T>;
  const T least = T(low), most = T(high);
  T* to = static_cast<T*>(values);
  Vec<T> whole[vectors] = {}, above[vectors] = {};
  with_weigh<T>(by, [&](auto weigh) INLINED {
    with_spans<T>(c, [&](auto span) INLINED {
      for (int64_t s = 0; s < spans_of(c.count); ++s)
        span(s, [&](auto load) INLINED {
          for (int64_t k = 0; k < filter_span; k += draw_classes)
            unroll<vectors>([&](int v) INLINED {
              Vec<T> x = load(k + v * lanes<T>);
              keep_in_register<T>(x);
              const Vec<T> weight = weigh(x);
              whole[v] += weight;
              above[v] += where_from<T>(x, most, weight);
              to = append<T>(to, x, bits_from<T>(x, least) & ~bits_from<T>(x, most));
            });
        });
    });
  });
  alignas(vector_bytes) T sums[2][draw_classes];
  for (int v = 0; v < vectors; ++v) {
    store<T>(sums[0] + v * lanes<T>, whole[v]);
    store<T>(sums[1] + v * lanes<T>, above[v]);
  }
  return {total_of<T>(sums[0]), total_of<T>(sums[1]), to - static_cast<T*>(values)};
}

// A list of numbers of a block, of which others follow.
template <class T>
double sum_listed(const void* numbers, int64_t count, double threshold, const Weighing& by) {
  const T* const values = static_cast<const T*>(numbers);
  alignas(vector_bytes) T classes[draw_classes] = {};
  const T least = T(threshold);
  with_weigh<T>(by, [&](auto weigh) INLINED {
    for (int64_t k = 0; k < count; k += lanes<T>) {
      Vec<T> x = minus_infinity<T>();
      if (count - k >= lanes<T>)
        x = load<T>(values + k);
      else
        memcpy(&x, values + k, size_t(count - k) * sizeof(T));
      T* const sum = classes + k % draw_classes;
      store<T>(sum, load<T>(sum) + where_from<T>(x, least, weigh(x)));
    }
  });
  return total_of<T>(classes);
}

template <class T>
int64_t sample(const Candidates& c, int64_t first, int64_t step, void* values) {
  T* to = static_cast<T*>(values);
  with_spans<T>(c, [&](auto span) INLINED {
    for (int64_t s = first; s < spans_of(c.count); s += step)
      span(s, [&](auto load) INLINED {
        for (int64_t k = 0; k < sample_run; k += lanes<T>, to += lanes<T>) store<T>(to, load(k));
      });
  });
  return to - static_cast<T*>(values);
}

template <class T>
void weights_of(const void* numbers, int64_t count, const Weighing& by, void* to) {
  const T* const values = static_cast<const T*>(numbers);
  T* const weights = static_cast<T*>(to);
  with_weigh<T>(by, [&](auto weigh) INLINED {
    for (int64_t k = 0; k < count; k += lanes<T>) store<T>(weights + k, weigh(load<T>(values + k)));
  });
}

template <class T>
double sum_from(const void* numbers, const void* weights_of_them, int64_t count, double threshold, bool squares) {
  constexpr int vectors = draw_classes / lanes<T>;
  const T *const values = static_cast<const T*>(numbers), *const weights = static_cast<const T*>(weights_of_them);
  const T least = T(threshold);
  Vec<T> sums[vectors] = {};
  for (int64_t k = 0; k < count; k += draw_classes)
    unroll<vectors>([&](int v) INLINED {
      const int64_t at = k + v * lanes<T>;
      const Vec<T> weight = where_from<T>(load<T>(values + at), least, load<T>(weights + at));
      sums[v] += squares ? weight * weight : weight;
    });
  alignas(vector_bytes) T classes[draw_classes];
  for (int v = 0; v < vectors; ++v) store<T>(classes + v * lanes<T>, sums[v]);
  return total_of<T>(classes);
}

// The natural logarithms of the weights of the numbers at some places.
template <class T>
void log_weights(const Candidates& c, const int32_t* places, int64_t count, const Weighing& by, double* to) {
  const double scale[2] = {by.scale[0], by.scale[1]};
  const double top = by.logits ? by.top : by.rate == 1 ? 0 : log<double>(broadcast(by.top) * scale[0] * scale[1])[0];
  for (int64_t i = 0; i < count; i += lanes<double>) {
    const int some = count - i < lanes<double> ? int(count - i) : lanes<double>;
    Vec<double> x = {};
    for (int j = 0; j < some; ++j) {
      T number = element<T>(c.data + places[i + j] * c.stride, c.dtype);
      if (c.bias) number += element<T>(c.bias + places[i + j] * c.bias_stride, c.bias_dtype);
      x[j] = double(number);
    }
    x = ((by.logits ? x : log<double>(x * scale[0] * scale[1])) - top) * by.rate;
    for (int j = 0; j < some; ++j) to[i + j] = x[j];
  }
}

// The place of a target among weights in order, cumulated one by one; one that has weight, if any has.
template <class T>
inline int64_t invert(const T* weights, int64_t count, double target) {
  double sum = 0;
  int64_t place = 0, last = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += double(weights[i]);
    place += sum <= target;
    last = weights[i] > 0 ? i : last;
  }
  return place < last ? place : last;
}

template <class T>
int64_t pick_in_order(void* numbers, int64_t count, const Weighing& by, double fraction) {
  T* const weights = static_cast<T*>(numbers);
  const int64_t whole = pad(weights, count, by.logits), classes = whole / draw_classes;
  with_weigh<T>(by, [&](auto weigh) INLINED {
    for (int64_t k = 0; k < whole; k += lanes<T>) store<T>(weights + k, weigh(load<T>(weights + k)));
  });
  double sums[draw_block / draw_classes], total = 0;
  for (int64_t c = 0; c < classes; ++c) {
    Columns columns;
    cumulate_columns<T>(weights + c * draw_classes, 8, columns);
    total += sums[c] = columns.total();
  }
  const double target = rounded(fraction * total);
  const int64_t at = invert<double>(sums, classes, target);
  double before = 0;
  for (int64_t c = 0; c < at; ++c) before += sums[c];
  const int64_t place = at * draw_classes + invert<T>(weights + at * draw_classes, draw_classes, target - before);
  return place < count ? place : count - 1;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
