// What foreign functions of XLA take: the operands, in their order, and the numbers that are known before there are any.
//
// `foveate.jax._calls` writes both as two vectors of attributes. Every operand has the same number of leading axes,
// `batched + lead` of them, each of its own extent or of 1: jax.vmap puts the batched ones in front.
#pragma once
#include <algorithm>
#include <cstring>

#include "arrays.hpp"
#include "xla_ffi.hpp"

namespace foveate::xla {

// A view one of whose axes may be made longer.
struct View : python::View {
  // An axis of length 1 becomes one of so many times the same.
  void repeat(int axis, int64_t times) {
    if (shape[axis] != 1 || times == 1) return;
    const_cast<int64_t*>(shape)[axis] = times;
    const_cast<int64_t*>(strides)[axis] = 0;
  }
};

// ---- what is given

// The operands in their order; those that are not given are left out.
enum Operand : int {
  kQuery,
  kKey,
  kValue,
  kMask,
  kOffset,
  kKeyLengths,
  kQuerySegments,
  kKeySegments,
  kLow,
  kHigh,
  kSink,
  kFactors,
  kSeed,
  // of the gradients
  kOutput,
  kLse,
  kDOutput,
  kDLse,
  // how operands move, and of the second order how the answers and their gradients do
  kTQuery,
  kTKey,
  kTValue,
  kTMask,
  kTSink,
  kTOutput,
  kTLse,
  kTDOutput,
  kTDLse,
  kOperands
};
// How many axes stand behind the leading ones.
constexpr int kBehind[kOperands] = {2, 2, 2, 2, 0, 0, 1, 1, 1, 1, 0, 1, 1, 2, 2, 2, 1, 2, 2, 2, 2, 0, 2, 1, 2, 1};
// Those whose rows may stand before the last leading axes, (..., rows, heads, columns).
constexpr uint32_t kOfRows = 1u << kQuery | 1u << kKey | 1u << kValue | 1u << kOutput | 1u << kDOutput | 1u << kDLse |
                             1u << kTQuery | 1u << kTKey | 1u << kTValue | 1u << kTOutput | 1u << kTLse |
                             1u << kTDOutput | 1u << kTDLse;

// The results of attention: the output; where they are wanted, the lse, and it with its parts, for the gradients.
enum Result : int { kAnswer, kAnswerLse, kAnswerParts, kAnswers };
// The results of the gradients, where they are wanted.
enum Gradient : int { kOfQuery, kOfKey, kOfValue, kOfMask, kOfSink, kOfFactors, kGradients };
constexpr int kGradientBehind[kGradients] = {2, 2, 2, 2, 0, 1};

struct Options {
  int64_t given, wanted;  // bits of operands and of results
  int64_t family, left, right, at_end;
  int64_t heads;  // how many leading axes stand between rows and columns
  int64_t lead;   // how many leading axes there are beside those of jax.vmap
  int64_t link;   // 0: none, 1: "power"
};
struct Scalars {
  double scale, softcap, negligible, link_parameter, dropout, slope;
};

inline bool read(const Frame& frame, Options* options, Scalars* scalars) {
  const Attributes& given = frame.attributes;
  const auto take = [&](int64_t place, const char* name, Dtype dtype, void* to, size_t size) {
    const Text& own = *given.names[place];
    if (given.types[place] != kArrayType || own.length != std::strlen(name) ||
        std::memcmp(own.data, name, own.length) != 0) {
      return false;
    }
    const Numbers& numbers = *static_cast<const Numbers*>(given.items[place]);
    if (numbers.dtype != dtype || numbers.count * 8 != size) return false;
    std::memcpy(to, numbers.data, size);
    return true;
  };
  return given.count == 2 && take(0, "options", kInt64, options, sizeof *options) &&
         take(1, "scalars", kFloat64, scalars, sizeof *scalars);
}

inline bool dtype_of(Dtype from, fv_dtype* dtype) {
  switch (from) {
    case kBool: *dtype = FV_BOOL; return true;
    case kInt64: *dtype = FV_INT64; return true;
    case kFloat16: *dtype = FV_FLOAT16; return true;
    case kBfloat16: *dtype = FV_BFLOAT16; return true;
    case kFloat32: *dtype = FV_FLOAT32; return true;
    case kFloat64: *dtype = FV_FLOAT64; return true;
    default: return false;
  }
}

inline int64_t bytes_of(fv_dtype dtype) {
  switch (dtype) {
    case FV_BOOL: return 1;
    case FV_FLOAT16:
    case FV_BFLOAT16: return 2;
    case FV_FLOAT32: return 4;
    case FV_FLOAT64:
    case FV_INT64: return 8;
    default: return 1;  // few bits, which XLA's buffers are not
  }
}

inline int64_t count_of(const Buffer& buffer) {
  int64_t count = 1;
  for (int64_t axis = 0; axis < buffer.rank; ++axis) count *= buffer.extents[axis];
  return count;
}

inline bool is_empty(const fv_array& array) {
  return std::find(array.shape, array.shape + array.ndim, 0) != array.shape + array.ndim;
}

// A view in C order of these extents, whose rows are moved behind the heads.
inline void look(void* data, fv_dtype dtype, int ndim, const int64_t* extents, int behind, int heads, View* view) {
  int64_t shape[FV_MAX_DIMS], strides[FV_MAX_DIMS], step = bytes_of(dtype);
  for (int axis = ndim - 1; axis >= 0; --axis) {
    shape[axis] = extents[axis];
    strides[axis] = step;
    step *= std::max<int64_t>(extents[axis], 1);
  }
  const int rows = ndim - behind - heads;
  std::rotate(shape + rows, shape + rows + 1, shape + ndim - behind + 1);
  std::rotate(strides + rows, strides + rows + 1, strides + ndim - behind + 1);
  view->take(data, dtype, ndim, shape, strides);
}

// Without its first axes, at these places of them; an axis of length 1 is the same for all.
inline void at(const View& whole, int axes, const int64_t* places, View* part) {
  char* data = static_cast<char*>(whole.data);
  for (int axis = 0; axis < axes; ++axis) {
    if (whole.shape[axis] > 1) data += places[axis] * whole.strides[axis];
  }
  part->take(data, whole.dtype, whole.ndim - axes, whole.shape + axes, whole.strides + axes);
}

// Without all axes but the last, which are of length 1.
inline void last_axis(const View& whole, View* part) {
  part->take(whole.data, whole.dtype, 1, whole.shape + whole.ndim - 1, whole.strides + whole.ndim - 1);
}

}  // namespace foveate::xla
