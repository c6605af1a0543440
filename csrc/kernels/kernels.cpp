// The one kernel source, compiled once per ISA: FOVEATE_ISA names it and is its namespace. It includes no header of
// the standard library whose inline functions could leak instructions of this ISA into others; everything but the
// table at the end has internal linkage. Products of bfloat16 stand in bfloat16.cpp.
#include "decode.hpp"
#include "decode/in_order.hpp"
#include "draw.hpp"
#include "factor/dropout.hpp"
#include "factor/gaussian.hpp"
#include "filter_ranks.hpp"
#include "gemm.hpp"
#include "hide/bits.hpp"
#include "hide/cells.hpp"
#include "measure.hpp"
#include "moments.hpp"
#include "pack.hpp"
#include "quantize.hpp"
#include "query_sum.hpp"
#include "score/additive.hpp"
#include "score/bias.hpp"
#include "score/columns.hpp"
#include "score/distance.hpp"
#include "score/distance_tangent.hpp"
#include "score/inner.hpp"
#include "score/place_bias.hpp"
#include "score/power.hpp"
#include "score/root.hpp"
#include "score/scaled.hpp"
#include "score/softcap.hpp"
#include "select/argmax.hpp"
#include "select/compact.hpp"
#include "select/normalize.hpp"
#include "select/sample.hpp"
#include "select/soft.hpp"
#include "select/soft_gradient_tangent.hpp"
#include "select/soft_tangent.hpp"
#include "select/statistics.hpp"
#include "select/top.hpp"
#include "select/weigh.hpp"
#include "table.hpp"
#include "untyped.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Those that fv_score names.
template <class T>
constexpr Link named_links[] = {
    {"power", false, is_degree, untyped<power<T>>, untyped<power_gradient<T>>, untyped<power_curvature<T>>},
    {"root", true, is_root, untyped<root<T>>, untyped<root_gradient<T>>, untyped<root_curvature<T>>},
};

template <class T>
constexpr Filtering filtering = {span_tops<T>,     keep<T>,        place_of_equal<T>, sum_weights<T>,     sum_listed<T>,
                                 sum_exactly<T>,   sum_parts<T>,   sample<T>,         weights_of<T>,      sum_from<T>,
                                 pick_in_order<T>, log_weights<T>, number_at_rank<T>, number_at_weight<T>};

