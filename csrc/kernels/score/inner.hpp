// The inner product: s[j][q] = sum_d K[j][d] Q[d][q], a product of gemm.hpp.
#pragma once
#include "../gemm.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Product: a multiply-add of T, or of pairs in words of T's size, of which a row has `words`.
template <class Product, class T = typename Product::T>
void inner_scores(const void* panel, int32_t vectors, Tile keys, int64_t count, int64_t words, void* s, void* top,
                  const Ahead& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, count / key_rows<v>);
    scores_product<Product, v>(static_cast<const T*>(panel), static_cast<const T*>(keys.data),
                               keys.row_stride / int64_t(sizeof(T)), count, words, static_cast<T*>(s),
                               start_top<T, v>(top), prefetcher);
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
