// The plan of a problem: kernels, batches and groups, scale, windows; and the small things that hang on it: a query's
// reach as an interval, its sink, and its lse in parts.
#include "plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "row_order.hpp"
#include "runtime/workspace.hpp"

namespace foveate {
namespace {

const Arithmetic& arithmetic_of(const Problem& p, const Kernels& kernels, const Needs& needs) {
  if (p.query.dtype == FV_FLOAT64) return kernels.float64;
  // pairs have their weights rounded before a Gaussian could be multiplied in, or some of them dropped
  const bool pairs = !needs.whole_weights && p.family == FV_INNER && p.sigma == 0 && p.dropout == 0 &&
                     p.query.dtype == FV_BFLOAT16 && p.key.dtype == FV_BFLOAT16 &&
                     (!p.value || p.value.dtype == FV_BFLOAT16);
  return pairs && kernels.bfloat16 ? *kernels.bfloat16 : kernels.float32;
}

const Scoring& scoring_of(const Problem& p, const Arithmetic& arithmetic) {
  switch (p.family) {
    case FV_INNER: return arithmetic.inner;
    case FV_TANH: return arithmetic.tanh;
    case FV_RELU: return arithmetic.relu;
    case FV_DISTANCE: break;
  }
  return arithmetic.distance;
}

// What the scores become before their bias, by their definition; or null.
const Link* link_of(const Problem& p, const Arithmetic& arithmetic) {
  return p.softcap > 0 ? &arithmetic.softcap : nullptr;
}

// Contiguous rows that start at whole elements of the products can be read where they stand.
bool in_place(const Operand& x, const Arithmetic& arithmetic, int64_t columns, int64_t multiple) {
  const int64_t word = arithmetic.element_size;
  const int64_t item = size_of(arithmetic.in_place);
  if (dtype_of(x) != arithmetic.in_place || (columns > 1 && x.column_stride != item)) return false;
  if (columns % multiple) return false;
  int64_t odd = x.row_stride % word | int64_t(reinterpret_cast<uintptr_t>(x.data) % uintptr_t(word));
  for (const int64_t stride : x.lead) odd |= stride % word;
  return odd == 0;
}

// The number as T, the largest one where it is too large.
template <class T>
T bounded(double x) {
  return T(std::clamp(x, double(std::numeric_limits<T>::lowest()), double(std::numeric_limits<T>::max())));
}

// A natural logarithm in units of the scores, as they are held.
double score_of(const Plan& plan, double natural) {
  const double score = natural * log2_e / plan.softmax_scale();
  return plan.arithmetic.element_size == 8 ? bounded<double>(score) : double(bounded<float>(score));
}

template <class T>
T value_at(const Operand& operand, int64_t bytes) {
  T x;
  std::memcpy(&x, operand.data + bytes, sizeof x);
  return x;
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
              int(Profile::triangular) == FV_TRIANGULAR);

}  // namespace

Plan::Plan(const Problem& p, const Kernels& k, const Needs& needs) noexcept
    : problem(p),
      kernels(k),
      arithmetic(arithmetic_of(p, k, needs)),
      scoring(scoring_of(p, arithmetic)),
      tile_keys(needs.tile_keys > 0        ? needs.tile_keys
                : arithmetic.tile_keys > 0 ? arithmetic.tile_keys
                                           : default_tile_keys) {
  for (int a = 0; a < p.lead_ndim; ++a) {
    const int64_t extent = p.lead_shape[a];
    if (extent == 1) continue;
    const bool apart = p.key.moves(a) || p.value.moves(a);
    Axes& axes = apart ? batch_ : group_;
    axes.axis[axes.count++] = a;
    (apart ? batches : groups) *= extent;
  }
  rows = groups * p.queries;

  biased = p.mask && p.mask.dtype != FV_BOOL;
  compact = p.weighing != FV_SOFTMAX;
  if (compact) profile = static_cast<Profile>(p.weighing);
  scale_by(p.family == FV_DISTANCE && !compact ? p.scale / 2 : p.scale);  // its kernel leaves out the half
  // few rows would wait for this as long as for the keys
  ranges = p.query_segments && rows > most_lanes && never_fall(p);
  by_ids = p.query_segments && !ranges;
  bits = p.mask || by_ids;

  factors = p.factors;
  fit_windows(needs);
  keys_in_place = scoring.in_place && in_place(p.key, arithmetic, p.head_size, arithmetic.group);
  values_in_place = p.value && !arithmetic.pairs && in_place(p.value, arithmetic, p.value_size, 1);
  values_as_keys_in_place = p.value && in_place(p.value, arithmetic, p.value_size, arithmetic.group);
}

void Plan::fit_windows(const Needs& needs) noexcept {
  const Problem& p = problem;
  double most = double(p.keys);
  const bool bounded = p.left >= 0 && p.right >= 0;
  if (bounded) most = std::min(most, double(p.left) + double(p.right) + 1);
  if (p.centers) most = std::min(most, 2 * p.half_width + 2);
  widest_window = int64_t(most);
  key_step = needs.key_step > 0 ? needs.key_step : std::max<int64_t>(4, arithmetic.group);
  if (needs.windows == Windows::shared) return;
  // A full panel of neighbors, both ends in whole steps. Queries farther apart than neighbors may share a panel
  // while that is no more than two windows; else it is cut.
  const int64_t neighbors = widest_window + most_lanes - 1 + 2 * (key_step - 1);
  if ((bounded || p.centers) && neighbors <= most_window_tile_keys)
    window_tile_keys = std::min(widest_window + neighbors, most_window_tile_keys);
  own_tiles = narrow() && needs.windows == Windows::own_tile;
  const bool apart = groups > 1 && (p.offset || (p.offset_at_end && p.key_lengths));
  scattered = p.centers || (narrow() && apart);
}

void Plan::scale_by(double factor) noexcept {
  link = link_of(problem, arithmetic);
  scale = link ? factor : factor * log2_e;  // a link has its own log2(e)
  if (problem.family == FV_INNER && !arithmetic.pairs) {
    query_factor = scale;
    scale = 1;
  } else if (!link && (biased || !(factor > 1e-15))) {
    link = &arithmetic.scaled;
  }
  link_parameters = {scale, problem.softcap};
}

namespace {

// Cuts up the memory of a plan.
struct Prepared {
  Prepared(const Plan& plan, int threads, char* memory) : sorters(int(std::min<int64_t>(threads, plan.batches))) {
    Carver carver(memory);
    factors = carver.take(is_additive(plan.problem.family) ? plan.arithmetic.prepared_size(plan.problem.head_size) : 0);
    order = carver.take<int64_t>(plan.scattered ? plan.batches * plan.rows : 0);
    sorting = carver.take(plan.scattered ? int64_t(order_scratch(plan)) * sorters : 0);
    bytes = int64_t(carver.used());
  }
  int sorters;
  char* factors;
  int64_t* order;
  char* sorting;
  int64_t bytes;
};

}  // namespace

int64_t Plan::prepared_size(int threads) const noexcept { return Prepared(*this, threads, nullptr).bytes; }

bool Plan::prepare(int threads, char* memory) noexcept {
  const Prepared to(*this, threads, memory);
  if (is_additive(problem.family)) {
    scale_by(problem.scale * arithmetic.prepare(problem.factors, problem.head_size, to.factors));
    factors = to.factors;
  }
  if (!scattered) return true;
  order = to.order;
  return order_rows(*this, to.sorters, to.order, to.sorting);
}

Reach reach_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const Problem& p = plan.problem;
  const auto read = [&](const Operand& x, int64_t least, int64_t most) {
    return std::clamp(value_at<int64_t>(x, plan.batch_offset(x, batch) + plan.group_offset(x, group)), least, most);
  };
  const int64_t keys = p.key_lengths ? read(p.key_lengths, 0, p.keys) : p.keys;
  return {p.offset_at_end ? keys - p.queries : p.offset ? read(p.offset, -kMaxOffset, kMaxOffset) : 0, keys};
}

