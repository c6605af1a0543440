// Numbers in environment variables.
#pragma once
#include <atomic>
#include <cstdint>

namespace foveate {

// What may stand beside a number: nothing, or after a comma those of nested regions, of which the first is meant.
enum class List { none, first };

// A whole number > 0 in an environment variable, at most FV_MAX_THREADS; 0: there is none.
int threads_in_environment(const char* name, List = List::none) noexcept;

// A number that is computed when first asked, and stays. A static object of a function would do except for its guard:
// a child that is forked while another thread has that waits for it for ever.
class KeptNumber {
 public:
  template <class Compute>
  int get(Compute compute) noexcept {
    int64_t kept = number_.load(std::memory_order_relaxed);
    if (kept != unknown) return int(kept);
    const int64_t made = compute();
    return int(number_.compare_exchange_strong(kept, made, std::memory_order_relaxed) ? made : kept);
  }

 private:
  static constexpr int64_t unknown = INT64_MIN;
  std::atomic<int64_t> number_{unknown};
};

}  // namespace foveate
