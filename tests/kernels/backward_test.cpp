// fv_attention_backward and fv_hard_attention_backward against the formula: inner products with every reach, every kind of
// score, hard attention; lse in its own dtype and in float64; lengths around the tile of 168 keys, groups of 3 or 4 tiles and
// the blocks of 128 queries. On 1 and 2 threads the same bits, and each gradient alone the same bits as all together.
//
// Errors are shares of the size of an element's sums before terms cancel (plain_backward.hpp). The tolerance: twice the
// worst share of the plain formula, over all cases of a check, and spacings of
//   20     of the accumulator: 4 each for the weights (exp2, and lse and logits in base 2, whose sizes are counted), for dP,
//          for delta and for the two sums that follow (chains of 16 to 168 terms, whose error grows as their root)
//   40     of float64 where the formula has no type wider than that, and errs as much itself
//   1      of the dtype where the output comes in 16 bits, and the gradients go out in them: half a spacing each
//   3/2    of bfloat16, whose forward rounds pairs of weights to it, and whose backward pass rounds cells where the ISA
//          multiplies pairs: half a spacing in the output, in lse, and in P or dS
// Weights below the smallest normal number may be 0, and so may 16-bit gradients be off by half the last subnormal: a size
// counts for at least that number over a spacing, and 2^12 times that for float32 and float64, as slopes go up to 1000.
#include <algorithm>
#include <cmath>

#include "backward_call.hpp"
#include "compare.hpp"
#include "numbers.hpp"
#include "reaches.hpp"

namespace kernel_tests {
namespace {

constexpr int64_t query_counts[] = {5, 33, 1, 129, 17, 2, 65, 8, 127, 3, 31};
constexpr int64_t key_counts[] = {168, 1, 505, 33, 169, 700, 7, 336, 167, 337, 65, 16, 504};
constexpr int64_t sizes[] = {8, 1, 16, 3, 33, 64, 2, 40};

// Sizes are cut down to about so many products, of all scores and outputs.
int64_t most_products(fv_dtype dtype) {
  if (!long_double_in_hardware) return dtype == FV_FLOAT64 ? 4000 : 100000;  // an emulator, most likely
  return dtype == FV_FLOAT64 ? 60000 : 1000000;
}

Case shaped(fv_dtype dtype, int64_t n) {
  const int64_t queries = query_counts[n % 11], keys = key_counts[n % 13];
  int64_t heads = 1 + n % 2, groups = 1 + n % 3, size = sizes[n % 8], value_size = sizes[(n * 3 + 1) % 8];
  const auto too_many = [&] { return heads * groups * queries * keys * (size + value_size) > most_products(dtype); };
  while (too_many() && heads * groups * (size + value_size) > 4) {
    size = (size + 1) / 2;
    value_size = (value_size + 1) / 2;
    if (too_many() && groups > 1) --groups;
    if (too_many()) heads = 1;
  }
  return Case(dtype, heads, groups, queries, keys, size, value_size, uint64_t(n + 1));
}

// The worst errors of a check, as shares.
class Shares {
 public:
  Shares(fv_dtype dtype, fv_dtype stored)
      : least_(stored == FV_FLOAT16  ? 0x1p-14
               : dtype == FV_FLOAT64 ? 0x1p-958
                                     : 0x1p-91) {}
  void see(const Tensor& got, const Gradients& formula, const Gradients& wanted, Part part, const std::string& where) {
    for (int64_t i = 0; i < got.count(); ++i) {
      const double truth = wanted.value[part][size_t(i)], size = wanted.size[part][size_t(i)] + least_;
      const double off = or_infinity(std::fabs(got.get(i) - truth) / size);
      const double yardstick = std::fabs(formula.value[part][size_t(i)] - truth) / size;
      if (std::isfinite(yardstick)) formula_[part] = std::fmax(formula_[part], yardstick);
      if (off <= ours_[part]) continue;
      ours_[part] = off;
      where_[part] = std::string(name_of(part)) + " of " + where;
    }
  }
  void report(Report& report, const std::string& title, double spacings) const {
    double worst = 0;
    std::string where;
    for (int part = 0; part < part_count; ++part) {
      const double ratio = ours_[part] / (2 * formula_[part] + spacings);
      if (ratio <= worst) continue;
      worst = ratio;
      where = where_[part];
    }
    report.bounded(title, worst, where);
  }

