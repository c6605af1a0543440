// Hard selection of several keys: the lists of the largest numbers so far, of a panel's queries side by side, [row][query].
// A number joins the list of its query if it is larger than `least`, which is at least as small as the one that would be
// last. Where many queries of a panel take a key, it is a row of its own, -inf in the lists of the others; else it stands
// where the list of each ends. Full lists are cut to the largest by bisection between their least and their largest numbers,
// all lists at once: what that costs is shared by all keys since the last cut, in whatever order they came. Keys come
// by rising index, so that of equal numbers those that stand first are kept. NaN joins no list.
//
// Draws without replacement are the largest of noisy scores, (s - shift) scale + G, in base 2, with Gumbel noise
// G = -log2(-log(1 - u)), u in (0, 1): relative error 4 ulp of -log(1 - u), also where u is tiny.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
struct Lists {
  using Bits = typename VectorOf<T>::Bits;
  explicit Lists(const Shortlist& list)
      : values(static_cast<T*>(list.values)),
        scores(static_cast<T*>(list.scores)),
        least(static_cast<T*>(list.least)),
        keys(static_cast<Bits*>(list.keys)),
        counts(static_cast<Bits*>(list.counts)) {}
  T *values, *scores, *least;
  Bits *keys, *counts;
};

template <class T>
inline void store_int(typename VectorOf<T>::Bits* p, IntVec<T> x) {
  store<T>(reinterpret_cast<T*>(p), from_bits<T>(x));
}
template <class T>
inline IntVec<T> load_int(const typename VectorOf<T>::Bits* p) {
  return as_bits<T>(load(reinterpret_cast<const T*>(p)));
}
template <class T>
inline IntVec<T> broadcast_int(int64_t x) {
  return IntVec<T>{} + typename VectorOf<T>::Bits(x);
}

// From so many queries on, of a panel of so many, a key is a row of its own.
constexpr int dense_from(int width) { return width / 4; }

template <class T, int vectors>
int64_t shortlist_add(const T* numbers, const T* scores, int64_t count, int64_t first_key, Shortlist& to) {
  using Bits = typename VectorOf<T>::Bits;
  constexpr int width = vectors * lanes<T>;
  const Lists<T> list(to);
  const int64_t room = to.capacity - to.rows, some = count < room ? count : room;
  int64_t rows = to.rows;
  Vec<T> least[vectors];
  unroll<vectors>([&](int v) INLINED { least[v] = load(list.least + v * lanes<T>); });
  // Few keys are found: first which, without a branch for each.
  constexpr int64_t run = 64;
  uint32_t found_in[run];
  uint8_t places[run];
  for (int64_t first = 0; first < some; first += run) {
    const int64_t count_of_run = some - first < run ? some - first : run;
    int64_t found_rows = 0;
    for (int64_t j = 0; j < count_of_run; ++j) {
      uint32_t found = 0;
      unroll<vectors>([&](int v) INLINED {
        found |= bits_of<T>(load(numbers + (first + j) * width + v * lanes<T>) > least[v]) << (v * lanes<T>);
      });
      found_in[found_rows] = found;
      places[found_rows] = uint8_t(j);
      found_rows += found != 0;
    }
    for (int64_t n = 0; n < found_rows; ++n) {
      const int64_t j = first + places[n];
      uint32_t found = found_in[n];
      if (__builtin_popcount(found) > dense_from(width)) {
        const int64_t at = rows++ * width;
        unroll<vectors>([&](int v) INLINED {
          const Vec<T> x = load(numbers + j * width + v * lanes<T>);
          store<T>(list.values + at + v * lanes<T>, x > least[v] ? x : minus_infinity<T>());
          if (list.scores) store<T>(list.scores + at + v * lanes<T>, load(scores + j * width + v * lanes<T>));
          store_int<T>(list.keys + at + v * lanes<T>, broadcast_int<T>(first_key + j));
          store_int<T>(list.counts + v * lanes<T>, broadcast_int<T>(rows));
        });
        continue;
      }
      for (; found; found &= found - 1) {
        const int i = __builtin_ctz(found);
        const int64_t row = list.counts[i], at = row * width + i;
        list.values[at] = numbers[j * width + i];
        if (list.scores) list.scores[at] = scores[j * width + i];
        list.keys[at] = Bits(first_key + j);
        list.counts[i] = Bits(row + 1);
        rows = row < rows ? rows : row + 1;
      }
    }
  }
  to.rows = rows;
  return some;
}

template <class T>
int64_t shortlist_add(const T* numbers, const T* scores, int32_t vectors, int64_t count, int64_t first_key,
                      Shortlist& to) {
  return by_width(vectors, [&](auto v) { return shortlist_add<T, v>(numbers, scores, count, first_key, to); });
}

// The bits of floats as integers of their order, and back.
template <class T>
inline IntVec<T> in_order(IntVec<T> bits) {
  using Bits = typename VectorOf<T>::Bits;
  constexpr int sign = int(8 * sizeof(T)) - 1;
  const IntVec<T> rest = IntVec<T>{} + Bits(~(Bits(1) << sign));
  return bits ^ ((bits >> sign) & rest);
}

