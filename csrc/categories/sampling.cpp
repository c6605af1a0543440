// Draws from rows of categories: a few from each row by the sums of its blocks and their classes, many by a table of
// its cumulated weights. Which of the two is a matter of shape alone; so are the blocks, and the order of categories.
#include "sampling.hpp"

#include <algorithm>

#include "row.hpp"
#include "runtime/logarithms.hpp"
#include "runtime/random.hpp"
#include "runtime/workspace.hpp"
#include "sharing.hpp"

namespace foveate {
namespace {

constexpr int64_t most_tabled = int64_t(1) << 35;  // for groups to be counted in 32 bits

// A table pays from here on. Measured in float32 on one thread: a category of a table takes 1.0 to 1.1 ns, a draw by it
// 8 to 12; a draw without it 55 ns in rows of 1024, 95 of 4096, 130 of 128,256. Rows of less than 1000 are even at 8 to
// 20 draws.
bool pays_table(int64_t categories, int64_t draws) {
  return draws >= 16 && draws >= categories / 100 && categories < most_tabled;
}

constexpr int64_t batch = 8;          // rows of one block that are drawn from together
constexpr int64_t chunk = 4096;       // draws in a task, of a row that is shared
constexpr int64_t wave = 16 * chunk;  // draws that are counted together
constexpr int64_t words_at_once = 256;
constexpr double table_bits = 61;          // cumulated weights are below 2^61
constexpr double table_total = 0x1.ffp60;  // and end here, up to the rounding of the sums
constexpr int64_t table_end = int64_t(1) << int(table_bits);

// What is kept of a row: of each block its sum, its weight beside the others', the weights up to and including it, and
// its classes; with a table also its categories, cumulated.
struct RowMemory {
  RowMemory(const Sampling& problem, bool table, Carver& carver) noexcept {
    const int64_t blocks = (problem.categories + draw_block - 1) / draw_block;
    sums = carver.take<BlockSum>(blocks);
    weights = carver.take<double>(blocks);
    cumulated = carver.take<double>(blocks);
    classes = carver.take<char>((table ? 1 : blocks) * class_bytes);
    if (!table) return;
    groups = (problem.categories + draw_group - 1) / draw_group;
    while (int64_t(1) << bits < 4 * groups) ++bits;  // measured: 1, 2 and 4 buckets a group, 15, 13 and 12 ns a draw
    ends = carver.take<int64_t>(blocks);
    categories = carver.take<int64_t>(groups * draw_group);
    guide = carver.take<uint32_t>(int64_t(1) << bits);
  }
  static constexpr int64_t class_bytes = draw_classes * int64_t(sizeof(double));

  BlockSum* sums;
  double *weights, *cumulated;
  char* classes;
  int64_t groups = 0;
  int bits = 0;
  int64_t* ends = nullptr;
  int64_t* categories = nullptr;
  uint32_t* guide = nullptr;
};

struct ThreadMemory {
  explicit ThreadMemory(Carver& carver) noexcept
      : buffer(carver.take<double>(draw_block)),
        careful(carver.take<double>(draw_block)),
        classes(carver.take<char>(batch * RowMemory::class_bytes)) {}
  double *buffer, *careful;  // a block each
  char* classes;
};

class Sampler {
 public:
  Sampler(const Sampling& problem, bool table) noexcept
      : problem_(problem),
        table_(table),
        blocks_((problem.categories + draw_block - 1) / draw_block),
        random_(problem.key[0], problem.key[1]) {}

