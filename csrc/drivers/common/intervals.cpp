// The intervals of a query's keys. All is arithmetic of integers, except round a center: there the rounded differences
// j - center decide, as the definition has it.
#include "intervals.hpp"

#include <algorithm>
#include <cmath>

namespace foveate {

Reach reach_of(const Plan& plan, int64_t batch, int64_t group) noexcept {
  const Problem& p = plan.problem;
  const auto read = [&](const Operand& x, int64_t least, int64_t most) {
    return std::clamp(plan.value<int64_t>(x, batch, group), least, most);
  };
  const int64_t keys = p.key_lengths ? read(p.key_lengths, 0, p.keys) : p.keys;
  return {p.offset_at_end ? keys - p.queries : p.offset ? read(p.offset, -kMaxOffset, kMaxOffset) : 0, keys};
}

Interval round_center(double center, double half_width, int64_t keys) noexcept {
  const double end = double(keys);
  // the differences decide, as they are rounded: a bound may be off by one after its own rounding, and where half a unit
  // of the center's last place is more than that, by any number
  const auto outside = [&](int64_t j) { return !(std::fabs(double(j) - center) <= half_width); };
  const auto inside_from = [&](int64_t in,
                               int64_t out) {  // the last key inside, from one that is towards one that is not
    while (out > in ? out - in > 1 : in - out > 1) {
      const int64_t middle = in + (out - in) / 2;
      (outside(middle) ? out : in) = middle;
    }
    return in;
  };
  int64_t low = std::max<int64_t>(0, int64_t(std::clamp(center - half_width, 0.0, end)) - 1);
  for (int tries = 0; tries < 3 && low < keys && outside(low); ++tries) ++low;
  int64_t last = std::min(keys - 1, int64_t(std::clamp(center + half_width, 0.0, end)) + 1);
  for (int tries = 0; tries < 3 && last >= low && outside(last); ++tries) --last;
  if (std::fabs(center) >= 0x1p52 || half_width >= 0x1p52) {
    const int64_t nearest = std::min(keys - 1, int64_t(std::clamp(center, 0.0, end)));
    if (nearest < 0 || outside(nearest)) return {0, 0};
    low = inside_from(nearest, -1);
    last = inside_from(nearest, keys);
  }
  return low <= last && !outside(low) ? Interval{low, last + 1} : Interval{0, 0};
}

}  // namespace foveate
