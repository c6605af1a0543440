// Statistics of a single query against many keys, as they are wanted for each new token, bound by memory: the sums are its
// weights. Keys are read once, in chunks that any thread may take. The weights of a tile go where the sums are to be, beside
// the tile's own m, and are multiplied in place when m and l of all keys are known.
#include <algorithm>

#include "drivers/common/few_queries.hpp"
#include "summary.hpp"

namespace foveate {
namespace {

constexpr int64_t one_tile = 1024;
constexpr int64_t chunk_tiles = 2;  // a unit of work for a thread: 2,048 keys

template <class T>
class OfOne : private FewQueries<T> {
 public:
  explicit OfOne(Plan& plan) noexcept
      : Base(plan, std::clamp<int64_t>(plan.problem.keys, 1, one_tile), 1, true), plan_(plan), sums_(wants_sums(p_)) {
    tiles_ = (p_.keys + tile_ - 1) / tile_;
    chunks_ = std::max<int64_t>(1, (tiles_ + chunk_tiles - 1) / chunk_tiles);
  }

  fv_status run(fv_error* error) noexcept {
    const int64_t blocks = plan_.batches * row_blocks_, rows = plan_.batches * plan_.rows;
    const int threads = threads_for(blocks * chunks_, 2.0 * double(rows) * double(p_.keys) * double(p_.head_size));
    return this->in_two_passes(
        plan_, threads, error, [&](Carver& carver) { carve(carver, rows); },
        [&](Carver& carver) { return Scratch(*this, carver); },                           //
        blocks * chunks_, [&](int64_t task, Scratch& scratch) { weigh(task, scratch); },  //
        blocks, [&](int64_t task, Scratch& scratch) { finish(task, scratch); });
  }

 private:
  using Base = FewQueries<T>;
  using Base::arithmetic_;
  using Base::p_;
  using Base::row_blocks_;
  using Base::tile_;

  struct Scratch : Base::QueryScratch {
    Scratch(const OfOne& d, Carver& carver) : Base::QueryScratch(d, carver), own(carver.take<T>(d.score_stride())) {}
    T* own;  // scores, beside their weights
  };

  // Of a tile, for one row: the largest score and its key, the sums of the weights beside it and of these times their
  // logarithms to base 2.
  struct OfTile {
    T m, l;
    double t;
    int64_t place;
  };

  void carve(Carver& carver, int64_t rows) {
    of_tiles_ = carver.take<OfTile>(rows * tiles_);
    chunk_seen_ = carver.take<uint8_t>(rows * chunks_);
  }

  KeyTile tile_at(int64_t t) const { return {t * tile_, std::min(tile_, p_.keys - t * tile_)}; }

  void weigh(int64_t task, Scratch& scratch) noexcept {
    const int64_t chunk = task % chunks_, batch = task / chunks_ / row_blocks_;
    const int64_t first_row = task / chunks_ % row_blocks_ * task_rows;
    const int query_groups = this->start(batch, first_row, scratch);
    int64_t begin = p_.keys, end = 0;
    for (int i = 0; i < query_groups; ++i) {
      begin = std::min(begin, scratch.panels[i].low_first);
      end = std::max(end, scratch.panels[i].high_last);
    }
    const int64_t row = batch * plan_.rows + first_row;
    for (int64_t t = chunk * chunk_tiles; t < std::min(tiles_, (chunk + 1) * chunk_tiles); ++t) {
      const KeyTile tile = tile_at(t);
      const bool any = tile.first < end && tile.first + tile.count > begin;
      if (asked_to_stop(2.0 * double(query_groups * query_group * tile.count) * double(p_.head_size))) return;
      const Rows keys = any ? this->keys_of(batch, tile, scratch) : Rows{};
      TileIds ids;
      for (int i = 0; i < query_groups; ++i) {
        const KeyRange range = any ? this->scores(i, tile, keys, ids, scratch) : KeyRange{};
        weigh(batch, tile, i, range, of_tiles_ + (row + i * query_group) * tiles_ + t, scratch);
      }
    }
    for (int i = 0; i < query_groups; ++i)
      for (int32_t q = 0; q < scratch.panels[i].live; ++q)
        chunk_seen_[(row + i * query_group + q) * chunks_ + chunk] = scratch.panels[i].seen >> q & 1;
  }

  // A tile for a query group; to: of its first row, the next ones `tiles_` apart.
  void weigh(int64_t batch, KeyTile tile, int i, const KeyRange& range, OfTile* to, Scratch& scratch) noexcept {
    const Panel& panel = scratch.panels[i];
    const int32_t width = this->width(panel);
    const int64_t count = range.empty() ? 0 : range.count();
    const T lowest = -std::numeric_limits<T>::infinity();
    T m[query_group], l[query_group];
    std::fill_n(m, query_group, lowest);
    std::fill_n(l, query_group, T(0));
    double t[query_group] = {};
    const T* const weights = this->scores_of(i, scratch);
    if (count > 0) {
      std::copy_n(weights, count * width, scratch.own);
      arithmetic_.decode_soft(this->scores_of(i, scratch), width, count, plan_.softmax_scale(), m, l, nullptr, 0, 0);
      add_logarithms(scratch.own, weights, width, count, m, t);
    }
    for (int32_t q = 0; q < panel.live; ++q) {
      int64_t place = 0;
      while (place < count && !(scratch.own[place * width + q] == m[q])) ++place;
      to[q * tiles_] = {m[q], l[q], t[q], tile.first + range.begin + place};
      if (!sums_) continue;
      const int64_t step = p_.key_sum.row_stride;
      char* const sums = row_of(plan_, p_.key_sum, batch, panel, q) + tile.first * step;
      for (int64_t j = 0; j < tile.count; ++j) {
        const bool in = count > 0 && j >= range.begin && j < range.end;
        const T weight = in ? weights[(j - range.begin) * width + q] : T(0);
        std::memcpy(sums + j * step, &weight, sizeof weight);
      }
    }
  }

