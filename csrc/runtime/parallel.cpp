// How many threads a call uses, and who runs its tasks: the pool, a runtime of OpenMP, threads that were lent, or the
// calling thread alone.
#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "cpu_quota.hpp"
#include "environment.hpp"
#include "foveate/foveate.h"
#include "openmp.hpp"
#include "pool.hpp"
#include "refuse.hpp"
#include "system.hpp"
#include "team.hpp"

namespace foveate {
namespace {

// Handing work to another thread costs a few microseconds; below this much work one thread is as fast (measured: at
// 50 GFLOP/s and more a core, half a million operations take 10 microseconds).
constexpr double least_flops = 5e5;

std::atomic<int32_t> requested{0};
std::atomic<bool> forked{false};  // a child of fork: threads of others that the parent had are not here
std::atomic<uint32_t> forks{0};
std::atomic<int> usable_threads{0};  // without a word of anybody; 0: not known yet

// What fv_borrow_threads said on this thread.
struct Borrowed {
  fv_parallel run = nullptr;
  int32_t count = 0;
};
thread_local Borrowed borrowed;

enum Threading { not_set, by_pool, by_openmp };
std::atomic<Threading> requested_threading{not_set};
KeptNumber environment_threading, environment_count;

Threading threading_named(const char* name) noexcept {
  if (name && std::strcmp(name, "pool") == 0) return by_pool;
  if (name && std::strcmp(name, "openmp") == 0) return by_openmp;
  return not_set;
}

// The runtime to run on; null: the pool.
const openmp::Runtime* openmp_runner() noexcept {
  Threading wanted = requested_threading.load(std::memory_order_relaxed);
  if (wanted == not_set)
    wanted = Threading(environment_threading.get([] { return threading_named(std::getenv("FOVEATE_THREADING")); }));
  return wanted == by_openmp && !forked.load(std::memory_order_relaxed) ? openmp::runner() : nullptr;
}

// FOVEATE_NUM_THREADS as it was at the first call; 0: not set.
int environment_threads() noexcept {
  return environment_count.get([] { return threads_in_environment("FOVEATE_NUM_THREADS"); });
}

// OMP_NUM_THREADS, or else as many as there are CPUs, by number and by time, when this is first asked.
int default_threads() noexcept {
  int count = usable_threads.load(std::memory_order_relaxed);
  if (count > 0) return count;
  count = openmp::environment_threads();
  if (count == 0) {
    const system::NoFork whole;  // the standard library locks what it keeps of a locale
    const int quota = cpu_quota();
    count = std::min(system::cpus(), quota > 0 ? quota : FV_MAX_THREADS);
  }
  usable_threads.store(count, std::memory_order_relaxed);
  return count;
}

void after_fork() noexcept {
  forked.store(true, std::memory_order_relaxed);
  forks.fetch_add(1, std::memory_order_relaxed);
  usable_threads.store(0, std::memory_order_relaxed);
  pool::after_fork();
}

struct Setup {
  Setup() noexcept { system::at_fork_in_child(after_fork); }
};
const Setup setup;

}  // namespace

int threads_for(int64_t tasks, double flops) noexcept {
  if (tasks <= 1 || flops < least_flops) return 1;
  const int most = fv_get_num_threads();
  return tasks < most ? int(tasks) : most;
}

uint32_t forks_so_far() noexcept { return forks.load(std::memory_order_relaxed); }

bool run_tasks(int64_t tasks, int threads, Order order, void (*run)(void*, const Task&), void* context) noexcept {
  threads = std::min(threads, FV_MAX_THREADS);
  Job job(tasks, threads, order, run, context);
  const bool lent = borrowed.run;
  if (threads <= 1 || openmp::in_parallel() || (lent && forked.load(std::memory_order_relaxed))) {
    job.work(0);
  } else if (lent) {
    Team team(job);
    borrowed.run(Team::work, &team, unsigned(threads), 0);
  } else if (const openmp::Runtime* const runtime = openmp_runner()) {
    Team team(job);
    runtime->run(*runtime, Team::work, &team, threads);
  } else if (!pool::run(job, threads - 1)) {
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
  if (borrowed.count > 0) return forked.load(std::memory_order_relaxed) ? 1 : borrowed.count;
  int wanted = requested.load(std::memory_order_relaxed);
  if (wanted == 0) wanted = environment_threads();
  const openmp::Set set = openmp::set_by_program();
  if (wanted == 0) {
    wanted = set.threads > 0 ? set.threads : default_threads();
  } else if (set.lowered) {
    wanted = std::min(wanted, set.threads);
  }
  return std::max(1, std::min(wanted, openmp::thread_limit()));
}

void fv_borrow_threads(fv_parallel run, int32_t count) noexcept {
  borrowed = {run, std::clamp(count, 0, FV_MAX_THREADS)};
}

fv_status fv_set_threading(const char* name, fv_error* error) noexcept {
  const Threading wanted = threading_named(name);
  if (wanted == not_set)
    return refuse(error, FV_VALUE_ERROR, "threading: got \"%.40s\", wanted \"pool\" or \"openmp\"", name ? name : "");
  if (wanted == by_openmp && !openmp::runner())
    return refuse(
        error, FV_VALUE_ERROR,
        "threading: got \"openmp\" where the process has no OpenMP runtime, wanted \"pool\" (one comes with a "
        "library that uses OpenMP, once it is loaded, or with a foveate that is built with FOVEATE_OPENMP=ON)");
  requested_threading.store(wanted, std::memory_order_relaxed);
  return FV_OK;
}

const char* fv_get_threading(void) noexcept { return openmp_runner() ? "openmp" : "pool"; }

const char* fv_openmp_name(int32_t index) noexcept {
  for (int i = 0; const openmp::Runtime* const one = openmp::runtime(i); ++i) {
    if (i == index) return one->name;
  }
  return nullptr;
}
