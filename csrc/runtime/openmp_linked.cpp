// The runtime that the engine is linked with, where it is.
#include <omp.h>

#include <algorithm>
#include <cstdio>

#include "foveate/foveate.h"
#include "libraries.hpp"
#include "openmp.hpp"

namespace foveate::openmp {
namespace {

void run(const Runtime&, void (*work)(void*), void* context, int threads) {
#pragma omp parallel num_threads(threads)
  work(context);
}

const int first = omp_get_max_threads();  // when the engine is loaded

class Linked {
 public:
  Linked() noexcept {
    const auto function = reinterpret_cast<const void*>(&omp_get_max_threads);
    std::snprintf(name_, sizeof name_, "linked: %s", libraries::path_of(function));
    runtime_ = {name_, first, usual(first), omp_get_max_threads, omp_get_thread_limit, omp_in_parallel, run};
  }
  const Runtime& runtime() const noexcept { return runtime_; }

 private:
  char name_[1024];
  Runtime runtime_;
};

}  // namespace

const Runtime& linked() noexcept {
  static const Linked one;
  return one.runtime();
}

}  // namespace foveate::openmp
