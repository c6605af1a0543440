// What a query sees, as an interval of keys: by a window and lengths (Reach), by a center (Centers, round_center), by ids
// that never fall along the keys (Ranges), and as it was given (Given). What no interval says is read bit by bit, in
// reach.hpp. Lengths, offsets, centers, ids and ends are brought within their bounds at every reading.
#pragma once
#include <algorithm>

#include "plan.hpp"

namespace foveate {

// The centers of a batch, where there are any; 0 in place of one that is not finite any more.
class Centers {
 public:
  Centers(const Plan& plan, int64_t batch) noexcept
      : plan_(plan), of_(plan.problem.centers), base_(of_ ? of_.data + plan.batch_offset(of_, batch) : nullptr) {}
  double of(int64_t group, int64_t query) const {
    double center;
    std::memcpy(&center, base_ + (group ? plan_.group_offset(of_, group) : 0) + query * of_.row_stride, sizeof center);
    return center - center == 0 ? center : 0;
  }

 private:
  const Plan& plan_;
  const Operand& of_;
  const char* base_;
};

// The keys of a query's own id, where ids of keys never fall.
class Ranges {
 public:
  Ranges(const Plan& plan, int64_t batch) noexcept
      : plan_(plan),
        of_queries_(plan.problem.query_segments),
        of_keys_(plan.problem.key_segments),
        queries_(plan.ranges ? of_queries_.data + plan.batch_offset(of_queries_, batch) : nullptr),
        keys_(plan.ranges ? of_keys_.data + plan.batch_offset(of_keys_, batch) : nullptr) {}

  Interval of(int64_t group, int64_t query) noexcept {
    const char* const ids = keys_ + (group ? plan_.group_offset(of_keys_, group) : 0);
    int64_t id;
    std::memcpy(&id, queries_ + (group ? plan_.group_offset(of_queries_, group) : 0) + query * of_queries_.row_stride,
                sizeof id);
    if (ids == ids_ && id == id_) return found_;  // as of the query before
    ids_ = ids;
    id_ = id;
    return found_ = {first_key([id](int64_t other) { return other >= id; }),
                     first_key([id](int64_t other) { return other > id; })};
  }

 private:
  template <class Is>
  int64_t first_key(Is&& is) const noexcept {
    int64_t low = 0, high = plan_.problem.keys;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      int64_t other;
      std::memcpy(&other, ids_ + middle * of_keys_.row_stride, sizeof other);
      if (is(other))
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }

  const Plan& plan_;
  const Operand &of_queries_, &of_keys_;
  const char *queries_, *keys_;  // of the batch
  const char* ids_ = nullptr;
  int64_t id_ = 0;
  Interval found_{};
};

inline Interval common(Interval a, Interval b) {
  const int64_t low = std::max(a.low, b.low), high = std::min(a.high, b.high);
  return low < high ? Interval{low, high} : Interval{0, 0};
}

// The intervals that were given, where they were: what there is of them in 0..keys.
class Given {
 public:
  Given(const Plan& plan, int64_t batch) noexcept
      : plan_(plan),
        low_(plan.problem.low ? plan.problem.low.data + plan.batch_offset(plan.problem.low, batch) : nullptr),
        high_(plan.problem.low ? plan.problem.high.data + plan.batch_offset(plan.problem.high, batch) : nullptr) {}
  // Where both ends of a query's intervals stand.
  struct Row {
    const char *low, *high;
  };
  Row row(int64_t group, int64_t query) const noexcept {
    return {row(plan_.problem.low, low_, group, query), row(plan_.problem.high, high_, group, query)};
  }
  static Interval at(const Problem& p, const Row& row, int64_t number) noexcept {
    return {end(row.low + number * p.low.column_stride, p.keys), end(row.high + number * p.high.column_stride, p.keys)};
  }
  // From the first to the last of these keys that the query's intervals have.
  Interval of(int64_t group, int64_t query, Interval keys) const noexcept {
    const Row ends = row(group, query);
    Interval all = {0, 0};
    for (int64_t m = 0; m < plan_.problem.intervals; ++m) {
      const Interval one = common(keys, at(plan_.problem, ends, m));
      if (one.low >= one.high) continue;
      all = all.low < all.high ? Interval{std::min(all.low, one.low), std::max(all.high, one.high)} : one;
    }
    return all;
  }

 private:
  const char* row(const Operand& of, const char* base, int64_t group, int64_t query) const noexcept {
    return base + (group ? plan_.group_offset(of, group) : 0) + query * of.row_stride;
  }
  static int64_t end(const char* from, int64_t keys) noexcept {
    int64_t key;
    std::memcpy(&key, from, sizeof key);
    return std::clamp<int64_t>(key, 0, keys);
  }

  const Plan& plan_;
  const char *low_, *high_;  // of the batch
};

// The reach's interval of keys of query `query`, at these batch and group offsets.
struct Reach {
  int64_t offset, keys;  // where query 0 stands; how many keys are valid
  Interval of(int64_t query, int64_t left, int64_t right) const {
    const int64_t at = query + offset;
    int64_t low = left < 0 || at - left < 0 ? 0 : at - left;
    int64_t high = right < 0 || at + right + 1 > keys ? keys : at + right + 1;
    if (high <= low) low = high = 0;
    return {low, high};
  }
};
Reach reach_of(const Plan&, int64_t batch, int64_t group) noexcept;

// The keys 0 <= j < keys with |j - center| <= half_width.
Interval round_center(double center, double half_width, int64_t keys) noexcept;

}  // namespace foveate
