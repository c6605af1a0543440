// The share of the machine's time that a container may use: the CPU quotas of Linux's control groups, of both versions.
#pragma once
#include <string>

namespace foveate {

// The tightest quota of this process's groups and of those above them, in CPUs, rounded up; 0: there is none. Files are
// looked for under `root`, for tests.
int cpu_quota(const std::string& root = "") noexcept;

}  // namespace foveate
