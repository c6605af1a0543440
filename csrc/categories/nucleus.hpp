// top_p: the number at which the weights, from the largest down, come to a share of all.
//
// In a long row a sample says between which two numbers that will be. One pass then sums all weights, those above both, and
// lists the few in between, among which it is selected exactly. The sample decides how many these are, and no more: where
// it was wrong, the rest of the row is listed.
#pragma once
#include "filtered_row.hpp"

namespace foveate {

struct Nucleus {
  Threshold threshold;
  bool summed;  // the sums of blocks are there
};

class NucleusSearch {
 public:
  NucleusSearch(const CandidateRow& row, const FilteredRow& memory, const Weighing& weighing, double share) noexcept
      : row_(row), f_(row.filtering()), memory_(memory), weighing_(weighing), share_(share) {}

  // Of the numbers that pass `by`. False: interrupted.
  template <class Each>
  bool find(const Each& each, const Threshold& by, bool whole_row, Nucleus* found) const noexcept {
    *found = {by, false};
    if (whole_row && row_.categories() >= least_sampled) return find_between(each, found);
    int64_t count;
    if (!list_from(each, by.least, &count)) return false;
    each.in_between([&] { select(count, share_ * f_.sum_exactly(memory_.list, count, weighing_), &found->threshold); });
    return true;
  }

 private:
  static constexpr int64_t least_sampled = 1 << 14, heavy_spans = 64;
  struct Bracket {
    double low, high;
  };

  template <class Each>
  bool list_from(const Each& each, double least, int64_t* count) const noexcept {
    return memory_.gather(
        each, [&](int64_t b, char* to) { return memory_.keep(row_, {least, all_equals}, b, to, nullptr); }, count);
  }

  // Among the first numbers of the list, the one at which their weights come to this.
  void select(int64_t count, double weight, Threshold* found, int64_t from = 0) const noexcept {
    if (count == 0) return;  // numbers that changed
    int64_t needed, equals;
    found->least = f_.number_at_weight(memory_.list + from * memory_.item, count, weight, weighing_, &needed, &equals);
    for (int64_t b = 0; needed < equals && b < memory_.blocks; ++b) {
      const int64_t place = f_.place_of_equal(row_.block(b), memory_.tops_of(b), found->least, &needed);
      if (place < 0) continue;
      found->equals = b * draw_block + place;
      break;
    }
  }

  template <class Each>
  bool find_between(const Each& each, Nucleus* found) const noexcept {
    const double infinity = std::numeric_limits<double>::infinity(), lowest = row_.lowest().least;
    Bracket bracket;
    if (!estimate(each, &bracket)) return false;
    int64_t count;
    const auto list_parts = [&](int64_t b, char* to) {
      memory_.parts[b] = f_.sum_parts(row_.block(b), bracket.low, bracket.high, weighing_, to);
      return memory_.parts[b].count;
    };
    for (;;) {
      if (!memory_.gather(each, list_parts, &count)) return false;
      double whole = 0, above = 0, listed = 0;
      for (int64_t b = 0; b < memory_.blocks; ++b) {
        whole += memory_.parts[b].whole;
        above += memory_.parts[b].above;
      }
      const double wanted = share_ * whole - above;
      each.in_between([&] { listed = f_.sum_exactly(memory_.list, count, weighing_); });
      if (wanted <= 0 && bracket.high < infinity) {
        bracket = {bracket.high, infinity};
      } else if (wanted > listed && bracket.low > lowest) {
        bracket = {lowest, bracket.low};
      } else {
        each.in_between([&] { finish(count, wanted, found); });
        return true;
      }
    }
  }

  void finish(int64_t count, double wanted, Nucleus* found) const noexcept {
    const int64_t item = memory_.item;
    const bool room = 2 * count <= memory_.blocks * draw_block;
    if (room) std::memcpy(memory_.list + count * item, memory_.list, size_t(count * item));
    select(count, wanted, &found->threshold, room ? count : 0);
    found->summed = room && found->threshold.equals == all_equals;
    if (!found->summed) return;
    double sum = 0;
    int64_t first = 0;
    for (int64_t b = 0; b < memory_.blocks; first += memory_.counts[b++])
      memory_.sums[b] = sum += memory_.parts[b].above + f_.sum_listed(memory_.list + first * item, memory_.counts[b],
                                                                      found->threshold.least, weighing_);
  }