  // Shares rows among threads, or each row where they are few and long.
  fv_status run(double flops, fv_error* error) noexcept {
    const int64_t item = item_size(problem_.p);
    const int64_t rows_a_task =
        table_ || blocks_ > 1 ? 1 : std::max<int64_t>(1, task_bytes / (problem_.categories * item));
    const int64_t pieces = std::max(blocks_ / span, table_ ? pieces_of_draws() : 0);
    return share_rows(
        {problem_.rows, rows_a_task, pieces, flops}, problem_.logits, error,
        [&](Carver& carver, int threads, int rows) { carve(carver, threads, rows); },
        [&](int64_t row, const Shared& shared) { return draw_row(row, shared, memory_of_row(0)); },
        [&](int64_t first, int64_t end, int thread) {
          if (table_ || blocks_ > 1)
            draw_row(first, Alone{thread}, memory_of_row(thread));
          else
            draw_short_rows(first, end, thread);
        },
        [&] {
          if (!refused_.any()) return FV_OK;
          Row(problem_, refused_.row()).explain(memory_of_thread(0).buffer, refused_.row(), error);
          return FV_VALUE_ERROR;
        });
  }

 private:
  int64_t pieces_of_draws() const {
    if (!problem_.counts) return problem_.draws / chunk;
    return problem_.draws > 1 ? problem_.draws : problem_.most_trials / chunk;
  }

  // ---- Memory

  void carve(Carver& carver, int threads, int rows) noexcept {
    rows_memory_ = carver.take<RowMemory>(rows);
    threads_memory_ = carver.take<ThreadMemory>(threads);
    wave_ = problem_.counts ? carver.take<int64_t>(wave) : nullptr;
    for (int i = 0; i < rows; ++i) {
      const RowMemory memory(problem_, table_, carver);
      if (rows_memory_) rows_memory_[i] = memory;
    }
    for (int i = 0; i < threads; ++i) {
      const ThreadMemory memory(carver);
      if (threads_memory_) threads_memory_[i] = memory;
    }
  }
  RowMemory& memory_of_row(int i) { return rows_memory_[i]; }
  ThreadMemory& memory_of_thread(int i) { return threads_memory_[i]; }

  // ---- Sums

  // Sums and weights of all blocks; the total of the row is the last of memory.cumulated.
  template <class Each>
  Outcome weigh(Row& row, int64_t number, const Each& each, RowMemory& memory) noexcept {
    for (bool careful : {false, true}) {
      const bool done = each((blocks_ + span - 1) / span, [&](int64_t i, int thread) {
        ThreadMemory& own = memory_of_thread(thread);
        for (int64_t b = i * span; b < std::min(blocks_, (i + 1) * span); ++b) {
          void* const classes = table_ ? own.classes : memory.classes + b * RowMemory::class_bytes;
          memory.sums[b] = row.drawing().sum_block(row.block(b, 0, own.careful), classes, own.buffer);
        }
      });
      if (!done) return Outcome::interrupted;
      const BlockSum whole = add_blocks(memory);
      if (careful ? Row::is_some(whole) : Row::is_plain(whole)) return Outcome::done;
      if (careful || !row.inspect(memory_of_thread(each.thread).buffer, number, nullptr)) {
        refused_.note(number);
        return Outcome::refused;
      }
    }
    return Outcome::done;
  }

  BlockSum add_blocks(RowMemory& memory) noexcept {
    BlockSum whole = {0, memory.sums[0].top, false};
    for (int64_t b = 1; b < blocks_; ++b) whole.top = std::max(whole.top, memory.sums[b].top);
    for (int64_t b = 0; b < blocks_; ++b) {
      const BlockSum& block = memory.sums[b];
      const double factor = problem_.logits && blocks_ > 1 ? std::exp2((block.top - whole.top) * log2_e) : 1.0;
      whole.doubtful |= block.doubtful;
      memory.weights[b] = block.total * factor;
      memory.cumulated[b] = whole.total += memory.weights[b];
    }
    return whole;
  }

  // ---- A few draws

  double fraction_of(uint64_t word) const { return uniform<double>(word); }

