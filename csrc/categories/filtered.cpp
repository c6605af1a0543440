// Draws from what filters leave of rows of categories: first top_k, then top_p of what that left, then min_p. All three
// are one threshold on the numbers of a row, so that a row is read once, span by span, for the largest of each; after
// that only spans that reach the threshold are read. top_p weighs all that top_k left.
//
// A draw inverts the weights in the order of the categories. Sums depend on the row alone: not on threads, nor on the
// batch.
#include <algorithm>

#include "nucleus.hpp"
#include "runtime/random.hpp"

namespace foveate {
namespace {

// Draws from a row by a list of all that is left of it pay from here on: a draw without it weighs a block.
bool pays_list(int64_t draws) { return draws >= 16; }

struct ThreadMemory {
  explicit ThreadMemory(Carver& carver) noexcept
      : values(carver.take<double>(list_room)),
        logs(carver.take<double>(2 * draw_block)),
        places(carver.take<int32_t>(draw_block + draw_classes)) {}
  double* values;   // of a block
  double* logs;     // and two of what belongs to its numbers
  int32_t* places;  // in the block
};

class FilteredSampler {
 public:
  // given: the draws are there already, and their probabilities are wanted.
  FilteredSampler(const Sampling& problem, const Filters& filters, bool given) noexcept
      : problem_(problem),
        filters_(filters),
        given_(given),
        top_k_(filters.top_k > 0 && filters.top_k < problem.categories),
        listed_(!given && (filters.distinct || pays_list(problem.draws))),
        blocks_((problem.categories + draw_block - 1) / draw_block),
        item_(dtype_of(problem.p) == Dtype::float64 ? 8 : 4),
        random_(problem.key[0], problem.key[1]) {}

  fv_status run(fv_error* error) noexcept {
    const double flops =
        double(problem_.rows) * (double(problem_.categories) * (listed_ ? 40 : 4) + double(problem_.draws) * 500);
    const int64_t rows_a_task =
        blocks_ > 1 ? 1 : std::max<int64_t>(1, task_bytes / (problem_.categories * item_size(problem_.p)));
    return share_rows(
        {problem_.rows, rows_a_task, blocks_ / span, flops}, problem_.logits, error,
        [&](Carver& carver, int threads, int rows) { carve(carver, threads, rows); },
        [&](int64_t row, const Shared& shared) { return draw_row(row, shared, rows_memory_[0]); },
        [&](int64_t first, int64_t end, int thread) {
          for (int64_t row = first; row < end; ++row) draw_row(row, Alone{thread}, rows_memory_[thread]);
        },
        [&] {
          if (!refused_.any()) return FV_OK;
          explain(refused_.row(), error);
          return FV_VALUE_ERROR;
        });
  }

 private:
  void carve(Carver& carver, int threads, int rows) noexcept {
    rows_memory_ = carver.take<FilteredRow>(rows);
    threads_memory_ = carver.take<ThreadMemory>(threads);
    for (int i = 0; i < rows; ++i) {
      const FilteredRow memory(problem_.categories, item_, top_k_ || filters_.top_p < 1, listed_, carver);
      if (rows_memory_) rows_memory_[i] = memory;
    }
    for (int i = 0; i < threads; ++i) {
      const ThreadMemory memory(carver);
      if (threads_memory_) threads_memory_[i] = memory;
    }
  }

  template <class Each>
  Outcome draw_row(int64_t number, const Each& each, FilteredRow& memory) noexcept {
    const CandidateRow row(problem_, filters_, number);
    Weighing weighing;
    Threshold by;
    const Outcome outcome = filter(row, each, memory, &weighing, &by);
    if (outcome != Outcome::done) return outcome;
    if (!(memory.sums[blocks_ - 1] > 0)) {
      refused_.note(number);
      return Outcome::refused;
    }
    if (listed_) return draw_listed(row, each, by, weighing, memory);
    each.in_between([&] {
      if (given_)
        note_log_probs(row, weighing, memory);
      else
        draw_few(row, by, weighing, memory, threads_memory_[each.thread]);
    });
    return Outcome::done;
  }

