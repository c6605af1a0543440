// Threads that help a call. Unlike at an OpenMP barrier, the caller waits only for those that took a task, and does
// without a helper that has lost its core or is slow to wake. One call has the helpers at a time; a call that comes
// meanwhile, from another thread or from a signal handler, runs on its own thread alone.
#include "pool.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <vector>

#include "system.hpp"

namespace foveate::pool {
namespace {

// How long a thread without work looks for more before it sleeps: waking it costs tens of microseconds.
constexpr std::chrono::microseconds spin_period{200};

using Clock = std::chrono::steady_clock;

class Helpers;
std::atomic<Helpers*> current{nullptr};

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
    system::lock_soon(lock);
    grow(helpers);
    keep_off_this_cpu();
    job_ = &job;
    places_ = helpers;
    calls_.fetch_add(1, std::memory_order_release);
    lock.unlock();
    wake_.notify_all();
    job.work(0);
    if (lost(job)) return;
    system::lock_soon(lock);
    job_ = nullptr;
    if (active_.load() == 0) return;
    lock.unlock();
    for (const auto end = Clock::now() + spin_period; active_.load(std::memory_order_acquire) > 0;) {
      system::pause();
      if (Clock::now() < end) continue;
      lock.lock();
      while (!done_.wait_for(lock, interrupt_period, [&] { return active_.load() == 0; })) {
        lock.unlock();
        job.ask();
        if (lost(job)) return;
        lock.lock();
      }
      break;
    }
  }

  // Whether the interrupt check forked in the middle of the job, and this is the child: tasks that helpers had taken
  // will never be done.
  bool lost(Job& job) const noexcept {
    if (current.load(std::memory_order_relaxed) == this) return false;
    job.stop();
    return true;
  }

  void grow(int helpers) noexcept {
    try {
      while (threads_.size() < size_t(helpers)) {
        threads_.reserve(size_t(helpers));
        threads_.push_back(system::start_thread([](void* all) { static_cast<Helpers*>(all)->help(); }, this));
        off_cpu_ = -1;
      }
    } catch (const std::exception&) {  // as many as there can be
    }
  }

  // A helper that is woken on the caller's own CPU, which the scheduler at times prefers to an idle one, only delays
  // the call: for a few milliseconds calls took twice as long as on one thread. Done again when the caller has moved.
  void keep_off_this_cpu() noexcept {
    const int cpu = system::this_cpu();
    if (cpu != off_cpu_ && system::keep_off(cpu, threads_)) off_cpu_ = cpu;
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
          system::lock_soon(lock);
          if (active_.fetch_sub(1) == 1) done_.notify_one();
        }
        lock.unlock();
        const auto end = Clock::now() + spin_period;
        while (calls_.load(std::memory_order_acquire) == seen && Clock::now() < end) system::pause();
        system::lock_soon(lock);
        if (calls_.load() == seen) break;
      }
    }
  }

  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;  // a call has the helpers
  std::mutex mutex_;                          // guards what follows
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int places_ = 0;  // helpers that may still join, each with its number
  std::vector<system::Thread> threads_;
  int off_cpu_ = -1;  // which the threads keep off
  std::atomic<int> active_{0};
  std::atomic<uint64_t> calls_{0};
};

// Never destroyed: its threads outlive static objects, and a child of fork may find it in any state.
Helpers* helpers() noexcept {
  Helpers* all = current.load(std::memory_order_acquire);
  if (all) return all;
  Helpers* const made = new (std::nothrow) Helpers;
  if (current.compare_exchange_strong(all, made)) return made;
  delete made;
  return all;
}

}  // namespace

bool run(Job& job, int count) noexcept {
  Helpers* const all = helpers();
  return all && all->run(job, count);
}

void after_fork() noexcept { current.store(nullptr); }

}  // namespace foveate::pool
