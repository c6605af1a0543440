// The one kernel source, compiled once per ISA: FOVEATE_ISA names it and is its namespace. It includes no header of
// the standard library whose inline functions could leak instructions of this ISA into others; everything but the
// table at the end has internal linkage.
#include "amx.hpp"
#include "bf16_pairs.hpp"
#include "decode.hpp"
#include "draw.hpp"
#include "factor/dropout.hpp"
#include "factor/gaussian.hpp"
#include "gemm.hpp"
#include "hide/bits.hpp"
#include "hide/cells.hpp"
#include "measure.hpp"
#include "pack.hpp"
#include "query_sum.hpp"
#include "score/additive.hpp"
#include "score/columns.hpp"
#include "score/distance.hpp"
#include "score/inner.hpp"
#include "score/softcap.hpp"
#include "select/argmax.hpp"
#include "select/compact.hpp"
#include "select/sample.hpp"
#include "select/soft.hpp"
#include "select/weights.hpp"
#include "table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
struct Plain {
  using Product = MultiplyAdd<T>;

  static int64_t row_size(int64_t columns) { return columns * int64_t(sizeof(T)); }
  static void load(const Rows& from, int64_t count, int64_t columns, void* to) {
    load_rows<T>(from, count, columns, false, static_cast<T*>(to));
  }
  static void load_values(const Rows& from, int64_t count, int64_t columns, bool finite, void* to) {
    load_rows<T>(from, count, columns, finite, static_cast<T*>(to));
  }
  static void inner(const void* panel, int32_t vectors, Tile keys, int64_t count, int64_t head_size, const void*,
                    void* s, void* top, const Corners& corners, const Ahead& ahead) {
    inner_scores<MultiplyAdd<T>>(panel, vectors, keys, count, head_size, s, top, corners, ahead);
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
  static void soft(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l, void*,
                   void* alpha, const Gaussian* gaussian, const Ahead&) {
    by_width(vectors, [&](auto v) {
      const auto plain = scale == 1 ? soft_tile<T, v, false, false> : soft_tile<T, v, true, false>;
      const auto falling = scale == 1 ? soft_tile<T, v, false, true> : soft_tile<T, v, true, true>;
      (gaussian ? falling : plain)(static_cast<T*>(s), count, T(scale), static_cast<const T*>(top), static_cast<T*>(m),
                                   static_cast<T*>(l), static_cast<T*>(alpha), gaussian);
    });
  }
  static uint32_t top_place(const void* s, int32_t vectors, int64_t count, const void* top, const void* m,
                            int32_t* place) {
    uint32_t found = 0;
    by_width(vectors, [&](auto v) {
      found = first_of_top<T, v>(static_cast<const T*>(s), count, static_cast<const T*>(top), static_cast<const T*>(m),
                                 place);
    });
    return found;
  }
  static void runs(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l,
                   void* alpha, void* sums) {
    by_width(vectors, [&](auto v) {
      const auto tile = scale == 1 ? soft_runs<T, v, false> : soft_runs<T, v, true>;
      tile(static_cast<T*>(s), count, T(scale), static_cast<const T*>(top), static_cast<T*>(m), static_cast<T*>(l),
           static_cast<T*>(alpha), static_cast<T*>(sums));
    });
  }
  static int64_t runs_of(int64_t count) { return (count + run_keys - 1) / run_keys; }
  static uint32_t draw(const void* weights, int32_t vectors, int64_t count, const void* sums, const void* l,
                       const void* uniform, int32_t* place) {
    uint32_t drawn = 0;
    by_width(vectors, [&](auto v) {
      drawn = draw_tile<T, v>(static_cast<const T*>(weights), count, static_cast<const T*>(sums),
                              static_cast<const T*>(l), static_cast<const T*>(uniform), place);
    });
    return drawn;
  }
  static void compact(void* s, int32_t vectors, int64_t count, Profile profile, void* l) {
    by_width(vectors, [&](auto v) { compact_tile<T, v>(static_cast<T*>(s), count, profile, static_cast<T*>(l)); });
  }
  static void by_distance(void* weights, int32_t vectors, int64_t count, const Gaussian& gaussian) {
    by_width(vectors, [&](auto v) { gaussian_tile<T, v>(static_cast<T*>(weights), count, gaussian); });
  }
  static void drop(void* weights, int32_t vectors, int64_t count, const uint32_t* kept) {
    by_width(vectors, [&](auto v) { clear_unset<T, v>(static_cast<T*>(weights), count, kept); });
  }
  static void sum(const void* weights, int32_t vectors, Tile values, int64_t count, int64_t value_size,
                  const void* alpha, void* output, const Corners& corners, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      Prefetcher prefetcher(ahead, value_size / value_columns<v>);
      weighted_sum<Product, v>(static_cast<const T*>(weights), static_cast<const T*>(values.data),
                               values.row_stride / int64_t(sizeof(T)), count, value_size, corners,
                               static_cast<const T*>(alpha), static_cast<T*>(output), prefetcher);
    });
  }
  static void one_row(const void* row, int64_t columns, char* to, Dtype dtype, int64_t column_stride) {
    store_row<T>(static_cast<const T*>(row), columns, to, dtype, column_stride);
  }
  static T weight(const void* weights, int64_t key, int64_t query, int64_t width) {
    return static_cast<const T*>(weights)[key * width + query];
  }
  static void d_scores(const void* s, void* d_weights, int32_t vectors, int64_t count, double scale, const void* top,
                       const void* rest, const void* shift, void* weights, void* beside, int64_t stride) {
    by_width(vectors, [&](auto v) {
      soft_gradient<T, v>(static_cast<const T*>(s), static_cast<T*>(d_weights), count, T(scale),
                          static_cast<const T*>(top), static_cast<const T*>(rest), static_cast<const T*>(shift),
                          static_cast<T*>(weights), static_cast<T*>(beside), stride);
    });
  }
  static void lay(void* d_weights, int32_t vectors, int64_t count, void* beside, int64_t stride) {
    by_width(vectors, [&](auto v) {
      lay_cells<T, v>(static_cast<const T*>(d_weights), count, static_cast<T*>(beside), stride);
    });
  }
  static void d_compact(const void* s, void* d_weights, int32_t vectors, int64_t count, Profile profile,
                        const void* rest, const void* shift, void* weights, int64_t stride) {
    by_width(vectors, [&](auto v) {
      compact_gradient<T, v>(static_cast<const T*>(s), static_cast<T*>(d_weights), count, profile,
                             static_cast<const T*>(rest), static_cast<const T*>(shift), static_cast<T*>(weights),
                             stride);
    });
  }
  static void d_gaussian(const void* weights, const void* d_weights, int32_t vectors, int64_t count,
                         const Gaussian& gaussian, void* to) {
    by_width(vectors, [&](auto v) {
      gaussian_gradient<T, v>(static_cast<const T*>(weights), static_cast<const T*>(d_weights), count, gaussian,
                              static_cast<T*>(to));
    });
  }
  static void unbend(const void* bent, void* d_scores, int32_t vectors, int64_t count, double softcap) {
    by_width(vectors, [&](auto v) {
      bend_gradient<T, v>(static_cast<const T*>(bent), static_cast<T*>(d_scores), count, softcap);
    });
  }
  static void sum_queries(const void* cells, int64_t stride, int64_t count, int64_t queries, const void* x,
                          int64_t columns, void* to) {
    query_sum<Product>(static_cast<const T*>(cells), stride, count, queries, static_cast<const T*>(x), columns,
                       static_cast<T*>(to));
  }
  static void products_of_rows(const void* a, const void* b, int64_t count, int64_t columns, void* to) {
    row_products<T>(static_cast<const T*>(a), static_cast<const T*>(b), count, columns, static_cast<T*>(to));
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
  static void inner(const void* panel, int32_t vectors, Tile keys, int64_t count, int64_t head_size, const void*,
                    void* s, void* top, const Corners& corners, const Ahead& ahead) {
    inner_scores<PairProduct>(panel, vectors, keys, count, pairs(head_size), s, top, corners, ahead);
  }
  static void soft(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l,
                   void* exact, void* alpha, const Gaussian*, const Ahead& next) {
    by_width(vectors, [&](auto v) {
      const auto tile = exact ? soft_pair_tile<v, true> : soft_pair_tile<v, false>;
      tile(static_cast<float*>(s), count, float(scale), static_cast<const float*>(top), static_cast<float*>(m),
           static_cast<float*>(l), static_cast<float*>(exact), static_cast<float*>(alpha), next);
    });
  }
  static void sum(const void* weights, int32_t vectors, Tile values, int64_t count, int64_t value_size,
                  const void* alpha, void* output, const Corners& corners, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      Prefetcher prefetcher(ahead, value_size / value_columns<v>);
      weighted_sum<PairProduct, v>(static_cast<const float*>(weights), static_cast<const float*>(values.data),
                                   value_size, pairs(count), value_size, {corners.first / 2, pairs(corners.last)},
                                   static_cast<const float*>(alpha), static_cast<float*>(output), prefetcher);
    });
  }
  static int64_t value_size(int64_t columns) { return columns * 4; }
  static void d_scores(const void* s, void* d_weights, int32_t vectors, int64_t count, double scale, const void* top,
                       const void* rest, const void* shift, void* weights, void* beside, int64_t stride) {
    by_width(vectors, [&](auto v) {
      soft_pair_gradient<v>(static_cast<const float*>(s), static_cast<float*>(d_weights), count, float(scale),
                            static_cast<const float*>(top), static_cast<const float*>(rest),
                            static_cast<const float*>(shift), static_cast<uint16_t*>(weights),
                            static_cast<uint16_t*>(beside), stride);
    });
  }
  static void lay(void* d_weights, int32_t vectors, int64_t count, void* beside, int64_t stride) {
    by_width(vectors, [&](auto v) {
      lay_pair_cells<v>(static_cast<float*>(d_weights), count, static_cast<uint16_t*>(beside), stride);
    });
  }
  static void sum_queries(const void* cells, int64_t stride, int64_t count, int64_t queries, const void* x,
                          int64_t columns, void* to) {
    query_sum<PairProduct>(static_cast<const float*>(cells), stride / 2, count, pairs(queries),
                           static_cast<const float*>(x), columns, static_cast<float*>(to));
  }
  static float weight(const void* weights, int64_t key, int64_t query, int64_t width) {
    return float_of_bfloat16(static_cast<const uint16_t*>(weights)[(key / 2 * width + query) * 2 + key % 2]);
  }
};
#endif

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
struct Tiles : Pairs {
  static int64_t row_size(int64_t columns) { return 2 * round_up(columns, tile_depth); }
  static void inner(const void* panel, int32_t vectors, Tile keys, int64_t count, int64_t head_size, const void*,
                    void* s, void* top, const Corners&, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      tile_scores<v>(static_cast<const char*>(panel), static_cast<const char*>(keys.data), keys.row_stride, count,
                     head_size, static_cast<float*>(s), static_cast<float*>(top), ahead);
    });
  }
  static void sum(const void* weights, int32_t vectors, Tile values, int64_t count, int64_t value_size,
                  const void* alpha, void* output, const Corners&, const Ahead& ahead) {
    by_width(vectors, [&](auto v) {
      tile_weighted_sum<v>(static_cast<const char*>(weights), static_cast<const char*>(values.data), values.row_stride,
                           count, value_size, static_cast<const float*>(alpha), static_cast<float*>(output), ahead);
    });
  }
  static void sum_queries(const void* cells, int64_t stride, int64_t count, int64_t queries, const void* x,
                          int64_t columns, void* to) {
    tile_query_sum(static_cast<const char*>(cells), stride * 2, count, queries, static_cast<const char*>(x), columns,
                   static_cast<float*>(to));
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
  Family f{};
  f.lanes = lanes<T>;
  f.max_vectors = panel_vectors;
  f.element_size = int32_t(sizeof(T));
  f.in_place = in_place;
  f.group = 1;
  f.value_size = K::row_size;
  f.cell_size = int32_t(sizeof(T));
  f.inner = {true, K::row_size, K::row_size, K::load, pack_queries<T>, K::inner, nullptr};
  f.relu = {true,
            K::row_size,
            K::row_size,
            K::load,
            pack_queries<T>,
            additive_scores<T, ChooseRelu>,
            column_gradients<T, ReluSlope>};
  f.tanh = {false,
            additive_panel_size<T>,
            additive_row_size<T>,
            load_additive_keys<T>,
            pack_additive<T>,
            additive_scores<T, ChooseTanh>,
            column_gradients<T, TanhSlope>};
  f.distance = {
      true, K::row_size, K::row_size, K::load, pack_queries<T>, distance_scores<T>, column_gradients<T, DistanceSlope>};
  f.prepared_size = prepared_size<T>;
  f.prepare = prepare_weights<T>;
  f.bend = K::bend_scores;
  f.add_bias = K::bias;
  f.hide_outside = K::outside;
  f.hide_unset = K::unset;
  f.find_top = K::top_of;
  f.load_values = K::load_values;
  f.soft = K::soft;
  f.compact = K::compact;
  f.first_of_top = K::top_place;
  f.soft_runs = K::runs;
  f.runs_of = K::runs_of;
  f.draw = K::draw;
  f.gaussian = K::by_distance;
  f.clear_unset = K::drop;
  f.weighted_sum = K::sum;
  f.add_not_finite = add_not_finite<K, T>;
  f.weights = K::weights;
  f.soft_gradient = K::d_scores;
  f.lay_cells = K::lay;
  f.compact_gradient = K::d_compact;
  f.gaussian_gradient = K::d_gaussian;
  f.bend_gradient = K::unbend;
  f.load_summands = load_summands<T>;
  f.query_sum = K::sum_queries;
  f.row_products = K::products_of_rows;
  f.store_rows = store_rows<T>;
  f.store_row = K::one_row;
  f.decode_scores = decode_scores<T>;
  f.decode_bias = decode_bias<T>;
  f.decode_soft = decode_soft<T>;
  f.decode_sum = decode_sum<T>;
  return f;
}

