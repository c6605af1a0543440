// /proc/self/cgroup says in which group the process is, and /proc/self/mountinfo where the groups' files are:
//   version 2   cpu.max: "QUOTA PERIOD" or "max PERIOD"
//   version 1   cpu.cfs_quota_us, -1 for none, and cpu.cfs_period_us
// A container often sees its own group as the topmost, or one that is not visible at all; then the files of the topmost
// folder are its own.
#include "cpu_quota.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <fstream>
#include <limits>
#include <sstream>

namespace foveate {
namespace {

constexpr double none = std::numeric_limits<double>::infinity();

double ratio(double quota, double period) { return quota > 0 && period > 0 ? quota / period : none; }

double quota_of_folder(const std::string& folder, bool second_version) {
  double quota = 0, period = 0;
  if (second_version) {
    std::ifstream(folder + "/cpu.max") >> quota >> period;  // "max" is no number
  } else {
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  }
  return ratio(quota, period);
}

bool names_cpu(const std::string& list) { return ("," + list + ",").find(",cpu,") != std::string::npos; }

// Of this process, in the hierarchy of a version; empty: it is in none.
std::string group(const std::string& root, bool second_version) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // 4:cpu,cpuacct:/path, or 0::/path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (second_version ? controllers.empty() : names_cpu(controllers)) return line.substr(second + 1);
  }
  return "";
}

// From the folder of the group up to the topmost that is mounted.
double quota_of_mount(const std::string& mount, std::string below, bool second_version) {
  double least = none;
  for (;;) {
    least = std::min(least, quota_of_folder(mount + below, second_version));
    if (below.empty()) return least;
    below.resize(below.rfind('/'));
  }
}

double quota(const std::string& root) {
  double least = none;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {  // 36 35 0:31 ROOT FOLDER options ... - TYPE source OPTIONS
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::string skipped, top, folder, type, options;
    std::istringstream(line) >> skipped >> skipped >> skipped >> top >> folder;
    std::istringstream(line.substr(dash + 3)) >> type >> skipped >> options;
    const bool second_version = type == "cgroup2";
    if (!second_version && !(type == "cgroup" && names_cpu(options))) continue;
    std::string path = group(root, second_version);
    if (path.empty() || path[0] != '/') continue;
    if (top == "/") top.clear();
    const bool visible = path.compare(0, top.size(), top) == 0 && path.compare(top.size(), 3, "/..") != 0;
    path = visible ? path.substr(top.size()) : "";
    while (!path.empty() && path.back() == '/') path.pop_back();
    if (!path.empty() && path[0] != '/') path.clear();  // another group, whose name begins alike
    least = std::min(least, quota_of_mount(root + folder, path, second_version));
  }
  return least;
}

}  // namespace

int cpu_quota(const std::string& root) noexcept {
  try {
    const double cpus = std::ceil(quota(root));
    return cpus < 1 << 20 ? int(cpus) : 0;
  } catch (const std::exception&) {
    return 0;
  }
}

}  // namespace foveate
