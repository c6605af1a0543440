// Threads: how many a call uses, and on which its tasks run. Tasks are taken one by one from shared counters, so that a
// thread that loses its core holds up nothing else.
#pragma once
#include <cstdint>

namespace foveate {

// How many threads a call with this many tasks and floating-point operations should use.
int threads_for(int64_t tasks, double flops) noexcept;

// How tasks are handed out. in_order: from one counter, for tasks that grow lighter. by_ranges: each thread takes its
// own range first, whose tasks share data with their neighbors, and then what is left of the other ranges.
enum class Order { in_order, by_ranges };

// One task, the task that its thread will probably take next (-1: none), and the thread.
struct Task {
  int64_t index, next;
  int thread;
};

// Calls run(context, task) for every task, 0 <= thread < threads. False: the interrupt check asked to stop, and some
// tasks were left out.
bool run_tasks(int64_t tasks, int threads, Order, void (*run)(void* context, const Task&), void* context) noexcept;

// How often this process, or one that it was forked from, was forked off another: what has changed is a child, without the
// threads that its parent had.
uint32_t forks_so_far() noexcept;

// Whether the tasks of this thread's job are to stop. A long task asks this now and then, after `flops` more
// operations, and then leaves the rest of its work undone, since nobody will read the answer. The calling thread calls
// the interrupt check, by the clock; the other threads see its result.
bool asked_to_stop(double flops) noexcept;

template <class F>
bool run_tasks(int64_t tasks, int threads, Order order, F&& f) noexcept {
  return run_tasks(
      tasks, threads, order, [](void* context, const Task& task) { (*static_cast<F*>(context))(task); }, &f);
}

}  // namespace foveate
