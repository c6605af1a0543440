// Several different keys for each query: the most probable ones, or keys drawn one after the other without replacement,
// which are the largest of the scores with Gumbel noise (J. I. Yellott, "The relationship between Luce's choice axiom,
// Thurstone's theory of comparative judgment, and the double exponential distribution", Journal of Mathematical Psychology
// 15, 1977). One pass over the tiles of keys, as tiled.cpp; lists of candidates stay with their panel (select/top.hpp). The
// noise is counted by (leading index, query; key), so that a draw depends on nothing else.
#include "drivers/common/query_block.hpp"
#include "drivers/drivers.hpp"
#include "shortlist.hpp"

namespace foveate {
namespace {

template <class T>
class Top {
 public:
  Top(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan),
        problem_(plan.problem),
        plain_(sizeof(T) == 8 ? plan.kernels.float64 : plan.kernels.float32),
        block_(plan, blocks, carver),
        choices_(plan, carver),
        numbers_(plan.problem),
        width_(blocks.width),
        size_(plan.problem.draws),
        capacity_(capacity_of(plan)) {
    const int64_t queries = int64_t(blocks.panels) * width_, cells = capacity_ * queries;
    const bool noisy = draws_distinct(problem_);
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    alpha_ = carver.take<T>(width_);
    shift_ = carver.take<T>(queries);
    lists_ = carver.take<Shortlist>(blocks.panels);
    offered_ = carver.take<int64_t>(blocks.panels);
    offered_at_cut_ = carver.take<int64_t>(blocks.panels);
    values_ = carver.take<T>(cells);
    scores_ = carver.take<T>(noisy ? cells : 0);
    keys_ = carver.take<T>(cells);  // integers as wide
    counts_ = carver.take<T>(queries);
    least_ = carver.take<T>(queries);
    candidates_ = carver.take<Candidate>(std::min(capacity_, most_after_cut(size_)));
    uniform_ = carver.take<T>(noisy ? plan.tile_keys * width_ : 0);
    noisy_ = carver.take<T>(noisy ? plan.tile_keys * width_ : 0);
  }

  // What is read and written all the time: lists are seldom full.
  static int64_t bytes_a_query(const Plan& plan) {
    return plan.scoring.panel_size(plan.problem.head_size) + 2 * plan.problem.draws * int64_t(sizeof(T));
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    while (block_.next_panels() && !block_.stopped()) choose();
  }

 private:
  // A list that is full is cut, at a cost that as many keys share as it had room for.
  static int64_t capacity_of(const Plan& plan) {
    const int64_t size = plan.problem.draws;
    return std::min(most_after_cut(size) + std::max(3 * default_tile_keys, 2 * size), plan.problem.keys);
  }

  void choose() noexcept {
    const int count = block_.panels();
    for (int p = 0; p < count; ++p) start(p);
    for (int p = 0; p < count; p += block_.together())
      for (Traversal tiles = block_.tiles(p, p + block_.together()); block_.open(tiles); tiles.next())
        for (int q = p; q < p + block_.together(); ++q) select(q);
    for (int p = 0; p < count && !block_.stopped(); ++p) write(p);
  }

  void start(int p) noexcept {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    const int64_t first = p * width_, cells = first * capacity_;
    block_.start_softmax(p, m_ + first, l_ + first);
    std::fill_n(shift_ + first, width_, -infinity);
    lists_[p] = {values_ + cells, draws_distinct(problem_) ? scores_ + cells : nullptr,
                 keys_ + cells,   counts_ + first,
                 least_ + first,  0,
                 capacity_};
    offered_[p] = offered_at_cut_[p] = 0;
    std::fill_n(values_ + cells, capacity_ * width_, -infinity);
    std::memset(counts_ + first, 0, size_t(width_) * sizeof(T));
    const int32_t live = block_.panel(p).live;
    std::fill_n(least_ + first, live, -infinity);
    std::fill_n(least_ + first + live, width_ - live, infinity);
  }

  // The open tile, for a panel.
  void select(int p) noexcept {
    const KeyRange range = block_.score(p, false);
    if (range.empty()) return;
    const int32_t vectors = block_.vectors(p);
    const int64_t count = range.count(), first = block_.key_of(range), step = vectors * plan_.arithmetic.lanes;
    const T* const scores = reinterpret_cast<const T*>(block_.scores());
    const T* const numbers = draws_distinct(problem_) ? with_noise(p, first, count) : scores;
    Shortlist& list = lists_[p];
    for (int64_t done = 0;;) {
      done +=
          plain_.shortlist_add(numbers + done * step, scores + done * step, vectors, count - done, first + done, list);
      if (done == count) break;
      cut(p, offered_[p] + done);
    }
    offered_[p] += count;
    // sooner where it keeps out more: of keys in any order, of twice as many only half reach the list
    if (offered_[p] >= 2 * offered_at_cut_[p] && list.rows > most_after_cut(size_)) cut(p, offered_[p]);
    plain_.soft(block_.scores(), vectors, count, block_.softmax_scale(), block_.row_max(), m_ + p * width_,
                l_ + p * width_, nullptr, alpha_, nullptr, Prefetch{});
  }

