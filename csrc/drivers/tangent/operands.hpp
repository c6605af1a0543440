// The operands of a problem as they move: queries' tangents packed beside the queries, keys' and values' laid out beside
// the keys and values of the open tile; and how the scores of a tile move with them, to first order. Tangents of NULL are 0,
// and cost nothing.
//   inner product   two products, Q' K^T and Q K'^T      distance   by differences      then the slopes of the links,
//   and a mask's tangent
#pragma once
#include <algorithm>
#include <cstring>

#include "drivers/common/query_block.hpp"

namespace foveate {

template <class T>
class TangentOperands {
 public:
  // always: there are tangents() even where no score moves.
  TangentOperands(const Plan& plan, const QueryBlocks& blocks, Carver& carver, bool always = false) noexcept
      : plan_(plan), p_(plan.problem), arithmetic_(plan.arithmetic), inner_(plan.scoring.tangents == nullptr) {
    const int64_t keys = plan.most_tile_keys(), group = arithmetic_.group;
    panel_bytes_ = int64_t(round_up(size_t(blocks.width * plan.scoring.panel_size(p_.head_size))));
    key_bytes_ = plan.scoring.row_size(p_.head_size);
    value_bytes_ = arithmetic_.value_size(p_.value_size);
    queries_ = carver.take(p_.t_query ? blocks.panels * panel_bytes_ : 0);
    keys_ = carver.take(p_.t_key && !plan.t_keys_in_place ? keys * key_bytes_ : 0);
    values_ = carver.take(p_.t_value ? (keys + group - 1) / group * value_bytes_ : 0);
    zeros_ = carver.take(inner_ ? 0 : std::max(panel_bytes_, key_bytes_));
    const int64_t cells = scored() || always ? keys * blocks.width : 0;
    tangents_ = carver.take<T>(cells);
    more_ = carver.take<T>(inner_ && p_.t_query && p_.t_key ? cells : 0);
    // what a product lacks; scores are in base 2 after their last link, tangents natural
    factor_ = plan.links.has_gradient() ? plan.scale : plan.scale / log2_e;
  }

  // Whether scores move; with the sink alone, or the values, they do not.
  bool scored() const { return p_.t_query || p_.t_key || p_.t_mask; }

  // The panels of a block, which are packed.
  void pack(QueryBlock& block) noexcept {
    if (!inner_) std::memset(zeros_, 0, size_t(std::max(panel_bytes_, key_bytes_)));
    if (!p_.t_query) return;
    char* const base = block.base(p_.t_query);
    for (int p = 0; p < block.panels(); ++p) {
      const int32_t live = block.panel(p).live;
      const char* rows[most_lanes];
      for (int32_t i = 0; i < live; ++i) rows[i] = block.row(p_.t_query, base, p, i);
      plan_.scoring.pack_queries(rows, dtype_of(p_.t_query), p_.t_query.column_stride, live, block.vectors(p),
                                 p_.head_size, plan_.query_factor, plan_.factors, block.scratch(),
                                 queries_ + p * panel_bytes_);
    }
  }

  // A tile of keys was opened.
  void open() noexcept {
    keys_ready_ = false;
    values_ready_ = Values::not_loaded;
  }

  // Of the range s of panel p, which the block has just scored: tangents(), and what is to be added to them, or null; both
  // without factor(). Cells that are not seen may hold anything.
  const T* score(QueryBlock& block, int p, const KeyRange& s, const char* link_kept) noexcept {
    const int32_t vectors = block.vectors(p);
    const int64_t count = s.count();
    factor_now_ = factor_;
    T* const more = products(block, p, s);
    const auto each = [&](auto&& f) {
      f(tangents_);
      if (more) f(more);
    };
    if (plan_.links.has_gradient())
      each([&](T* t) { plan_.links.pull_back(link_kept, block.link_bytes(), t, vectors, count); });
    if (p_.t_mask) {
      each([&](T* t) { scale(t, vectors, count, factor_ * log2_e); });
      factor_now_ = 1 / log2_e;  // of the mask's, as a bias is added
      add_mask(block, p, s);
    }
    return more;
  }
  T* tangents() { return tangents_; }
  double factor() const { return factor_now_; }

  // The same as one sum, in natural units. inputs: for each link the tangents of what goes into it.
  void score_whole(QueryBlock& block, int p, const KeyRange& s, const char* link_kept, char* inputs) noexcept {
    const int32_t vectors = block.vectors(p);
    const int64_t count = s.count(), cells = count * vectors * arithmetic_.lanes;
    const T* const more = products(block, p, s);
    for (int64_t i = 0; more && i < cells; ++i) tangents_[i] += more[i];
    scale(tangents_, vectors, count, factor_);
    if (plan_.links.has_gradient())
      plan_.links.move(link_kept, inputs, block.link_bytes(), tangents_, vectors, count, cells * int64_t(sizeof(T)));
    if (!p_.t_mask) return;
    scale(tangents_, vectors, count, log2_e);
    add_mask(block, p, s);
    scale(tangents_, vectors, count, 1 / log2_e);
  }