#if defined(__AVX512BF16__)
constexpr Family pair_family() {
  Family f = plain_family<float>(Dtype::bfloat16);
  f.pairs = true;
  f.group = 2;
  f.value_size = Pairs::value_size;
  f.cell_size = 2;
  f.inner = {true, Pairs::row_size, Pairs::row_size, load_pair_keys<2>, pack_pair_queries<2>, Pairs::inner, nullptr};
  f.load_values = load_pair_values;
  f.soft = Pairs::soft;
  f.weighted_sum = Pairs::sum;
  f.add_not_finite = add_not_finite<Pairs, float>;
  f.soft_gradient = Pairs::d_scores;
  f.lay_cells = Pairs::lay;
  f.load_summands = load_pair_summands;
  f.query_sum = Pairs::sum_queries;
  return f;
}
constexpr Family pair_kernels = pair_family();
constexpr const Family* pairs_or_null = &pair_kernels;
#else
constexpr const Family* pairs_or_null = nullptr;
#endif

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
constexpr Family tile_family() {
  constexpr int depth = int(tile_depth);
  Family f = pair_family();
  f.group = depth;
  f.tile_keys = 3 * depth;
  f.value_size = tile_values_size;
  f.enter = enter_tiles;
  f.leave = leave_tiles;
  f.inner = {true,         Tiles::row_size, Tiles::row_size, load_pair_keys<depth>, pack_pair_queries<depth>,
             Tiles::inner, nullptr};
  f.load_values = load_tile_values;
  f.weighted_sum = Tiles::sum;
  f.load_summands = load_tile_summands;
  f.query_sum = Tiles::sum_queries;
  return f;
}
constexpr Family tile_kernels = tile_family();
constexpr const Family* tiles_or_null = &tile_kernels;
#else
constexpr const Family* tiles_or_null = nullptr;
#endif

#define FOVEATE_TEXT_OF(x) #x
#define FOVEATE_TEXT(x) FOVEATE_TEXT_OF(x)

}  // namespace

extern const Kernels kernels;
constexpr Kernels kernels = {FOVEATE_TEXT(FOVEATE_ISA),
                             plain_family<float>(Dtype::float32),
                             plain_family<double>(Dtype::float64),
                             pairs_or_null,
                             tiles_or_null,
                             bits_of_bools,
                             clear_minus_infinity,
                             clear_other_segments,
                             {sum_block<float>, pick<float>, cumulate<float>},
                             {sum_block<double>, pick<double>, cumulate<double>},
                             look_up,
                             elementary,
                             spin,
                             sum_bytes};

}  // namespace foveate::FOVEATE_ISA