  // t[q] = the sum over the keys of weight * scale * (score - m), key j in chain j % 8: whoever shares its keys.
  void add_logarithms(const T* scores, const T* weights, int32_t width, int64_t count, const T* m, double* t) const {
    if (width == 1) return add_logarithms<1>(scores, weights, count, m, t);
    if (width == 2) return add_logarithms<2>(scores, weights, count, m, t);
    add_logarithms<query_group>(scores, weights, count, m, t);
  }
  template <int width>
  void add_logarithms(const T* scores, const T* weights, int64_t count, const T* m, double* t) const {
    constexpr int chains = 8, cells = chains * width;
    const T scale = T(plan_.softmax_scale()), least = sizeof(T) == 4 ? T(-200) : T(-1100);
    T offset[cells], sum[cells] = {};
    for (int c = 0; c < cells; ++c)
      offset[c] = m[c % width] == -std::numeric_limits<T>::infinity() ? T(0) : m[c % width];
    const auto add = [&](int64_t k, int c) {
      const T x = (scores[k] - offset[c]) * scale;
      sum[c] += weights[k] * (x > least ? x : least);
    };
    int64_t k = 0;
    for (; k + cells <= count * width; k += cells)
      for (int c = 0; c < cells; ++c) add(k + c, c);
    for (int c = 0; k + c < count * width; ++c) add(k + c, c);
    for (int c = 0; c < cells; ++c) t[c % width] += double(sum[c]);
  }

  void finish(int64_t task, Scratch& scratch) noexcept {
    const int64_t batch = task / row_blocks_, first_row = task % row_blocks_ * task_rows;
    const int query_groups = this->start(batch, first_row, scratch);
    for (int i = 0; i < query_groups; ++i)
      for (int32_t q = 0; q < scratch.panels[i].live; ++q)
        finish(batch, batch * plan_.rows + first_row + i * query_group + q, i, q, scratch);
  }

  void finish(int64_t batch, int64_t row, int i, int32_t q, Scratch& scratch) noexcept {
    Panel& panel = scratch.panels[i];
    const OfTile* const tiles = of_tiles_ + row * tiles_;
    const uint8_t* const chunks = chunk_seen_ + row * chunks_;
    const bool seen = std::any_of(chunks, chunks + chunks_, [](uint8_t x) { return x != 0; });
    const double lowest = -std::numeric_limits<double>::infinity(), scale = plan_.softmax_scale();
    double m = lowest, l = 0, t = 0;
    int64_t place = -1;
    for (int64_t k = 0; k < tiles_; ++k) {
      if (!(double(tiles[k].m) > m)) continue;
      m = double(tiles[k].m);
      place = tiles[k].place;
    }
    const double offset = m == lowest ? 0 : m;
    // less than the smallest number, and finite
    const auto below = [&](const OfTile& tile) { return std::max((double(tile.m) - offset) * scale, -3000.0); };
    for (int64_t k = 0; k < tiles_; ++k) {
      const double x = below(tiles[k]), shrink = std::exp2(x);
      l += double(tiles[k].l) * shrink;
      t += (tiles[k].t + double(tiles[k].l) * x) * shrink;
    }
    const Summary summary(plan_, m, l, t, batch, panel.group[q]);
    write_summary(p_, summary, seen, place, [&](const Operand& x) { return row_of(plan_, x, batch, panel, q); });
    if (!sums_) return;
    char* const sums = row_of(plan_, p_.key_sum, batch, panel, q);
    if (seen && !summary.valid()) {
      spoil(panel, q, sums, scratch);
      return;
    }
    for (int64_t k = 0; k < tiles_; ++k) {
      const KeyTile tile = tile_at(k);
      multiply(sums + tile.first * p_.key_sum.row_stride, tile.count,
               seen ? T(std::exp2(below(tiles[k])) * summary.largest) : T(0));
    }
  }

  void multiply(char* at, int64_t count, T factor) const {
    const int64_t step = p_.key_sum.row_stride;
    for (int64_t j = 0; j < count; ++j) {
      T x;
      std::memcpy(&x, at + j * step, sizeof x);
      x *= factor;
      std::memcpy(at + j * step, &x, sizeof x);
    }
  }

  // A query without a distribution has the weight NaN wherever it sees, and nowhere else.
  void spoil(Panel& panel, int32_t q, char* sums, Scratch& scratch) noexcept {
    const int64_t step = p_.key_sum.row_stride;
    for (int64_t k = 0; k < tiles_; ++k) {
      const KeyTile tile = tile_at(k);
      TileIds ids;
      const KeyRange range = visible_keys(plan_, panel, tile, sum_keys, true, scratch.bits, {}, ids);
      for (int64_t j = 0; j < tile.count; ++j) {
        const bool in = !range.empty() && j >= range.begin && j < range.end;
        const bool sees = in && (!range.hidden || (range.bits[j - range.begin] >> q & 1));
        write_number(p_.key_sum, sums + (tile.first + j) * step, sees ? std::numeric_limits<double>::quiet_NaN() : 0);
      }
    }
  }

  Plan& plan_;
  bool sums_;
  int64_t tiles_, chunks_;
  OfTile* of_tiles_ = nullptr;
  uint8_t* chunk_seen_ = nullptr;
};

}  // namespace

fv_status statistics_of_one(const Problem& problem, fv_error* error) noexcept {
  Plan plan(problem, kernels(), needs_of_few);
  return plan.arithmetic.element_size == 8 ? OfOne<double>(plan).run(error) : OfOne<float>(plan).run(error);
}

}  // namespace foveate
