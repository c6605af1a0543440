// top.cpp for few queries against many keys, bound by memory: the keys are read once, in chunks that any thread may take,
// each with its candidates, its largest score and its sum of weights; the best of a row's candidates are its choices.
// What is chosen is what top.cpp would choose, up to rounding.
#include <algorithm>

#include "drivers/common/few_queries.hpp"
#include "shortlist.hpp"

namespace foveate {
namespace {

// Of a chunk: 2,016 keys, or for each key that is wanted so many, since a list begins with whatever comes first.
constexpr int64_t least_tiles = 12, keys_a_choice = 64;

template <class T>
class TopOfFew : private FewQueries<T> {
 public:
  explicit TopOfFew(Plan& plan) noexcept
      : Base(plan, default_tile_keys, 1, false), plan_(plan), numbers_(plan.problem), size_(p_.draws) {
    const int64_t tiles = std::max<int64_t>(1, (p_.keys + default_tile_keys - 1) / default_tile_keys);
    // whatever else is in the batch: sums of weights are added up by chunks
    const int64_t wanted = std::max(least_tiles, keys_a_choice * size_ / default_tile_keys);
    chunk_keys_ = std::min(wanted, tiles) * default_tile_keys;
    chunks_ = (tiles * default_tile_keys + chunk_keys_ - 1) / chunk_keys_;
    kept_ = std::min(size_, std::min(p_.keys, chunk_keys_));
    capacity_ = std::min(kept_ + std::max<int64_t>(default_tile_keys, 3 * size_), chunk_keys_) + default_tile_keys;
  }

  fv_status run(fv_error* error) noexcept {
    const int64_t blocks = plan_.batches * row_blocks_, rows = plan_.batches * plan_.rows;
    const double flops = 2.0 * double(rows) * double(p_.keys) * double(p_.head_size);
    const int threads = threads_for(blocks * chunks_, flops);
    return this->in_two_passes(
        plan_, threads, error, [&](Carver& carver) { carve_sums(carver, rows); },
        [&](Carver& carver) { return Scratch(*this, carver); },                            //
        blocks * chunks_, [&](int64_t task, Scratch& scratch) { gather(task, scratch); },  //
        rows, [&](int64_t task, Scratch& scratch) { choose(task, scratch); });
  }

 private:
  using Base = FewQueries<T>;
  using Base::arithmetic_;
  using Base::p_;
  using Base::row_blocks_;

  static constexpr double lowest = -std::numeric_limits<double>::infinity();

  struct Scratch : Base::QueryScratch {
    Scratch(const TopOfFew& d, Carver& carver)
        : Base::QueryScratch(d, carver),
          choices(d.plan_, carver),
          lists(carver.take<Candidate>(std::max(task_rows * d.capacity_, d.chunks_ * d.kept_))),
          counts(carver.take<int64_t>(task_rows)),
          least(carver.take<double>(task_rows)),
          noise(carver.take<double>(draws_distinct(d.p_) ? default_tile_keys : 0)),
          rest(carver.take<double>(draws_distinct(d.p_) ? default_tile_keys : 0)) {}
    Choices<T> choices;
    Candidate* lists;  // of each row of the task; then of a row's chunks
    int64_t* counts;
    double* least;  // of each row: only larger numbers are taken
    double *noise, *rest;
  };

  void carve_sums(Carver& carver, int64_t rows) {
    m_ = carver.take<T>(rows * chunks_);
    l_ = carver.take<T>(rows * chunks_);
    seen_ = carver.take<uint8_t>(rows * chunks_);
    counts_ = carver.take<int64_t>(rows * chunks_);
    best_ = carver.take<Candidate>(rows * chunks_ * kept_);
  }

