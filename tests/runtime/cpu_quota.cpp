// Prints the CPU quota of the files under a folder: cpu_quota ROOT
#include "runtime/cpu_quota.hpp"

#include <cstdio>

int main(int argc, char** argv) {
  std::printf("%d\n", foveate::cpu_quota(argc > 1 ? argv[1] : ""));
  return 0;
}
