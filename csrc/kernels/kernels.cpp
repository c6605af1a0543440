// The one kernel source, compiled once per ISA: FOVEATE_ISA names it and is its namespace. It includes no header of
// the standard library whose inline functions could leak instructions of this ISA into others; everything but the
// table at the end has internal linkage.
#include "bfloat16.hpp"
#include "decode.hpp"
#include "gemm.hpp"
#include "measure.hpp"
#include "pack.hpp"
#include "reach/bits.hpp"
#include "reach/hide.hpp"
#include "score/bend.hpp"
#include "select/soft.hpp"
#include "select/weights.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Calls f(Constant<vectors>) for the two widths of a panel.
template <class F>
inline void by_width(int32_t vectors, F&& f) {
  if (vectors == 1)
    f(Constant<1>{});
  else
    f(Constant<panel_vectors>{});
}

template <class T, int vectors>
inline T* start_top(void* top) {
  for (int v = 0; v < vectors; ++v) store<T>(static_cast<T*>(top) + v * lanes<T>, minus_infinity<T>());
  return static_cast<T*>(top);
}

template <class T>
struct Plain {
  using Product = MultiplyAdd<T>;

  static int64_t row_size(int64_t columns) { return columns * int64_t(sizeof(T)); }
  static void load_keys(const Rows& from, int64_t count, int64_t columns, void* to) {
    load_rows<T>(from, count, columns, false, static_cast<T*>(to));
  }
  static void load_values(const Rows& from, int64_t count, int64_t columns, bool finite, void* to) {
    load_rows<T>(from, count, columns, finite, static_cast<T*>(to));
  }
  static void scores(const void* panel, int32_t vectors, Tile keys, int64_t count, int64_t head_size, void* s,
                     void* top, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      Prefetcher prefetcher(ahead, count / key_rows<v>);
      scores_product<Product, v>(static_cast<const T*>(panel), static_cast<const T*>(keys.data),
                                 keys.row_stride / int64_t(sizeof(T)), count, head_size, static_cast<T*>(s),
                                 start_top<T, v>(top), prefetcher);
    });
  }
  static void bend_scores(void* s, int32_t vectors, int64_t count, double scale, double softcap) {
    bend<T>(static_cast<T*>(s), count * vectors * lanes<T>, scale, softcap);
  }
  static void bias(void* s, int32_t vectors, int64_t count, const char* const* rows, Dtype dtype, int64_t key_stride,
                   int32_t live) {
    add_bias<T>(static_cast<T*>(s), vectors * lanes<T>, count, rows, dtype, key_stride, live);
  }
  static void outside(void* s, int32_t vectors, int64_t begin, int64_t end, const int32_t* low, const int32_t* high) {
    by_width(vectors, [&](auto v) { hide_outside<T, v>(static_cast<T*>(s), begin, end, low, high); });
  }
  static void unset(void* s, int32_t vectors, int64_t count, const uint32_t* seen) {
    by_width(vectors, [&](auto v) { hide_unset<T, v>(static_cast<T*>(s), count, seen); });
  }
  static void top_of(const void* s, int32_t vectors, int64_t count, void* top) {
    by_width(vectors, [&](auto v) { find_top<T, v>(static_cast<const T*>(s), count, static_cast<T*>(top)); });
  }
  static void soft(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l,
                   void* alpha) {
    by_width(vectors, [&](auto v) {
      soft_tile<T, v>(static_cast<T*>(s), count, T(scale), static_cast<const T*>(top), static_cast<T*>(m),
                      static_cast<T*>(l), static_cast<T*>(alpha));
    });
  }
  static void sum(const void* weights, int32_t vectors, Tile values, int64_t count, int64_t value_size,
                  const void* alpha, void* output, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      Prefetcher prefetcher(ahead, value_size / value_columns<v>);
      weighted_sum<Product, v>(static_cast<const T*>(weights), static_cast<const T*>(values.data),
                               values.row_stride / int64_t(sizeof(T)), count, value_size, static_cast<const T*>(alpha),
                               static_cast<T*>(output), prefetcher);
    });
  }
  static void one_row(const void* row, int64_t columns, char* to, Dtype dtype, int64_t column_stride) {
    store_row<T>(static_cast<const T*>(row), columns, to, dtype, column_stride);
  }
  static T weight(const void* weights, int64_t key, int64_t query, int64_t width) {
    return static_cast<const T*>(weights)[key * width + query];
  }
  static void weights(void* s, int32_t vectors, int64_t count, double scale, const void* m, const void* factor) {
    by_width(vectors, [&](auto v) {
      weights_tile<T, v>(static_cast<T*>(s), count, T(scale), static_cast<const T*>(m), static_cast<const T*>(factor));
    });
  }
};

