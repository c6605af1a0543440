// Products of bfloat16 by the tile registers of AMX (tdpbf16ps): a tile holds 16 rows of 64 bytes, and one instruction does
//   C[i][n] += sum_k A[i][2k] B[k][2n] + A[i][2k + 1] B[k][2n + 1]      16 x 16 of float32, 32 deep, pairs in B as words
// in float32, subnormals taken as 0; the sum of 32 products is a chain of 16 for even elements and one for odd ones,
// which are added to each other and then to C. An element of C depends on its own row of A and column of B alone, so that
// the bits of a query are the same in any company: as long as sums are cut at the same places, multiples of 32.
//   scores        C [key][query]    A keys in place [key][d]           B the packed panel [d / 2][query]
//   weighted_sum  C [d][query]      A values transposed [d][key]       B weights [key / 2][query]
//   query_sum     C [key][d]        A cells [key][query]               B summands [query / 2][d], tile by tile
// Weights and their gradients are made by select/soft_pairs.hpp. What fills up a tile is 0 on both sides; keys are no
// exception: a last tile reaches back over rows that were done before, which gives the same bits, and never beyond the last.
// A thread sets the registers up with enter and gives them back with leave: that costs as much as ten products.
#pragma once
#if defined(__AVX512BF16__) && (defined(__AMX_BF16__) || defined(FOVEATE_EMULATED_TILES))
#define FOVEATE_AMX
#include "bf16_pairs.hpp"
#if defined(FOVEATE_EMULATED_TILES)
#include "emulated_tiles.hpp"
#endif

namespace foveate::FOVEATE_ISA {
namespace {

constexpr int64_t tile_depth = 32;  // elements in a row of A
constexpr int64_t tile_bytes = 1024;

// The compiler does not know that tiles are read from memory: stores before must be done, and loads after not be early.
inline void fence_compiler() { __asm__ volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

inline void enter_amx() {
  static constexpr TileConfig config;
  _tile_loadconfig(&config);
}
inline void leave_amx() { _tile_release(); }

// Tiles 0 to 3 are sums, (first row, first column), (first, second), (second, first), (second, second); 4 and 5 the rows
// of A, 6 and 7 the columns of B. step(k): adds the k-th 32. rows, columns: 1 or 2.
inline void zero_tiles() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
template <int rows, int columns>
inline void add_tiles(const void* a0, const void* a1, int64_t a_stride, const void* b0, const void* b1,
                      int64_t b_stride) {
  _tile_loadd(4, a0, a_stride);
  if constexpr (rows > 1) _tile_loadd(5, a1, a_stride);
  _tile_loadd(6, b0, b_stride);
  if constexpr (columns > 1) _tile_loadd(7, b1, b_stride);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (columns > 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (rows > 1) {
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (columns > 1) _tile_dpbf16ps(3, 5, 7);
  }
}
template <int rows, int columns>
inline void load_tiles(const float* first, const float* second, int64_t stride) {
  _tile_loadd(0, first, stride);
  if constexpr (columns > 1) _tile_loadd(1, first + 16, stride);
  if constexpr (rows > 1) {
    _tile_loadd(2, second, stride);
    if constexpr (columns > 1) _tile_loadd(3, second + 16, stride);
  }
}
template <int rows, int columns>
inline void store_tiles(float* first, float* second, int64_t stride) {
  _tile_stored(0, first, stride);
  if constexpr (columns > 1) _tile_stored(1, first + 16, stride);
  if constexpr (rows > 1) {
    _tile_stored(2, second, stride);
    if constexpr (columns > 1) _tile_stored(3, second + 16, stride);
  }
}

// The scores of 16 keys from `first` on, and where rows = 2 of 16 more from `second` on.
template <int vectors, int rows>
inline void score_tiles(const char* panel, const char* keys, int64_t key_stride, int64_t depth, int64_t first,
                        int64_t second, float* s) {
  constexpr int64_t width = vectors * lanes<float>, row = width * 4;
  zero_tiles();
  const char *a0 = keys + first * key_stride, *a1 = keys + second * key_stride;
  for (int64_t k = 0; k < depth; ++k, a0 += 64, a1 += 64, panel += tile_pairs * row)
    add_tiles<rows, vectors>(a0, a1, key_stride, panel, panel + 64, row);
  store_tiles<rows, vectors>(s + first * width, s + second * width, row);
}

// The largest scores of keys begin..end - 1.
template <int vectors>
inline void raise_top(const float* s, int64_t begin, int64_t end, Vec<float> (&top)[vectors]) {
  constexpr int width = vectors * lanes<float>;
  Vec<float> more[3][vectors];  // chains that hide the latency
  unroll<3>([&](int c) INLINED { unroll<vectors>([&](int v) INLINED { more[c][v] = top[v]; }); });
  const auto raise = [&](int64_t j, Vec<float>(&of)[vectors]) INLINED {
    unroll<vectors>([&](int v) INLINED { of[v] = max(load(s + j * width + v * lanes<float>), of[v]); });
  };
  for (; end - begin >= 4; begin += 4) {
    raise(begin, top);
    unroll<3>([&](int c) INLINED { raise(begin + 1 + c, more[c]); });
  }
  for (; begin < end; ++begin) raise(begin, top);
  unroll<vectors>([&](int v) INLINED { top[v] = max(max(more[0][v], more[1][v]), max(more[2][v], top[v])); });
}

template <int vectors>
[[gnu::noinline]] void amx_scores_tile(const char* panel, const char* keys, int64_t key_stride, int64_t count,
                                       int64_t columns, float* s, float* top_, const Prefetch& ahead) {
  const int64_t depth = round_up(columns, tile_depth) / tile_depth;
  Prefetcher prefetcher(ahead, (count + 31) / 32);
  Vec<float> top[vectors];
  unroll<vectors>([&](int v) INLINED { top[v] = minus_infinity<float>(); });
  fence_compiler();
  if (count < tile_rows) {  // the rows that there are, in copies of 32 columns
    alignas(64) char rows[tile_bytes] = {};
    prefetcher.step();
    zero_tiles();
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < count; ++j) memcpy(rows + j * 64, keys + j * key_stride + k * 64, 64);
      fence_compiler();
      const char* const b = panel + k * tile_pairs * vectors * 64;
      add_tiles<1, vectors>(rows, nullptr, 64, b, b + 64, vectors * 64);
    }
    store_tiles<1, vectors>(s, nullptr, vectors * 64);
    fence_compiler();
    raise_top<vectors>(s, 0, count, top);
  } else {
    int64_t done = 0;
    for (int64_t j = 0; j < count; j += 2 * tile_rows) {
      prefetcher.step();
      const int64_t last = count - tile_rows;
      if (j >= last)
        score_tiles<vectors, 1>(panel, keys, key_stride, depth, last, 0, s);
      else
        score_tiles<vectors, 2>(panel, keys, key_stride, depth, j, j + tile_rows < last ? j + tile_rows : last, s);
      // of the tiles before these, while these are at work
      if (top_) raise_top<vectors>(s, done, j, top);
      done = j;
    }
    if (top_) raise_top<vectors>(s, done, count, top);
  }
  if (top_) unroll<vectors>([&](int v) INLINED { store<float>(top_ + v * lanes<float>, top[v]); });
}

inline void amx_scores(const char* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t head_size,
                       const void*, float* s, float* top, const PartialKeys&, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    amx_scores_tile<v>(panel, static_cast<const char*>(keys.data), keys.row_stride, count, head_size, s, top, ahead);
  });
}