  void cut(int p, int64_t offered) noexcept {
    plain_.shortlist_cut(lists_[p], block_.vectors(p), size_, most_after_cut(size_));
    offered_at_cut_[p] = offered;
  }

  // The scores with noise, from the first largest one of a query: huge scores that are near each other keep it.
  const T* with_noise(int p, int64_t first, int64_t count) noexcept {
    const int32_t vectors = block_.vectors(p);
    const int64_t step = vectors * plan_.arithmetic.lanes;
    const Panel& panel = block_.panel(p);
    const T* const top = reinterpret_cast<const T*>(block_.row_max());
    T* const shift = shift_ + p * width_;
    for (int i = 0; i < step; ++i) {
      if (!(shift[i] > -std::numeric_limits<T>::infinity())) shift[i] = i < panel.live ? top[i] : T(0);
      if (i >= panel.live)
        for (int64_t j = 0; j < count; ++j) uniform_[j * step + i] = T(0.5);
      else
        numbers_.make(first, count, panel.row[i] + plan_.problem.first_row,
                      choices_.lead(block_.batch(), panel.group[i]), uniform_ + i, step);
    }
    plain_.add_noise(block_.scores(), vectors, count, block_.softmax_scale(), shift, uniform_, noisy_);
    return noisy_;
  }

  void write(int p) noexcept {
    const Panel& panel = block_.panel(p);
    const int32_t vectors = block_.vectors(p);
    const int64_t step = vectors * plan_.arithmetic.lanes;
    using Integer = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    Shortlist& list = lists_[p];
    plain_.shortlist_cut(list, vectors, size_, size_);
    char* const indices = block_.base(problem_.index);
    char* const log_probs = block_.base(problem_.log_prob);
    char* const outputs = block_.base(problem_.out);
    const T *const values = static_cast<const T*>(list.values), *const scores = static_cast<const T*>(list.scores);
    for (int i = 0; i < panel.live; ++i) {
      if (asked_to_stop(16.0 * double(size_ * (1 + problem_.value_size)))) return;
      Integer count;
      std::memcpy(&count, static_cast<const char*>(list.counts) + i * int64_t(sizeof count), sizeof count);
      for (int64_t r = 0; r < count; ++r) {
        Integer key;
        std::memcpy(&key, static_cast<const char*>(list.keys) + (r * step + i) * int64_t(sizeof key), sizeof key);
        const double value = double(values[r * step + i]);
        candidates_[r] = {value, scores ? double(scores[r * step + i]) : value, int64_t(key)};
      }
      const Cells cells{block_.row(problem_.index, indices, p, i),
                        block_.row(problem_.log_prob, log_probs, p, i),
                        block_.row(problem_.out, outputs, p, i),
                        {plan_, stored_choices(problem_), block_.batch(), panel.group[i]}};
      const int64_t at = p * width_ + i;
      if (problem_.after)
        choices_.write_sums(block_.row(problem_.after, block_.base(problem_.after), p, i), double(m_[at]),
                            double(l_[at]));
      write_best(choices_, cells, candidates_, int64_t(count), size_, double(m_[at]), std::log(double(l_[at])),
                 panel.seen >> i & 1);
    }
  }

  const Plan& plan_;
  const Problem& problem_;
  const Arithmetic& plain_;  // whose numbers are T, one a query, as they are read here
  QueryBlock block_;
  Choices<T> choices_;
  KeyNumbers<T> numbers_;
  int64_t width_, size_, capacity_;
  T *m_, *l_, *alpha_, *shift_;
  // Of each panel: its lists, and how many keys came, in all and up to their last cut.
  Shortlist* lists_;
  int64_t *offered_, *offered_at_cut_;
  T *values_, *scores_, *keys_, *counts_, *least_;
  Candidate* candidates_;
  T *uniform_, *noisy_;  // of a tile
};

}  // namespace

fv_status several_choices(const Problem& problem, fv_error* error) noexcept {
  if (problem.queries <= query_group && !problem.centers) return several_choices_of_few(problem, error);
  return run_choices<Top>(problem, error);
}

}  // namespace foveate