#if defined(__AVX512BF16__)
struct Pairs : Plain<float> {
  static int64_t row_size(int64_t columns) { return 4 * pairs(columns); }
  static void scores(const void* panel, int32_t vectors, Tile keys, int64_t count, int64_t head_size, void* s,
                     void* top, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      Prefetcher prefetcher(ahead, count / key_rows<v>);
      scores_product<PairProduct, v>(static_cast<const float*>(panel), static_cast<const float*>(keys.data),
                                     keys.row_stride / 4, count, pairs(head_size), static_cast<float*>(s),
                                     start_top<float, v>(top), prefetcher);
    });
  }
  static void soft(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l,
                   void* alpha) {
    by_width(vectors, [&](auto v) {
      soft_pair_tile<v>(static_cast<float*>(s), count, float(scale), static_cast<const float*>(top),
                        static_cast<float*>(m), static_cast<float*>(l), static_cast<float*>(alpha));
    });
  }
  static void sum(const void* weights, int32_t vectors, Tile values, int64_t count, int64_t value_size,
                  const void* alpha, void* output, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      Prefetcher prefetcher(ahead, value_size / value_columns<v>);
      weighted_sum<PairProduct, v>(static_cast<const float*>(weights), static_cast<const float*>(values.data),
                                   value_size, pairs(count), value_size, static_cast<const float*>(alpha),
                                   static_cast<float*>(output), prefetcher);
    });
  }
  static float weight(const void* weights, int64_t key, int64_t query, int64_t width) {
    return float_of_bfloat16(static_cast<const uint16_t*>(weights)[(key / 2 * width + query) * 2 + key % 2]);
  }
};
#endif

// The values that are inf or NaN, for the queries that see them: 0 * inf is NaN, as in the formula.
template <class Kind, class T>
void add_not_finite(const void* weights, int32_t width, const Rows& values, int64_t count, int64_t value_size,
                    const uint32_t* seen, void* output, int64_t column_step, int64_t query_step) {
  T* sum = static_cast<T*>(output);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t d = 0; d < value_size; ++d) {
      const T value = element<T>(values.data + j * values.row_stride + d * values.column_stride, values.dtype);
      if (is_finite(value)) continue;
      for (int32_t i = 0; i < width; ++i)
        if (seen[j] >> i & 1) sum[d * column_step + i * query_step] += Kind::weight(weights, j, i, width) * value;
    }
}

template <class T>
constexpr Family plain_family(Dtype in_place) {
  using K = Plain<T>;
  return {lanes<T>,       panel_vectors,    int32_t(sizeof(T)),   in_place,        false,
          K::row_size,    K::load_keys,     K::load_values,       pack_queries<T>, K::scores,
          K::bend_scores, K::bias,          K::outside,           K::unset,        K::top_of,
          K::soft,        K::sum,           add_not_finite<K, T>, K::weights,      store_rows<T>,
          K::one_row,     decode_scores<T>, decode_bias<T>,       decode_soft<T>,  decode_sum<T>};
}

#if defined(__AVX512BF16__)
constexpr Family pair_family() {
  Family f = plain_family<float>(Dtype::bfloat16);
  f.pairs = true;
  f.row_size = Pairs::row_size;
  f.load_keys = load_pair_keys;
  f.load_values = load_pair_values;
  f.pack_queries = pack_pair_queries;
  f.scores = Pairs::scores;
  f.soft = Pairs::soft;
  f.weighted_sum = Pairs::sum;
  f.add_not_finite = add_not_finite<Pairs, float>;
  return f;
}
constexpr Family pair_kernels = pair_family();
constexpr const Family* pairs_or_null = &pair_kernels;
#else
constexpr const Family* pairs_or_null = nullptr;
#endif

#define FOVEATE_TEXT_OF(x) #x
#define FOVEATE_TEXT(x) FOVEATE_TEXT_OF(x)

}  // namespace

extern const Kernels kernels;
constexpr Kernels kernels = {FOVEATE_TEXT(FOVEATE_ISA),
                             plain_family<float>(Dtype::float32),
                             plain_family<double>(Dtype::float64),
                             pairs_or_null,
                             bits_of_bools,
                             clear_minus_infinity,
                             clear_other_segments,
                             elementary,
                             spin,
                             sum_bytes};

}  // namespace foveate::FOVEATE_ISA
