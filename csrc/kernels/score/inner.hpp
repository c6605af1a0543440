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
    constexpr bool halves = has_halves && v > 1;
    // the keys of whole vectors, all of them
    const int64_t begin = halves ? partial.lower_end[1] : 0;
    const int64_t end = !halves ? count : begin < partial.upper_begin[0] ? partial.upper_begin[0] : begin;
    Prefetcher prefetcher(ahead, (end - begin) / key_rows<v> + (count - (end - begin)) / end_rows);
    T unwanted[v * lanes<T>];
    T* const tops = top ? top : unwanted;
    start_top<T, v>(tops);
    const int64_t stride = keys.row_stride / int64_t(sizeof(T)), words = Product::words(head_size);
    // the keys first..last of `some` vectors like `vector` from a lane on
    const auto product = [&](auto vector, auto some, int64_t lane, int64_t first, int64_t last) {
      constexpr int rows = some == v ? key_rows<v> : end_rows;
      if (first < last)
        scores_product<Product, decltype(vector), some, v, rows>(
            panel + lane, static_cast<const T*>(keys.data) + first * stride, stride, last - first, words,
            s + first * v * lanes<T> + lane, tops + lane, prefetcher);
    };
    if constexpr (v == 1) {
      product(Vec<T>{}, v, 0, 0, count);
    } else if constexpr (!halves) {
      product(Vec<T>{}, Constant<1>{}, 0, 0, partial.first);
      product(Vec<T>{}, v, 0, partial.first, partial.last);
      product(Vec<T>{}, Constant<1>{}, (v - 1) * lanes<T>, partial.last, count);
    } else {
      static_assert(v == 2);
      constexpr int64_t half = lanes<T> / 2;
      const int64_t *lower_end = partial.lower_end, *upper_begin = partial.upper_begin;
      product(Vec<T>{}, Constant<1>{}, 0, lower_end[0], upper_begin[0] < begin ? upper_begin[0] : begin);
      product(Vec<T>{}, v, 0, begin, end);
      product(Vec<T>{}, Constant<1>{}, 2 * half, end, upper_begin[1]);
      product(Half<T>{}, Constant<1>{}, 0, 0, lower_end[0]);
      product(Half<T>{}, Constant<1>{}, 2 * half, partial.first, lower_end[1]);
      product(Half<T>{}, Constant<1>{}, half, upper_begin[0], partial.last);
      product(Half<T>{}, Constant<1>{}, 3 * half, upper_begin[1], count);
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
