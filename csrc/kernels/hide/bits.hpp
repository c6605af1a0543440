// Masks as one word of bits for each key: bit i for query i of the panel. Plain loops that the compiler vectorizes.
#pragma once
#include <string.h>
#include "../table.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

void bits_of_bools(const char* row, int64_t stride, int64_t count, int32_t lane, uint32_t* bits) {
  if (stride == 1) {
    const uint8_t* cells = reinterpret_cast<const uint8_t*>(row);
    for (int64_t j = 0; j < count; ++j) bits[j] |= uint32_t(cells[j] != 0) << lane;
  } else {
    for (int64_t j = 0; j < count; ++j) bits[j] |= uint32_t(row[j * stride] != 0) << lane;
  }
}

template <class Bits>
void clear_where(const char* row, Bits pattern, int64_t stride, int64_t count, int32_t lane, uint32_t* bits) {
  if (stride == int64_t(sizeof(Bits))) stride = sizeof(Bits);  // a constant in the common case: the loop vectorizes
  for (int64_t j = 0; j < count; ++j) {
    Bits cell;
    memcpy(&cell, row + j * stride, sizeof cell);
    bits[j] &= ~(uint32_t(cell == pattern) << lane);
  }
}

void clear_minus_infinity(const char* row, Dtype dtype, int64_t stride, int64_t count, int32_t lane, uint32_t* bits) {
  switch (dtype) {
    case Dtype::float16: return clear_where<uint16_t>(row, 0xfc00, stride, count, lane, bits);
    case Dtype::bfloat16: return clear_where<uint16_t>(row, 0xff80, stride, count, lane, bits);
    case Dtype::float32: return clear_where<uint32_t>(row, 0xff800000u, stride, count, lane, bits);
    case Dtype::float64: return clear_where<uint64_t>(row, 0xfff0000000000000u, stride, count, lane, bits);
    default: return;  // of few bits are keys and values alone
  }
}

void clear_other_segments(const char* ids, int64_t stride, int64_t id, int64_t count, int32_t lane, uint32_t* bits) {
  if (stride == 8) stride = 8;  // a constant in the common case: the loop vectorizes
  for (int64_t j = 0; j < count; ++j) {
    int64_t other;
    memcpy(&other, ids + j * stride, sizeof other);
    bits[j] &= ~(uint32_t(other != id) << lane);
  }
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
