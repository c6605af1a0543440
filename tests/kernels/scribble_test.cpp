// Inputs that another thread changes while calls run. Answers may be anything then; each call comes back soon, writes its
// outputs and nothing else, chooses keys and categories that there are, and a refusal says why.
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>

#include "backward_call.hpp"
#include "report.hpp"

namespace kernel_tests {
namespace {

constexpr fv_random key = {{7, 42}};
constexpr std::chrono::seconds patience{300};  // for all of it, thousands of times as long as it takes

// Ends the tests where a call does not come back while this stands.
class Watchdog {
 public:
  ~Watchdog() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    ended_.notify_one();
    thread_.join();
  }

 private:
  void watch() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (ended_.wait_for(lock, patience, [this] { return over_; })) return;
    std::printf("FAILED: a call whose inputs change did not come back\n");
    std::fflush(stdout);
    std::_Exit(1);
  }

  bool over_ = false;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::thread thread_{[this] { watch(); }};  // last, since it uses the others
};

// Writes one image and the other into an array of int64 or float64, again and again, until it is destroyed.
class Scribbler {
 public:
  Scribbler(const Tensor& into, const Tensor& other)
      : first_(into), second_(other), at_(static_cast<volatile uint64_t*>(into.view()->data)) {
    thread_ = std::thread([this] {
      while (!done_.load(std::memory_order_relaxed))
        for (const Tensor* image : {&second_, &first_}) {
          const uint64_t* const words = static_cast<const uint64_t*>(image->view()->data);
          for (int64_t i = 0; i < image->count(); ++i) at_[i] = words[i];
        }
    });
  }
  ~Scribbler() {
    done_.store(true);
    thread_.join();
  }

