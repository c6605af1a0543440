#include "plain.hpp"

#include <cmath>

#include "formula.hpp"

namespace kernel_tests {
namespace {

template <class Real, class Round>
Answer attend(const Case& c, Round rounded) {
  const int64_t leads = c.heads * c.groups, keys = c.keys;
  const auto query = numbers<Real>(c.query), key = numbers<Real>(c.key), value = numbers<Real>(c.value);
  const auto factors = numbers<Real>(c.factors), sink = numbers<Real>(c.sink);
  const auto bias = c.mask.view() && c.mask.view()->dtype != FV_BOOL ? numbers<Real>(c.mask) : std::vector<Real>();
  std::vector<char> seen(size_t(leads * c.queries * keys));
  for (int64_t n = 0; n < leads * c.queries * keys; ++n)
    seen[size_t(n)] = c.sees(n / keys / c.queries / c.groups, n / keys % c.queries, n % keys);

  Answer a;
  std::vector<Real> weight(static_cast<size_t>(keys));
  for (int64_t row = 0; row < leads * c.queries; ++row) {
    const int64_t i = row % c.queries, lead = row / c.queries, head = lead / c.groups;
    const char* row_sees = seen.data() + row * keys;
    bool any = false;
    Real largest = sink.empty() ? -Real(INFINITY) : sink[size_t(lead)];
    for (int64_t j = 0; j < keys; ++j) {
      const Real* k = key.data() + (head * keys + j) * c.head_size;
      Real s = score(c, query.data() + row * c.head_size, k, factors.empty() ? nullptr : factors.data(), rounded);
      if (c.softcap > 0) s = rounded(Real(c.softcap) * std::tanh(s / Real(c.softcap)));
      if (!bias.empty()) s = rounded(s + bias[size_t(i * keys + j)]);
      weight[size_t(j)] = s;
      any = any || row_sees[j];
      if (row_sees[j] && s > largest) largest = s;
    }
    if (c.compact()) largest = 0;
    Real denominator = sink.empty() ? Real(0) : std::exp(sink[size_t(lead)] - largest);
    for (int64_t j = 0; j < keys; ++j) {
      Real& w = weight[size_t(j)];
      if (!row_sees[j])
        w = 0;
      else if (!c.compact())
        w = std::exp(w - largest);
      denominator += w;
    }
    a.lse.push_back(double(largest + std::log(denominator)));
    for (int64_t j = 0; j < keys; ++j) {
      Real& w = weight[size_t(j)];
      w = any ? rounded(w / denominator) : Real(0);
      if (c.sigma > 0) {
        const Real distance = (Real(j) - Real(c.centers.get(head * c.queries + i))) / Real(c.sigma);
        w = rounded(w * std::exp(-distance * distance / 2));
      }
      a.weights.push_back(double(w));
    }
    for (int64_t d = 0; d < c.value_size; ++d) {
      const Real* v = value.data() + head * keys * c.value_size + d;
      const Real sum = sum_of<Real>(keys, [&](int64_t j) { return weight[size_t(j)] * v[j * c.value_size]; });
      a.output.push_back(double(rounded(sum)));
    }
  }
  return a;
}

}  // namespace

Case::Case(fv_dtype dtype, int64_t heads, int64_t groups, int64_t queries, int64_t keys, int64_t head_size,
           int64_t value_size, uint64_t seed)
    : dtype(dtype),
      heads(heads),
      groups(groups),
      queries(queries),
      keys(keys),
      head_size(head_size),
      value_size(value_size),
      scale(1.0 / std::sqrt(double(head_size))),
      query(Tensor::random(dtype, {heads, groups, queries, head_size}, 4.0, 3 * seed)),
      key(Tensor::random(dtype, {heads, 1, keys, head_size}, 2.0, 3 * seed + 1)),
      value(Tensor::random(dtype, {heads, 1, keys, value_size}, 1.0, 3 * seed + 2)) {}

fv_problem Case::problem() const {
  fv_problem p = {};
  p.query = query.view();
  p.key = key.view();
  p.value = value.view();
  p.sink = sink.view();
  p.score.scale = scale;
  p.score.softcap = softcap;
  p.score.family = kind.family;
  p.score.weighing = kind.weighing;
  p.score.factors = factors.view();
  p.score.slope = slope;
  p.score.negligible = negligible;
  p.reach.mask = mask.view();
  p.reach.left = left;
  p.reach.right = right;
  p.reach.offset = offset.view();
  p.reach.offset_at_end = offset_at_end;
  p.reach.leave_one_out = leave_one_out;
  p.reach.key_lengths = key_lengths.view();
  p.reach.query_segments = query_segments.view();
  p.reach.key_segments = key_segments.view();
  p.reach.low = low.view();
  p.reach.high = high.view();
  p.reach.centers = centers.view();
  p.reach.half_width = half_width;
  p.sigma = sigma;
  p.dropout = dropout;
  p.one_order = one_order;
  p.random = {{5, 6}};
  return p;
}

// key_lengths (heads, 1), offset (heads, 1), centers (heads, 1, Lq), low and high (heads, 1, Lq), segments and mask without
// leading axes
bool Case::sees(int64_t head, int64_t i, int64_t j) const {
  const int64_t valid = key_lengths.view() ? int64_t(key_lengths.get(head)) : keys;
  if (j >= valid) return false;
  const int64_t start = offset_at_end ? valid - queries : offset.view() ? int64_t(offset.get(head)) : 0;
  if (leave_one_out && j == i + start) return false;
  if (left >= 0 && j < i + start - left) return false;
  if (right >= 0 && j > i + start + right) return false;
  if (centers.view() && !(std::fabs(double(j) - centers.get(head * queries + i)) <= half_width)) return false;
  const int64_t row = head * queries + i;
  if (low.view() && (double(j) < low.get(row) || double(j) >= high.get(row))) return false;
  if (query_segments.view() && query_segments.get(i) != key_segments.get(j)) return false;
  if (!mask.view()) return true;
  const double cell = mask.get(i * keys + j);
  return mask.view()->dtype == FV_BOOL ? cell != 0 : cell != -INFINITY;
}

const char* name_of(ScoreKind kind) {
  static const char* const families[] = {"dot", "tanh", "relu", "gaussian", "leaky relu"};
  static const char* const compact[] = {"boxcar", "epanechnikov", "triangular", "biweight",  "triweight", "tricube",
                                        "cosine", "sigmoid",      "relu",       "sparsemax", "entmax15"};
  return kind.weighing == FV_SOFTMAX ? families[kind.family] : compact[kind.weighing - FV_BOXCAR];
}

std::string Case::shape() const {
  std::string s = "(" + std::to_string(heads) + "x" + std::to_string(groups) + ", " + std::to_string(queries) + ", ";
  return s + std::to_string(keys) + ", " + std::to_string(head_size) + ", " + std::to_string(value_size) + ")";
}

Answer exact(const Case& c) {
  if (c.dtype == FV_FLOAT64) return attend<long double>(c, [](long double x) { return x; });
  return attend<double>(c, [](double x) { return x; });
}

Answer plain(const Case& c) {
  if (c.dtype == FV_FLOAT64) return attend<double>(c, [](double x) { return x; });
  return attend<float>(c, [&](float x) { return float(round_to(c.dtype, x)); });
}

}  // namespace kernel_tests
