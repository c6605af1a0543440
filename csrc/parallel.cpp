#include "parallel.hpp"

#include <atomic>
#include <chrono>
#include <cstdlib>

#include "foveate/foveate.h"
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace foveate {
namespace {

// A parallel region costs 2 to 5 microseconds; below this much work one thread is as fast (measured: at 50 GFLOP/s and
// more a core, half a million operations take 10 microseconds).
constexpr double least_flops = 5e5;
constexpr std::chrono::milliseconds interrupt_period{50};

std::atomic<int32_t> requested{0};
std::atomic<int (*)(void)> interrupt_check{nullptr};
std::atomic<bool> forked{false};  // libgomp hangs in a child that was forked after a parallel region: one thread there

int openmp_threads() noexcept {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// FOVEATE_NUM_THREADS as it was at the first call; 0: not set.
int environment_threads() noexcept {
  static const int count = [] {
    const char* text = std::getenv("FOVEATE_NUM_THREADS");
    const long value = text ? std::strtol(text, nullptr, 10) : 0;
    return value > 0 && value < 4096 ? int(value) : 0;
  }();
  return count;
}

// What OpenMP said first: where it says less later (threadpoolctl, omp_set_num_threads), that limit holds too.
int first_openmp_threads() noexcept {
  static const int count = openmp_threads();
  return count;
}

struct Setup {
  Setup() noexcept {
    first_openmp_threads();
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif
  }
};
const Setup setup;

}  // namespace

int threads_for(int64_t tasks, double flops) noexcept {
  if (tasks <= 1 || flops < least_flops) return 1;
  const int most = fv_get_num_threads();
  return tasks < most ? int(tasks) : most;
}

bool run_tasks(int64_t tasks, int threads, void (*run)(void*, int64_t, int), void* context) noexcept {
  std::atomic<int64_t> next{0};
  std::atomic<bool> stopped{false};
  const auto work = [&](int thread) {
    int (*const check)(void) = thread == 0 ? interrupt_check.load(std::memory_order_relaxed) : nullptr;
    auto last = check ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point{};
    for (;;) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks || stopped.load(std::memory_order_relaxed)) return;
      run(context, task, thread);
      if (!check) continue;
      const auto now = std::chrono::steady_clock::now();
      if (now - last < interrupt_period) continue;
      last = now;
      if (check()) stopped.store(true, std::memory_order_relaxed);
    }
  };
#ifdef _OPENMP
  if (threads > 1 && !omp_in_parallel() && !forked.load(std::memory_order_relaxed)) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num());
    return !stopped.load();
  }
#endif
  work(0);
  return !stopped.load();
}

}  // namespace foveate

using namespace foveate;

void fv_set_num_threads(int32_t count) noexcept { requested.store(count > 0 ? count : 0, std::memory_order_relaxed); }

int32_t fv_requested_num_threads(void) noexcept { return requested.load(std::memory_order_relaxed); }

int32_t fv_get_num_threads(void) noexcept {
  if (forked.load(std::memory_order_relaxed)) return 1;
  const int openmp = openmp_threads();
  int wanted = requested.load(std::memory_order_relaxed);
  if (wanted == 0) wanted = environment_threads();
  if (wanted == 0) return openmp;
  return openmp < first_openmp_threads() && openmp < wanted ? openmp : wanted;
}

void fv_set_interrupt_check(int (*check)(void)) noexcept { interrupt_check.store(check, std::memory_order_relaxed); }
