// The pool: threads of our own that help a call with its tasks.
#pragma once
#include "job.hpp"

namespace foveate::pool {

// Runs a job on the calling thread and so many helpers. False: another call has the helpers, and nothing was run.
bool run(Job&, int helpers) noexcept;

}  // namespace foveate::pool
