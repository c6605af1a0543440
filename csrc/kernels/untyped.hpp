// Kernels as the table takes them. The table serves every accumulator and says void* for what is of the accumulator's
// type; kernels say T*. `table.entry = untyped<kernel>` converts the pointers, and the compiler checks all else.
#pragma once

namespace foveate::FOVEATE_ISA {
namespace {

template <class Void>
struct UntypedPointer {
  Void* pointer;
  template <class T>
  operator T*() const {
    return static_cast<T*>(pointer);
  }
};
inline UntypedPointer<void> typed(void* pointer) { return {pointer}; }
inline UntypedPointer<const void> typed(const void* pointer) { return {pointer}; }
template <class Other>
inline Other& typed(Other& other) {
  return other;
}

template <auto kernel>
struct Untyped {
  template <class Result, class... Arguments>
  using Entry = Result (*)(Arguments...);
  template <class Result, class... Arguments>
  static Result call(Arguments... arguments) {
    return kernel(typed(arguments)...);
  }
  template <class Result, class... Arguments>
  constexpr operator Entry<Result, Arguments...>() const {
    return call<Result, Arguments...>;
  }
};
template <auto kernel>
constexpr Untyped<kernel> untyped{};

}  // namespace
}  // namespace foveate::FOVEATE_ISA
