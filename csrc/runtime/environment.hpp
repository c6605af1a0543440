// Numbers in environment variables.
#pragma once

namespace foveate {

// What may stand beside a number: nothing, or after a comma those of nested regions, of which the first is meant.
enum class List { none, first };

// A whole number > 0 in an environment variable, at most FV_MAX_THREADS; 0: there is none.
int threads_in_environment(const char* name, List = List::none) noexcept;

}  // namespace foveate
