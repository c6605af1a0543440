// The pool of threads, how many of it a call uses, and how its tasks are shared out, interrupted and survive a fork.
#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "foveate/foveate.h"
#include "kernel_session.hpp"
#include "workspace.hpp"
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace foveate {
namespace {

// Handing work to another thread costs a few microseconds; below this much work one thread is as fast (measured: at
// 50 GFLOP/s and more a core, half a million operations take 10 microseconds).
constexpr double least_flops = 5e5;
constexpr std::chrono::milliseconds interrupt_period{50};
// Between two looks at the clock within a task: tens of microseconds, of which a look takes a thousandth.
constexpr double flops_between_looks = 1e6;
// A call may consist of many jobs, each shorter than that. After a pause of this length another call has begun.
constexpr std::chrono::milliseconds pause_between_calls{500};
// How long a thread without work looks for more before it sleeps: waking it costs tens of microseconds.
constexpr std::chrono::microseconds spin_period{200};

using Clock = std::chrono::steady_clock;

std::atomic<int32_t> requested{0};
std::atomic<int (*)(void)> interrupt_check{nullptr};
std::atomic<bool> forked{false};  // a child of fork has no threads but the one that forked

// What fv_borrow_threads said on this thread.
struct Borrowed {
  fv_parallel run = nullptr;
  int32_t count = 0;
};
thread_local Borrowed borrowed;

inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Job;
// What this thread is working on.
struct Present {
  Job* job = nullptr;
  bool asks = false;  // the calling thread
  double flops = 0;   // since it looked at the clock
};
thread_local Present present;
thread_local Clock::time_point last_asked;  // or began a call

// One call's tasks, in as many ranges as there are threads, or in one.
class Job {
 public:
  Job(int64_t tasks, int threads, Order order, void (*run)(void*, const Task&), void* context) noexcept
      : run_(run), context_(context) {
    if (order == Order::by_ranges && tasks >= threads && threads <= most_ranges) count_ = threads;
    step_ = threads / count_;
    for (int i = 0; i < count_; ++i) {
      ranges_[i].next.store(tasks * i / count_, std::memory_order_relaxed);
      ranges_[i].end = tasks * (i + 1) / count_;
    }
  }

  // Takes tasks until there is none. The calling thread, 0, asks now and then whether to stop.
  void work(int thread) noexcept {
    const Present outer = present;  // of a call that a signal handler interrupted
    present = {this, thread == 0, 0};
    take_tasks(thread);
    present = outer;
  }

  // On the calling thread, now and then.
  void ask() noexcept {
    int (*const check)(void) = interrupt_check.load(std::memory_order_relaxed);
    if (!check) return;
    const auto now = Clock::now();
    if (now - last_asked < interrupt_period) return;
    last_asked = now;
    const KernelPause pause;
    if (check()) stopped_.store(true, std::memory_order_relaxed);
  }

  bool stopped() const noexcept { return stopped_.load(std::memory_order_relaxed); }

 private:
  void take_tasks(int thread) noexcept {
    if (thread == 0) {
      const auto now = Clock::now();
      if (now - last_asked > pause_between_calls) last_asked = now;
    }
    for (int i = 0; i < count_; ++i) {
      Range& range = ranges_[(thread + i) % count_];
      for (;;) {
        const int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= range.end) break;
        if (stopped()) return;
        run_(context_, {task, task + step_ < range.end ? task + step_ : -1, thread});
        if (thread == 0) ask();
      }
    }
  }

  static constexpr int most_ranges = 64;
  struct alignas(cache_line) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  void (*run_)(void*, const Task&);
  void* context_;
  int count_ = 1;
  int64_t step_;  // to the task that a thread is likely to take next
  std::atomic<bool> stopped_{false};
  Range ranges_[most_ranges];
};

// The critical sections below are a few instructions long: a thread that sleeps for one wakes tens of microseconds
// late.
void lock_soon(std::unique_lock<std::mutex>& lock) {
  for (int tries = 0; tries < 1000; ++tries) {
    if (lock.try_lock()) return;
    pause();
  }
  lock.lock();
}

// Threads that help a call. Unlike at an OpenMP barrier, the caller waits only for those that took a task, and does
// without a helper that has lost its core or is slow to wake. One call has the helpers at a time; a call that comes
// meanwhile, from another thread or from a signal handler, runs on its own thread alone.
class Helpers {
 public:
  bool run(Job& job, int helpers) noexcept {
    if (busy_.test_and_set(std::memory_order_acquire)) return false;
    lead(job, helpers);
    busy_.clear(std::memory_order_release);
    return true;
  }

 private:
  void lead(Job& job, int helpers) noexcept {
    std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
    lock_soon(lock);
    grow(helpers);
    keep_off_this_cpu();
    job_ = &job;
    places_ = helpers;
    calls_.fetch_add(1, std::memory_order_release);
    lock.unlock();
    wake_.notify_all();
    job.work(0);
    lock_soon(lock);
    job_ = nullptr;
    if (active_.load() == 0) return;
    lock.unlock();
    for (const auto end = Clock::now() + spin_period; active_.load(std::memory_order_acquire) > 0;) {
      pause();
      if (Clock::now() < end) continue;
      lock.lock();
      while (!done_.wait_for(lock, interrupt_period, [&] { return active_.load() == 0; })) {
        lock.unlock();
        job.ask();
        lock.lock();
      }
      break;
    }
  }

  void grow(int helpers) noexcept {
    while (threads_.size() < size_t(helpers)) {
#if defined(__unix__) || defined(__APPLE__)
      // signals are for the threads of the program: Ctrl-C must reach the main one
      sigset_t all, old;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &old);
#endif
      bool started = true;
      try {
        threads_.reserve(size_t(helpers));
        std::thread helper([this] { help(); });
        threads_.push_back(helper.native_handle());
        helper.detach();
        off_cpu_ = -1;
      } catch (const std::exception&) {
        started = false;  // as many as there can be
      }
#if defined(__unix__) || defined(__APPLE__)
      pthread_sigmask(SIG_SETMASK, &old, nullptr);
#endif
      if (!started) return;
    }
  }

  // A helper that is woken on the caller's own CPU, which the scheduler at times prefers to an idle one, only delays
  // the call: for a few milliseconds calls took twice as long as on one thread. Done again when the caller has moved.
  void keep_off_this_cpu() noexcept {
#if defined(__linux__)
    const int cpu = sched_getcpu();
    if (cpu == off_cpu_) return;
    cpu_set_t others;
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others) != 0) return;
    CPU_CLR(size_t(cpu), &others);
    if (CPU_COUNT(&others) == 0) return;
    for (const auto thread : threads_) pthread_setaffinity_np(thread, sizeof others, &others);
    off_cpu_ = cpu;