 private:
  double least_;
  double ours_[part_count] = {}, formula_[part_count] = {};
  std::string where_[part_count];
};

// Cases 0..count-1, all of one dtype, on every ISA; the formula once, for all of them.
void compare_gradients(Report& report, const std::vector<std::string>& isas, const std::string& title, fv_dtype dtype,
                       bool in_dtype, int64_t draws, int64_t count, const std::function<Case(int64_t)>& make) {
  const fv_dtype wide = lse_dtype(dtype), stored = in_dtype ? dtype : wide;
  std::vector<Shares> shares(isas.size(), Shares(dtype, stored));
  std::vector<std::string> unlike(isas.size());
  bool cheap = true;
  fv_error error = {};
  for (int64_t n = 0; n < count; ++n) {
    const Case c = make(n);
    cheap = cheap && is_long_double_cheap(c);
    fv_isa_select(isas[0].c_str(), &error);
    const Pulled pulled = pulled_for(c, draws, uint64_t(n + count));
    const Differentiated formula = differentiate(c, pulled);
    for (size_t i = 0; i < isas.size(); ++i) {
      fv_isa_select(isas[i].c_str(), &error);
      const Forward given = forward(c, stored, !in_dtype);
      const Pullback one = pull_back(c, given, pulled, stored, every_part, 1);
      const Pullback two = pull_back(c, given, pulled, stored, every_part, 2);
      for (int part = 0; part < part_count; ++part)
        shares[i].see(one.part[part], formula.plain, formula.exact, Part(part), c.shape());
      if (!same(one, two)) unlike[i] = "2 threads, " + c.shape();
      for (int part = 0; part < part_count; ++part)
        if (one.part[part].view() && !same(one, pull_back(c, given, pulled, stored, 1u << part, 1)))
          unlike[i] = std::string(name_of(Part(part))) + " alone, " + c.shape();
    }
  }
  double spacings = (dtype == FV_FLOAT64 && !cheap ? 40 : 20) * epsilon_of(wide);
  if (stored != wide) spacings += epsilon_of(dtype);
  if (dtype == FV_BFLOAT16) spacings += 1.5 * epsilon_of(dtype);
  for (size_t i = 0; i < isas.size(); ++i) {
    const std::string line = isas[i] + ": gradients, " + name_of(dtype) + ", " + title;
    shares[i].report(report, line, spacings);
    report.that(line + ", the same bits", unlike[i].empty(), unlike[i]);
  }
}

constexpr fv_dtype dtypes[] = {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16};

// Each check takes up the sequence of shapes where the one before it ended.
void test_reaches(Report& report, const std::vector<std::string>& isas) {
  int64_t first = 0;
  for (const fv_dtype dtype : dtypes)
    for (const Variant& variant : variants()) {
      const int64_t count = !long_double_in_hardware ? 3 : dtype == FV_FLOAT32 ? 12 : 5;
      compare_gradients(report, isas, variant.name, dtype, first / count % 2, 0, count, [&](int64_t n) {
        Case c = shaped(dtype, first + n);
        variant.apply(c);
        return c;
      });
      first += count;
    }
}

void test_kinds(Report& report, const std::vector<std::string>& isas) {
  std::vector<Numbers> all = additive_numbers();
  for (const Numbers& numbers : distance_numbers()) all.push_back(numbers);
  int64_t first = 0;
  for (const fv_dtype dtype : dtypes)
    for (const Numbers& numbers : all) {
      if (numbers.name == "tanh, some inf") continue;  // an infinite sum has no gradient
      const int64_t count = !long_double_in_hardware ? 2 : dtype == FV_FLOAT32 ? 8 : 4;
      compare_gradients(report, isas, numbers.name, dtype, first / count % 2, 0, count, [&](int64_t n) {
        Case c = shaped(dtype, first + n);
        c.kind = numbers.kind;
        numbers.fill(c, uint64_t(first + n + 1));
        apply_in_turn(c, size_t(first + n));
        return c;
      });
      first += count;
    }
}

std::vector<Numbers> some_numbers() {
  return {{kDot, "dot", [](Case&, uint64_t) {}},
          {kTanh, "tanh", about(0, 1)},
          {kRelu, "relu", about(0, 1)},
          {kLeakyRelu, "leaky relu",
           [](Case& c, uint64_t seed) {
             about(0, 1)(c, seed);
             c.slope = 0.2;
           }},
          {kGaussian, "gaussian", about(0, 1)}};
}

void test_choices(Report& report, const std::vector<std::string>& isas) {
  int64_t first = 0;
  for (const fv_dtype dtype : dtypes)
    for (const int64_t draws : {1, 3})
      for (const Numbers& numbers : some_numbers()) {
        compare_gradients(report, isas, "hard, " + std::to_string(draws) + " draws, " + numbers.name, dtype,
                          first / 4 % 2, draws, 4, [&](int64_t n) {
                            Case c = shaped(dtype, first + n);
                            c.kind = numbers.kind;
                            numbers.fill(c, uint64_t(first + n + 1));
                            apply_in_turn(c, size_t(first + n));
                            c.sigma = 0;
                            c.sink = Tensor();
                            return c;
                          });
        first += 4;
      }
}

// Dropout after the softmax, with all that comes before: the weights that stay are taken from the forward pass.
void test_dropped(Report& report, const std::vector<std::string>& isas) {
  int64_t first = 0;
  for (const fv_dtype dtype : dtypes)
    for (const Numbers& numbers : some_numbers()) {
      compare_gradients(report, isas, "dropout, " + numbers.name, dtype, first / 4 % 2, 0, 4, [&](int64_t n) {
        Case c = shaped(dtype, first + n);
        c.kind = numbers.kind;
        numbers.fill(c, uint64_t(first + n + 1));
        apply_in_turn(c, size_t(first + n));
        c.dropout = n % 2 ? 0.1 : 0.7;
        return c;
      });
      first += 4;
    }
}

// Many keys: several tiles for every chunk, and several groups of tiles for each of the 16 chunks, which is the most.
void test_many_keys(Report& report, const std::vector<std::string>& isas) {
  for (const fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_BFLOAT16})
    for (const ScoreKind kind : {kDot, kGaussian})
      compare_gradients(report, isas, std::string(name_of(kind)) + ", many keys", dtype, false, 0, 2, [&](int64_t n) {
        Case c(dtype, 1, 2, 3, n ? 9000 : 3000, 5, 3, 77);
        c.kind = kind;
        return c;
      });
}

}  // namespace

void test_backward(Report& report, const std::vector<std::string>& isas) {
  test_reaches(report, isas);
  test_kinds(report, isas);
  test_choices(report, isas);
  test_dropped(report, isas);
  test_many_keys(report, isas);
}

}  // namespace kernel_tests