 private:
  const Tensor first_, second_;
  volatile uint64_t* at_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// As many calls as take this long. What is refused names the argument and what came.
template <class Call>
void meanwhile(Report& report, const std::string& title, const char* named, Call&& call) {
  const auto start = std::chrono::steady_clock::now();
  bool right = true;
  std::string message;
  do {
    fv_error error;
    std::memset(&error, '?', sizeof error);
    const fv_status status = call(&error, &right);
    if (status != FV_OK) {
      message.assign(error.message, strnlen(error.message, sizeof error.message));
      right = right && status == FV_VALUE_ERROR && message.rfind(named, 0) == 0 &&
              message.find(", wanted ") != std::string::npos && message.find('?') == std::string::npos;
    }
  } while (right && std::chrono::steady_clock::now() - start < std::chrono::milliseconds(30));
  report.that(title, right, message);
}

bool within(const Tensor& x, double low, double high) {
  bool all = true;
  for (int64_t i = 0; i < x.count(); ++i) all = all && low <= x.get(i) && x.get(i) < high;
  return all;
}

void scribble_on_draws(Report& report, const std::string& isa) {
  constexpr int64_t categories = 9000;
  const Tensor p = [] {
    Tensor x = Tensor::random(FV_FLOAT64, {1, categories}, 1.0, 3);
    for (int64_t i = 0; i < x.count(); ++i) x.set(i, std::fabs(x.get(i)));
    return x;
  }();
  for (const double wrong : {1e300, 0.0, -1e30, double(NAN), 0x1p-1060})
    for (const bool logits : {false, true})
      for (const int64_t draws : {3, 400}) {
        const Tensor from = p, index(FV_INT64, {1, draws});
        Tensor other = p;
        for (int64_t i = 0; i < categories; i += 2) other.set(i, wrong);
        const Scribbler scribbler(from, other);
        char title[80];
        std::snprintf(title, sizeof title, ": weights become %g, %d draws%s", wrong, int(draws),
                      logits ? " by logits" : "");
        meanwhile(report, isa + title, "p: got", [&](fv_error* error, bool* right) {
          const fv_status status = fv_multinoulli(from.view(), logits, &key, draws, index.view(), error);
          if (status == FV_OK) *right = within(index, 0, categories);
          return status;
        });
      }
  const Tensor trials(FV_INT64, {1}, 20);
  const Tensor from = p;
  const Scribbler of_trials(trials, Tensor(FV_INT64, {1}, 0x1p60)),
      of_weights(from, Tensor(FV_FLOAT64, {1, 9000}, 3e9));
  Tensor counts(FV_INT64, {1, 1, categories});
  // the number that is checked and the one that is drawn by may both be the large one, which would take its time
  const fv_array* const checked = trials.view();
  meanwhile(report, isa + ": trials and weights that change", "", [&](fv_error* error, bool* right) {
    for (int64_t i = 0; i < categories; ++i) counts.set(i, 0);
    if (*static_cast<volatile int64_t*>(checked->data) != 20) return FV_OK;
    fv_set_interrupt_check([] { return 1; });
    const fv_status status = fv_multinomial(trials.view(), from.view(), &key, 1, counts.view(), error);
    fv_set_interrupt_check(nullptr);
    *right = within(counts, 0, 0x1p61);
    return status == FV_INTERRUPTED ? FV_OK : status;
  });
}

struct Change {
  const char* what;
  std::function<void(Case&)> first, second;  // before it, and what is written over it
  Tensor Case::* of;
};

const std::vector<Change>& changes() {
  const auto fill = [](Tensor Case::* of, fv_dtype dtype, double number) {
    return [=](Case& c) {
      const bool ends = of == &Case::low || of == &Case::high;
      const bool rows = ends || of == &Case::centers || of == &Case::query_segments;
      c.*of = Tensor(dtype,
                     of == &Case::key_segments ? Shape{c.keys}
                     : rows                    ? Shape{c.queries}
                                               : Shape{c.heads, 1},
                     number);
      for (int64_t i = 0; i < (c.*of).count() && number == 5; ++i) (c.*of).set(i, double(i / 7));
      if (of == &Case::offset) c.right = 0;
      if (of == &Case::centers) c.half_width = 9;
      if (ends) (of == &Case::low ? c.high : c.low) = Tensor(dtype, {c.queries}, of == &Case::low ? 390 : 10);
      if (of == &Case::key_segments) c.query_segments = Tensor(dtype, {c.queries}, 1);
      if (of == &Case::query_segments) c.key_segments = Tensor(dtype, {c.keys}, 1);
    };
  };
  static const std::vector<Change> all = {
      {"key_lengths", fill(&Case::key_lengths, FV_INT64, 3), fill(&Case::key_lengths, FV_INT64, 0x1p40),
       &Case::key_lengths},
      {"key_lengths", fill(&Case::key_lengths, FV_INT64, 400), fill(&Case::key_lengths, FV_INT64, -0x1p62),
       &Case::key_lengths},
      {"offset", fill(&Case::offset, FV_INT64, 3), fill(&Case::offset, FV_INT64, 0x1p62), &Case::offset},
      {"offset", fill(&Case::offset, FV_INT64, 390), fill(&Case::offset, FV_INT64, -0x1p63), &Case::offset},
      {"low", fill(&Case::low, FV_INT64, 3), fill(&Case::low, FV_INT64, -0x1p63), &Case::low},
      {"high", fill(&Case::high, FV_INT64, 350), fill(&Case::high, FV_INT64, 0x1p62), &Case::high},
      {"centers", fill(&Case::centers, FV_FLOAT64, 3), fill(&Case::centers, FV_FLOAT64, NAN), &Case::centers},
      {"centers", fill(&Case::centers, FV_FLOAT64, 390), fill(&Case::centers, FV_FLOAT64, -INFINITY), &Case::centers},
      {"key_segments", fill(&Case::key_segments, FV_INT64, 5), fill(&Case::key_segments, FV_INT64, 0),
       &Case::key_segments},
      {"query_segments", fill(&Case::query_segments, FV_INT64, 5), fill(&Case::query_segments, FV_INT64, -1),
       &Case::query_segments},
  };
  return all;
}

void scribble_on_reaches(Report& report, const std::string& isa) {
  for (const Change& change : changes())
    for (const int64_t queries : {2, 70}) {
      Case c(FV_FLOAT32, 2, 3, queries, 400, 8, 8, 31), other = c;
      change.first(c);
      change.second(other);
      if (c.half_width > 0) c.sigma = queries == 2 ? 0 : 5;
      const fv_problem problem = c.problem();
      const Forward given = forward(c, FV_FLOAT32);
      const int64_t draws = 2;
      const Pulled soft = pulled_for(c, 0, 32), hard = c.sigma > 0 ? Pulled{} : pulled_for(c, draws, 32);
      Pullback parts = empty_parts(c, soft, FV_FLOAT32);
      const fv_gradients gradients = views_of(parts);
      Case alone = c;
      alone.sigma = 0;
      fv_problem without_sigma = problem, without_value = problem;
      without_sigma.sigma = 0;
      without_value.value = nullptr;
      const Shape rows = {2, 3, queries};
      const auto of = [&](fv_dtype dtype, std::vector<int64_t> more) {
        Shape shape = rows;
        shape.insert(shape.end(), more.begin(), more.end());
        return Tensor(dtype, shape);
      };
      const Tensor out = of(FV_FLOAT32, {8}), lse = of(FV_FLOAT32, {}), weights = of(FV_FLOAT32, {400});
      const Tensor many = of(FV_FLOAT32, {draws, 8}), log_prob = of(FV_FLOAT32, {draws}), index = of(FV_INT64, {draws});
      const Scribbler scribbler(c.*change.of, other.*change.of);
      const std::string title = isa + ": " + change.what + ", changing, " + std::to_string(queries) + " queries, ";
      meanwhile(report, title + "attention", change.what,
                [&](fv_error* error, bool*) { return fv_attention(&problem, out.view(), lse.view(), error); });
      meanwhile(report, title + "weights", change.what,
                [&](fv_error* error, bool*) { return fv_attention_weights(&without_value, weights.view(), error); });
      meanwhile(report, title + "hard", change.what, [&](fv_error* error, bool* right) {
        for (const fv_selection selection : {FV_DISTINCT, FV_SAMPLE}) {
          const fv_status status = fv_hard_attention(&without_sigma, selection, &key, draws, many.view(), index.view(),
                                                     log_prob.view(), error);
          if (status != FV_OK) return status;
          *right = within(index, -1, 400);
          if (!*right) break;
        }
        return FV_OK;
      });
      meanwhile(report, title + "gradients", change.what, [&](fv_error* error, bool*) {
        return fv_attention_backward(&problem, given.output.view(), given.lse.view(), soft.d_output.view(), nullptr,
                                     &gradients, error);
      });
      if (c.sigma > 0) continue;
      meanwhile(report, title + "hard gradients", change.what, [&](fv_error* error, bool*) {
        return fv_hard_attention_backward(&problem, draws, hard.index.view(), given.lse.view(), hard.d_output.view(),
                                          hard.advantage.view(), &gradients, error);
      });
    }
}

void scribble_on_choices(Report& report, const std::string& isa) {
  const Case c(FV_FLOAT32, 2, 3, 70, 400, 8, 8, 33);
  const fv_problem problem = c.problem();
  const Forward given = forward(c, FV_FLOAT32);
  const Pulled hard = pulled_for(c, 2, 34);
  const Pullback parts = empty_parts(c, hard, FV_FLOAT32);
  const fv_gradients gradients = views_of(parts);
  for (const double wrong : {0x1p62, -0x1p63}) {
    const Scribbler scribbler(hard.index, Tensor(FV_INT64, hard.index.shape(), wrong));
    meanwhile(report, isa + ": choices that change", "index: got", [&](fv_error* error, bool*) {
      return fv_hard_attention_backward(&problem, 2, hard.index.view(), given.lse.view(), hard.d_output.view(),
                                        hard.advantage.view(), &gradients, error);
    });
  }
}

}  // namespace

void test_scribbling(Report& report, const std::string& isa) {
  const Watchdog watchdog;
  scribble_on_draws(report, isa);
  scribble_on_reaches(report, isa);
  scribble_on_choices(report, isa);
}

}  // namespace kernel_tests
