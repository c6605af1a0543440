// Draws from categories through the C ABI: against inversion in plain double arithmetic, in the order of categories that
// the reference states; layouts, threads, refusals; and Philox against known answers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "../../csrc/runtime/random.hpp"
#include "report.hpp"
#include "tensor.hpp"

namespace kernel_tests {
namespace {

constexpr fv_random key = {{0x0123456789abcdefu, 42}};

struct Drawn {
  Tensor index;
  fv_status status;
  fv_error error = {};
};

Drawn draw(const Tensor& p, int64_t draws, bool logits = false, int32_t threads = 0) {
  Shape shape = p.shape();
  shape.back() = draws;
  Drawn drawn = {Tensor(FV_INT64, shape, -7.0), FV_OK};
  fv_set_num_threads(threads);
  drawn.status = fv_multinoulli(p.view(), logits, &key, draws, drawn.index.view(), &drawn.error);
  fv_set_num_threads(0);
  return drawn;
}

// Weights in [0, 1], every fifth 0, except the first of a row.
Tensor some_weights(fv_dtype dtype, Shape shape, uint64_t seed) {
  Tensor p = Tensor::random(dtype, shape, 1.0, seed);
  for (int64_t i = 0; i < p.count(); ++i)
    p.set(i, i % 5 == 3 && i % shape.back() ? 0 : round_to(dtype, std::fabs(p.get(i)) + 0.001));
  return p;
}

std::vector<int64_t> order_of(int64_t categories, int64_t draws) {
  std::vector<int64_t> order(static_cast<size_t>(categories));
  std::iota(order.begin(), order.end(), 0);
  if (draws >= 16 && draws >= categories / 100) return order;
  const auto rank = [](int64_t k) {
    const int64_t block = k / 4096, place = k % 4096 / 64, number = k % 64;
    return (((block * 8 + number % 8) * 8 + number / 8) * 8 + place % 8) * 8 + place / 8;
  };
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return rank(a) < rank(b); });
  return order;
}

// Whether each draw is that of inversion, or next to it with u within `edge` of the border.
bool is_inversion(const Tensor& p, const Tensor& index, bool logits, double edge) {
  const int64_t categories = p.shape().back(), draws = index.shape().back(), rows = p.count() / categories;
  const std::vector<int64_t> order = order_of(categories, draws);
  const foveate::Philox philox(key.key[0], key.key[1]);
  bool right = true;
  for (int64_t row = 0; row < rows; ++row) {
    double top = -INFINITY, total = 0;
    for (int64_t k = 0; k < categories; ++k) top = std::max(top, p.get(row * categories + k));
    std::vector<double> start(static_cast<size_t>(categories)), end = start;
    for (const int64_t k : order) {
      const double x = p.get(row * categories + k);
      start[size_t(k)] = total;
      end[size_t(k)] = total += logits ? std::exp(x - top) : x;
    }
    for (int64_t d = 0; d < draws; ++d) {
      const auto block = philox(foveate::Stream::multinoulli, uint64_t(d / 4), 0, uint64_t(row), 0);
      const double u = foveate::uniform<double>(block.words[d % 4]);
      const double got = index.get(row * draws + d);
      if (!(got >= 0 && got < double(categories))) return false;
      const size_t k = size_t(got);
      right &= end[k] > start[k] && u >= start[k] / total - edge && u <= end[k] / total + edge;
    }
  }
  return right;
}

void test_inversion(Report& report, const std::string& title, fv_dtype dtype) {
  // as in test_multinoulli.py: sums of 64 numbers of float32; exp of logits below 8, by an ulp and its argument
  const double edge = dtype == FV_FLOAT64 ? 0x1p-39 : 66 * 0x1p-24 + 50 * 0x1p-24;
  bool right = true, of_logits = true, scattered = true, threads = true;
  for (const int64_t categories : {1, 2, 7, 64, 65, 300, 4095, 4096, 4097, 9000})
    for (const int64_t draws : {1, 3, 200}) {
      const Tensor p = some_weights(dtype, {2, 3, categories}, uint64_t(categories));
      const Drawn plain = draw(p, draws);
      right &= plain.status == FV_OK && is_inversion(p, plain.index, false, edge);
      scattered &= plain.index.same_bits(draw(p.scattered(), draws).index);
      threads &= plain.index.same_bits(draw(p, draws, false, 1).index);
      Tensor x = Tensor::random(dtype, {2, 3, categories}, 4.0, 5);
      for (int64_t i = 2; i < x.count(); i += 7)
        if (i % categories) x.set(i, -INFINITY);
      const Drawn drawn = draw(x, draws, true);
      of_logits &= drawn.status == FV_OK && is_inversion(x, drawn.index, true, edge);
      scattered &= drawn.index.same_bits(draw(x.scattered(), draws, true).index);
      threads &= drawn.index.same_bits(draw(x, draws, true, 1).index);
    }
  report.that(title + "draws from weights", right);
  report.that(title + "draws from logits", of_logits);
  report.that(title + "draws whatever the layout", scattered);
  report.that(title + "draws on 1 thread and on all", threads);
}

