// What the OpenMP runtime says that the engine is linked with; without one, the environment.
#include "openmp.hpp"

#include <algorithm>

#include "environment.hpp"
#include "foveate/foveate.h"
#include "system.hpp"
#ifdef _OPENMP
#include <omp.h>
#endif

namespace foveate::openmp {

int max_threads() noexcept {
#ifdef _OPENMP
  return std::min(omp_get_max_threads(), FV_MAX_THREADS);
#else
  return std::min(system::cpus(), FV_MAX_THREADS);
#endif
}

int thread_limit() noexcept {
#ifdef _OPENMP
  return omp_get_thread_limit();
#else
  static const int limit = threads_in_environment("OMP_THREAD_LIMIT");
  return limit > 0 ? limit : FV_MAX_THREADS;
#endif
}

bool in_parallel() noexcept {
#ifdef _OPENMP
  return omp_in_parallel();
#else
  return false;
#endif
}

}  // namespace foveate::openmp
