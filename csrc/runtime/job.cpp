// How tasks are taken from counters, and when the calling thread asks whether to stop.
#include "job.hpp"

#include "foveate/foveate.h"
#include "kernel_session.hpp"

namespace foveate {
namespace {

// Between two looks at the clock within a task: tens of microseconds, of which a look takes a thousandth.
constexpr double flops_between_looks = 1e6;
// A call may consist of many jobs, each shorter than the period. After a pause of this length another call has begun.
constexpr std::chrono::milliseconds pause_between_calls{500};

using Clock = std::chrono::steady_clock;

std::atomic<int (*)(void)> interrupt_check{nullptr};

// What this thread is working on.
struct Present {
  Job* job = nullptr;
  bool asks = false;  // the calling thread
  double flops = 0;   // since it looked at the clock
};
thread_local Present present;
thread_local Clock::time_point last_asked;  // or began a call

}  // namespace

Job::Job(int64_t tasks, int threads, Order order, void (*run)(void*, const Task&), void* context) noexcept
    : run_(run), context_(context) {
  if (order == Order::by_ranges && tasks >= threads && threads <= most_ranges) count_ = threads;
  step_ = threads / count_;
  for (int i = 0; i < count_; ++i) {
    ranges_[i].next.store(tasks * i / count_, std::memory_order_relaxed);
    ranges_[i].end = tasks * (i + 1) / count_;
  }
}

void Job::work(int thread) noexcept {
  const Present outer = present;  // of a call that a signal handler interrupted
  present = {this, thread == 0, 0};
  take_tasks(thread);
  present = outer;
}

void Job::take_tasks(int thread) noexcept {
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

void Job::ask() noexcept {
  int (*const check)(void) = interrupt_check.load(std::memory_order_relaxed);
  if (!check) return;
  const auto now = Clock::now();
  if (now - last_asked < interrupt_period) return;
  last_asked = now;
  const KernelPause pause;
  if (check()) stop();
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

void fv_set_interrupt_check(int (*check)(void)) noexcept {
  foveate::interrupt_check.store(check, std::memory_order_relaxed);
}