  // ---- Filters

  template <class Each>
  Outcome filter(const CandidateRow& row, const Each& each, FilteredRow& memory, Weighing* found,
                 Threshold* by) noexcept {
    const Filtering& f = row.filtering();
    const bool read = memory.each_block(each, [&](int64_t b, int) {
      memory.block_tops[b] = f.span_tops(row.block(b), !problem_.logits, memory.tops_of(b));
    });
    if (!read) return Outcome::interrupted;
    BlockTop whole = memory.block_tops[0];
    for (int64_t b = 1; b < blocks_; ++b) {
      whole.top = std::max(whole.top, memory.block_tops[b].top);
      whole.doubtful |= memory.block_tops[b].doubtful;
    }
    if (!row.is_some(whole.top) || (whole.doubtful && !row.inspect(threads_memory_[each.thread].logs, nullptr))) {
      refused_.note(row.number());
      return Outcome::refused;
    }
    const Weighing weighing = *found = row.weighing(whole.top);
    *by = row.lowest();
    if (top_k_ && !filter_top_k(row, each, memory, by)) return Outcome::interrupted;
    bool summed = false;
    if (filters_.top_p < 1) {
      Nucleus nucleus;
      if (!NucleusSearch(row, memory, weighing, filters_.top_p).find(each, *by, !top_k_, &nucleus))
        return Outcome::interrupted;
      *by = nucleus.threshold;
      summed = nucleus.summed;
    }
    if (filters_.min_p > 0) {
      const double least = std::min(row.least_of_min_p(whole.top), whole.top);
      if (least > by->least) {
        *by = {least, all_equals};
        summed = false;
      }
    }
    if (!summed && !weigh(row, each, memory, *by, weighing)) return Outcome::interrupted;
    return Outcome::done;
  }

  // Where so many spans reach a number, at least so many numbers do.
  template <class Each>
  bool filter_top_k(const CandidateRow& row, const Each& each, FilteredRow& memory, Threshold* by) noexcept {
    const Filtering& f = row.filtering();
    const int64_t spans = row.spans();
    Threshold bound = *by;
    if (filters_.top_k <= spans) {
      each.in_between([&] {
        std::memcpy(memory.list, memory.tops, size_t(spans * item_));
        bound.least = std::max(bound.least, f.number_at_rank(memory.list, spans, filters_.top_k));
      });
    }
    int64_t count;
    const auto list = [&](int64_t b, char* to) { return memory.keep(row, bound, b, to, nullptr); };
    if (!memory.gather_few(filters_.top_k, each, list, &count)) return false;
    each.in_between([&] {
      if (count >= filters_.top_k) by->least = f.number_at_rank(memory.list, count, filters_.top_k);
    });
    return true;
  }

  template <class Each>
  bool weigh(const CandidateRow& row, const Each& each, FilteredRow& memory, const Threshold& by,
             const Weighing& weighing) noexcept {
    const auto sum = [&](int64_t b, int thread) {
      double* const values = threads_memory_[thread].values;
      const int64_t count = memory.keep(row, by, b, values, nullptr);
      memory.sums[b] = row.filtering().sum_weights(values, count, weighing);
    };
    if (top_k_ && memory.are_few(filters_.top_k)) {
      each.in_between([&] { memory.each_block(Alone{each.thread}, sum); });
    } else if (!memory.each_block(each, sum)) {
      return false;
    }
    for (int64_t b = 1; b < blocks_; ++b) memory.sums[b] += memory.sums[b - 1];
    return true;
  }

  // ---- Draws