void test_counts(Report& report, const std::string& title, fv_dtype dtype) {
  const Tensor p = some_weights(dtype, {3, 70}, 3);
  Tensor trials(FV_INT64, {3}, 0.0), counts(FV_INT64, {3, 2, 70}, 0.0), same(FV_INT64, {3, 2, 70}, 0.0);
  trials.set(0, 5);
  trials.set(2, 20000);
  fv_error error = {};
  bool right = fv_multinomial(trials.view(), p.view(), &key, 2, counts.view(), &error) == FV_OK;
  fv_set_num_threads(1);
  right &= fv_multinomial(trials.view(), p.view(), &key, 2, same.view(), &error) == FV_OK && counts.same_bits(same);
  fv_set_num_threads(0);
  for (int64_t row = 0; row < 3; ++row)
    for (int64_t d = 0; d < 2; ++d) {
      double sum = 0;
      for (int64_t k = 0; k < 70; ++k) {
        const double count = counts.get((row * 2 + d) * 70 + k);
        right &= count >= 0 && (count == 0 || p.get(row * 70 + k) > 0);
        sum += count;
      }
      right &= sum == trials.get(row);
    }
  report.that(title + "counts of trials", right);
}

void test_refused(Report& report, const std::string& title, fv_dtype dtype) {
  bool right = true;
  for (const int64_t draws : {1, 500})
    for (const double wrong : {-1.0, double(NAN), double(INFINITY)}) {
      Tensor p = some_weights(dtype, {40, 100}, 3);
      p.set(23 * 100 + 99, wrong);
      const Drawn drawn = draw(p, draws);
      right &= drawn.status == FV_VALUE_ERROR && std::strstr(drawn.error.message, "category 99 of row 23") != nullptr;
      if (wrong != -1) right &= draw(p, draws, true).status == FV_VALUE_ERROR;
      for (int64_t k = 0; k < 100; ++k) p.set(23 * 100 + k, wrong == -1 ? 0 : -INFINITY);
      right &= draw(p, draws, wrong != -1).status == FV_VALUE_ERROR;
    }
  const Tensor none(dtype, {2, 0}), p = some_weights(dtype, {2, 5}, 1);
  right &= draw(none, 1).status == FV_VALUE_ERROR && draw(none, 0).status == FV_OK;
  Tensor wide(FV_INT64, {2, 4}, 0.0), floats(dtype, {2, 3}, 0.0), negative(FV_INT64, {2}, -1.0),
      counts(FV_INT64, {2, 1, 5}, 0.0);
  fv_error error = {};
  right &= fv_multinoulli(p.view(), 0, &key, 3, wide.view(), &error) == FV_VALUE_ERROR;
  right &= fv_multinoulli(p.view(), 0, &key, 3, floats.view(), &error) == FV_TYPE_ERROR;
  right &= fv_multinoulli(p.view(), 0, nullptr, 4, wide.view(), &error) == FV_VALUE_ERROR;
  right &= fv_multinoulli(nullptr, 0, &key, 4, wide.view(), &error) == FV_VALUE_ERROR;
  right &= fv_multinoulli(p.view(), 0, &key, -1, wide.view(), &error) == FV_VALUE_ERROR;
  right &= fv_multinoulli(wide.view(), 0, &key, 4, wide.view(), &error) == FV_TYPE_ERROR;
  right &= fv_multinomial(negative.view(), p.view(), &key, 1, counts.view(), &error) == FV_VALUE_ERROR;
  right &= fv_multinomial(wide.view(), p.view(), &key, 1, counts.view(), &error) == FV_VALUE_ERROR;
  right &= fv_multinomial(floats.view(), p.view(), &key, 1, counts.view(), &error) == FV_TYPE_ERROR;
  report.that(title + "wrong draws are refused", right);
}

}  // namespace

void test_sampling(Report& report, const std::string& isa) {
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16}) {
    const std::string title = isa + ": " + name_of(dtype) + ", ";
    test_inversion(report, title, dtype);
    test_counts(report, title, dtype);
    test_refused(report, title, dtype);
  }
}

// Philox 4x64-10 against the known answers that Random123 publishes (kat_vectors): counters and keys of zeros, of ones,
// and of the digits of pi.
void test_random(Report& report) {
  struct Known {
    uint64_t counter[4], key[2], words[4];
  };
  constexpr uint64_t ones = ~uint64_t(0);
  constexpr Known known[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x16554d9eca36314cu, 0xdb20fe9d672d0fdcu, 0xd7e772cee186176bu, 0x7e68b68aec7ba23bu}},
      {{ones, ones, ones, ones},
       {ones, ones},
       {0x87b092c3013fe90bu, 0x438c3c67be8d0224u, 0x9cc7d7c69cd777b6u, 0xa09caebf594f0ba0u}},
      {{0x243f6a8885a308d3u, 0x13198a2e03707344u, 0xa4093822299f31d0u, 0x082efa98ec4e6c89u},
       {0x452821e638d01377u, 0xbe5466cf34e90c6cu},
       {0xa528f45403e61d95u, 0x38c72dbd566e9788u, 0xa5a1610e72fd18b5u, 0x57bd43b5e52b7fe6u}},
  };
  bool right = true;
  for (const Known& k : known) {
    const foveate::RandomBlock got =
        foveate::Philox(k.key[0], k.key[1])(k.counter[0], k.counter[1], k.counter[2], k.counter[3]);
    for (int i = 0; i < 4; ++i) right &= got.words[i] == k.words[i];
  }
  report.that("Philox: known answers", right);
  const bool exact = foveate::uniform<double>(0) == 0 && foveate::uniform<double>(1 << 11) == 0x1p-53 &&
                     foveate::uniform<double>(ones) == 1 - 0x1p-53 && foveate::uniform<float>(ones) == 1 - 0x1p-24f &&
                     foveate::uniform<float>(uint64_t(3) << 40) == 0x3p-24f &&
                     foveate::uniform<float>(1 << 11) == 0x1p-53f;
  report.that("uniform: binary fractions, cut off", exact);
}

}  // namespace kernel_tests
