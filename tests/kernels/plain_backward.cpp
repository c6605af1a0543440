#include "plain_backward.hpp"

#include <cmath>

#include "formula.hpp"

namespace kernel_tests {
namespace {

template <class Real>
double magnitude(Real x) {
  return double(std::fabs(x));
}

template <class Real>
class Formula {
 public:
  Formula(const Case& c, const Pulled& p, const std::vector<char>& seen)
      : c_(c),
        p_(p),
        seen_(seen),
        query_(numbers<Real>(c.query)),
        key_(numbers<Real>(c.key)),
        value_(numbers<Real>(c.value)),
        factors_(numbers<Real>(c.factors)),
        sink_(numbers<Real>(c.sink)),
        bias_(numbers<Real>(has(c, p, of_mask) ? c.mask : Tensor())),
        d_output_(numbers<Real>(p.d_output)),
        d_lse_(numbers<Real>(p.d_lse)),
        advantage_(numbers<Real>(p.advantage)),
        cells_(size_t(c.keys)) {
    for (int part = 0; part < part_count; ++part) {
      size_t count = has(c, p, Part(part)) ? 1 : 0;
      for (int64_t extent : shape_of(c, Part(part))) count *= size_t(extent);
      sums_[part].resize(count);
    }
  }

  Gradients run() {
    for (int64_t lead = 0; lead < c_.heads * c_.groups; ++lead)
      for (int64_t i = 0; i < c_.queries; ++i) add_row(lead, i);
    Gradients g;
    for (int part = 0; part < part_count; ++part)
      for (const Sum& sum : sums_[part]) {
        g.value[part].push_back(double(sum.value));
        g.size[part].push_back(sum.size);
      }
    return g;
  }

 private:
  struct Sum {
    Real value = 0;
    double size = 0;
    void add(Real x, double of_size) {
      value += x;
      size += of_size;
    }
  };
  // weight: P, or of a compact kernel the slope K' / l in `slope` too; factor: F
  struct Cell {
    Real logit, weight, slope, factor, d_weight, bend;
    double uncertain;  // 1 + what the logit and lse are made of
    double weight_size, slope_size, d_weight_size;
  };

  void add_row(int64_t lead, int64_t i) {
    const int64_t head = lead / c_.groups, row = lead * c_.queries + i;
    const char* const seen = seen_.data() + (head * c_.queries + i) * c_.keys;
    const Real* const q = query_.data() + row * c_.head_size;
    for (int64_t j = 0; j < c_.keys; ++j)
      if (seen[j]) look(cells_[size_t(j)], q, key_.data() + (head * c_.keys + j) * c_.head_size, i, j);
    if (!weigh(seen, lead)) return;
    if (c_.sigma > 0)
      for (int64_t j = 0; j < c_.keys; ++j) {
        const Real way = (Real(j) - Real(c_.centers.get(head * c_.queries + i))) / Real(c_.sigma);
        cells_[size_t(j)].factor = std::exp(-way * way / 2);
      }
    for (int64_t j = 0; j < c_.keys && c_.dropout > 0; ++j)
      cells_[size_t(j)].factor *= p_.kept.get(row * c_.keys + j) != 0 ? 1 / (1 - Real(c_.dropout)) : Real(0);
    if (p_.draws)
      add_choices(seen, head, row, i, q);
    else
      add_sums(seen, lead, row, i, q);
  }

