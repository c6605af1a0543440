// One call's tasks while threads take them, in as many ranges as there are threads, or in one; and the interrupt check.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

#include "parallel.hpp"
#include "workspace.hpp"

namespace foveate {

// Between two interrupt checks of a long job.
constexpr std::chrono::milliseconds interrupt_period{50};

class Job {
 public:
  Job(int64_t tasks, int threads, Order, void (*run)(void*, const Task&), void* context) noexcept;

  // Takes tasks until there is none. The calling thread, 0, asks now and then whether to stop.
  void work(int thread) noexcept;

  // On the calling thread, now and then.
  void ask() noexcept;

  // Tasks that are not taken yet are left out.
  void stop() noexcept { stopped_.store(true, std::memory_order_relaxed); }
  bool stopped() const noexcept { return stopped_.load(std::memory_order_relaxed); }

 private:
  void take_tasks(int thread) noexcept;

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

}  // namespace foveate
