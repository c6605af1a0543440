// The plan of a problem: kernels, batches and groups, scale, windows.
#include "plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "place_bias.hpp"
#include "row_order.hpp"
#include "runtime/workspace.hpp"

namespace foveate {
namespace {

bool takes_pairs(const Operand& x) { return !x || x.dtype == FV_BFLOAT16 || is_few_bits(dtype_of(x)); }

const Arithmetic& arithmetic_of(const Problem& p, const Kernels& kernels, const Needs& needs) {
  if (p.query.dtype == FV_FLOAT64) return kernels.float64;
  // pairs have their weights rounded before a Gaussian could be multiplied in, or some of them dropped
  const bool pairs = !needs.whole_weights && p.family == FV_INNER && p.weighing == FV_SOFTMAX && p.sigma == 0 &&
                     p.dropout == 0 && p.query.dtype == FV_BFLOAT16 && takes_pairs(p.key) && takes_pairs(p.value) &&
                     takes_pairs(p.t_query) && takes_pairs(p.t_key) && takes_pairs(p.t_value);
  return pairs && kernels.bfloat16 ? *kernels.bfloat16 : kernels.float32;
}

const Scoring& scoring_of(const Problem& p, const Arithmetic& arithmetic) {
  switch (p.family) {
    case FV_INNER: return arithmetic.inner;
    case FV_TANH: return arithmetic.tanh;
    case FV_RELU: return arithmetic.relu;
    case FV_LEAKY_RELU: return arithmetic.leaky_relu;
    case FV_DISTANCE: break;
  }
  return arithmetic.distance;
}

// Contiguous rows that start at whole elements of the products can be read where they stand.
bool in_place(const Operand& x, const Arithmetic& arithmetic, int64_t columns, int64_t multiple) {
  const int64_t word = arithmetic.element_size;
  const int64_t item = size_of(arithmetic.in_place);
  if (dtype_of(x) != arithmetic.in_place || (columns > 1 && x.column_stride != item)) return false;
  if (columns % multiple) return false;
  int64_t odd =
      x.row_stride % word | x.page_stride % word | int64_t(reinterpret_cast<uintptr_t>(x.data) % uintptr_t(word));
  for (const int64_t stride : x.lead) odd |= stride % word;
  return odd == 0;
}

// Of a mask of blocks a tile is some whole blocks, or a block some whole tiles, where such a tile has at least half of the
// keys that it would have: with a tenth of the blocks of 128 that saves 4%, of blocks of 64 a tenth.
int64_t tile_keys_of(const Problem& p, const Arithmetic& arithmetic) {
  constexpr int64_t step = 4;  // of key_step and of groups of keys
  const int64_t most = arithmetic.tile_keys > 0 ? arithmetic.tile_keys : default_tile_keys;
  if (!p.blocks || p.one_order) return most;
  for (int64_t keys = most / step * step; 2 * keys >= most; keys -= step)
    if (keys % p.block_keys == 0 || p.block_keys % keys == 0) return keys;
  return most;
}

// Whether ids of keys never fall from one to the next.
bool never_fall(const Problem& p) noexcept {
  return each_part(p.key_segments, p.lead_ndim, p.lead_shape, [&](const char* ids) {
    int64_t last = std::numeric_limits<int64_t>::min(), id;
    for (int64_t j = 0; j < p.keys; ++j, last = id) {
      std::memcpy(&id, ids + j * p.key_segments.row_stride, sizeof id);
      if (id < last) return false;
    }
    return true;
  });
}

static_assert(int(Profile::boxcar) == FV_BOXCAR && int(Profile::epanechnikov) == FV_EPANECHNIKOV &&
              int(Profile::triangular) == FV_TRIANGULAR && int(Profile::biweight) == FV_BIWEIGHT &&
              int(Profile::triweight) == FV_TRIWEIGHT && int(Profile::tricube) == FV_TRICUBE &&
              int(Profile::cosine) == FV_COSINE);
static_assert(int(Normalizer::none) == FV_SOFTMAX && int(Normalizer::sigmoid) == FV_SIGMOID &&
              int(Normalizer::rectified) == FV_RECTIFIED && int(Normalizer::sparsemax) == FV_SPARSEMAX &&
              int(Normalizer::entmax15) == FV_ENTMAX15);

}  // namespace

Plan::Plan(const Problem& p, const Kernels& k, const Needs& needs) noexcept
    : problem(p),
      kernels(k),
      arithmetic(arithmetic_of(p, k, needs)),
      scoring(scoring_of(p, arithmetic)),
      tile_keys(needs.tile_keys > 0 ? needs.tile_keys : tile_keys_of(p, arithmetic)) {
  for (int a = 0; a < p.lead_ndim; ++a) {
    const int64_t extent = p.lead_shape[a];
    if (extent == 1) continue;
    const bool apart = !needs.grouped || p.key.moves(a) || p.value.moves(a) || p.t_key.moves(a) || p.t_value.moves(a);
    Axes& axes = apart ? batch_ : group_;
    axes.axis[axes.count++] = a;
    (apart ? batches : groups) *= extent;
  }
  rows = groups * p.queries;

  biased = (p.mask && p.mask.dtype != FV_BOOL) || p.edge_bias;
  compact = is_compact(p.weighing);
  if (compact)
    profile = static_cast<Profile>(p.weighing);
  else
    normalizer = static_cast<Normalizer>(p.weighing);
  scale_by(p.family == FV_DISTANCE && !compact ? p.scale / 2 : p.scale);  // its kernel leaves out the half
  // few rows would wait for this as long as for the keys
  ranges = p.query_segments && rows > most_lanes && never_fall(p);
  by_ids = p.query_segments && !ranges;
  bits = p.mask || by_ids;
  holes = p.intervals > 1 || p.blocks;
  apart = (p.low || ranges) && !p.mask;  // the bits of a mask are kept by panel

  factors = p.factors;
  place_lines();
  fit_windows(needs);
  keys_in_place = scoring.in_place && in_place(p.key, arithmetic, p.head_size, arithmetic.group);
  values_in_place = p.value && !arithmetic.pairs && in_place(p.value, arithmetic, p.value_size, 1);
  t_keys_in_place = p.t_key && scoring.in_place && in_place(p.t_key, arithmetic, p.head_size, arithmetic.group);
  t_values_in_place = p.t_value && !arithmetic.pairs && in_place(p.t_value, arithmetic, p.value_size, 1);
  values_as_keys_in_place = p.value && in_place(p.value, arithmetic, p.value_size, arithmetic.group);
}

// A line for each batch that has biases of its own.
void Plan::place_lines() noexcept {
  const Problem& p = problem;
  if (!p.table) return;
  line_bytes = int64_t(round_up(size_t((line_cells(*this) + 2 * most_lanes) * arithmetic.element_size)));
  int64_t bytes = line_bytes;
  for (int a = batch_.count; a-- > 0;) {
    const int axis = batch_.axis[a];
    if (!p.table.moves(axis)) continue;
    places.lead[axis] = bytes;
    bytes *= p.lead_shape[axis];
  }
}

void Plan::fit_windows(const Needs& needs) noexcept {
  const Problem& p = problem;
  double most = double(p.keys);
  const bool bounded = p.left >= 0 && p.right >= 0;
  if (bounded) most = std::min(most, double(p.left) + double(p.right) + 1);
  if (p.centers) most = std::min(most, 2 * p.half_width + 2);
  widest_window = int64_t(most);
  const bool few_columns = p.value_size % sum_chains || p.head_size % sum_chains;
  const int64_t chains = few_columns && arithmetic.group <= sum_chains ? sum_chains : 1;  // AMX has no such chains
  key_step = needs.key_step > 0 ? needs.key_step : std::max<int64_t>(sum_chains, arithmetic.group * chains);
  if (needs.windows == Windows::shared) return;
  // A full panel of neighbors, both ends in whole steps. Queries farther apart than neighbors may share a panel
  // while that is no more than two windows; else it is cut.
  const int64_t neighbors = widest_window + most_lanes - 1 + 2 * (key_step - 1);
  const bool fit = (bounded || p.centers) && neighbors <= most_window_tile_keys;
  // on the grid a block loses what its panels share, where each sees nearly all keys: up to a tenth
  const bool apart_pays = needs.windows == Windows::own_tile || 5 * (widest_window + most_lanes) <= 4 * p.keys;
  if (fit && apart_pays) window_tile_keys = std::min(widest_window + neighbors, most_window_tile_keys);
  own_tiles = narrow() && needs.windows == Windows::own_tile;
  const bool apart = groups > 1 && (p.offset || (p.offset_at_end && p.key_lengths));
  scattered = p.centers || (fit && apart);
}

void Plan::scale_by(double factor) noexcept {
  links = {};  // an additive score gets another scale when it is prepared
  const bool linked = problem.link >= 0 || problem.softcap > 0;
  scale = linked ? factor : factor * log2_e;  // a link has its own log2(e)
  if (problem.family == FV_INNER && !arithmetic.pairs) {
    query_factor = scale;
    scale = 1;
  } else if (!linked && (any_bias() || !(factor > 1e-15))) {
    links.add(arithmetic.scaled, scale);
  }
  if (problem.link >= 0) links.add(arithmetic.links[problem.link], scale, problem.link_parameter);
  if (problem.softcap > 0) links.add(arithmetic.softcap, links.count ? 1 : scale, problem.softcap);
}

namespace {

// Cuts up the memory of a plan.
struct Prepared {
  Prepared(const Plan& plan, int threads, char* memory) : sorters(int(std::min<int64_t>(threads, plan.batches))) {
    Carver carver(memory);
    factors = carver.take(is_additive(plan.problem.family) ? plan.arithmetic.prepared_size(plan.problem.head_size) : 0);
    order = carver.take<int64_t>(plan.scattered ? plan.batches * plan.rows : 0);
    sorting = carver.take(plan.scattered ? int64_t(order_scratch(plan)) * sorters : 0);
    lines = carver.take(place_bytes(plan));
    bytes = int64_t(carver.used());
  }
  int sorters;
  char* factors;
  int64_t* order;
  char* sorting;
  char* lines;
  int64_t bytes;
};

}  // namespace

int64_t Plan::prepared_size(int threads) const noexcept { return Prepared(*this, threads, nullptr).bytes; }

bool Plan::prepare(int threads, char* memory) noexcept {
  const Prepared to(*this, threads, memory);
  if (is_additive(problem.family)) {
    scale_by(problem.scale * arithmetic.prepare(problem.factors, problem.head_size, problem.slope, to.factors));
    factors = to.factors;
  }
  places.data = to.lines;
  if (!prepare_places(*this, threads, to.lines)) return false;
  if (!scattered) return true;
  order = to.order;
  return order_rows(*this, to.sorters, to.order, to.sorting);
}

}  // namespace foveate