  // The logit of a cell, or what a compact kernel weighs it by.
  void look(Cell& cell, const Real* q, const Real* k, int64_t i, int64_t j) {
    const Real* const w = factors_.empty() ? nullptr : factors_.data();
    cell.logit = score(c_, q, k, w, [](Real x) { return x; });
    cell.bend = cell.factor = 1;
    cell.slope = 0;
    double size = 0;
    for (int64_t d = 0; d < c_.head_size && c_.kind.family != FV_DISTANCE; ++d) {
      const double a = magnitude(q[d]), b = magnitude(k[d]);
      size += c_.kind == kDot ? a * b : magnitude(w[d]) * (c_.kind == kTanh ? 1 : a + b);
    }
    cell.uncertain = 1 + (c_.kind.family != FV_DISTANCE ? std::fabs(c_.scale) * size : magnitude(cell.logit));
    if (c_.compact()) {
      cell.uncertain = 1;
      const Real squared = squared_distance(c_, q, k, w);
      if (c_.kind == kEpanechnikov && cell.logit > 0) cell.slope = 1;
      if (c_.kind == kTriangular && cell.logit > 0 && squared > 0) cell.slope = 1 / (2 * std::sqrt(squared));
      if (c_.kind == kBiweight && squared < 1) cell.slope = 2 * (1 - squared);
      if (c_.kind == kTriweight && squared < 1) cell.slope = 3 * (1 - squared) * (1 - squared);
      if (c_.kind == kTricube && squared < 1) {
        const Real distance = std::sqrt(squared), rest = 1 - squared * distance;
        cell.slope = Real(4.5) * distance * rest * rest;
      }
      if (c_.kind == kCosine && squared < 1) {
        const Real angle = half_pi<Real> * std::sqrt(squared);
        cell.slope = half_pi<Real> * half_pi<Real> / 2 * (angle > 0 ? std::sin(angle) / angle : Real(1));
      }
    }
    if (c_.softcap > 0) {
      const Real t = std::tanh(cell.logit / Real(c_.softcap));
      cell.logit = Real(c_.softcap) * t;
      cell.bend = 1 - t * t;
    }
    if (bias_.empty()) return;
    cell.logit += bias_[size_t(i * c_.keys + j)];
    cell.uncertain += magnitude(bias_[size_t(i * c_.keys + j)]);
  }

  // From logits to weights; false where there are none, or all are 0: all gradients are 0 then.
  bool weigh(const char* seen, int64_t lead) {
    Real largest = sink_.empty() ? -Real(INFINITY) : sink_[size_t(lead)];
    for (int64_t j = 0; j < c_.keys; ++j)
      if (seen[j] && cells_[size_t(j)].logit > largest) largest = cells_[size_t(j)].logit;
    if (c_.compact()) largest = 0;
    Real denominator = sink_.empty() ? Real(0) : std::exp(sink_[size_t(lead)] - largest);
    for (int64_t j = 0; j < c_.keys; ++j) {
      Cell& cell = cells_[size_t(j)];
      if (!seen[j]) continue;
      cell.weight = c_.compact() ? cell.logit : std::exp(cell.logit - largest);
      denominator += cell.weight;
    }
    lse_ = largest + std::log(denominator);
    sink_share_ = sink_.empty() ? Real(0) : std::exp(sink_[size_t(lead)] - lse_);
    if (!(denominator > 0)) return false;
    for (int64_t j = 0; j < c_.keys; ++j) {
      Cell& cell = cells_[size_t(j)];
      if (!seen[j]) continue;
      // 1 - d has the size of 1
      cell.weight_size = double((c_.compact() && cell.weight > 0 ? Real(1) : cell.weight) / denominator);
      cell.weight /= denominator;
      cell.slope = c_.compact() ? cell.slope / denominator : cell.weight;
      cell.slope_size = double(cell.slope);
      cell.uncertain += magnitude(lse_);
    }
    return true;
  }