  // Rows of one block each, some at a time.
  void draw_short_rows(int64_t first, int64_t end, int thread) noexcept {
    ThreadMemory& own = memory_of_thread(thread);
    for (; first < end; first += batch) {
      const int64_t count = std::min(batch, end - first);
      Categories blocks[batch];
      const void* classes[batch];
      bool plain = true;
      for (int64_t i = 0; i < count; ++i) {
        const Row row(problem_, first + i);
        blocks[i] = row.block(0, 0, nullptr);
        char* const own_classes = own.classes + i * RowMemory::class_bytes;
        const BlockSum sum = row.drawing().sum_block(blocks[i], own_classes, own.buffer);
        blocks[i].top = sum.top;
        classes[i] = own_classes;
        plain &= Row::is_plain(sum);
      }
      if (!plain) {
        for (int64_t i = 0; i < count; ++i) draw_row(first + i, Alone{thread}, memory_of_row(thread));
        continue;
      }
      const Drawing& drawing = Row(problem_, first).drawing();
      uint64_t words[batch][4];
      for (int64_t draw = 0; draw < problem_.draws; ++draw) {
        double fractions[batch];
        int64_t index[batch];
        if (draw % 4 == 0) make_words_of_rows(draw / 4, first, words);
        for (int64_t i = 0; i < count; ++i) fractions[i] = fraction_of(words[i][draw % 4]);
        drawing.pick(blocks, classes, fractions, count, index);
        for (int64_t i = 0; i < count; ++i) put(index_of(first + i) + draw * problem_.index.column_stride, index[i]);
      }
    }
  }

  void make_words_of_rows(int64_t block, int64_t first, uint64_t (&words)[batch][4]) const noexcept {
    const uint64_t word = Philox::first_word(Stream::multinoulli, uint64_t(block));
    for (int64_t i = 0; i < batch; i += 2) {
      const uint64_t row = uint64_t(problem_.first_row + first + i);
      uint64_t two[2][4] = {{word, 0, row, 0}, {word, 0, row + 1, 0}};
      random_.replace(two);
      std::memcpy(words[i], two, sizeof two);
    }
  }

  template <class Each>
  Outcome draw_row(int64_t number, const Each& each, RowMemory& memory) noexcept {
    Row row(problem_, number);
    const Outcome outcome = weigh(row, number, each, memory);
    if (outcome != Outcome::done) return outcome;
    if (table_) return draw_by_table(row, number, each, memory);
    double* const careful = memory_of_thread(each.thread).careful;
    char* const to = index_of(number);
    const double *const cumulated = memory.cumulated, *const end = cumulated + blocks_;
    RandomBlock words;
    for (int64_t draw = 0; draw < problem_.draws; ++draw) {
      if (draw % 4 == 0)
        words = random_(Stream::multinoulli, uint64_t(draw / 4), 0, uint64_t(problem_.first_row + number), 0);
      // less than the total, and so, cumulated weights being what they are, in a block that has weight
      const double target = fraction_of(words.words[draw % 4]) * end[-1];
      const int64_t b = std::min<int64_t>(std::upper_bound(cumulated, end, target) - cumulated, blocks_ - 1);
      const double before = b ? cumulated[b - 1] : 0.0;
      const double fraction = std::min((target - before) / memory.weights[b], 1 - 0x1p-53);
      const Categories block = row.block(b, memory.sums[b].top, careful);
      const void* const classes = memory.classes + b * RowMemory::class_bytes;
      int64_t index;
      row.drawing().pick(&block, &classes, &fraction, 1, &index);
      put(to + draw * problem_.index.column_stride, b * draw_block + index);
    }
    return Outcome::done;
  }

  char* index_of(int64_t row) const { return problem_.index.data + Row::offset(problem_, problem_.index, row); }

  // ---- Many draws

  template <class Each>
  Outcome draw_by_table(const Row& row, int64_t number, const Each& each, RowMemory& memory) noexcept {
    const int64_t trials = problem_.counts ? trials_of(number) : problem_.draws;
    if (trials == 0) return Outcome::done;
    if (!tabulate(row, each, memory)) return Outcome::interrupted;
    const DrawTable table = {memory.categories, memory.guide, int32_t(table_bits) - memory.bits,
                             memory.ends[blocks_ - 1]};
    const bool done = problem_.counts ? count_draws(table, number, trials, each) : list_draws(table, number, each);
    return done ? Outcome::done : Outcome::interrupted;
  }

