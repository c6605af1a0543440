// The two register-tiled products of a tile of keys with a panel of queries. Queries stand on the vector lanes, so
// every lane does the same ordered chain of fused multiply-adds, whatever the tile, the thread or the batch: the bits
// of an answer depend on nothing else.
//   scores_product:   S[j][q]  = sum_d K[j][d] Q[d][q]        (chains over 256 d), and top[q] = max_j S[j][q]
//   weighted_sum:     O[d][q]  = alpha[q] O[d][q] + sum_j V[j][d] P[j][q]  (a chain over j, from 0: one chain over all
//                     tiles would lose a digit where terms have one sign)
// K and V are read where they stand, broadcast an element at a time; nothing of them is packed. Panels are
// [row][vectors * lanes], aligned to a vector.
#pragma once
#include "math.hpp"
#include "pack.hpp"
#include "panel.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// A product: an accumulator T, and elements of the same size to multiply and add. `count` elements of an operand stand in
// so many words of T's size; cell: the weight of a key and a query in a tile `width` queries wide; rounded: a value as it
// is multiplied.
template <class Accumulator>
struct MultiplyAdd {
  using T = Accumulator;
  template <class V>
  static V apply(V sum, V a, V b) {
    return sum + a * b;
  }
  static constexpr int64_t words(int64_t count) { return count; }
  static T cell(const T* weights, int64_t key, int64_t query, int64_t width) { return weights[key * width + query]; }
  static T rounded(T value) { return value; }
};

template <class T, int vectors>
inline void start_top(T* top) {
  for (int v = 0; v < vectors; ++v) store<T>(top + v * lanes<T>, minus_infinity<T>());
}

// A register tile of scores to its place, in rows of `all` vectors, and their maximum to top.
template <class T, int vectors, int rows, int all = vectors, class V = Vec<T>>
inline void store_scores(V (&sum)[rows][vectors], T* scores, T* top) {
  constexpr int width = all * lanes<T>;
  unroll<rows>([&](int j) INLINED {
    unroll<vectors>([&](int v) INLINED { store_as<V>(scores + j * width + v * lanes<T>, sum[j][v]); });
  });
  unroll<vectors>([&](int v) INLINED {
    unroll<rows - 1>([&](int j) INLINED { sum[0][v] = max(sum[j + 1][v], sum[0][v]); });
    store_as<V>(top + v * lanes<T>, max(sum[0][v], load_as<V>(top + v * lanes<T>)));
  });
}

// sum over i < size of terms that add(begin, end, part) adds to part, in chains of at most 16: one chain over all would
// lose a digit beside a pairwise sum.
template <class T, int vectors, int rows, class F>
inline void sum_in_parts(int64_t size, Vec<T> (&sum)[rows][vectors], F&& add) {
  constexpr int64_t chain = 16;
  add(int64_t(0), size < chain ? size : chain, sum);
  for (int64_t begin = chain; begin < size; begin += chain) {
    Vec<T> part[rows][vectors] = {};
    add(begin, begin + chain < size ? begin + chain : size, part);
    unroll<rows>([&](int j) INLINED { unroll<vectors>([&](int v) INLINED { sum[j][v] += part[j][v]; }); });
  }
}

// The rows of a register tile: one base for five of them, which are 0, 1, 2, 3 and 4 strides away. With a stride for each of
// 14 rows, compilers run out of registers and read the end of the loop from a vector register, behind the multiply-adds.
template <class T, int rows>
class RowBases {
 public:
  RowBases(const T* first, int64_t stride) : stride_(stride * int64_t(sizeof(T))), three_(3 * stride_) {
    unroll<bases>([&](int i) INLINED {
      base_[i] = reinterpret_cast<const char*>(first) + 5 * i * stride_;
      if constexpr (bases > 1) asm("" : "+r"(base_[i]));  // or they become one base again
    });
    if constexpr (bases > 1) asm("" : "+r"(three_));
  }
  [[gnu::always_inline]] T of(int j) const {
    const int64_t away = j % 5 == 3 ? three_ : j % 5 * stride_;
    return *reinterpret_cast<const T*>(base_[j / 5] + away);
  }
  [[gnu::always_inline]] void next() {
    unroll<bases>([&](int i) INLINED { base_[i] += sizeof(T); });
  }

 private:
  static constexpr int bases = (rows + 4) / 5;
  const char* base_[bases];
  int64_t stride_, three_;
};

