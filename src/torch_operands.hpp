// Tensors of torch as the C ABI takes them, and what is left of a mask that torch made.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "torch_interface.hpp"

namespace foveate::python::torch {

constexpr int kMostAxes = FV_MAX_DIMS;
constexpr std::int64_t kSizes[] = {2, 2, 4, 8, 1, 8};  // of the elements of each fv_dtype

[[noreturn]] inline void refuse(const std::string& what) {
  throw std::runtime_error("scaled_dot_product_attention (foveate): " + what);
}

// A view of a tensor. It keeps shape and strides itself.
struct Operand : fv_array {
  explicit Operand(const Tensor& tensor) {
    std::int64_t axes;
    std::int64_t *sizes, *steps;
    std::int32_t of;
    check(functions.get_dim(tensor.get(), &axes), "count axes");
    check(functions.get_sizes(tensor.get(), &sizes), "read a shape");
    check(functions.get_strides(tensor.get(), &steps), "read strides");
    check(functions.get_dtype(tensor.get(), &of), "read a dtype");
    check(functions.get_data_ptr(tensor.get(), &data), "read memory");
    if (axes >= kMostAxes) refuse("got a tensor of " + std::to_string(axes) + " axes, wanted fewer");
    int number = FV_FLOAT32;  // the usual one first
    if (functions.dtypes[number]() != of) {
      for (number = 0; functions.dtypes[number]() != of; ++number) {
        if (number == FV_BOOL) refuse("got a dtype that is not of float numbers or bool");
      }
    }
    dtype = static_cast<fv_dtype>(number);
    ndim = static_cast<std::int32_t>(axes);
    shape = extents;
    strides = bytes;
    for (int axis = 0; axis < ndim; ++axis) {
      extents[axis] = sizes[axis];
      bytes[axis] = steps[axis] * item();
    }
  }
  Operand(const Operand& other) : fv_array(other) {
    std::copy_n(other.extents, ndim, extents);
    std::copy_n(other.bytes, ndim, bytes);
    shape = extents;
    strides = bytes;
  }
  Operand& operator=(const Operand&) = delete;

  std::int64_t item() const { return kSizes[dtype]; }

  bool repeats() const {
    for (int axis = 0; axis < ndim; ++axis) {
      if (bytes[axis] == 0 && extents[axis] > 1) return true;
    }
    return false;
  }

  // Of the same shape, in other memory, in C order.
  void dense(fv_dtype of, void* at) {
    dtype = of;
    data = at;
    std::int64_t step = item();
    for (int axis = ndim - 1; axis >= 0; --axis) {
      bytes[axis] = step;
      step *= extents[axis];
    }
  }

  // The axis of the heads, which has so many behind it, becomes two: groups of heads, and the heads of each.
  void split_heads(std::int64_t groups, int behind = 2) {
    const int axis = ndim - 1 - behind;
    if (axis < 0) return;
    const std::int64_t heads = extents[axis];
    std::copy_backward(extents + axis, extents + ndim, extents + ndim + 1);
    std::copy_backward(bytes + axis, bytes + ndim, bytes + ndim + 1);
    ++ndim;
    extents[axis] = heads == 1 ? 1 : groups;
    extents[axis + 1] = heads == 1 ? 1 : heads / groups;
    bytes[axis] *= extents[axis + 1];
  }

  std::int64_t extents[kMostAxes];
  std::int64_t bytes[kMostAxes];
};

// Most float masks are bool masks that torch has rewritten: 0 where a key is seen, -inf elsewhere. Most of these, of
// padding and of what is causal, let each query see the keys between two numbers. Kernels are faster with these
// numbers, else with the bool mask; and where all is seen there is no mask.
class Mask {
 public:
  Mask(const Tensor& tensor, std::int64_t queries) {
    if (!tensor) return;
    mask = &own_.emplace(tensor);
    switch (mask->dtype) {
      case FV_FLOAT16: simplify<std::uint16_t>(0xFC00, queries); break;
      case FV_BFLOAT16: simplify<std::uint16_t>(0xFF80, queries); break;
      case FV_FLOAT32: simplify<std::uint32_t>(0xFF800000, queries); break;
      case FV_FLOAT64: simplify<std::uint64_t>(0xFFF0000000000000, queries); break;
      default: break;
    }
  }

  // What is left of it, or nothing.
  Operand *mask = nullptr, *low = nullptr, *high = nullptr;

