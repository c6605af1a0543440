// What this machine can do: fused multiply-adds from registers, and bytes read, from pages like those of NumPy's arrays.
// All threads run at once for the whole time, each counts what it did, and the rates are added.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>

#include "dispatch.hpp"
#include "foveate/foveate.h"
#include "parallel.hpp"
#include "system.hpp"

namespace foveate {
namespace {

constexpr int most_threads = 1024;

// The best rate over about `seconds`, where step() returns how many units of work it did. On a noisy machine single
// steps are disturbed; the best one shows what it can do.
template <class F>
double best_rate(double seconds, F&& step) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  double best = 0;
  const auto start = Clock::now();
  do {
    const auto t = Clock::now();
    const double work = step();
    best = std::max(best, work / since(t));
  } while (since(start) < seconds);
  return best;
}

template <class F>
double sum_over_threads(int32_t threads, F&& rate) {
  threads = std::clamp<int32_t>(threads, 1, most_threads);
  const std::unique_ptr<double[]> rates(new (std::nothrow) double[size_t(threads)]());
  if (!rates) return 0;
  run_tasks(threads, threads, Order::by_ranges, [&](const Task& task) { rates[size_t(task.index)] = rate(); });
  double sum = 0;
  for (int32_t i = 0; i < threads; ++i) sum += rates[size_t(i)];
  return sum;
}

}  // namespace
}  // namespace foveate

using namespace foveate;

double fv_measure_flops(fv_dtype dtype, int32_t threads, double seconds) noexcept {
  if (check_cpu(nullptr) != FV_OK) return 0;
  const Kernels& k = kernels();
  const bool products = dtype == FV_BFLOAT16 && k.bfloat16;
  const Arithmetic& arithmetic = dtype == FV_FLOAT64 ? k.float64 : products ? *k.bfloat16 : k.float32;
  return sum_over_threads(threads, [&] { return best_rate(seconds, [&] { return arithmetic.spin(200000); }); });
}

double fv_measure_read(int64_t bytes, int32_t threads, double seconds) noexcept {
  if (bytes <= 0 || check_cpu(nullptr) != FV_OK) return 0;
  const Kernels& k = kernels();
  return sum_over_threads(threads, [&]() -> double {
    const std::unique_ptr<char[]> buffer(new (std::nothrow) char[size_t(bytes)]);
    if (!buffer) return 0;
    system::prefer_large_pages(buffer.get(), size_t(bytes));
    std::memset(buffer.get(), 0, size_t(bytes));
    volatile double sink = 0;
    return best_rate(seconds, [&] {
      sink = sink + k.sum_bytes(buffer.get(), bytes);
      return double(bytes);
    });
  });
}