// The whole sum, or of long rows a part: `first` the first one, `last` the last one, which has the maximum. Of vectors V,
// perhaps half ones.
template <class Product, class V, int vectors, int all, int rows, bool whole, class T = typename Product::T>
[[gnu::noinline]] void scores_block(const T* panel, const T* keys, int64_t key_stride, int64_t columns, T* scores,
                                    T* top, [[maybe_unused]] bool first, [[maybe_unused]] bool last) {
  constexpr int width = all * lanes<T>;
  V sum[rows][vectors] = {};
  RowBases<T, rows> key_of(keys, key_stride);
  for (int64_t d = 0; d < columns; ++d) {
    V query[vectors];
    unroll<vectors>([&](int v) INLINED { query[v] = load_as<V>(panel + v * lanes<T>); });
    unroll<rows>([&](int j) INLINED {
      const V key = key_of.of(j) - V{};  // -0 stays -0
      unroll<vectors>([&](int v) INLINED { sum[j][v] = Product::apply(sum[j][v], key, query[v]); });
    });
    panel += width;
    key_of.next();
  }
  const auto each = [&](auto&& f) {
    unroll<rows>([&](int j) INLINED {
      unroll<vectors>([&](int v) INLINED { f(sum[j][v], scores + j * width + v * lanes<T>); });
    });
  };
  if constexpr (!whole) {
    if (!first) each([](V& cell, const T* before) INLINED { cell += load_as<V>(before); });
    if (!last) return each([](const V& cell, T* to) INLINED { store_as<V>(to, cell); });
  }
  store_scores<T, vectors, rows, all>(sum, scores, top);
}

// The columns of a chain. One over all would lose a digit beside a sum in blocks: at 4096 columns 4 times the error.
constexpr int64_t score_chain = 256;

template <class Product, class V, int vectors, int all, int rows, class T = typename Product::T>
inline void scores_of_rows(const T* panel, const T* keys, int64_t key_stride, int64_t head_size, T* scores, T* top) {
  if (head_size <= score_chain)
    return scores_block<Product, V, vectors, all, rows, true>(panel, keys, key_stride, head_size, scores, top, true,
                                                              true);
  for (int64_t d = 0; d < head_size; d += score_chain, panel += score_chain * all * lanes<T>) {
    const bool last = head_size - d <= score_chain;
    scores_block<Product, V, vectors, all, rows, false>(panel, keys + d, key_stride, last ? head_size - d : score_chain,
                                                        scores, top, d == 0, last);
  }
}

// Spreads prefetches over the register tiles of a product.
class Prefetcher {
 public:
  Prefetcher(const Prefetch& ahead, int64_t steps) : ahead_(ahead) {
    for (int32_t i = 0; i < ahead.count; ++i) {
      const Prefetch::Part& part = ahead.parts[i];
      const int64_t lines = part.rows * part.touches;
      lines_[i] = steps > 1 ? (lines + steps - 1) / steps : lines;
      at_[i] = 0;
    }
  }
  void step() {
    for (int32_t i = 0; i < ahead_.count; ++i)
      if (ahead_.write && i == ahead_.count - 1)
        touch<1>(ahead_.parts[i], at_[i], lines_[i]);
      else
        touch<0>(ahead_.parts[i], at_[i], lines_[i]);
  }

 private:
  template <int write>
  static void touch(Prefetch::Part& part, int64_t& at, int64_t lines) {
    while (lines > 0 && part.rows > 0) {
      const int64_t some = part.touches - at < lines ? part.touches - at : lines;
      const char* const row = part.row + at * part.step;
      for (int64_t i = 0; i < some; ++i) __builtin_prefetch(row + i * part.step, write, 3);
      lines -= some;
      at += some;
      if (at < part.touches) return;
      at = 0;
      --part.rows;
      if (!part.list)
        part.row += part.row_stride;
      else if (part.rows > 0)
        part.row = *++part.list;
    }
  }

  Prefetch ahead_;
  int64_t lines_[3], at_[3];
};

// For `vectors` V of a panel that has `all`. As many blocks of `rows` keys as fit; what is left goes to blocks of half as
// many.
template <class Product, class V, int vectors, int all, int rows, class T = typename Product::T>
void scores_product(const T* panel, const T* keys, int64_t key_stride, int64_t count, int64_t head_size, T* scores,
                    T* top, Prefetcher& prefetcher) {
  for (; count >= rows; count -= rows) {
    prefetcher.step();
    scores_of_rows<Product, V, vectors, all, rows>(panel, keys, key_stride, head_size, scores, top);
    keys += rows * key_stride;
    scores += rows * all * lanes<T>;
  }
  if constexpr (rows > 1) {
    if (count > 0)
      scores_product<Product, V, vectors, all, (rows + 1) / 2>(panel, keys, key_stride, count, head_size, scores, top,
                                                               prefetcher);
  }
}

