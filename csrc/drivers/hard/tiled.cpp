// Hard attention: for every query the most probable key, or keys drawn from the distribution that soft attention weighs
// the values by. One pass over the tiles of keys, whatever the number of draws; the weights of one tile are stored at a
// time, and of the values only the chosen rows are read. Uniform numbers are counted by (leading index, query, draw; tile
// of keys), so that a draw depends on nothing else.
#include "choices.hpp"

#include <algorithm>

#include "drivers/common/query_block.hpp"
#include "drivers/drivers.hpp"
#include "drivers/edges/along_edges.hpp"

namespace foveate {
namespace {

constexpr int64_t words = random_words;

template <class T>
class Hard {
 public:
  Hard(const Plan& plan, const QueryBlocks& blocks, Carver& carver) noexcept
      : plan_(plan),
        problem_(plan.problem),
        plain_(sizeof(T) == 8 ? plan.kernels.float64 : plan.kernels.float32),
        block_(plan, blocks, carver),
        choices_(plan, carver),
        width_(blocks.width),
        draws_(plan.problem.draws) {
    const int64_t queries = int64_t(blocks.panels) * width_;
    m_ = carver.take<T>(queries);
    l_ = carver.take<T>(queries);
    alpha_ = carver.take<T>(width_);
    runs_ = carver.take<T>(plain_.runs_of(plan.tile_keys) * width_);
    place_ = carver.take<int32_t>(width_);
    key_ = carver.take<int64_t>(queries * draws_);
    weight_ = carver.take<T>(queries * draws_);
    chosen_m_ = carver.take<T>(queries * draws_);
    uniforms_ = carver.take<T>(choices_.sampled() ? queries * draws_ * words : 0);
  }

  static int64_t bytes_a_query(const Plan& plan) {
    const int64_t a_draw = int64_t(sizeof(int64_t) + (2 + words) * sizeof(T));
    return plan.scoring.panel_size(plan.problem.head_size) + plan.problem.draws * a_draw;
  }

  void run(int64_t task, int64_t next) noexcept {
    block_.start(task, next);
    while (block_.next_panels() && !block_.stopped()) choose();
  }

 private:
  void choose() noexcept {
    const int count = block_.panels();
    for (int p = 0; p < count; ++p) start(p);
    std::fill_n(key_, count * width_ * draws_, int64_t(-1));
    for (int p = 0; p < count; p += block_.together()) pass(p, p + block_.together());
    if (block_.stopped()) return;
    for (int i = 0; i < block_.panel(0).live; ++i) fetch(0, i);
    for (int p = 0; p < count; ++p) write(p);
  }

  void start(int p) noexcept {
    T *m = m_ + p * width_, *l = l_ + p * width_;
    block_.start_softmax(p, m, l);
    if (!problem_.before) return;
    char* const before = block_.base(problem_.before);
    for (int i = 0; i < block_.panel(p).live; ++i)
      choices_.start_behind(block_.row(problem_.before, before, p, i), m + i, l + i);
  }

  void pass(int first, int last) noexcept {
    words_of_ = -1;
    for (Traversal tiles = block_.tiles(first, last); block_.open(tiles); tiles.next()) {
      const int64_t tile = choices_.counted(tiles.tile().first / plan_.tile_keys);
      if (choices_.sampled()) count_on(tile, first, last);
      for (int p = first; p < last; ++p) select(p, tile);
    }
  }

  int64_t place_of(int p, int64_t draw) const { return (p * draws_ + draw) * width_; }  // of a panel's first query

  // Random numbers for this tile and those that share its block.
  void count_on(int64_t tile, int first, int last) noexcept {
    if (words_of_ == tile / words) return;
    words_of_ = tile / words;
    for (int p = first; p < last; ++p) {
      const Panel& panel = block_.panel(p);
      for (int i = 0; i < panel.live; ++i) {
        const int64_t lead = choices_.lead(block_.batch(), panel.group[i]);
        for (int64_t draw = 0; draw < draws_; ++draw) {
          const RandomBlock random = choices_.numbers(words_of_, draw, panel.row[i], lead);
          T* const to = uniforms_ + place_of(p, draw) * words + i;
          for (int64_t w = 0; w < words; ++w) to[w * width_] = uniform<T>(random.words[w]);
        }
      }
    }
  }