  void add_sums(const char* seen, int64_t lead, int64_t row, int64_t i, const Real* q) {
    const int64_t head = lead / c_.groups;
    const Real* const d_output = d_output_.data() + row * c_.value_size;
    Real shift = d_lse_.empty() ? Real(0) : -d_lse_[size_t(row)];
    double shift_size = magnitude(shift), shift_error = 0;
    for (int64_t j = 0; j < c_.keys; ++j) {
      Cell& cell = cells_[size_t(j)];
      if (!seen[j]) continue;
      cell.d_weight = 0;
      cell.d_weight_size = 0;
      const int64_t at = (head * c_.keys + j) * c_.value_size;
      for (int64_t d = 0; d < c_.value_size; ++d) {
        const Real product = d_output[d] * value_[size_t(at + d)];
        cell.d_weight += product;
        cell.d_weight_size += magnitude(product);
        sums_[of_value][size_t(at + d)].add(
            cell.weight * cell.factor * d_output[d],
            cell.weight_size * double(cell.factor) * cell.uncertain * magnitude(d_output[d]));
      }
      const double size = cell.weight_size * double(cell.factor) * cell.d_weight_size;
      shift += cell.weight * cell.factor * cell.d_weight;
      shift_size += size;
      shift_error += size * cell.uncertain;
    }
    if (!sink_.empty())
      sums_[of_sink][size_t(lead)].add(
          -sink_share_ * shift,
          double(sink_share_) * (shift_size * (1 + magnitude(sink_[size_t(lead)]) + magnitude(lse_)) + shift_error));
    for (int64_t j = 0; j < c_.keys; ++j) {
      const Cell& cell = cells_[size_t(j)];
      if (!seen[j]) continue;
      const double size = (double(cell.factor) * cell.d_weight_size + shift_size) * cell.uncertain + shift_error;
      add_logit(cell, cell.slope * (cell.factor * cell.d_weight - shift), cell.slope_size * size, head, row, i, j, q);
      if (c_.sigma == 0) continue;
      const Real way = (Real(j) - Real(c_.centers.get(head * c_.queries + i))) / Real(c_.sigma);
      const Real part = cell.weight * cell.factor * cell.d_weight * way / Real(c_.sigma);
      const double part_size = cell.weight_size * size * magnitude(way) / c_.sigma;
      sums_[of_centers][size_t(row)].add(part, part_size);
      sums_[of_sigma][size_t(row)].add(part * way, part_size * magnitude(way));
    }
  }

  void add_choices(const char* seen, int64_t head, int64_t row, int64_t i, const Real* q) {
    Real all = 0;
    double all_size = 0;
    for (int64_t n = 0; n < p_.draws; ++n) {
      const int64_t at = row * p_.draws + n, j = int64_t(p_.index.get(at));
      if (j < 0) continue;
      all += advantage_[size_t(at)];
      all_size += magnitude(advantage_[size_t(at)]);
      for (int64_t d = 0; d < c_.value_size; ++d) {
        const Real x = d_output_[size_t(at * c_.value_size + d)];
        sums_[of_value][size_t((head * c_.keys + j) * c_.value_size + d)].add(x, magnitude(x));
      }
    }
    for (int64_t j = 0; j < c_.keys; ++j) {
      const Cell& cell = cells_[size_t(j)];
      if (!seen[j]) continue;
      Real d_logit = -cell.weight * all;
      double size = cell.weight_size * all_size * cell.uncertain;
      for (int64_t n = 0; n < p_.draws; ++n) {
        const int64_t at = row * p_.draws + n;
        if (int64_t(p_.index.get(at)) != j) continue;
        d_logit += advantage_[size_t(at)];
        size += magnitude(advantage_[size_t(at)]);
      }
      add_logit(cell, d_logit, size, head, row, i, j, q);
    }
  }