// Values of 32 keys after the other, [key / 32][d][32 keys], d and keys filled up with zeros.
inline int64_t amx_value_size(int64_t columns) { return round_up(columns, tile_rows) * 64; }

inline void load_amx_values(const Rows& from, int64_t count, int64_t columns, bool finite, char* to) {
  Words spoilt = {};
  for (int64_t j = 0; j < count; j += tile_depth)
    for (int64_t d = 0; d < columns; d += tile_rows, to += tile_bytes) {
      Vec<float> square[16];
      const auto words = [&](int64_t key) {
        if (is_few_bits(from.dtype) && key < count) return few_bits_words(from, key, d, columns);
        return row_words(key < count ? from.row(key) + d * from.column_stride : nullptr, from.column_stride,
                         columns - d);
      };
      for (int i = 0; i < 16; ++i)
        square[i] = from_bits<float>(pair_words(words(j + 2 * i), words(j + 2 * i + 1), finite, spoilt));
      transpose<float>(square);
      for (int i = 0; i < 16; ++i) store<float>(reinterpret_cast<float*>(to) + i * 16, square[i]);
    }
}

// Of `rows` times 16 values from `values` on, to a buffer of 32 queries a row.
template <int vectors, int rows>
inline void value_tiles(const char* weights, const char* values, int64_t group_bytes, int64_t groups, float* sums) {
  constexpr int64_t row = vectors * lanes<float> * 4;
  zero_tiles();
  for (int64_t g = 0; g < groups; ++g, values += group_bytes, weights += tile_pairs * row)
    add_tiles<rows, vectors>(values, values + tile_bytes, 64, weights, weights + 64, row);
  store_tiles<rows, vectors>(sums, sums + 16 * 32, 128);
}