#endif
  }

  [[noreturn]] void help() noexcept {
    uint64_t seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return calls_.load() != seen; });
      for (;;) {
        seen = calls_.load();
        if (job_ && places_ > 0) {
          Job& job = *job_;
          const int thread = places_--;
          active_.fetch_add(1);
          lock.unlock();
          job.work(thread);
          lock_soon(lock);
          if (active_.fetch_sub(1) == 1) done_.notify_one();
        }
        lock.unlock();
        const auto end = Clock::now() + spin_period;
        while (calls_.load(std::memory_order_acquire) == seen && Clock::now() < end) pause();
        lock_soon(lock);
        if (calls_.load() == seen) break;
      }
    }
  }

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;  // a call has the helpers
  std::mutex mutex_;                          // guards what follows
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int places_ = 0;  // helpers that may still join, each with its number
  std::vector<std::thread::native_handle_type> threads_;
  int off_cpu_ = -1;  // which the threads keep off
  std::atomic<int> active_{0};
  std::atomic<uint64_t> calls_{0};
};

Helpers& helpers() noexcept {
  static Helpers* const all = new Helpers;  // never destroyed: its threads outlive static objects
  return *all;
}

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

// A whole number > 0, alone in an environment variable; 0: there is none.
int number_of(const char* name) noexcept {
  const char* text = std::getenv(name);
  if (!text || !*text) return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  while (std::isspace(static_cast<unsigned char>(*end))) ++end;
  return *end == '\0' && value > 0 ? int(std::min<long>(value, FV_MAX_THREADS)) : 0;
}

int openmp_threads() noexcept {
#ifdef _OPENMP
  return std::min(omp_get_max_threads(), FV_MAX_THREADS);
#else
  const unsigned count = std::thread::hardware_concurrency();
  return count ? int(std::min<unsigned>(count, FV_MAX_THREADS)) : 1;
#endif
}

// OMP_THREAD_LIMIT.
int thread_limit() noexcept {
#ifdef _OPENMP
  return omp_get_thread_limit();
#else
  static const int limit = number_of("OMP_THREAD_LIMIT");
  return limit > 0 ? limit : FV_MAX_THREADS;
#endif
}

bool in_parallel_region() noexcept {
#ifdef _OPENMP
  return omp_in_parallel();
#else
  return false;
#endif
}

// FOVEATE_NUM_THREADS as it was at the first call; 0: not set.
int environment_threads() noexcept {
  static const int count = number_of("FOVEATE_NUM_THREADS");
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

bool run_tasks(int64_t tasks, int threads, Order order, void (*run)(void*, const Task&), void* context) noexcept {
  threads = std::min(threads, FV_MAX_THREADS);
  Job job(tasks, threads, order, run, context);
  const bool alone = threads <= 1 || in_parallel_region() || forked.load(std::memory_order_relaxed);
  if (!alone && borrowed.run) {
    run_borrowed(job, threads);
  } else if (alone || !helpers().run(job, threads - 1)) {
    job.work(0);
  }
  return !job.stopped();
}

bool asked_to_stop(double flops) noexcept {
  Present& now = present;
  if (!now.job) return false;
  now.flops += flops;
  if (now.asks && now.flops >= flops_between_looks) {
    now.flops = 0;
    now.job->ask();
  }
  return now.job->stopped();
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
  const int openmp = openmp_threads();
  int wanted = requested.load(std::memory_order_relaxed);
  if (wanted == 0) wanted = environment_threads();
  if (wanted == 0 || (openmp < first_openmp_threads() && openmp < wanted)) wanted = openmp;
  return std::max(1, std::min(wanted, thread_limit()));
}

void fv_borrow_threads(fv_parallel run, int32_t count) noexcept {
  borrowed = {run, std::clamp(count, 0, FV_MAX_THREADS)};
}

void fv_set_interrupt_check(int (*check)(void)) noexcept { interrupt_check.store(check, std::memory_order_relaxed); }
