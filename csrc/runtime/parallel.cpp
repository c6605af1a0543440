// How many threads a call uses, and who runs its tasks: the pool, threads that were lent, or the calling thread alone.
#include "parallel.hpp"

#include <algorithm>
#include <atomic>

#include "environment.hpp"
#include "foveate/foveate.h"
#include "job.hpp"
#include "openmp.hpp"
#include "pool.hpp"
#include "system.hpp"

namespace foveate {
namespace {

// Handing work to another thread costs a few microseconds; below this much work one thread is as fast (measured: at
// 50 GFLOP/s and more a core, half a million operations take 10 microseconds).
constexpr double least_flops = 5e5;

std::atomic<int32_t> requested{0};
std::atomic<bool> forked{false};  // a child of fork has no threads but the one that forked

// What fv_borrow_threads said on this thread.
struct Borrowed {
  fv_parallel run = nullptr;
  int32_t count = 0;
};
thread_local Borrowed borrowed;

// Runs a job on threads that were lent; all of them are waited for.
void run_borrowed(Job& job, int threads) noexcept {
  struct Team {
    Job& job;
    const void* caller;  // an address that is the calling thread's own
    std::atomic<int> others{0};
  };
  Team team{job, &borrowed};
  borrowed.run(
      [](void* context) {
        Team& team = *static_cast<Team*>(context);
        team.job.work(team.caller == &borrowed ? 0 : 1 + team.others.fetch_add(1, std::memory_order_relaxed));
      },
      &team, unsigned(threads), 0);
}

// FOVEATE_NUM_THREADS as it was at the first call; 0: not set.
int environment_threads() noexcept {
  static const int count = threads_in_environment("FOVEATE_NUM_THREADS");
  return count;
}

// What OpenMP said first: where it says less later (threadpoolctl, omp_set_num_threads), that limit holds too.
int first_openmp_threads() noexcept {
  static const int count = openmp::max_threads();
  return count;
}

struct Setup {
  Setup() noexcept {
    first_openmp_threads();
    system::at_fork_in_child([] { forked.store(true, std::memory_order_relaxed); });
  }
};
const Setup setup;

}  // namespace

int threads_for(int64_t tasks, double flops) noexcept {
  if (tasks <= 1 || flops < least_flops) return 1;
  const int most = fv_get_num_threads();
  return tasks < most ? int(tasks) : most;
}

bool run_tasks(int64_t tasks, int threads, Order order, void (*run)(void*, const Task&), void* context) noexcept {
  threads = std::min(threads, FV_MAX_THREADS);
  Job job(tasks, threads, order, run, context);
  const bool alone = threads <= 1 || openmp::in_parallel() || forked.load(std::memory_order_relaxed);
  if (!alone && borrowed.run) {
    run_borrowed(job, threads);
  } else if (alone || !pool::run(job, threads - 1)) {
    job.work(0);
  }
  return !job.stopped();
}

}  // namespace foveate

using namespace foveate;

void fv_set_num_threads(int32_t count) noexcept {
  requested.store(std::clamp(count, 0, FV_MAX_THREADS), std::memory_order_relaxed);
}

int32_t fv_requested_num_threads(void) noexcept { return requested.load(std::memory_order_relaxed); }

int32_t fv_get_num_threads(void) noexcept {
  if (forked.load(std::memory_order_relaxed)) return 1;
  if (borrowed.count > 0) return borrowed.count;
  const int openmp = openmp::max_threads();
  int wanted = requested.load(std::memory_order_relaxed);
  if (wanted == 0) wanted = environment_threads();
  if (wanted == 0 || (openmp < first_openmp_threads() && openmp < wanted)) wanted = openmp;
  return std::max(1, std::min(wanted, openmp::thread_limit()));
}

void fv_borrow_threads(fv_parallel run, int32_t count) noexcept {
  borrowed = {run, std::clamp(count, 0, FV_MAX_THREADS)};
}