  // The candidates and sums of a chunk.
  void gather(int64_t task, Scratch& scratch) noexcept {
    const int64_t chunk = task % chunks_, batch = task / chunks_ / row_blocks_;
    const int64_t first_row = task / chunks_ % row_blocks_ * task_rows;
    const int query_groups = this->start(batch, first_row, scratch);
    T m[task_rows], l[task_rows];
    std::fill_n(m, task_rows, T(lowest));
    std::fill_n(l, task_rows, T(0));
    std::fill_n(scratch.counts, task_rows, int64_t(0));
    std::fill_n(scratch.least, task_rows, lowest);
    int64_t offered = 0, offered_at_cut = 0;
    int64_t begin = p_.keys, end = 0;
    for (int i = 0; i < query_groups; ++i) {
      begin = std::min(begin, scratch.panels[i].low_first);
      end = std::max(end, scratch.panels[i].high_last);
    }
    const Interval all = {chunk * chunk_keys_, std::min(p_.keys, (chunk + 1) * chunk_keys_)};
    for (Traversal tiles = Traversal::grid(all, default_tile_keys, p_.keys); !tiles.done(); tiles.next()) {
      const KeyTile tile = tiles.tile();
      if (tile.first >= end || tile.first + tile.count <= begin) continue;
      if (asked_to_stop(double(query_groups * query_group * tile.count) * 2.0 * double(p_.head_size))) return;
      const Rows keys = this->keys_of(batch, tile, scratch);
      TileIds ids;
      for (int i = 0; i < query_groups; ++i) {
        const KeyRange range = this->scores(i, tile, keys, ids, scratch);
        if (range.empty()) continue;
        if (draws_distinct(p_))
          for (int32_t q = 0; q < scratch.panels[i].live; ++q) add_noisy(batch, i, q, tile, range, scratch);
        else
          add(i, tile, range, scratch);
        arithmetic_.decode_soft(scratch.s, this->width(scratch.panels[i]), range.count(), plan_.softmax_scale(),
                                m + i * query_group, l + i * query_group, nullptr, 0, 0);
      }
      // as in top.cpp, before lists are full
      offered += tile.count;
      const bool soon = offered >= 2 * offered_at_cut;
      if (soon) offered_at_cut = offered;
      for (int64_t row = 0; row < query_groups * query_group; ++row)
        if (scratch.counts[row] + default_tile_keys >= capacity_ || (soon && scratch.counts[row] > 2 * kept_))
          cut(row, scratch);
    }
    for (int i = 0; i < query_groups; ++i)
      for (int32_t q = 0; q < scratch.panels[i].live; ++q) {
        const int64_t row = i * query_group + q;
        const int64_t at = (batch * plan_.rows + first_row + row) * chunks_ + chunk;
        cut(row, scratch);
        counts_[at] = scratch.counts[row];
        std::copy_n(scratch.lists + row * capacity_, scratch.counts[row], best_ + at * kept_);
        m_[at] = m[row];
        l_[at] = l[row];
        seen_[at] = scratch.panels[i].seen >> q & 1;
      }
  }

  // To the lists of a query group's rows: what is larger than their least numbers. Few are, so that a run of cells is passed
  // over together.
  void add(int i, KeyTile tile, const KeyRange& range, Scratch& scratch) noexcept {
    constexpr int64_t run = 16;  // cells; the scores have room for so many more
    const int64_t first = tile.first + range.begin, step = this->width(scratch.panels[i]), cells = range.count() * step;
    const int64_t first_row = i * query_group;
    T* const s = scratch.s;
    std::fill_n(s + cells, run, T(lowest));
    T least[run];
    for (int64_t c = 0; c < run; ++c)
      least[c] = c % step < scratch.panels[i].live ? T(scratch.least[first_row + c % step]) : T(-lowest);
    for (int64_t at = 0; at < cells; at += run) {
      int any = 0;
      for (int64_t c = 0; c < run; ++c) any |= s[at + c] > least[c];
      if (!any) continue;
      for (int64_t c = 0; c < run; ++c) {
        if (!(s[at + c] > least[c])) continue;
        const int64_t row = first_row + c % step;
        const double score = double(s[at + c]);
        scratch.lists[row * capacity_ + scratch.counts[row]++] = {score, score, first + (at + c) / step};
      }
    }
  }

