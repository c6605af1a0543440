// What happens to a score between the product and the softmax, in the order of the definition: scale, softcap, bias.
// Afterwards scores are in base 2, log2(e) included.
#pragma once
#include "../math.hpp"
#include "../panel.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// softcap * tanh(scale * s / softcap) * log2(e) where softcap > 0, else scale * s
template <class T>
void bend(T* scores, int32_t vectors, int64_t count, double scale, double softcap) {
  const int64_t cells = count * vectors * lanes<T>;
  if (softcap > 0) {
    const T inner = T(scale / softcap), outer = T(softcap * Math<double>::log2_e);
    for (int64_t i = 0; i < cells; i += lanes<T>) store<T>(scores + i, tanh<T>(load(scores + i) * inner) * outer);
  } else {
    for (int64_t i = 0; i < cells; i += lanes<T>) store<T>(scores + i, load(scores + i) * T(scale));
  }
}

// dS times the derivative of softcap * tanh(s / softcap), 1 - tanh^2; bent: softcap * tanh(...) * log2(e). 0 stays 0.
template <class T, int vectors>
void bend_gradient(const T* bent, T* d_scores, int64_t count, double softcap) {
  constexpr int width = vectors * lanes<T>;
  const T factor = T(1 / (softcap * Math<double>::log2_e));
  for (int64_t j = 0; j < count; ++j)
    unroll<vectors>([&](auto v) {
      T* const cell = d_scores + j * width + v * lanes<T>;
      const Vec<T> d_score = load(cell), t = load(bent + j * width + v * lanes<T>) * factor;
      store<T>(cell, d_score == T(0) ? d_score : d_score * (T(1) - t * t));
    });
}

template <class T>
void bend_gradient(const T* bent, T* d_scores, int32_t vectors, int64_t count, double softcap) {
  by_width(vectors, [&](auto v) { bend_gradient<T, v>(bent, d_scores, count, softcap); });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