Interval round_center(double center, double half_width, int64_t keys) noexcept {
  const double end = double(keys);
  // the differences decide, as they are rounded: a bound may be off by one after its own rounding, and where half a unit
  // of the center's last place is more than that, by any number
  const auto outside = [&](int64_t j) { return !(std::fabs(double(j) - center) <= half_width); };
  const auto inside_from = [&](int64_t in,
                               int64_t out) {  // the last key inside, from one that is towards one that is not
    while (out > in ? out - in > 1 : in - out > 1) {
      const int64_t middle = in + (out - in) / 2;
      (outside(middle) ? out : in) = middle;
    }
    return in;
  };
  int64_t low = std::max<int64_t>(0, int64_t(std::clamp(center - half_width, 0.0, end)) - 1);
  for (int tries = 0; tries < 3 && low < keys && outside(low); ++tries) ++low;
  int64_t last = std::min(keys - 1, int64_t(std::clamp(center + half_width, 0.0, end)) + 1);
  for (int tries = 0; tries < 3 && last >= low && outside(last); ++tries) --last;
  if (std::fabs(center) >= 0x1p52 || half_width >= 0x1p52) {
    const int64_t nearest = std::min(keys - 1, int64_t(std::clamp(center, 0.0, end)));
    if (nearest < 0 || outside(nearest)) return {0, 0};
    low = inside_from(nearest, -1);
    last = inside_from(nearest, keys);
  }
  return low <= last && !outside(low) ? Interval{low, last + 1} : Interval{0, 0};
}

