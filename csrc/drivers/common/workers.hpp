// Workers of a kind, one for each thread, each in front of the memory that its constructor takes from a carver.
#pragma once
#include <new>

#include "runtime/workspace.hpp"

namespace foveate {

template <class W>
class Workers {
 public:
  template <class... Arguments>
  static size_t size_of_one(const Arguments&... arguments) noexcept {
    Carver carver(nullptr);
    carver.take<W>(1);
    W(arguments..., carver);
    return carver.used();
  }

  // In size_of_one(arguments...) bytes for each thread.
  template <class... Arguments>
  Workers(char* memory, int threads, const Arguments&... arguments) noexcept
      : memory_(memory), size_(size_of_one(arguments...)) {
    for (int t = 0; t < threads; ++t) {
      Carver carver(memory + size_ * size_t(t));
      W* const place = carver.take<W>(1);
      new (place) W(arguments..., carver);
    }
  }
  W& of(int thread) const { return *reinterpret_cast<W*>(memory_ + size_ * size_t(thread)); }

 private:
  char* memory_;
  size_t size_;
};

}  // namespace foveate
