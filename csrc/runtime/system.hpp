// What the operating system is asked for: which CPUs there are, to keep threads off one of them, that signals go to the
// program's own threads, to be told of a fork, and large pages. All #if of systems for these stand in system.cpp.
#pragma once
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace foveate::system {

using Thread = std::thread::native_handle_type;

// Tells the CPU that this thread waits in a loop.
inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// For critical sections of a few instructions: a thread that sleeps for one wakes tens of microseconds late.
inline void lock_soon(std::unique_lock<std::mutex>& lock) {
  for (int tries = 0; tries < 1000; ++tries) {
    if (lock.try_lock()) return;
    pause();
  }
  lock.lock();
}

// How many CPUs the calling thread may run on; at least 1.
int cpus() noexcept;

// The CPU that this thread runs on; -1: it is not known.
int this_cpu() noexcept;

// Lets threads run where the calling thread may, but not on this CPU. False: nothing was changed, as there is no other
// CPU, or the system has no such call.
bool keep_off(int cpu, const std::vector<Thread>& threads) noexcept;

// Asks for large pages where this memory fills some, as NumPy does for its arrays: faster to touch first, and to read.
void prefer_large_pages(void* memory, size_t bytes) noexcept;

// Starts a thread that takes no signals: those are for the threads of the program, and Ctrl-C must reach the main one.
// Throws what std::thread does.
Thread start_thread(void (*work)(void* context), void* context);

// Calls a function in every child that is forked from now on, before fork returns there.
void at_fork_in_child(void (*)()) noexcept;

// While a thread has one, no other thread has one, and none forks but itself. It is for what would stay locked, or half
// done, in a child: that has the thread that forked alone.
class NoFork {
 public:
  NoFork() noexcept;
  ~NoFork();
  NoFork(const NoFork&) = delete;
  NoFork& operator=(const NoFork&) = delete;

 private:
  bool outermost_;  // else this thread has one already: a signal handler ran in the middle
};

}  // namespace foveate::system