  // The open tile, for a panel.
  void select(int p, int64_t tile) noexcept {
    const KeyRange range = block_.score(p, false);
    if (range.empty()) return;
    const int32_t vectors = block_.vectors(p);
    const int64_t count = range.count(), first = block_.key_of(range);
    T *m = m_ + p * width_, *l = l_ + p * width_;
    const uint32_t live = low_bits(block_.panel(p).live);
    const double scale = block_.softmax_scale();
    if (!choices_.sampled()) {
      const uint32_t found = plain_.argmax_place(block_.scores(), vectors, count, block_.row_max(), m, place_);
      plain_.soft(block_.scores(), vectors, count, scale, block_.row_max(), m, l, nullptr, alpha_, nullptr, Prefetch{});
      take(found & live, place_of(p, 0), p, first, vectors);
      return;
    }
    plain_.soft_runs(block_.scores(), vectors, count, scale, block_.row_max(), m, l, alpha_, runs_);
    const int64_t word = tile % words;
    for (int64_t draw = 0; draw < draws_; ++draw) {
      const T* numbers = uniforms_ + place_of(p, draw) * words + word * width_;
      const uint32_t drawn = plain_.draw(block_.scores(), vectors, count, runs_, l, numbers, place_);
      take(drawn & live, place_of(p, draw), p, first, vectors);
    }
  }

  // Notes the keys that were found at place_, with their weights.
  void take(uint32_t found, int64_t at, int p, int64_t first, int32_t vectors) noexcept {
    const T* weights = reinterpret_cast<const T*>(block_.scores());
    const int64_t step = int64_t(vectors) * plan_.arithmetic.lanes;
    for (; found; found &= found - 1) {
      const int i = __builtin_ctz(found);
      key_[at + i] = first + place_[i];
      weight_[at + i] = weights[place_[i] * step + i];
      chosen_m_[at + i] = m_[p * width_ + i];
    }
  }

  void write(int p) noexcept {
    const Panel& panel = block_.panel(p);
    char* const indices = block_.base(problem_.index);
    char* const log_probs = block_.base(problem_.log_prob);
    char* const outputs = block_.base(problem_.out);
    char* const after = problem_.after ? block_.base(problem_.after) : nullptr;
    for (int i = 0; i < panel.live; ++i) {
      if (after)
        choices_.write_sums(block_.row(problem_.after, after, p, i), double(m_[p * width_ + i]),
                            double(l_[p * width_ + i]));
      if (p + 1 < block_.panels() && i < block_.panel(p + 1).live) fetch(p + 1, i);
      const bool seen = panel.seen >> i & 1;
      const double m = double(m_[p * width_ + i]), log_l = std::log(double(l_[p * width_ + i]));
      const Cells cells{block_.row(problem_.index, indices, p, i), block_.row(problem_.log_prob, log_probs, p, i),
                        block_.row(problem_.out, outputs, p, i), values_of(p, i)};
      for (int64_t draw = 0; draw < draws_; ++draw) {
        const int64_t at = place_of(p, draw) + i;
        choices_.write(cells, draw, key_[at], double(weight_[at]), double(chosen_m_[at]), m, log_l, seen);
      }
    }
  }

  StoredRows values_of(int p, int i) const {
    return {plan_, stored_choices(problem_), block_.batch(), block_.panel(p).group[i]};
  }

  // The values that a query chose are asked for while the panel before is written.
  [[gnu::always_inline]] void fetch(int p, int i) const {
    const Cells cells{nullptr, nullptr, nullptr, values_of(p, i)};
    for (int64_t draw = 0; draw < draws_; ++draw) {
      const int64_t key = key_[place_of(p, draw) + i];
      if (key >= 0) choices_.fetch(cells, key);
    }
  }

  const Plan& plan_;
  const Problem& problem_;
  const Arithmetic& plain_;  // whose weights are T, one a query, as they are read here
  QueryBlock block_;
  Choices<T> choices_;
  int64_t width_, draws_;
  T *m_, *l_, *alpha_, *runs_;
  int32_t* place_;
  int64_t* key_;  // of each panel, draw and query: the key that is chosen so far, or -1
  T *weight_, *chosen_m_;
  T* uniforms_;            // of each panel, draw, word and query
  int64_t words_of_ = -1;  // the block of random numbers that is at hand
};

}  // namespace

fv_status hard_attention(const Problem& problem, fv_error* error) noexcept {
  if (problem.edge_begins) return choices_along_edges(problem, error);
  if (problem.selection == FV_TOP || problem.selection == FV_DISTINCT) return several_choices(problem, error);
  const bool parted = problem.selection == FV_SAMPLE && problem.after;  // as all queries together
  if (problem.queries <= query_group && !problem.centers && !parted) return hard_attention_of_few(problem, error);
  return run_choices<Hard>(problem, error);
}

}  // namespace foveate
