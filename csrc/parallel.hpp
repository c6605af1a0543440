// Threads. Together with parallel.cpp the only place that names OpenMP, which says how many there may be. Tasks are
// taken one by one from a shared counter, and the caller waits only for those that were taken: a thread which loses its
// core holds up nothing else.
#pragma once
#include <cstdint>

namespace foveate {

// How many threads a call with this many tasks and floating-point operations should use.
int threads_for(int64_t tasks, double flops) noexcept;

// Calls run(context, task, thread) for every task, 0 <= thread < threads. False: the interrupt check said stop, and
// some tasks were left out.
bool run_tasks(int64_t tasks, int threads, void (*run)(void* context, int64_t task, int thread),
               void* context) noexcept;

template <class F>
bool run_tasks(int64_t tasks, int threads, F&& f) noexcept {
  return run_tasks(
      tasks, threads, [](void* context, int64_t task, int thread) { (*static_cast<F*>(context))(task, thread); }, &f);
}

}  // namespace foveate
