// A job on threads of others: those of an OpenMP runtime, or those that were lent. What runs the team waits for all of
// them, but the calling thread asks the interrupt check as long as others have tasks.
#pragma once
#include <atomic>

#include "job.hpp"

namespace foveate {

class Team {
 public:
  explicit Team(Job&) noexcept;

  // What each thread calls, with the team as its context; the one that made the team among them.
  static void work(void* team) noexcept;

 private:
  void lead() noexcept;

  Job& job_;
  const void* leader_;
  std::atomic<int> helpers_{0};  // so far
  std::atomic<int> working_{0};  // helpers that may have a task
};

}  // namespace foveate
