// Runtimes that the process has loaded, for others such as torch, scikit-learn or the program itself. They are found by
// the names of their files, as threadpoolctl does, and asked through their symbols. What is loaded later is found at the
// next call. A runtime that was found stays loaded.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "libraries.hpp"
#include "openmp.hpp"

namespace foveate::openmp {
namespace {

// GCC's, LLVM's and Intel's; on Windows these and Microsoft's.
constexpr const char* file_names[] = {"libgomp",        "libomp",      "libiomp",
                                      "libgomp-1.dll",  "libomp.dll",  "libomp140.x86_64.dll",
                                      "libiomp5md.dll", "vcomp140.dll"};
constexpr int file_name_count = sizeof file_names / sizeof *file_names;

// What a compiler calls for a parallel region: GCC, and Clang, whose runtime takes GCC's calls too but on Windows.
using GompParallel = void (*)(void (*work)(void*), void* context, unsigned threads, unsigned flags);
struct Place {  // of a region in a source
  int32_t reserved_1 = 0, flags = 2, reserved_2 = 0, reserved_3 = 0;
  const char* text = ";unknown;unknown;0;0;;";
};
using KmpTask = void (*)(int32_t* thread, int32_t* number, void (*work)(void*), void* context);
using KmpForkCall = void (*)(Place*, int32_t count, KmpTask, ...);
using KmpThread = int32_t (*)(Place*);
using KmpPushThreads = void (*)(Place*, int32_t thread, int32_t threads);

struct Found : Runtime {
  GompParallel gomp_parallel;
  KmpForkCall kmp_fork_call;  // null: neither LLVM's nor Intel's
  KmpThread kmp_thread;
  KmpPushThreads kmp_push_threads;
  char text[1024];

  // False: this is no runtime. What was read stays loaded, as another may have called it.
  bool read(const char* path) noexcept {
    void* const library = libraries::keep(path);
    if (!library) return false;
    const auto get = [library](auto& function, const char* symbol) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(libraries::symbol(library, symbol));
    };
    get(max_threads, "omp_get_max_threads");
    get(thread_limit, "omp_get_thread_limit");
    get(in_parallel, "omp_in_parallel");
    get(gomp_parallel, "GOMP_parallel");
    get(kmp_fork_call, "__kmpc_fork_call");
    get(kmp_thread, "__kmpc_global_thread_num");
    get(kmp_push_threads, "__kmpc_push_num_threads");
    run = gomp_parallel ? by_gomp : kmp_fork_call && kmp_thread && kmp_push_threads ? by_kmp : nullptr;
    std::snprintf(text, sizeof text, "found: %s", path);
    name = text;
    return max_threads && in_parallel;
  }

  static void by_gomp(const Runtime& runtime, void (*work)(void*), void* context, int threads) {
    static_cast<const Found&>(runtime).gomp_parallel(work, context, unsigned(threads), 0);
  }

  static void by_kmp(const Runtime& runtime, void (*work)(void*), void* context, int threads) {
    const Found& own = static_cast<const Found&>(runtime);
    Place here;
    own.kmp_push_threads(&here, own.kmp_thread(&here), threads);
    own.kmp_fork_call(
        &here, 2, [](int32_t*, int32_t*, void (*work)(void*), void* context) { work(context); }, work, context);
  }
};

// Only grows, so that it is read without a lock.
constexpr int most = 8;
Found known[most];
std::atomic<int> known_count{0};

bool is_among(const Found& found, const Found* some, int count) noexcept {
  for (int i = 0; i < count; ++i) {
    if (found.max_threads == some[i].max_threads) return true;
  }
  return false;
}

#ifdef _OPENMP
const Runtime* own() noexcept { return &linked(); }
#else
const Runtime* own() noexcept { return nullptr; }
#endif

bool is_own(const Found& found) noexcept { return own() && found.max_threads == own()->max_threads; }

std::atomic_flag searching = ATOMIC_FLAG_INIT;  // in a child that was forked in the middle of a search it stays set
std::atomic<uint64_t> changes_seen{~uint64_t(0)};

// The paths of libraries that may be new runtimes.
struct Candidates {
  int count = 0;
  char paths[most][1024];

  static void add(void* context, const char* path) {
    Candidates& all = *static_cast<Candidates*>(context);
    if (all.count < most && std::strlen(path) < sizeof *all.paths) std::strcpy(all.paths[all.count++], path);
  }
};

// Looks through all that is loaded. Of LLVM's and Intel's runtimes a process may use only one: the second that is called
// ends it, unless KMP_DUPLICATE_LIB_OK is set. So one is taken only where no other can be meant.
void search() noexcept {
  static Candidates candidates;
  static Found loaded[most];
  candidates.count = 0;
  libraries::each(file_names, file_name_count, Candidates::add, &candidates);
  int loaded_count = 0, kmp_count = 0;
  for (int i = 0; i < candidates.count; ++i) {
    Found& found = loaded[loaded_count];
    if (!found.read(candidates.paths[i]) || is_among(found, loaded, loaded_count)) continue;
    kmp_count += found.kmp_fork_call != nullptr;
    ++loaded_count;
  }
  const bool one_kmp = kmp_count == 1 || std::getenv("KMP_DUPLICATE_LIB_OK");
  int count = known_count.load(std::memory_order_relaxed);
  for (int i = 0; i < loaded_count && count < most; ++i) {
    if ((loaded[i].kmp_fork_call && !one_kmp) || is_among(loaded[i], known, count) || is_own(loaded[i])) continue;
    known[count] = loaded[i];
    known[count].name = known[count].text;
    known[count].first = known[count].max_threads();
    known[count].usual = usual(known[count].first);
    known_count.store(++count, std::memory_order_release);
  }
}

void search_if_changed() noexcept {
  const uint64_t changes = libraries::changes(file_names, file_name_count);
  if (changes == changes_seen.load(std::memory_order_relaxed) || searching.test_and_set(std::memory_order_acquire))
    return;
  search();
  changes_seen.store(changes, std::memory_order_relaxed);
  searching.clear(std::memory_order_release);
}

}  // namespace

const Runtime* runtime(int index) noexcept {
  if (index == 0) search_if_changed();
  if (own() && index-- == 0) return own();
  return index < known_count.load(std::memory_order_acquire) ? &known[index] : nullptr;
}

}  // namespace foveate::openmp