  // Heavy numbers are known, those that as many spans reach as make them few; the weight of the others is that of a sample.
  template <class Each>
  bool estimate(const Each& each, Bracket* bracket) const noexcept {
    const int64_t item = memory_.item, spans = row_.spans();
    const double infinity = std::numeric_limits<double>::infinity(), lowest = row_.lowest().least;
    double heavy_from = lowest;
    each.in_between([&] {
      std::memcpy(memory_.list, memory_.tops, size_t(spans * item));
      heavy_from = std::max(lowest, f_.number_at_rank(memory_.list, spans, heavy_spans));
    });
    int64_t heavy;
    const auto list = [&](int64_t b, char* to) { return memory_.keep(row_, {heavy_from, all_equals}, b, to, nullptr); };
    if (!memory_.gather_few(heavy_spans, each, list, &heavy)) return false;
    each.in_between([&] {
      const double heavy_weight = f_.sum_exactly(memory_.list, heavy, weighing_);
      const int64_t step = std::max<int64_t>(1, spans * sample_run / most_sampled + 1);
      int64_t count = 0;
      for (int64_t b = 0; b < memory_.blocks; ++b) {
        const int64_t first = (step - b * spans_a_block % step) % step;
        count += f_.sample(row_.block(b), first, step, memory_.sampled + count * item);
      }
      count -= count % draw_classes;
      f_.weights_of(memory_.sampled, count, weighing_, memory_.sampled_weights());
      // of the numbers of the sample from `least` on that are not heavy
      const auto sampled = [&](double least, bool squares) {
        return f_.sum_from(memory_.sampled, memory_.sampled_weights(), count, least, squares);
      };
      const double each_stands_for = double(row_.categories()) / double(count);
      const double known = sampled(heavy_from, false), known_squares = sampled(heavy_from, true);
      const auto weight_from = [&](double least) {
        return heavy_weight + each_stands_for * (sampled(least, false) - known);
      };
      const double whole = weight_from(lowest);
      // The least number whose estimate of the share from it on is more than this.
      const auto number_at = [&](double share) {
        double high = 0, low = 64 / weighing_.rate;  // below the top, in natural logarithms
        for (int i = 0; i < 14; ++i) {
          const double middle = (low + high) / 2;
          (weight_from(below_top(middle)) < share * whole ? high : low) = middle;
        }
        return std::pair(below_top(low), below_top(high));
      };
      const double squares = std::max(0.0, sampled(lowest, true) - known_squares);
      const double error = each_stands_for * std::sqrt(squares);  // of `whole`
      if (share_ * (whole + deviations * error) < heavy_weight) {
        *bracket = {heavy_from, infinity};
        return;
      }
      // of the share from the edge on: what is above it has that share too much or too little, and what is below
      const double edge = number_at(share_).first,
                   above = std::clamp(sampled(edge, true) - known_squares, 0.0, squares);
      const double margin = deviations * each_stands_for / whole *
                                std::sqrt(above * (1 - share_) * (1 - share_) + (squares - above) * share_ * share_) +
                            1e-6;
      bracket->high = (share_ - margin) * whole > heavy_weight ? number_at(share_ - margin).second : infinity;
      bracket->low = share_ + margin < 1 ? std::max(lowest, number_at(share_ + margin).first) : lowest;
      if (!(bracket->low < bracket->high)) bracket->low = lowest;
    });
    return true;
  }

  // The number of T that is so far below the top.
  double below_top(double logarithm) const {
    const double x = weighing_.logits ? weighing_.top - logarithm : weighing_.top * std::exp(-logarithm);
    return row_.is_double() ? x : double(float(std::max(x, -double(FLT_MAX))));
  }

  static constexpr double deviations = 4;
  const CandidateRow& row_;
  const Filtering& f_;
  const FilteredRow& memory_;
  const Weighing& weighing_;
  double share_;
};

}  // namespace foveate
