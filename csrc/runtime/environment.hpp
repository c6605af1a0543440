// Numbers in environment variables.
#pragma once

namespace foveate {

// A whole number > 0, alone in an environment variable, at most FV_MAX_THREADS; 0: there is none.
int threads_in_environment(const char* name) noexcept;

}  // namespace foveate