  // Cumulates each block in fixed point, then all of them, and points the guide at the groups.
  template <class Each>
  bool tabulate(const Row& row, const Each& each, RowMemory& memory) noexcept {
    const double scale = table_total / memory.cumulated[blocks_ - 1];
    const auto spans = (blocks_ + span - 1) / span;
    const bool cumulated = each(spans, [&](int64_t i, int thread) {
      ThreadMemory& own = memory_of_thread(thread);
      for (int64_t b = i * span; b < std::min(blocks_, (i + 1) * span); ++b) {
        const double total = memory.sums[b].total;  // 0 where all logits are -inf
        const double own_scale = !problem_.logits ? scale : total > 0 ? scale * (memory.weights[b] / total) : 0.0;
        memory.ends[b] = row.drawing().cumulate(row.block(b, memory.sums[b].top, own.careful), own_scale,
                                                memory.categories + b * draw_block, own.buffer);
      }
    });
    if (!cumulated) return false;
    // as they are, except weights that changed since they were summed: they never fall, and end below the table's end
    for (int64_t b = 0; b < blocks_; ++b) {
      const int64_t before = b ? memory.ends[b - 1] : 0;
      memory.ends[b] = before + std::clamp(memory.ends[b], int64_t(0), table_end - before);
    }
    int64_t& whole = memory.ends[blocks_ - 1];
    whole = std::max<int64_t>(whole, 1);
    std::fill(memory.categories + problem_.categories, memory.categories + memory.groups * draw_group, INT64_MAX);
    return each(spans, [&](int64_t i, int) {
      for (int64_t b = i * span; b < std::min(blocks_, (i + 1) * span); ++b) point_guide(b, memory);
    });
  }

  // Every bucket of the block gets a group, whatever the weights have become; the last category of a block has its end,
  // and that of all is beyond every target: nothing is looked up behind it.
  void point_guide(int64_t b, RowMemory& memory) const noexcept {
    const int shift = int(table_bits) - memory.bits;
    const int64_t part = (int64_t(1) << shift) - 1, start = b ? memory.ends[b - 1] : 0, end = memory.ends[b];
    int64_t* const categories = memory.categories + b * draw_block;
    const int64_t count = std::min<int64_t>(draw_block, problem_.categories - b * draw_block);
    if (start)
      for (int64_t k = 0; k < count; ++k) categories[k] = int64_t(uint64_t(categories[k]) + uint64_t(start));
    const int64_t groups = (count + draw_group - 1) / draw_group;
    uint32_t* const guide = memory.guide;
    constexpr int64_t stride = 8;
    int64_t bucket = (start + part) >> shift;
    const int64_t last_bucket = (end + part) >> shift;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t last = g + 1 < groups ? std::clamp(categories[g * draw_group + draw_group - 1], start, end) : end;
      const int64_t stop = (last + part) >> shift;
      const uint32_t group = uint32_t(b * (draw_block / draw_group) + g);
      if (stop - bucket <= stride && bucket + stride <= last_bucket) {  // too many, which later groups put right
        for (int64_t i = 0; i < stride; ++i) guide[bucket + i] = group;
        bucket = stop;
      }
      for (; bucket < stop; ++bucket) guide[bucket] = group;
    }
    categories[count - 1] = b + 1 < blocks_ ? end : INT64_MAX;
  }

  // Words first, first + 1, ... of a row; first is a multiple of 4, and room is made up to a multiple of 8.
  void make_words(Stream stream, int64_t first, int64_t count, int64_t draw, int64_t row, uint64_t* words) const {
    for (int64_t i = 0; i < count; i += 8) {
      const uint64_t block = Philox::first_word(stream, uint64_t((first + i) / 4));
      const uint64_t in_row = uint64_t(problem_.first_row + row);
      uint64_t two[2][4] = {{block, uint64_t(draw), in_row, 0}, {block + 1, uint64_t(draw), in_row, 0}};
      random_.replace(two);
      std::memcpy(words + i, two, sizeof two);
    }
  }