  void draw_few(const CandidateRow& row, const Threshold& by, const Weighing& weighing, const FilteredRow& memory,
                const ThreadMemory& own) const noexcept {
    const double* const sums = memory.sums;
    RandomBlock words;
    for (int64_t draw = 0; draw < problem_.draws; ++draw) {
      if (draw % 4 == 0) words = random_(Stream::multinoulli, uint64_t(draw / 4), 0, counted(row.number()), 0);
      // less than the total, and so, sums being what they are, in a block that has weight
      const double target = uniform<double>(words.words[draw % 4]) * sums[blocks_ - 1];
      const int64_t b = std::min<int64_t>(std::upper_bound(sums, sums + blocks_, target) - sums, blocks_ - 1);
      const double before = b ? sums[b - 1] : 0.0;
      const double fraction = std::clamp((target - before) / (sums[b] - before), 0.0, 1 - 0x1p-53);
      const int64_t count = memory.keep(row, by, b, own.values, own.places);
      const int64_t chosen = count ? own.places[row.filtering().pick(own.values, count, weighing, fraction)] : 0;
      note_draw(row, draw, b * draw_block + chosen, weighing, memory);
    }
  }

  template <class Each>
  Outcome draw_listed(const CandidateRow& row, const Each& each, const Threshold& by, const Weighing& weighing,
                      FilteredRow& memory) noexcept {
    const bool done = memory.each_block(each, [&](int64_t b, int thread) {
      ThreadMemory& own = threads_memory_[thread];
      const int64_t count = memory.keep(row, by, b, own.values, own.places);
      row.filtering().log_weights(row.block(b), own.places, count, weighing, own.logs);
      if (filters_.distinct) add_noise(row.number(), b, count, own);
      for (int64_t i = 0; i < count; ++i)
        memory.listed[b * draw_block + i] = {own.logs[i], b * draw_block + own.places[i]};
      memory.counts[b] = count;
    });
    if (!done) return Outcome::interrupted;
    Listed* const categories = memory.listed;
    int64_t count = 0;
    for (int64_t b = 0; b < blocks_; count += memory.counts[b++])
      std::memmove(categories + count, categories + b * draw_block, size_t(memory.counts[b]) * sizeof(Listed));
    if (count < (filters_.distinct ? problem_.draws : 1)) {
      refused_.note(row.number());
      return Outcome::refused;
    }
    each.in_between([&] {
      if (filters_.distinct)
        draw_distinct(row, categories, count, weighing, memory);
      else
        draw_many(row, categories, count, weighing, memory);
    });
    return Outcome::done;
  }

  void draw_many(const CandidateRow& row, Listed* categories, int64_t count, const Weighing& weighing,
                 const FilteredRow& memory) const noexcept {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) categories[i].value = sum += std::exp(categories[i].value);
    RandomBlock words;
    for (int64_t draw = 0; draw < problem_.draws; ++draw) {
      if (draw % 4 == 0) words = random_(Stream::multinoulli, uint64_t(draw / 4), 0, counted(row.number()), 0);
      const double target = uniform<double>(words.words[draw % 4]) * sum;
      const Listed* const chosen =
          std::upper_bound(categories, categories + count - 1, target,
                           [](double x, const Listed& category) { return x < category.value; });
      note_draw(row, draw, chosen->place, weighing, memory);
    }
  }

  // Adds Gumbel noise, -log(-log u), u in (0, 1) by the category's own word of the row: the largest sums are draws without
  // replacement (J. I. Yellott, "The relationship between Luce's choice axiom, Thurstone's theory of comparative judgment,
  // and the double exponential distribution", Journal of Mathematical Psychology 15, 1977).
  // What random numbers count a row as.
  uint64_t counted(int64_t row) const noexcept { return uint64_t(problem_.first_row + row); }

  void add_noise(int64_t number, int64_t b, int64_t count, ThreadMemory& own) const noexcept {
    double* const noise = own.logs + draw_block;
    RandomBlock words = {};
    int64_t made = -1;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t category = b * draw_block + own.places[i], block = category / 4;
      if (block != made) words = random_(Stream::distinct, uint64_t(block), 0, counted(number), 0);
      made = block;
      noise[i] = uniform<double>(words.words[category % 4]) + 0x1p-54;
    }
    constexpr int logarithm = 1;
    kernels().elementary(logarithm, true, noise, noise, count);
    for (int64_t i = 0; i < count; ++i) noise[i] = -noise[i];
    kernels().elementary(logarithm, true, noise, noise, count);
    for (int64_t i = 0; i < count; ++i) own.logs[i] -= noise[i];
  }