  // The same of noisy scores, of a row.
  void add_noisy(int64_t batch, int i, int32_t q, KeyTile tile, const KeyRange& range, Scratch& scratch) noexcept {
    const int64_t row = i * query_group + q, first = tile.first + range.begin, count = range.count();
    const int32_t step = this->width(scratch.panels[i]);
    const double scale = plan_.softmax_scale(), least = scratch.least[row];
    make_noise(batch, scratch.panels[i], q, first, count, scratch);
    Candidate* const list = scratch.lists + row * capacity_;
    int64_t listed = scratch.counts[row];
    for (int64_t j = 0; j < count; ++j) {
      const double score = double(scratch.s[j * step + q]), number = score * scale + scratch.noise[j];
      list[listed] = {number, score, first + j};
      listed += number > least;
    }
    scratch.counts[row] = listed;
  }

  void cut(int64_t row, Scratch& scratch) const noexcept {
    if (scratch.counts[row] <= kept_) return;
    Candidate* const list = scratch.lists + row * capacity_;
    if (kept_ > 0) {
      std::nth_element(list, list + kept_ - 1, list + scratch.counts[row], is_before);
      scratch.least[row] = list[kept_ - 1].number;
    }
    scratch.counts[row] = kept_;
  }

  // Gumbel noise in base 2, -log2(-log(1 - u)).
  void make_noise(int64_t batch, const Panel& panel, int32_t q, int64_t first, int64_t count,
                  Scratch& scratch) const noexcept {
    double* const noise = scratch.noise;
    numbers_.make(first, count, panel.row[q] + p_.first_row, scratch.choices.lead(batch, panel.group[q]), noise, 1);
    // to 1e-8 of the logarithm: of u below 2^-26, -log(1 - u) is u
    constexpr int logarithm = 1;
    double* const rest = scratch.rest;
    for (int64_t j = 0; j < count; ++j) rest[j] = 1 - noise[j];
    plan_.kernels.elementary(logarithm, true, rest, rest, count);
    for (int64_t j = 0; j < count; ++j) noise[j] = noise[j] < 0x1p-26 ? noise[j] : -rest[j];
    plan_.kernels.elementary(logarithm, true, noise, noise, count);
    for (int64_t j = 0; j < count; ++j) noise[j] *= -log2_e;
  }

  void choose(int64_t row, Scratch& scratch) noexcept {
    const int64_t batch = row / plan_.rows, at = row * chunks_;
    if (asked_to_stop(16.0 * double(size_ * (1 + p_.value_size)))) return;
    start_panel(plan_, batch, row % plan_.rows, 1, scratch.panels[0]);
    const Panel& panel = scratch.panels[0];
    double m = lowest, l = 0;
    bool seen = false;
    for (int64_t c = 0; c < chunks_; ++c) {
      seen = seen || seen_[at + c];
      m = std::max(m, double(m_[at + c]));
    }
    if (m == lowest) m = 0;
    int64_t count = 0;
    for (int64_t c = 0; c < chunks_; ++c) {
      // a chunk of which nothing is seen adds nothing, and its maximum is no number to subtract
      if (l_[at + c] != T(0)) l += double(l_[at + c]) * std::exp2((double(m_[at + c]) - m) * plan_.softmax_scale());
      std::copy_n(best_ + (at + c) * kept_, counts_[at + c], scratch.lists + count);
      count += counts_[at + c];
    }
    const auto place = [&](const Operand& x) { return row_of(plan_, x, batch, panel, 0); };
    const Cells cells{
        place(p_.index), place(p_.log_prob), place(p_.out), {plan_, stored_choices(p_), batch, panel.group[0]}};
    if (p_.after) scratch.choices.write_sums(place(p_.after), m, l);
    write_best(scratch.choices, cells, scratch.lists, count, size_, m, std::log(l), seen);
  }

  Plan& plan_;
  KeyNumbers<double> numbers_;
  int64_t size_, chunk_keys_, chunks_, kept_, capacity_;
  // Of each row and chunk.
  T *m_ = nullptr, *l_ = nullptr;
  uint8_t* seen_ = nullptr;  // whether a key of it is seen
  int64_t* counts_ = nullptr;
  Candidate* best_ = nullptr;
};

}  // namespace

fv_status several_choices_of_few(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), needs_of_few);
  return plan.arithmetic.element_size == 8 ? TopOfFew<double>(plan).run(error) : TopOfFew<float>(plan).run(error);
}

}  // namespace foveate
