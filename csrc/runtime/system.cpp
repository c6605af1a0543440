// The forms of system.hpp for each operating system; where one has no such call, nothing is done.
#include "system.hpp"

#include <cstdint>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#elif defined(_WIN32)
#include <windows.h>
#endif

namespace foveate::system {
namespace {

std::mutex whole;
thread_local volatile bool has_whole = false;  // or is about to, or had: a signal handler may run between

// False: this thread had it already.
bool take_whole() noexcept {
  if (has_whole) return false;
  has_whole = true;
  std::unique_lock<std::mutex> lock(whole, std::defer_lock);
  lock_soon(lock);
  lock.release();
  return true;
}

void leave_whole() noexcept {
  whole.unlock();
  has_whole = false;
}

#if defined(__unix__) || defined(__APPLE__)
thread_local bool taken_for_fork;  // by the thread that forks, which is also the child's

void before_fork() noexcept { taken_for_fork = take_whole(); }
void after_fork() noexcept {
  if (taken_for_fork) leave_whole();
}

struct Setup {
  Setup() noexcept { pthread_atfork(before_fork, after_fork, after_fork); }
};
const Setup setup;
#endif

}  // namespace

NoFork::NoFork() noexcept : outermost_(take_whole()) {}
NoFork::~NoFork() {
  if (outermost_) leave_whole();
}

int cpus() noexcept {
#if defined(__linux__)
  for (int most = 1024; most <= 1 << 20; most *= 2) {  // the kernel refuses a set that is smaller than its own
    cpu_set_t* const set = CPU_ALLOC(size_t(most));
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(size_t(most));
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
#elif defined(_WIN32)
  USHORT groups[64], group_count = 64;  // of at most 64 CPUs each, which the threads of this process may use
  if (GetProcessGroupAffinity(GetCurrentProcess(), &group_count, groups) && group_count > 1) {
    DWORD all = 0;
    for (int i = 0; i < group_count; ++i) all += GetActiveProcessorCount(groups[i]);
    return int(all);
  }
  DWORD_PTR allowed = 0, present = 0;  // of the one group
  if (GetProcessAffinityMask(GetCurrentProcess(), &allowed, &present) && allowed) return __builtin_popcountll(allowed);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? int(count) : 1;
}

void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

int this_cpu() noexcept {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

#if defined(__linux__)
bool keep_off(int cpu, const std::vector<Thread>& threads) noexcept {
  cpu_set_t others;
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others) != 0) return false;
  CPU_CLR(size_t(cpu), &others);
  if (CPU_COUNT(&others) == 0) return false;
  for (const Thread thread : threads) pthread_setaffinity_np(thread, sizeof others, &others);
  return true;
}
#else
// macOS binds no thread to CPUs. A mask of Windows would bind threads to one group of CPUs, and whether they are woken on
// the caller's CPU there was not measured.
bool keep_off(int, const std::vector<Thread>&) noexcept { return false; }
#endif

Thread start_thread(void (*work)(void*), void* context) {
#if defined(__unix__) || defined(__APPLE__)
  struct Blocked {
    sigset_t before;
    Blocked() {
      sigset_t all;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
  } const blocked;
#endif
  std::thread thread(work, context);
  const Thread handle = thread.native_handle();
  thread.detach();
  return handle;
}

void at_fork_in_child(void (*then)()) noexcept {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, then);
#else
  (void)then;  // nothing forks
#endif
}

}  // namespace foveate::system