// Products of T itself.
template <class T>
constexpr Arithmetic plain_arithmetic(Dtype in_place) {
  using Product = MultiplyAdd<T>;
  Arithmetic f{};
  f.lanes = lanes<T>;
  f.max_vectors = panel_vectors;
  f.element_size = int32_t(sizeof(T));
  f.in_place = in_place;
  f.group = 1;
  f.value_size = row_size<T>;
  f.cell_size = int32_t(sizeof(T));

  f.inner = {true,
             row_size<T>,
             row_size<T>,
             untyped<load_keys<T>>,
             untyped<pack_queries<T>>,
             untyped<inner_scores<Product>>,
             nullptr,
             nullptr};
  f.tanh = {false,
            additive_panel_size<T>,
            additive_row_size<T>,
            untyped<load_additive_keys<T>>,
            untyped<pack_additive_queries<T>>,
            untyped<additive_scores<T, ChooseTanh>>,
            untyped<column_gradients<T, TanhSlope>>,
            nullptr};
  f.relu = {true,
            row_size<T>,
            row_size<T>,
            untyped<load_keys<T>>,
            untyped<pack_queries<T>>,
            untyped<additive_scores<T, ChooseRelu>>,
            untyped<column_gradients<T, ReluSlope>>,
            nullptr};
  f.leaky_relu = f.relu;
  f.leaky_relu.scores = untyped<additive_scores<T, ChooseLeakyRelu>>;
  f.leaky_relu.gradients = untyped<column_gradients<T, LeakyReluSlope>>;
  f.distance = {true,
                row_size<T>,
                row_size<T>,
                untyped<load_keys<T>>,
                untyped<pack_queries<T>>,
                untyped<distance_scores<T>>,
                untyped<column_gradients<T, DistanceSlope>>,
                untyped<distance_tangent<T>>};
  f.prepared_size = prepared_size<T>;
  f.prepare = untyped<prepare<T>>;
  f.scaled = {nullptr, false, nullptr, untyped<scaled<T>>, nullptr, nullptr};
  f.links = named_links<T>;
  f.link_count = int32_t(sizeof named_links<T> / sizeof(Link));
  f.softcap = {
      nullptr, false, nullptr, untyped<softcap<T>>, untyped<softcap_gradient<T>>, untyped<softcap_curvature<T>>};
  f.add_bias = untyped<add_bias<T>>;
  f.add_places = untyped<add_places<T>>;
  f.sum_places = untyped<sum_places<T>>;

  f.hide_outside = untyped<hide_outside<T>>;
  f.hide_unset = untyped<hide_unset<T>>;

  f.find_top = untyped<find_top<T>>;
  f.soft = untyped<soft<T>>;
  f.soft_tangent = untyped<soft_tangent<T>>;
  f.soft_gradient = untyped<soft_gradient<T>>;
  f.soft_gradient_tangent = untyped<soft_gradient_tangent<T>>;
  f.compact = untyped<compact<T>>;
  f.compact_gradient = untyped<compact_gradient<T>>;
  f.normalize = untyped<normalize<T>>;
  f.threshold_sums = untyped<threshold_sums<T>>;
  f.normalize_gradient = untyped<normalize_gradient<T>>;
  f.store_cells = untyped<store_cells<T>>;
  f.argmax_place = untyped<argmax_place<T>>;
  f.soft_runs = untyped<soft_runs<T>>;
  f.runs_of = runs_of;
  f.draw = untyped<draw<T>>;
  f.soft_entropy = untyped<soft_entropy<T>>;
  f.key_sums = untyped<key_sums<T>>;
  f.shortlist_add = untyped<shortlist_add<T>>;
  f.shortlist_cut = untyped<shortlist_cut<T>>;
  f.add_noise = untyped<add_noise<T>>;
  f.weigh = untyped<weigh<T>>;

  f.multiply_gaussian = untyped<multiply_gaussian<T>>;
  f.gaussian_gradient = untyped<gaussian_gradient<T>>;
  f.clear_unset = untyped<clear_unset<T>>;

  f.load_values = untyped<load_values<T>>;
  f.weighted_sum = untyped<weighted_sum<Product>>;
  f.moments = untyped<moments<T>>;
  f.add_not_finite = untyped<add_not_finite<Product>>;
  f.load_summands = untyped<load_summands<T>>;
  f.query_sum = untyped<query_sum<Product>>;
  f.dot_rows = untyped<dot_rows<T>>;
  f.store_rows = untyped<store_rows<T>>;
  f.store_row = untyped<store_row<T>>;

  f.decode_scores = untyped<decode_scores<T>>;
  f.decode_bias = untyped<decode_bias<T>>;
  f.decode_soft = untyped<decode_soft<T>>;
  f.decode_sum = untyped<decode_sum<T>>;
  f.decode_chain = untyped<decode_chain<T>>;
  f.decode_tops = untyped<decode_tops<T>>;
  f.decode_weights = untyped<decode_weights<T>>;
  f.decode_fold = untyped<decode_fold<T>>;

  f.quantize = untyped<quantize<T>>;
  f.spin = spin<T>;
  return f;
}

#define FOVEATE_TEXT_OF(x) #x
#define FOVEATE_TEXT(x) FOVEATE_TEXT_OF(x)

}  // namespace

extern const EdgeKernels edges_float32, edges_float64;           // of edges.cpp
extern const StencilKernels stencils_float32, stencils_float64;  // of neighborhood.cpp
extern const SumKernels sums_of_gaussians[];                     // of sums.cpp
extern const Kernels kernels;
constexpr Kernels kernels = {FOVEATE_TEXT(FOVEATE_ISA),
                             plain_arithmetic<float>(Dtype::float32),
                             plain_arithmetic<double>(Dtype::float64),
                             nullptr,
                             bits_of_bools,
                             clear_minus_infinity,
                             clear_other_segments,
                             {sum_block<float>, pick<float>, cumulate<float>},
                             {sum_block<double>, pick<double>, cumulate<double>},
                             filtering<float>,
                             filtering<double>,
                             look_up,
                             elementary,
                             sum_bytes,
                             &edges_float32,
                             &edges_float64,
                             &stencils_float32,
                             &stencils_float64,
                             sums_of_gaussians};

}  // namespace foveate::FOVEATE_ISA