  // f(indices, the first one's place, their number) of the draws first..end
  template <class F>
  void look_up(const DrawTable& table, Stream stream, int64_t first, int64_t end, int64_t draw, int64_t row,
               F&& f) const noexcept {
    uint64_t words[words_at_once];
    int64_t index[words_at_once];
    for (; first < end; first += words_at_once) {
      const int64_t count = std::min(words_at_once, end - first);
      make_words(stream, first, count, draw, row, words);
      kernels().look_up(table, words, count, index);
      f(index, first, count);
    }
  }

  template <class Each>
  bool list_draws(const DrawTable& table, int64_t row, const Each& each) const noexcept {
    char* const to = index_of(row);
    const int64_t step = problem_.index.column_stride;
    return each((problem_.draws + chunk - 1) / chunk, [&](int64_t i, int) {
      look_up(table, Stream::multinoulli, i * chunk, std::min((i + 1) * chunk, problem_.draws), 0, row,
              [&](const int64_t* index, int64_t draw, int64_t count) {
                if (step == sizeof(int64_t)) {
                  std::memcpy(to + draw * step, index, size_t(count) * sizeof(int64_t));
                } else {
                  for (int64_t n = 0; n < count; ++n) put(to + (draw + n) * step, index[n]);
                }
              });
    });
  }

  // ---- Counts

  int64_t trials_of(int64_t row) const {
    int64_t trials;
    std::memcpy(&trials, problem_.trials.data + Row::offset(problem_, problem_.trials, row), sizeof trials);
    return std::clamp(trials, int64_t(0), problem_.most_trials);
  }

  // The counts are zero so far.
  template <class Each>
  bool count_draws(const DrawTable& table, int64_t row, int64_t trials, const Each& each) const noexcept {
    char* const base = problem_.counts.data + Row::offset(problem_, problem_.counts, row);
    const auto count = [&](char* counts, int64_t index) {
      char* const at = counts + index * problem_.counts.column_stride;
      int64_t number;
      std::memcpy(&number, at, sizeof number);
      put(at, number + 1);
    };
    if (!Each::is_shared || trials < 2 * chunk || problem_.draws > 1) {
      return each(problem_.draws, [&](int64_t draw, int) {
        char* const counts = base + draw * problem_.counts.row_stride;
        look_up(table, Stream::multinomial, 0, trials, draw, row, [&](const int64_t* index, int64_t, int64_t some) {
          for (int64_t n = 0; n < some; ++n) count(counts, index[n]);
        });
      });
    }
    for (int64_t first = 0; first < trials; first += wave) {
      const int64_t end = std::min(first + wave, trials);
      const bool done = each((end - first + chunk - 1) / chunk, [&](int64_t i, int) {
        const int64_t begin = first + i * chunk;
        look_up(table, Stream::multinomial, begin, std::min(begin + chunk, end), 0, row,
                [&](const int64_t* index, int64_t trial, int64_t some) {
                  std::copy_n(index, some, wave_ + (trial - first));
                });
      });
      if (!done) return false;
      for (int64_t i = 0; i < end - first; ++i) count(base, wave_[i]);
    }
    return true;
  }

  const Sampling& problem_;
  bool table_;
  int64_t blocks_;
  Philox random_;
  RowMemory* rows_memory_ = nullptr;
  ThreadMemory* threads_memory_ = nullptr;
  int64_t* wave_ = nullptr;
  RefusedRow refused_;
};

}  // namespace

fv_status multinoulli(const Sampling& problem, fv_error* error) noexcept {
  const bool table = pays_table(problem.categories, problem.draws);
  const double draws = double(problem.draws) * (table ? 50 : 500);
  return Sampler(problem, table)
      .run(double(problem.rows) * (double(problem.categories) * (table ? 8 : 1) + draws), error);
}

fv_status multinomial(const Sampling& problem, fv_error* error) noexcept {
  if (problem.categories >= most_tabled) return no_memory(error, double(problem.categories) * sizeof(int64_t));
  const double trials = double(problem.draws) * double(problem.most_trials) * 50;
  return Sampler(problem, true).run(double(problem.rows) * (double(problem.categories) * 8 + trials), error);
}

}  // namespace foveate
