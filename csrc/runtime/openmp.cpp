// What all runtimes of the process say together.
#include "openmp.hpp"

#include <algorithm>

#include "environment.hpp"
#include "foveate/foveate.h"
#include "system.hpp"

namespace foveate::openmp {
namespace {

// When the engine is loaded, as the runtimes do.
const int at_load = environment_threads();

int environment_limit() noexcept {
  static const int limit = threads_in_environment("OMP_THREAD_LIMIT");
  return limit > 0 ? limit : FV_MAX_THREADS;
}

}  // namespace

const Runtime* runner() noexcept {
  for (int i = 0; const Runtime* const one = runtime(i); ++i) {
    if (one->run) return one;
  }
  return nullptr;
}

int environment_threads() noexcept {
  static const int count = threads_in_environment("OMP_NUM_THREADS", List::first);
  return count;
}

int usual(int first) noexcept {
  const int environment = environment_threads();
  return std::clamp(std::max(first, environment > 0 ? environment : system::cpus()), 1, FV_MAX_THREADS);
}

Set set_by_program() noexcept {
  Set set;
  for (int i = 0; const Runtime* const one = runtime(i); ++i) {
    const int threads = std::clamp(one->max_threads(), 1, FV_MAX_THREADS);
    if (threads == one->usual) continue;
    const bool lowered = threads < one->first;
    if (set.threads == 0 || (lowered && !set.lowered) || (lowered == set.lowered && threads < set.threads))
      set = {threads, lowered};
  }
  return set;
}

int thread_limit() noexcept {
  int limit = environment_limit();
  for (int i = 0; const Runtime* const one = runtime(i); ++i) {
    if (one->thread_limit) limit = std::min(limit, one->thread_limit());
  }
  return limit;
}

bool in_parallel() noexcept {
  for (int i = 0; const Runtime* const one = runtime(i); ++i) {
    if (one->in_parallel()) return true;
  }
  return false;
}

}  // namespace foveate::openmp