template <int vectors>
[[gnu::noinline]] void amx_weighted_sum_tile(const char* weights, const char* values, int64_t group_bytes,
                                             int64_t count, int64_t value_size, const float* alpha_, float* output,
                                             const Prefetch& ahead) {
  constexpr int width = vectors * lanes<float>;
  const int64_t groups = (count + tile_depth - 1) / tile_depth;
  Prefetcher prefetcher(ahead, (value_size + 31) / 32);
  alignas(64) float sums[2][32 * 32];  // one is added to the output while the other is made
  Vec<float> alpha[vectors];
  unroll<vectors>([&](int v) INLINED { alpha[v] = load(alpha_ + v * lanes<float>); });
  const auto add = [&](int64_t first, const float* sum) {
    const int64_t rows = value_size - first < 32 ? value_size - first : 32;
    for (int64_t d = 0; d < rows; ++d)
      unroll<vectors>([&](int v) INLINED {
        float* const cell = output + (first + d) * width + v * lanes<float>;
        store<float>(cell, load(cell) * alpha[v] + load(sum + d * 32 + v * lanes<float>));
      });
  };
  fence_compiler();
  for (int64_t d = 0; d < value_size; d += 32) {
    prefetcher.step();
    float* const sum = sums[d / 32 % 2];
    if (value_size - d > 16)
      value_tiles<vectors, 2>(weights, values + d * 64, group_bytes, groups, sum);
    else
      value_tiles<vectors, 1>(weights, values + d * 64, group_bytes, groups, sum);
    if (d > 0) add(d - 32, sums[(d / 32 - 1) % 2]);
  }
  if (value_size > 0) add((value_size - 1) / 32 * 32, sums[(value_size - 1) / 32 % 2]);
}

inline void amx_weighted_sum(const char* weights, int32_t vectors, LoadedRows values, int64_t count, int64_t value_size,
                             const float* alpha, float* output, const PartialKeys&, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    amx_weighted_sum_tile<v>(weights, static_cast<const char*>(values.data), values.row_stride, count, value_size,
                             alpha, output, ahead);
  });
}

// Rows of queries to tiles of 16 pairs, [query / 32][d / 16][16 pairs][16 d]: rows a power of 2 apart, as in a matrix,
// would share few sets of the cache.
inline bool load_amx_summands(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int64_t columns,
                              bool finite, char* x, int64_t first) {
  char* to = x + first / 2 * round_up(columns, tile_rows) * 4;
  Words spoilt = {};
  for (int64_t d = 0; d < columns; d += tile_rows)
    for (int32_t i = 0; i < 2 * tile_pairs; i += 2, to += 64)
      store_words(to, summand_words(rows, column_stride, live, columns, i, d, finite, spoilt));
  return bits_of<float>(spoilt) == 0;
}

// The sums over queries stay in `to` from call to call: a chain over every 32 queries. x: the first tile of 16 or 32
// columns, of which each 32 queries have x_step bytes in all.
template <int rows, int columns>
inline void query_tiles(const char* cells, int64_t stride, int64_t depth, const char* x, int64_t x_step, float* to,
                        int64_t to_stride) {
  load_tiles<rows, columns>(to, to + tile_rows * (to_stride / 4), to_stride);
  const char* const second = cells + tile_rows * stride;
  for (int64_t k = 0; k < depth; ++k, x += x_step)
    add_tiles<rows, columns>(cells + k * 64, second + k * 64, stride, x, x + tile_bytes, 64);
  store_tiles<rows, columns>(to, to + tile_rows * (to_stride / 4), to_stride);
}

// The last rows, fewer than 16, in a copy.
inline void last_query_tiles(const char* cells, int64_t stride, int64_t count, int64_t depth, const char* x,
                             int64_t x_step, float* to, int64_t to_stride) {
  alignas(64) float sum[16 * 16] = {};
  for (int64_t j = 0; j < count; ++j) memcpy(sum + j * 16, to + j * (to_stride / 4), 64);
  fence_compiler();
  query_tiles<1, 1>(cells, stride, depth, x, x_step, sum, 64);
  fence_compiler();
  for (int64_t j = 0; j < count; ++j) memcpy(to + j * (to_stride / 4), sum + j * 16, 64);
}

// columns: of `to`, a multiple of 16.
[[gnu::noinline]] inline void amx_query_sum(const char* cells, int64_t cell_stride, int64_t count, int64_t queries,
                                            const char* x, int64_t columns, float* to) {
  const int64_t stride = cell_stride * 2;  // in bytes
  const int64_t depth = (queries + tile_depth - 1) / tile_depth, row = columns * 4, step = tile_pairs * row;
  const auto run = [&](auto rows) {
    int64_t d = 0;
    for (; d + 32 <= columns; d += 32)
      query_tiles<rows, 2>(cells, stride, depth, x + d / 16 * tile_bytes, step, to + d, row);
    if (d < columns) query_tiles<rows, 1>(cells, stride, depth, x + d / 16 * tile_bytes, step, to + d, row);
    count -= rows * tile_rows;
    cells += rows * tile_rows * stride;
    to += rows * tile_rows * columns;
  };
  fence_compiler();
  while (count >= 2 * tile_rows) run(Constant<2>{});
  if (count >= tile_rows) run(Constant<1>{});
  if (count > 0)
    for (int64_t d = 0; d < columns; d += 16)
      last_query_tiles(cells, stride, count, depth, x + d / 16 * tile_bytes, step, to + d, row);
}

// Products from registers, 8 times the flops of a round of vectors; the flops done.
inline double spin_amx(int64_t rounds) {
  rounds /= 8;
  alignas(64) static constexpr char zeros[tile_bytes] = {};
  enter_amx();
  zero_tiles();
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_loadd(6, zeros, 64);
  _tile_loadd(7, zeros, 64);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  leave_amx();
  return double(rounds) * 4 * 16 * 16 * 32 * 2;
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
#endif