 private:
  template <typename Bits>
  void simplify(Bits hidden, std::int64_t queries) {
    Operand& from = *own_;
    if (from.ndim < 2) return;
    for (int axis = 0; axis < from.ndim; ++axis) {
      if (from.bytes[axis] == 0) from.extents[axis] = 1;  // which broadcasts
    }
    const std::int64_t columns = from.extents[from.ndim - 1];
    std::int64_t rows = 1;
    for (int axis = 0; axis < from.ndim - 1; ++axis) rows *= from.extents[axis];
    if (rows == 0 || columns == 0) return;

    const std::unique_ptr<std::uint8_t[]> row_seen = make<std::uint8_t>(columns);
    std::unique_ptr<std::int64_t[]> bounds = make<std::int64_t>(2 * rows);
    if (row_seen == nullptr || bounds == nullptr) return;
    bool are_intervals = true, all_seen = true;
    for (std::int64_t row = 0; row < rows && are_intervals; ++row) {
      if (!read(row, hidden, row_seen.get())) return;  // numbers to add
      std::int64_t* const own = &bounds[2 * row];
      are_intervals = interval(row_seen.get(), columns, own);
      all_seen &= are_intervals && own[0] == 0 && own[1] == columns;
    }
    if (all_seen) {
      mask = nullptr;
    } else if (are_intervals && columns > 1) {  // a single column may stand for all
      numbers_ = std::move(bounds);
      low = view_of(&low_, 0, queries);
      high = view_of(&high_, 1, queries);
      mask = nullptr;
    } else {
      seen_ = make<std::uint8_t>(rows * columns);
      if (seen_ == nullptr) return;
      for (std::int64_t row = 0; row < rows; ++row) {
        if (!read(row, hidden, seen_.get() + row * columns)) return;
      }
      from.dense(FV_BOOL, seen_.get());
    }
  }

  template <typename T>
  static std::unique_ptr<T[]> make(std::int64_t count) {
    return std::unique_ptr<T[]>(new (std::nothrow) T[static_cast<std::size_t>(count)]);
  }

  // Whether each key of a row is seen; false if the row has other numbers than 0 and -inf.
  template <typename Bits>
  bool read(std::int64_t row, Bits hidden, std::uint8_t* to) const {
    const Operand& from = *own_;
    const auto* start = static_cast<const char*>(from.data);
    for (int axis = from.ndim - 2; axis >= 0; --axis) {
      start += row % from.extents[axis] * from.bytes[axis];
      row /= from.extents[axis];
    }
    const std::int64_t columns = from.extents[from.ndim - 1], step = from.bytes[from.ndim - 1];
    constexpr std::int64_t item = sizeof(Bits);
    return step == item ? read_row(start, item, columns, hidden, to) : read_row(start, step, columns, hidden, to);
  }

  template <typename Bits>
  static bool read_row(const char* from, std::int64_t step, std::int64_t columns, Bits hidden, std::uint8_t* to) {
    Bits others = 0;
    for (std::int64_t i = 0; i < columns; ++i) {
      Bits bits;
      std::memcpy(&bits, from + i * step, sizeof(Bits));
      const bool is_zero = static_cast<Bits>(bits << 1) == 0;
      to[i] = static_cast<std::uint8_t>(is_zero);
      others |= static_cast<Bits>(!is_zero && bits != hidden);
    }
    return others == 0;
  }

  // The keys that are seen, from the first to behind the last, if there are no others between.
  static bool interval(const std::uint8_t* seen, std::int64_t columns, std::int64_t* bounds) {
    std::int64_t first = 0, behind = columns;
    while (first < columns && seen[first] == 0) ++first;
    while (behind > first && seen[behind - 1] == 0) --behind;
    bounds[0] = first;
    bounds[1] = behind;
    return std::memchr(seen + first, 0, static_cast<std::size_t>(behind - first)) == nullptr;
  }

  // One of the two numbers of each query.
  Operand* view_of(std::optional<Operand>* result, int which, std::int64_t queries) {
    Operand& view = result->emplace(*own_);
    --view.ndim;
    view.dense(FV_INT64, numbers_.get() + which);
    for (int axis = 0; axis < view.ndim; ++axis) view.bytes[axis] *= 2;
    if (view.extents[view.ndim - 1] != queries) {
      view.extents[view.ndim - 1] = queries;
      view.bytes[view.ndim - 1] = 0;
    }
    return &view;
  }

  std::optional<Operand> own_, low_, high_;
  std::unique_ptr<std::int64_t[]> numbers_;
  std::unique_ptr<std::uint8_t[]> seen_;
};

}  // namespace foveate::python::torch
