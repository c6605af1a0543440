// The scale alone, as a link: s becomes scale s, log2(e) included in the scale. For scores whose queries do not have it.
#pragma once
#include "../panel.hpp"
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

template <class T>
void scaled(T* scores, int32_t vectors, int64_t count, const LinkParameters& by, T*) {
  const int64_t cells = count * vectors * lanes<T>;
  for (int64_t i = 0; i < cells; i += lanes<T>) store<T>(scores + i, load(scores + i) * T(by.scale));
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
