// Several threads call the engine at once, for ThreadSanitizer: many problems, each answered first by one thread alone,
// whose bits are what every later answer must have; with helper threads and without, while the number of threads changes.
//   foveate_stress [seconds] [threads]
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "backward_call.hpp"
#include "call.hpp"

using namespace kernel_tests;

namespace {

constexpr fv_random seed = {{0x0123456789abcdefu, 42}};

// One problem, and its answers by one thread; all members are read alone once the threads have begun.
class Problem {
 public:
  explicit Problem(Case c) : case_(std::move(c)), forward_(forward(case_, lse_dtype(case_.dtype), true)) {
    pulled_ = pulled_for(case_, 0, 5);
    gradients_ = differentiated();
    answer_ = attended();
    chosen_ = chosen();
  }

  // Whether a call gives the bits of the first one.
  bool holds(unsigned which) const {
    if (which % 3 == 0) return same(attended(), answer_);
    if (which % 3 == 1) return same(differentiated(), gradients_);
    const Choice now = chosen();
    return now.index.same_bits(chosen_.index) && now.log_prob.same_bits(chosen_.log_prob);
  }

 private:
  struct Choice {
    Tensor output, index, log_prob;
  };

  Result attended() const {
    Result r = {Tensor(case_.dtype, {case_.heads, case_.groups, case_.queries, case_.value_size}, 7.0),
                Tensor(lse_dtype(case_.dtype), {case_.heads, case_.groups, case_.queries}, 7.0), FV_OK};
    const fv_problem problem = case_.problem();
    fv_error error = {};
    r.status = fv_attention(&problem, r.output.view(), r.lse.view(), &error);
    return r;
  }

  Pullback differentiated() const {
    Pullback r = empty_parts(case_, pulled_, case_.dtype);
    const fv_problem problem = case_.problem();
    const fv_gradients gradients = views_of(r);
    fv_error error = {};
    r.status = fv_attention_backward(&problem, forward_.output.view(), forward_.lse.view(), pulled_.d_output.view(),
                                     pulled_.d_lse.view(), &gradients, &error);
    return r;
  }

  Choice chosen() const {
    const Shape rows = {case_.heads, case_.groups, case_.queries, 2};
    Choice c = {Tensor(case_.dtype, {case_.heads, case_.groups, case_.queries, 2, case_.value_size}),
                Tensor(FV_INT64, rows), Tensor(lse_dtype(case_.dtype), rows)};
    const fv_problem problem = case_.problem();
    fv_error error = {};
    fv_hard_attention(&problem, FV_SAMPLE, &seed, 2, c.output.view(), c.index.view(), c.log_prob.view(), &error);
    return c;
  }

  Case case_;
  Forward forward_;
  Pulled pulled_;
  Pullback gradients_;
  Result answer_;
  Choice chosen_;
};

// Draws from rows that several threads share, and from rows shared out.
class Draws {
 public:
  Draws(int64_t rows, int64_t categories) : p_(FV_FLOAT32, {rows, categories}, 1.0), first_(drawn()) {}
  bool holds() const { return drawn().same_bits(first_); }

 private:
  Tensor drawn() const {
    Tensor index(FV_INT64, {p_.shape()[0], 3});
    fv_error error = {};
    fv_multinoulli(p_.view(), 0, &seed, 3, index.view(), &error);
    return index;
  }
  Tensor p_, first_;
};

// Of many tasks and of few, masked, windowed, few queries, shared keys, every dtype, scores of every family.
std::vector<std::unique_ptr<Problem>> problems() {
  std::vector<Case> cases;
  for (fv_dtype dtype : {FV_FLOAT32, FV_FLOAT64, FV_FLOAT16, FV_BFLOAT16}) {
    cases.emplace_back(dtype, 2, 2, 70, 130, 32, 16, 1);
    cases.emplace_back(dtype, 2, 3, 1, 900, 16, 16, 2);
    cases.emplace_back(dtype, 3, 1, 5, 7, 8, 8, 3);
  }
  for (ScoreKind kind : {kTanh, kRelu, kGaussian}) {
    cases.emplace_back(FV_FLOAT32, 2, 1, 60, 100, 6, 8, 4);
    cases.back().kind = kind;
    cases.back().factors = Tensor::random(FV_FLOAT32, {6}, 1.0, 5);
    cases.back().scale = 1;
  }
  cases.emplace_back(FV_FLOAT32, 2, 1, 100, 100, 32, 32, 6);
  cases.back().right = 0;
  cases.back().left = 20;
  cases.emplace_back(FV_FLOAT32, 2, 2, 64, 90, 32, 32, 7);
  cases.back().offset_at_end = true;
  cases.back().right = 0;
  cases.back().key_lengths = Tensor(FV_INT64, {2, 1}, 55);
  cases.emplace_back(FV_FLOAT32, 1, 2, 50, 90, 32, 32, 8);
  cases.back().mask = Tensor::random(FV_FLOAT32, {50, 90}, 1.0, 9);
  std::vector<std::unique_ptr<Problem>> made;
  for (Case& c : cases) made.push_back(std::make_unique<Problem>(std::move(c)));
  return made;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const int count = argc > 2 ? std::atoi(argv[2]) : 4;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::atomic<long> calls{0}, wrong{0};
  for (int32_t isa = 0; isa < fv_isa_count(); ++isa) {
    fv_error error = {};
    if (fv_isa_select(fv_isa_name(isa), &error) != FV_OK) return 2;
    fv_set_num_threads(1);
    const auto all = problems();
    const Draws few(3, 50'000), many(3'000, 20);
    const auto left = end - std::chrono::steady_clock::now();
    const auto until = std::chrono::steady_clock::now() + left / (fv_isa_count() - isa);
    std::vector<std::thread> threads;
    for (int n = 0; n < count; ++n) {
      threads.emplace_back([&, n] {
        for (unsigned i = unsigned(n) * 7919; std::chrono::steady_clock::now() < until; ++i) {
          if (i % 5 == 0) fv_set_num_threads(int32_t(1 + i % 7));
          const bool right = i % 11 == 0   ? few.holds()
                             : i % 11 == 5 ? many.holds()
                                           : all[i % all.size()]->holds(i / unsigned(all.size()));
          ++calls;
          wrong += !right;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::printf("%ld calls by %d threads, %ld with other bits\n", calls.load(), count, wrong.load());
  return wrong.load() != 0;
}
