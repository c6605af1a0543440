// The number at a rank, or at a share of the weight, among the candidates of a row: by radix of its bits, without a sort.
#pragma once
#include "filter.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
struct Key;
template <>
struct Key<float> {
  using Type = uint32_t;
};
template <>
struct Key<double> {
  using Type = uint64_t;
};

// Keys grow as numbers fall: the largest number has the least key. Each number has a key, both zeros the same, and each
// key a number.
template <class T>
inline typename Key<T>::Type key_of(T x) {
  using Unsigned = typename Key<T>::Type;
  x += T(0);  // -0 is 0
  Unsigned bits;
  memcpy(&bits, &x, sizeof x);
  const Unsigned sign = Unsigned(1) << (8 * sizeof(T) - 1);
  return bits & sign ? bits - 1 : ~bits & ~sign;
}
template <class T>
inline T number_of(typename Key<T>::Type key) {
  using Unsigned = typename Key<T>::Type;
  const Unsigned sign = Unsigned(1) << (8 * sizeof(T) - 1), bits = key & sign ? key + 1 : ~key & ~sign;
  T x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

constexpr int most_digit_bits = 11;

// Only those of a list that are in [least, most], in order; the list has room for a vector more.
template <class T>
inline int64_t keep_between(T* values, int64_t count, T least, T most) {
  T* to = values;
  for (int64_t i = 0; i < count; i += lanes<T>) {
    const Vec<T> x = load<T>(values + i);
    const uint32_t bits = bits_from<T>(x, least) & ~bits_above<T>(x, most);
    to = append<T>(to, x, bits & low_bits(count - i));
  }
  return to - values;
}

// Goes down from the largest number, each of which has an amount, until the amounts come to `wanted`: that number, how often
// it is there, and what these have to add, in `left`. amount(values, to): of 64 numbers. wanted >= 1.
template <class T, class Amount>
inline T descend(T* values, int64_t count, int64_t wanted, Amount amount, int64_t* left, int64_t* equals) {
  using Unsigned = typename Key<T>::Type;
  constexpr int64_t some = 64;
  int64_t sums[1 << most_digit_bits], amounts[some];
  Unsigned buckets_of[some];
  for (;;) {
    const int64_t whole = round_up(count, some);
    for (int64_t i = count; i < whole; ++i) values[i] = values[0];
    Vec<T> tops = load<T>(values), lows = -tops;
    for (int64_t i = 0; i < whole; i += lanes<T>) {
      const Vec<T> x = load<T>(values + i);
      tops = max(x, tops);
      lows = max(-x, lows);
    }
    const T top = largest_lane<T>(tops), low = -largest_lane<T>(lows);
    if (top == low) {
      *left = wanted;
      *equals = count;
      return top;
    }
    const Unsigned least = key_of(top), most = key_of(low);
    int bits = 4, width = int(8 * sizeof(Unsigned));
    while (bits < most_digit_bits && (int64_t(2) << bits) < count) ++bits;
    while (width > 0 && !((most - least) >> (width - 1))) --width;
    const int shift = width > bits ? width - bits : 0;
    const int64_t buckets = int64_t((most - least) >> shift) + 1;
    memset(sums, 0, size_t(buckets) * sizeof *sums);
    for (int64_t first = 0; first < count; first += some) {
      amount(values + first, amounts);
      for (int64_t i = 0; i < some; ++i) buckets_of[i] = (key_of(values[first + i]) - least) >> shift;
      const int64_t number = count - first < some ? count - first : some;
      for (int64_t i = 0; i < number; ++i) sums[buckets_of[i]] += amounts[i];
    }
    int64_t bucket = 0;
    while (bucket + 1 < buckets && sums[bucket] < wanted) wanted -= sums[bucket++];
    const Unsigned first = least + (Unsigned(bucket) << shift), others = (Unsigned(1) << shift) - 1;
    const Unsigned last = most - first < others ? most : first + others;
    count = keep_between<T>(values, count, number_of<T>(last), number_of<T>(first));
  }
}

template <class T>
double number_at_rank(void* values, int64_t count, int64_t rank) {
  int64_t left, equals;
  const auto one = [](const T*, int64_t* to) INLINED {
    for (int i = 0; i < 64; ++i) to[i] = 1;
  };
  return double(descend<T>(static_cast<T*>(values), count, rank, one, &left, &equals));
}

// Weights as integers, whose sums are exact: so many are 1 that `count` weights of 1 come to less than 2^62.
inline double unit_of(int64_t count) {
  int bits = 1;
  while (int64_t(1) << bits < count) ++bits;
  return double(int64_t(1) << (61 - bits));
}
template <class T, class Weigh>
inline void amounts_of(const T* values, double unit, Weigh weigh, int64_t* to) {
  alignas(vector_bytes) T weights[draw_classes];
  unroll<draw_classes / lanes<T>>([&](int v) INLINED {
    const Vec<T> x = weigh(load<T>(values + v * lanes<T>));
    store<T>(weights + v * lanes<T>, x < T(2) ? x : Vec<T>{});
  });
  for (int i = 0; i < draw_classes; ++i) to[i] = int64_t(double(weights[i]) * unit);
}

template <class T>
double sum_exactly(void* numbers, int64_t count, const Weighing& by) {
  T* const values = static_cast<T*>(numbers);
  const double unit = unit_of(count);
  const int64_t whole = pad(values, count, by.logits);
  return with_weigh<T>(by, [&](auto weigh) INLINED {
    int64_t total = 0, amounts[draw_classes];
    for (int64_t first = 0; first < whole; first += draw_classes) {
      amounts_of<T>(values + first, unit, weigh, amounts);
      for (int i = 0; i < draw_classes; ++i) total += amounts[i];
    }
    return double(total) / unit;
  });
}

template <class T>
double number_at_weight(void* numbers, int64_t count, double weight, const Weighing& by, int64_t* needed,
                        int64_t* equals) {
  const double unit = unit_of(count), exact = weight * unit;
  int64_t wanted = exact < 0x1p62 ? int64_t(exact) : int64_t(1) << 62, left, one;
  wanted += double(wanted) < exact;
  if (wanted < 1) wanted = 1;
  return with_weigh<T>(by, [&](auto weigh) {
    const auto amount = [&](const T* some, int64_t* to) INLINED { amounts_of<T>(some, unit, weigh, to); };
    const T edge = descend<T>(static_cast<T*>(numbers), count, wanted, amount, &left, equals);
    T edges[draw_classes];
    int64_t amounts[draw_classes];
    for (T& x : edges) x = edge;
    amount(edges, amounts);
    one = amounts[0];
    const int64_t enough = one > 0 ? (left + one - 1) / one : *equals;
    *needed = enough < *equals ? enough : *equals;
    return double(edge);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
