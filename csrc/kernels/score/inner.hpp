// The inner product: s[j][q] = sum_d K[j][d] Q[d][q], a product of gemm.hpp.
#pragma once
#include "../gemm.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// Rows are those of Product, in words of T's size.
template <class Product, class T = typename Product::T>
void inner_scores(const T* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t head_size, const void*, T* s,
                  T* top, const PartialKeys& partial, const Prefetch& ahead) {
  by_width(vectors, [&](auto v) {
    Prefetcher prefetcher(ahead, count / key_rows<v>);
    T unwanted[v * lanes<T>];
    T* const tops = top ? top : unwanted;
    start_top<T, v>(tops);
    const int64_t stride = keys.row_stride / int64_t(sizeof(T)), words = Product::words(head_size);
    // the keys begin..end of `some` vectors from `first` on
    const auto product = [&](auto some, auto first, int64_t begin, int64_t end) {
      scores_product<Product, some, v>(panel + first * lanes<T>, static_cast<const T*>(keys.data) + begin * stride,
                                       stride, end - begin, words, s + (begin * v + first) * lanes<T>,
                                       tops + first * lanes<T>, prefetcher);
    };
    if constexpr (v == 1) {
      product(v, Constant<0>{}, 0, count);
    } else {
      if (partial.first > 0) product(Constant<1>{}, Constant<0>{}, 0, partial.first);
      product(v, Constant<0>{}, partial.first, partial.last);
      if (partial.last < count) product(Constant<1>{}, Constant<v - 1>{}, partial.last, count);
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