  void draw_distinct(const CandidateRow& row, Listed* categories, int64_t count, const Weighing& weighing,
                     const FilteredRow& memory) const noexcept {
    const auto before = [](const Listed& a, const Listed& b) {
      return a.value > b.value || (a.value == b.value && a.place < b.place);
    };
    Listed* const end = categories + problem_.draws;
    if (problem_.draws < count) std::nth_element(categories, end - 1, categories + count, before);
    std::sort(categories, end, before);
    for (int64_t draw = 0; draw < problem_.draws; ++draw)
      note_draw(row, draw, categories[draw].place, weighing, memory);
  }

  // ---- Outputs

  char* at(const Operand& output, int64_t row, int64_t draw) const {
    return output.data + Row::offset(problem_, output, row) + draw * output.column_stride;
  }

  void note_draw(const CandidateRow& row, int64_t draw, int64_t category, const Weighing& weighing,
                 const FilteredRow& memory) const noexcept {
    put(at(problem_.index, row.number(), draw), category);
    if (filters_.log_prob) note_log_prob(row, draw, category, weighing, memory);
  }

  void note_log_probs(const CandidateRow& row, const Weighing& weighing, const FilteredRow& memory) const noexcept {
    for (int64_t draw = 0; draw < problem_.draws; ++draw) {
      int64_t category;
      std::memcpy(&category, at(problem_.index, row.number(), draw), sizeof category);
      note_log_prob(row, draw, std::clamp<int64_t>(category, 0, problem_.categories - 1), weighing, memory);
    }
  }

  void note_log_prob(const CandidateRow& row, int64_t draw, int64_t category, const Weighing& weighing,
                     const FilteredRow& memory) const noexcept {
    const auto place = int32_t(category % draw_block);
    double log;
    row.filtering().log_weights(row.block(category / draw_block), &place, 1, weighing, &log);
    log -= std::log(memory.sums[blocks_ - 1]);
    char* const to = at(filters_.log_prob, row.number(), draw);
    const auto rounded = float(log);
    if (filters_.log_prob.dtype == FV_FLOAT64)
      std::memcpy(to, &log, sizeof log);
    else
      std::memcpy(to, &rounded, sizeof rounded);
  }

  void explain(int64_t number, fv_error* error) noexcept {
    const CandidateRow row(problem_, filters_, number);
    double* const buffer = threads_memory_[0].logs;
    if (!row.inspect(buffer, error)) return;
    int64_t left = 0;
    Weighing weighing;
    Threshold by;
    if (filter(row, Alone{0}, rows_memory_[0], &weighing, &by) == Outcome::done)
      for (int64_t b = 0; b < blocks_; ++b)
        left += rows_memory_[0].keep(row, by, b, threads_memory_[0].values, nullptr);
    if (filters_.distinct && left < problem_.draws)
      refuse(error, FV_VALUE_ERROR,
             "size: got %lld different draws, wanted at most the %lld categories that are left of row %lld",
             printable(problem_.draws), printable(left), printable(number));
    else
      Row(problem_, number).explain(buffer, number, error);
  }

  const Sampling& problem_;
  const Filters& filters_;
  bool given_, top_k_, listed_;
  int64_t blocks_, item_;
  Philox random_;
  FilteredRow* rows_memory_ = nullptr;
  ThreadMemory* threads_memory_ = nullptr;
  RefusedRow refused_;
};

}  // namespace

fv_status filtered_multinoulli(const Sampling& problem, const Filters& filters, fv_error* error) noexcept {
  const bool plain = !filters.any(problem.categories);
  if (plain) {
    const fv_status status = multinoulli(problem, error);
    if (status != FV_OK || !filters.log_prob) return status;
  }
  return FilteredSampler(problem, filters, plain).run(error);
}

}  // namespace foveate