  // Of the values of the open tile, as QueryBlock::values.
  LoadedRows values(const QueryBlock& block, int64_t begin, bool finite) noexcept {
    if (plan_.t_values_in_place && !finite) {
      const Rows rows = value_rows(block, begin);
      return {rows.data, rows.row_stride};
    }
    const Values wanted = finite ? Values::finite : Values::as_they_are;
    if (values_ready_ != wanted)
      arithmetic_.load_values(value_rows(block, 0), block.tile().count, p_.value_size, finite, values_);
    values_ready_ = wanted;
    return {values_ + begin / arithmetic_.group * value_bytes_, value_bytes_};
  }
  Rows value_rows(const QueryBlock& block, int64_t begin) const { return rows_of(block, p_.t_value, begin); }
  Rows key_rows(const QueryBlock& block, int64_t begin) const { return rows_of(block, p_.t_key, begin); }

  // The queries' tangents of a panel, and the keys' of the open tile, as the scores read them; 0 where they do not move.
  const void* panel(int p) const { return p_.t_query ? queries_ + p * panel_bytes_ : zeros_; }
  LoadedRows keys(const QueryBlock& block, int64_t begin) noexcept {
    if (!p_.t_key) return {zeros_, 0};
    if (plan_.t_keys_in_place) return {key_rows(block, begin).data, p_.t_key.row_stride};
    if (!keys_ready_) plan_.scoring.load_keys(key_rows(block, 0), block.tile().count, p_.head_size, keys_);
    keys_ready_ = true;
    return {keys_ + begin * key_bytes_, key_bytes_};
  }

 private:
  // Into tangents(), and what is to be added: as the products leave them.
  T* products(QueryBlock& block, int p, const KeyRange& s) noexcept {
    const int32_t vectors = block.vectors(p);
    const int64_t count = s.count(), cells = count * vectors * arithmetic_.lanes;
    const auto product = [&](const void* panel, const LoadedRows& keys, T* to, const Prefetch& ahead = {}) {
      plan_.scoring.scores(panel, vectors, keys, count, p_.head_size, nullptr, to, nullptr, block.partial(), ahead);
    };
    const auto ahead = [&] { return block.next_tile_of(p_.t_key, p_.head_size, p); };
    if (!inner_ && (p_.t_query || p_.t_key)) {
      plan_.scoring.tangents(block.packed(p), panel(p), vectors, block.keys(s.begin), keys(block, s.begin), count,
                             p_.head_size, plan_.factors, tangents_);
    } else if (p_.t_query) {
      product(panel(p), block.keys(s.begin), tangents_);
      if (!p_.t_key) return nullptr;
      product(block.packed(p), keys(block, s.begin), more_, ahead());
      return more_;
    } else if (p_.t_key) {
      product(block.packed(p), keys(block, s.begin), tangents_, ahead());
    } else {
      std::fill_n(tangents_, cells, T(0));
    }
    return nullptr;
  }

  void scale(T* t, int32_t vectors, int64_t count, double factor) const noexcept {
    arithmetic_.scaled.apply(t, vectors, count, {factor, 0, 1}, nullptr);
  }

  // As a bias: times log2(e).
  void add_mask(const QueryBlock& block, int p, const KeyRange& s) noexcept {
    const Panel& queries = block.panel(p);
    const char* rows[most_lanes];
    for (int32_t i = 0; i < queries.live; ++i)
      rows[i] = row_of(plan_, p_.t_mask, block.batch(), queries, i) + block.key_of(s) * p_.t_mask.column_stride;
    arithmetic_.add_bias(tangents_, block.vectors(p), s.count(), rows, dtype_of(p_.t_mask), p_.t_mask.column_stride,
                         queries.live);
  }

  Rows rows_of(const QueryBlock& block, const Operand& x, int64_t begin) const {
    return {block.base(x) + (block.tile().first + begin) * x.row_stride, dtype_of(x), x.row_stride, x.column_stride};
  }

  const Plan& plan_;
  const Problem& p_;
  const Arithmetic& arithmetic_;
  bool inner_;
  int64_t panel_bytes_, key_bytes_, value_bytes_;
  char *queries_, *keys_, *values_, *zeros_;
  T *tangents_, *more_;
  double factor_, factor_now_ = 1;
  bool keys_ready_ = false;
  enum class Values { not_loaded, as_they_are, finite } values_ready_ = Values::not_loaded;
};

}  // namespace foveate
