// Threads. Together with parallel.cpp the only place that names OpenMP, which says how many there may be. Tasks are
// taken one by one from shared counters, and the caller waits only for those that were taken: a thread which loses its
// core holds up nothing else.
#pragma once
#include <cstdint>

namespace foveate {

// How many threads a call with this many tasks and floating-point operations should use.
int threads_for(int64_t tasks, double flops) noexcept;

// How tasks are handed out. in_order: from one counter, for tasks that grow lighter. by_ranges: each thread takes its own
// range of neighbours first, which share data, and then what is left of the others'.
enum class Order { in_order, by_ranges };

// One task, the one that its thread takes next (a guess; -1: none), and the thread.
struct Task {
  int64_t index, next;
  int thread;
};

// Calls run(context, task) for every task, 0 <= thread < threads. False: the interrupt check said stop, and some tasks
// were left out.
bool run_tasks(int64_t tasks, int threads, Order, void (*run)(void* context, const Task&), void* context) noexcept;

// Whether the tasks of this thread's job are to stop, asked within a task that may be long, after so many operations: it
// then leaves the rest of its work undone, since nobody will look at the answer. The calling thread asks the interrupt
// check by the clock, the others learn of it.
bool asked_to_stop(double flops) noexcept;

template <class F>
bool run_tasks(int64_t tasks, int threads, Order order, F&& f) noexcept {
  return run_tasks(
      tasks, threads, order, [](void* context, const Task& task) { (*static_cast<F*>(context))(task); }, &f);
}

}  // namespace foveate