// Leaves `size` to `most` numbers of each list that has more.
template <class T, int vectors>
void shortlist_cut(Shortlist& to, int64_t size, int64_t most) {
  using Bits = typename VectorOf<T>::Bits;
  constexpr int width = vectors * lanes<T>;
  const Lists<T> list(to);
  const IntVec<T> wanted = broadcast_int<T>(size), allowed = broadcast_int<T>(most);
  // of each query so many numbers are at least `low`, of `high` fewer than are wanted
  IntVec<T> low[vectors], high[vectors], of_low[vectors], of_high[vectors] = {};
  {
    Vec<T> top[vectors];
    unroll<vectors>([&](int v) INLINED {
      top[v] = minus_infinity<T>();
      of_low[v] = IntVec<T>{};
    });
    for (int64_t r = 0; r < to.rows; ++r)
      unroll<vectors>([&](int v) INLINED {
        const Vec<T> x = load(list.values + r * width + v * lanes<T>);
        top[v] = max(x, top[v]);
        of_low[v] -= x > minus_infinity<T>();
      });
    unroll<vectors>([&](int v) INLINED {
      low[v] = in_order<T>(as_bits<T>(at_least<T>(-Math<T>::largest, load(list.least + v * lanes<T>))));
      high[v] = in_order<T>(as_bits<T>(top[v])) + Bits(1);
    });
  }
  for (;;) {
    IntVec<T> open[vectors], middle[vectors], count[vectors] = {};
    Vec<T> bound[vectors];
    uint32_t any = 0;
    unroll<vectors>([&](int v) INLINED {
      open[v] = (of_low[v] > allowed) & (low[v] + Bits(1) < high[v]);
      any |= bits_of<T>(open[v]);
      middle[v] = (low[v] & high[v]) + ((low[v] ^ high[v]) >> 1);
      bound[v] = from_bits<T>(in_order<T>(middle[v]));
    });
    if (!any) break;
    for (int64_t r = 0; r < to.rows; ++r)
      unroll<vectors>([&](int v) INLINED { count[v] -= load(list.values + r * width + v * lanes<T>) >= bound[v]; });
    unroll<vectors>([&](int v) INLINED {
      const IntVec<T> up = open[v] & (count[v] >= wanted), down = open[v] & (count[v] < wanted);
      low[v] = up ? middle[v] : low[v];
      of_low[v] = up ? count[v] : of_low[v];
      high[v] = down ? middle[v] : high[v];
      of_high[v] = down ? count[v] : of_high[v];
    });
  }
  // Where more are left they are equal: as many of the first as there is room for.
  alignas(vector_bytes) Bits equals[width], counts[width] = {};
  alignas(vector_bytes) T bounds[width];
  uint32_t tied = 0;
  Vec<T> bound[vectors];
  unroll<vectors>([&](int v) INLINED {
    bound[v] = from_bits<T>(in_order<T>(low[v]));
    tied |= bits_of<T>(of_low[v] > allowed) << (v * lanes<T>);
    store_int<T>(equals + v * lanes<T>, wanted - of_high[v]);
    store<T>(bounds + v * lanes<T>, bound[v]);
    const Vec<T> least = load(list.least + v * lanes<T>);
    store<T>(list.least + v * lanes<T>, of_low[v] >= wanted ? bound[v] : least);
  });
  for (int64_t r = 0; r < to.rows; ++r) {
    uint32_t kept = 0;
    unroll<vectors>([&](int v) INLINED {
      kept |= bits_of<T>(load(list.values + r * width + v * lanes<T>) >= bound[v]) << (v * lanes<T>);
    });
    for (; kept; kept &= kept - 1) {
      const int i = __builtin_ctz(kept);
      const int64_t from = r * width + i;
      const T x = list.values[from];
      if ((tied >> i & 1) && !(x > bounds[i]) && equals[i]-- <= 0) continue;
      const int64_t at = int64_t(counts[i]++) * width + i;
      list.values[at] = x;
      list.keys[at] = list.keys[from];
      if (list.scores) list.scores[at] = list.scores[from];
    }
  }
  int64_t rows = 0;
  for (int i = 0; i < width; ++i) rows = rows < counts[i] ? int64_t(counts[i]) : rows;
  for (int64_t r = 0; r < to.rows; ++r)
    unroll<vectors>([&](int v) INLINED {
      T* const at = list.values + r * width + v * lanes<T>;
      const Vec<T> x = load(at);
      store<T>(at, broadcast_int<T>(r) < load_int<T>(counts + v * lanes<T>) ? x : minus_infinity<T>());
    });
  memcpy(list.counts, counts, sizeof counts);
  to.rows = rows;
}

template <class T>
void shortlist_cut(Shortlist& to, int32_t vectors, int64_t size, int64_t most) {
  by_width(vectors, [&](auto v) { shortlist_cut<T, v>(to, size, most); });
}

template <class T, int vectors>
void add_noise(const T* scores, int64_t count, T scale, const T* shift, const T* uniform, T* to) {
  constexpr int width = vectors * lanes<T>;
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](int v) INLINED {
      const int64_t at = j * width + v * lanes<T>;
      const Vec<T> u = load(uniform + at), rest = T(1) - u, taken = T(1) - rest;  // the last one exact
      const Vec<T> time = taken == T(0) ? u : -log<T>(rest) * (u / taken);
      const Vec<T> s = load(scores + at);
      const Vec<T> noisy = (s - load(shift + v * lanes<T>)) * scale - log<T>(time) * Math<T>::log2_e;
      store<T>(to + at, s > minus_infinity<T>() ? at_least<T>(-Math<T>::largest, noisy) : minus_infinity<T>());
    });
}

template <class T>
void add_noise(const T* scores, int32_t vectors, int64_t count, double scale, const T* shift, const T* uniform, T* to) {
  by_width(vectors, [&](auto v) { add_noise<T, v>(scores, count, T(scale), shift, uniform, to); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
