// The pool: threads of our own that help a call with its tasks.
#pragma once
#include "job.hpp"

namespace foveate::pool {

// Runs a job on the calling thread and so many helpers. False: another call has the helpers, and nothing was run.
bool run(Job&, int helpers) noexcept;

// To be called in a child of fork, which has none of the parent's threads but the one that forked: it starts helpers of
// its own.
void after_fork() noexcept;

}  // namespace foveate::pool
