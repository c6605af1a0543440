// The OpenMP runtimes of this process: what they say of threads, and threads of theirs to work on. They are the one that
// the engine is linked with, where it is (openmp_linked.cpp), and those that the process has loaded for others
// (openmp_found.cpp). Only files of this name mention OpenMP.
#pragma once

namespace foveate::openmp {

struct Runtime {
  const char* name;  // for people: where it is from
  int first;         // what max_threads said first
  int usual;         // and what it says unless a program sets it, which may have been before
  int (*max_threads)();
  int (*thread_limit)();  // null: it has none
  int (*in_parallel)();
  // Calls work(context) on so many threads at once, or fewer; the calling one is among them. Null: it cannot.
  void (*run)(const Runtime&, void (*work)(void* context), void* context, int threads);
};

// Those that there are now, in the order in which they came; null: no more. They stay for good.
const Runtime* runtime(int index) noexcept;

const Runtime& linked() noexcept;  // the first of them; only in a build that is linked with one

// The first that can run; null: there is none.
const Runtime* runner() noexcept;

// OMP_NUM_THREADS as it was when the engine was loaded; 0: not set.
int environment_threads() noexcept;

// Runtime::usual by what max_threads said first.
int usual(int first) noexcept;

// A number of threads that a program has set (omp_set_num_threads, threadpoolctl). Where it set several, the least; if
// it lowered one to less than that said first, that. 0: it set none.
struct Set {
  int threads = 0;
  bool lowered = false;
};
Set set_by_program() noexcept;

// OMP_THREAD_LIMIT, and what the runtimes make of it.
int thread_limit() noexcept;

// Whether the calling thread works in a parallel region.
bool in_parallel() noexcept;

}  // namespace foveate::openmp