double sink_score_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const double sink = sink_of(plan, batch, group);
  if (!std::isfinite(sink)) return sink;
  if (!plan.biased || plan.arithmetic.element_size == 8) return score_of(plan, sink);
  return bounded<float>(
      double(bounded<float>(sink) * float(log2_e)));  // rounded as a bias is: of equals each weighs as much
}

double sink_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const Operand& x = plan.problem.sink;
  if (!x) return -std::numeric_limits<double>::infinity();
  return value_at<double>(x, plan.batch_offset(x, batch) + plan.group_offset(x, group));
}

// Pairs hold scores without their scale, but another arithmetic may take up what they leave: float32, which loses nothing here.
Lse lse_of(const Plan& plan, double m, double l) noexcept {
  const double scaled = m * plan.softmax_scale(), low = std::log(l);
  return {scaled * ln_2 + low, plan.arithmetic.pairs ? scaled : m, low};
}

Lse lse_of_nothing(const Plan& plan, int64_t batch, int64_t group) noexcept {
  Lse nothing = lse_of(plan, sink_score_of(plan, batch, group), 1);
  nothing.lse = sink_of(plan, batch, group);  // as it is, not rounded
  return nothing;
}

void write_lse(const Operand& lse, char* at, const Lse& number) noexcept {
  if (lse.dtype == FV_FLOAT32) {
    const float rounded = float(number.lse);
    std::memcpy(at, &rounded, sizeof rounded);
    return;
  }
  const double numbers[3] = {number.lse, number.high, number.low};
  for (int i = 0; i < (lse.column_stride != 0 ? 3 : 1); ++i)
    std::memcpy(at + i * lse.column_stride, &numbers[i], sizeof numbers[i]);
}

Lse read_lse(const Plan& plan, const char* at) noexcept {
  const Operand& lse = plan.problem.lse;
  double numbers[3] = {};
  float rounded;
  if (lse.dtype == FV_FLOAT32) {
    std::memcpy(&rounded, at, sizeof rounded);
    numbers[0] = double(rounded);
  } else {
    for (int i = 0; i < (lse.column_stride != 0 ? 3 : 1); ++i)
      std::memcpy(&numbers[i], at + i * lse.column_stride, sizeof numbers[i]);
  }
  if (lse.column_stride == 0 || numbers[1] != numbers[1]) {
    numbers[1] = std::isfinite(numbers[0]) ? score_of(plan, numbers[0]) : numbers[0];
    numbers[2] = numbers[0] - numbers[1] * plan.softmax_scale() * ln_2;
  } else if (plan.arithmetic.pairs) {
    numbers[1] /= plan.softmax_scale();
  }
  return {numbers[0], numbers[1], numbers[2]};
}

}  // namespace foveate
