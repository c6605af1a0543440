// A program forks while its threads are in calls, ask for the number of threads, and begin and end: every child computes,
// with threads of its own, and hangs at nothing that those threads held.
//   foveate_forks [children] [threading]
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "call.hpp"

using namespace kernel_tests;

namespace {

constexpr unsigned patience = 20;  // seconds, for what takes milliseconds

// How it ended; 0: well.
int status_of_child(const Case& problem, const Result& wanted) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(patience);
    const bool holds = same(run(problem, 2), wanted) && std::strcmp(fv_get_threading(), "pool") == 0;
    _exit(holds ? 0 : 1);
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

}  // namespace

int main(int argc, char** argv) {
  const int children = argc > 1 ? std::atoi(argv[1]) : 400;
  const char* const threading = argc > 2 ? argv[2] : "pool";
  fv_error error = {};
  if (fv_set_threading(threading, &error) != FV_OK) {
    std::printf("left out: %s\n", error.message);
    return 0;
  }
  const Case problem(FV_FLOAT32, 2, 2, 64, 64, 16, 16, 1);
  const Result wanted = run(problem, 1);
  std::atomic<bool> done{false};
  std::atomic<long> calls{0}, wrong{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    while (!done.load()) fv_get_num_threads();
  });
  threads.emplace_back([&] {
    for (; !done.load(); ++calls) wrong += !same(run(problem, 2), wanted);
  });
  threads.emplace_back([&] {  // its threads have nothing of earlier calls
    for (; !done.load(); ++calls) std::thread([&] { wrong += !same(run(problem, 2), wanted); }).join();
  });
  int failed = 0, made = 0;
  for (; made < children && failed < 3; ++made) {
    const int status = status_of_child(problem, wanted);
    if (status == 0) continue;
    ++failed;
    std::printf("child %d: %s\n", made, WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "hung" : "failed");
  }
  done.store(true);
  for (std::thread& thread : threads) thread.join();
  std::printf("%s: %d children, of which %d failed, beside %ld calls, of which %ld had other bits\n", threading, made,
              failed, calls.load(), wrong.load());
  return failed != 0 || wrong.load() != 0;
}