// One or two columns have too few sums to hide the latency of a multiply-add: then every key of a few has its own. How
// many depends on the columns alone, for the sake of the same bits in panels of any width.
template <class Product, int vectors, int columns, class T = typename Product::T>
[[gnu::noinline]] void weighted_sum_block(const T* weights, const T* values, int64_t value_stride, int64_t count,
                                          const PartialKeys& partial, const T* alpha, T* output) {
  constexpr int width = vectors * lanes<T>, chains = columns < sum_chains ? sum_chains / columns : 1;
  Vec<T> sum[chains][columns][vectors] = {};
  // the next keys, for `some` vectors from `first` on
  const auto add_keys = [&](auto some, auto first, int64_t keys) {
    constexpr int n = decltype(some)::value, from = decltype(first)::value;
    const auto add = [&](int c) INLINED {
      Vec<T> weight[n];
      unroll<n>([&](int v) INLINED { weight[v] = load(weights + c * width + (from + v) * lanes<T>); });
      unroll<columns>([&](int d) INLINED {
        const Vec<T> value = broadcast(values[c * value_stride + d]);
        unroll<n>([&](int v) INLINED { sum[c][d][from + v] = Product::apply(sum[c][d][from + v], value, weight[v]); });
      });
    };
    for (; keys >= chains; keys -= chains) {
      unroll<chains>(add);
      weights += chains * width;
      values += chains * value_stride;
    }
    // a key's chain is that of its number, so that it does not matter whether others follow that are not seen
    unroll<chains - 1>([&](int c) INLINED {
      if (c < keys) add(c);
    });
  };
  if constexpr (vectors == 1) {
    add_keys(Constant<1>{}, Constant<0>{}, count);
  } else {
    add_keys(Constant<1>{}, Constant<0>{}, partial.first);
    add_keys(Constant<vectors>{}, Constant<0>{}, partial.last - partial.first);
    add_keys(Constant<1>{}, Constant<vectors - 1>{}, count - partial.last);
  }
  unroll<columns>([&](int d) INLINED {
    unroll<vectors>([&](int v) INLINED {
      unroll<chains - 1>([&](int c) INLINED { sum[0][d][v] += sum[c + 1][d][v]; });
      T* cell = output + d * width + v * lanes<T>;
      store<T>(cell, load(cell) * load(alpha + v * lanes<T>) + sum[0][d][v]);
    });
  });
}

template <class Product, int vectors, int columns = value_columns<vectors>, class T = typename Product::T>
void weighted_columns(const T* weights, const T* values, int64_t value_stride, int64_t count, int64_t value_size,
                      const PartialKeys& partial, const T* alpha, T* output, Prefetcher& prefetcher) {
  for (; value_size >= columns; value_size -= columns) {
    prefetcher.step();
    weighted_sum_block<Product, vectors, columns>(weights, values, value_stride, count, partial, alpha, output);
    values += columns;
    output += columns * vectors * lanes<T>;
  }
  if constexpr (columns > 1) {
    if (value_size > 0)
      weighted_columns<Product, vectors, (columns + 1) / 2>(weights, values, value_stride, count, value_size, partial,
                                                            alpha, output, prefetcher);
  }
}

template <class Product, class T = typename Product::T>
void weighted_sum(const T* weights, int32_t vectors, LoadedRows values, int64_t count, int64_t value_size,
                  const T* alpha, T* output, const PartialKeys& partial, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, value_size / value_columns<v>);
    const PartialKeys words = {Product::words(partial.first), Product::words(partial.last), {}, {}};  // no halves
    weighted_columns<Product, v>(weights, static_cast<const T*>(values.data), values.row_stride / int64_t(sizeof(T)),
                                 Product::words(count), value_size, words, alpha, output, prefetcher);
  });
}

// The values that are inf or NaN, for the queries that see them: 0 * inf is NaN, as in the formula.
template <class Product, class T = typename Product::T>
void add_not_finite(const T* weights, int32_t width, const Rows& values, int64_t count, int64_t value_size,
                    const uint32_t* seen, T* output, int64_t column_step, int64_t query_step) {
  for (int64_t j = 0; j < count; ++j)
    for (int64_t d = 0; d < value_size; ++d) {
      const T value = Product::rounded(is_few_bits(values.dtype)
                                           ? few_bits_element<T>(values, j, d)
                                           : element<T>(values.row(j) + d * values.column_stride, values.dtype));
      if (is_finite(value)) continue;
      for (int32_t i = 0; i < width; ++i)
        if (seen[j] >> i & 1) output[d * column_step + i * query_step] += Product::cell(weights, j, i, width) * value;
    }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
