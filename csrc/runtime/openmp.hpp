// What OpenMP says of this process. Only files of this name mention it.
#pragma once

namespace foveate::openmp {

// How many threads a parallel region would have; where there is no OpenMP, the number of CPUs.
int max_threads() noexcept;

// OMP_THREAD_LIMIT.
int thread_limit() noexcept;

// Whether the calling thread works in a parallel region.
bool in_parallel() noexcept;

}  // namespace foveate::openmp
