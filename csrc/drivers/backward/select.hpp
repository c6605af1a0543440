// The gradient of the selection, on one tile: from scores to the weights that multiplied the values, and to the gradients
// of the logits. With P the weights of the softmax, F the factors that they had after it (Gaussian, dropout), dP = dO V^T,
// and delta = rowsum(dO O) - dlse, dlse being the gradient of lse,
//   soft   dS = P (F dP - delta)
//   hard   dS = sum_s advantage_s ([key is the s-th choice] - P)
// and of other normalizers, with g what weights grow by with a logit,
//   dS = g (F dP - delta),  delta = 0, or with a threshold rowsum(dO M), M the mean of the values by F g
#pragma once
#include "drivers/common/dropout.hpp"
#include "rows.hpp"

namespace foveate {

template <class T>
class SelectGradient {
 public:
  // stride: of the block's weights and d_scores. scored: gradients beyond those of the values are wanted.
  SelectGradient(const Plan& plan, const QueryBlocks& blocks, int64_t stride, bool scored, Carver& carver) noexcept
      : plan_(plan),
        p_(plan.problem),
        stride_(stride),
        scored_(scored),
        factors_(plan.problem.sigma > 0 || plan.problem.dropout > 0),
        dropout_(plan, carver) {
    const int64_t cells = plan_.tile_keys * blocks.width;
    cells_ = carver.take<T>(cells);
    plain_ = carver.take<T>(factors_ ? cells : 0);
    d_weights_ = carver.take<T>(p_.sigma > 0 ? cells : 0);
  }

  // The range s of panel p, which the block has scored, in the tile from `key`. Weights and d_scores are cells for
  // query_sum, of s's first key and the panel's first query; d_scores also go to cells(), [key][query], and alone where
  // d_scores is null: see soft_gradient. moments: see Arithmetic.
  void run(QueryBlock& block, const BlockRows<T>& rows, int p, const KeyRange& s, int64_t key, char* weights,
           char* d_scores, T* moments) noexcept {
    const Arithmetic& arithmetic = plan_.arithmetic;
    const int32_t vectors = block.vectors(p);
    const int64_t width = vectors * arithmetic.lanes;
    if (p_.advantage)
      std::fill_n(cells_, s.count() * width, T(0));
    else if (scored_)  // moments take hidden cells, of weight 0, times what stands there
      arithmetic.inner.scores(rows.d_out_panel(p), vectors, block.values_as_keys(s.begin), s.count(), p_.value_size,
                              nullptr, cells_, nullptr, moments ? PartialKeys::none(s.count()) : block.partial(),
                              Prefetch{});
    const Factors factors = factors_of(block, p, s, key);
    if (factors_ && scored_) multiply(factors, vectors, s.count(), cells_);
    if (moments) std::memcpy(d_weights_, cells_, size_t(s.count() * width) * sizeof(T));
    if (plan_.compact)
      arithmetic.compact_gradient(block.scores(), cells_, vectors, s.count(), plan_.profile, rows.lse_low(p),
                                  rows.delta(p), weights, stride_);
    else if (plan_.normalizer != Normalizer::none)
      arithmetic.normalize_gradient(block.scores(), cells_, vectors, s.count(), block.softmax_scale(), plan_.normalizer,
                                    rows.lse_high(p), rows.lse_low(p), rows.delta(p), weights, d_scores, stride_);
    else
      arithmetic.soft_gradient(block.scores(), cells_, vectors, s.count(), block.softmax_scale(), rows.lse_high(p),
                               rows.lse_low(p), rows.delta(p), weights, d_scores, stride_);
    if (factors_) {
      T* const plain_weights = reinterpret_cast<T*>(weights);
      copy_rows(plain_weights, stride_, plain_, width, width, s.count());
      if (moments) arithmetic.gaussian_gradient(plain_, d_weights_, vectors, s.count(), factors.gaussian, moments);
      multiply(factors, vectors, s.count(), plain_);
      copy_rows(plain_, width, plain_weights, stride_, width, s.count());
    }
    if (p_.advantage) add_choices(block, p, s, key, width, reinterpret_cast<T*>(d_scores));
  }

  // What weights are multiplied by after the softmax, F, of the range s of panel p in the tile from `key`.
  struct Factors {
    Gaussian gaussian;
    const uint32_t* kept;
  };
  bool any_factors() const { return factors_; }
  Factors factors_of(const QueryBlock& block, int p, const KeyRange& s, int64_t key) noexcept {
    return {p_.sigma > 0 ? block.gaussian(p, s) : Gaussian{},
            dropout_.any() ? dropout_.kept(block.panel(p), block.batch(), key + s.begin, s.count()) : nullptr};
  }
  void multiply(const Factors& by, int32_t vectors, int64_t count, T* cells) const noexcept {
    if (p_.sigma > 0) plan_.arithmetic.multiply_gaussian(cells, vectors, count, by.gaussian);
    if (by.kept) plan_.arithmetic.clear_unset(cells, vectors, count, by.kept);
  }
  // The same of weights that stand in rows for query_sum.
  void multiply_rows(const Factors& by, int32_t vectors, int64_t count, T* weights) noexcept {
    const int64_t width = vectors * plan_.arithmetic.lanes;
    copy_rows(weights, stride_, plain_, width, width, count);
    multiply(by, vectors, count, plain_);
    copy_rows(plain_, width, weights, stride_, width, count);
  }

  T* cells() { return cells_; }
  double factor() const { return dropout_.factor(); }  // of dO, which the weights that are kept leave out

 private:
  static void copy_rows(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t columns, int64_t rows) {
    for (int64_t j = 0; j < rows; ++j)
      std::memcpy(to + j * to_stride, from + j * from_stride, size_t(columns) * sizeof(T));
  }

  void add_choices(const QueryBlock& block, int p, const KeyRange& s, int64_t key, int64_t width,
                   T* d_scores) noexcept {
    const Panel& panel = block.panel(p);
    for (int32_t i = 0; i < panel.live; ++i) {
      const char* const advantage = row_of(plan_, p_.advantage, block.batch(), panel, i);
      each_choice(plan_, block.batch(), panel.group[i], panel.row[i], [&](int64_t draw, int64_t chosen) {
        const int64_t j = chosen - key - s.begin;
        if (j < 0 || j >= s.count()) return;
        T more;
        std::memcpy(&more, advantage + draw * p_.advantage.column_stride, sizeof more);
        cells_[j * width + i] += more;
        if (d_scores) d_scores[j * stride_ + i] = cells_[j * width + i];
      });
    }
  }

  const Plan& plan_;
  const Problem& p_;
  int64_t stride_;
  bool scored_, factors_;
  Dropout dropout_;
  T *cells_, *plain_, *d_weights_;
};

}  // namespace foveate