  // To all that a logit is made of.
  void add_logit(const Cell& cell, Real d_logit, double size, int64_t head, int64_t row, int64_t i, int64_t j,
                 const Real* q) {
    if (!bias_.empty()) sums_[of_mask][size_t(i * c_.keys + j)].add(d_logit, size);
    d_logit *= cell.bend;
    const Real* const k = key_.data() + (head * c_.keys + j) * c_.head_size;
    const Real scale = c_.compact() ? Real(2) : Real(c_.scale);  // of -d / 2
    for (int64_t d = 0; d < c_.head_size; ++d) {
      const Real w = factors_.empty() ? Real(1) : factors_[size_t(d)];
      Real to_query, to_key, to_weight = 0;
      double to_query_size = -1;
      if (c_.kind == kDot) {
        to_query = scale * k[d];
        to_key = scale * q[d];
      } else if (c_.kind == kTanh) {
        const Real t = std::tanh(q[d] + k[d]);
        to_query = to_key = scale * w * (1 - t) * (1 + t);
        to_query_size = magnitude(scale * w);  // 1 - t^2 has the size of 1
        to_weight = scale * t;
      } else if (c_.kind == kRelu) {
        const Real x = q[d] + k[d];
        to_query = to_key = x > 0 ? scale * w : Real(0);
        to_weight = x > 0 ? scale * x : Real(0);
      } else if (c_.kind == kLeakyRelu) {
        const Real x = q[d] + k[d], slope = x > 0 ? Real(1) : Real(c_.slope);
        to_query = to_key = scale * w * slope;
        to_weight = scale * slope * x;
      } else {
        const Real difference = q[d] - k[d];
        to_key = scale * w * w * difference;
        to_query = -to_key;
        to_weight = -scale * w * difference * difference;
      }
      const double key_size = to_query_size < 0 ? magnitude(to_key) : to_query_size;
      sums_[of_query][size_t(row * c_.head_size + d)].add(
          d_logit * to_query, size * (to_query_size < 0 ? magnitude(to_query) : to_query_size));
      sums_[of_key][size_t((head * c_.keys + j) * c_.head_size + d)].add(d_logit * to_key, size * key_size);
      if (c_.kind != kDot) sums_[of_factors][size_t(d)].add(d_logit * to_weight, size * magnitude(to_weight));
    }
  }

  const Case& c_;
  const Pulled& p_;
  const std::vector<char>& seen_;  // [head][query][key]
  std::vector<Real> query_, key_, value_, factors_, sink_, bias_, d_output_, d_lse_, advantage_;
  std::vector<Cell> cells_;
  Real lse_ = 0, sink_share_ = 0;
  std::vector<Sum> sums_[part_count];
};

}  // namespace

const char* name_of(Part part) {
  static const char* const names[] = {"d_query", "d_key",     "d_value",   "d_mask",
                                      "d_sink",  "d_factors", "d_centers", "d_sigma"};
  return names[part];
}

bool has(const Case& c, const Pulled& p, Part part) {
  switch (part) {
    case of_mask: return c.mask.view() && c.mask.view()->dtype != FV_BOOL;
    case of_sink: return c.sink.view() && p.draws == 0;
    case of_factors: return c.kind != kDot;
    case of_centers:
    case of_sigma: return c.sigma > 0;
    default: return true;
  }
}

Shape shape_of(const Case& c, Part part) {
  switch (part) {
    case of_query: return {c.heads, c.groups, c.queries, c.head_size};
    case of_key: return {c.heads, 1, c.keys, c.head_size};
    case of_value: return {c.heads, 1, c.keys, c.value_size};
    case of_mask: return {c.queries, c.keys};
    case of_sink: return {c.heads, c.groups};
    case of_factors: return {c.head_size};
    default: return {c.heads, c.groups, c.queries};
  }
}

bool is_long_double_cheap(const Case& c) {
  // some 20 ns an operation of an x87, and some 500 of software under an emulator
  const int64_t most = long_double_in_hardware ? 200000 : 5000;
  return c.heads * c.groups * c.queries * c.keys * (c.head_size + c.value_size) <= most;
}

Differentiated differentiate(const Case& c, const Pulled& p) {
  std::vector<char> seen(size_t(c.heads * c.queries * c.keys));
  for (int64_t n = 0; n < c.heads * c.queries * c.keys; ++n)
    seen[size_t(n)] = c.sees(n / c.keys / c.queries, n / c.keys % c.queries, n % c.keys);
  if (c.dtype != FV_FLOAT64) return {Formula<double>(c, p, seen).run(), Formula<float>(c, p, seen).run()};
  const Gradients plain = Formula<double>(c, p, seen).run();
  if (!is_long_double_cheap(c)) return {plain, plain};
  return {Formula<long double>(c, p, seen).run(), plain};
}

}  // namespace kernel_tests
