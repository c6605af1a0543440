#include "tensor.hpp"

#include <cmath>
#include <cstring>

namespace kernel_tests {
namespace {

// To the nearest number with `fraction` bits after the point and exponents from `least` on, ties to even.
double round_binary(double x, int fraction, int least, double largest) {
  if (x == 0 || !std::isfinite(x)) return x;
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  const int exponent = int(bits >> 52 & 2047) - 1023;
  // 2^52 units: a sum with it has no bits below the unit
  const uint64_t power = uint64_t((exponent < least ? least : exponent) - fraction + 52 + 1023) << 52;
  double magic;
  std::memcpy(&magic, &power, 8);
  magic *= 1.5;
  const double rounded = (x + magic) - magic;
  return std::fabs(rounded) > largest ? std::copysign(INFINITY, x) : rounded;
}

uint16_t encode_half(double x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7e00;
  x = std::fabs(round_to(FV_FLOAT16, x));
  if (std::isinf(x)) return sign | 0x7c00;
  if (x < 0x1p-14) return sign | uint16_t(std::ldexp(x, 24));
  int exponent;
  const double m = std::frexp(x, &exponent);
  return sign | uint16_t((exponent + 14) << 10) | uint16_t(std::ldexp(m, 11) - 1024);
}

double decode_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t encode_bfloat(double x) {
  const float f = float(std::isnan(x) ? double(NAN) : round_to(FV_BFLOAT16, x));
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return uint16_t(bits >> 16) | (std::isnan(x) ? 0x40 : 0);
}

double decode_bfloat(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}

template <class T>
T load(const char* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
void store(char* p, T x) {
  std::memcpy(p, &x, sizeof x);
}

}  // namespace

int64_t size_of(fv_dtype dtype) {
  switch (dtype) {
    case FV_FLOAT16:
    case FV_BFLOAT16: return 2;
    case FV_FLOAT32: return 4;
    case FV_BOOL: return 1;
    default: return 8;
  }
}

const char* name_of(fv_dtype dtype) {
  static const char* const names[] = {"float16", "bfloat16", "float32", "float64", "bool", "int64"};
  return names[dtype];
}

double epsilon_of(fv_dtype dtype) {
  switch (dtype) {
    case FV_FLOAT16: return 0x1p-10;
    case FV_BFLOAT16: return 0x1p-7;
    case FV_FLOAT32: return 0x1p-23;
    default: return 0x1p-52;
  }
}

fv_dtype lse_dtype(fv_dtype dtype) { return dtype == FV_FLOAT64 ? FV_FLOAT64 : FV_FLOAT32; }

double round_to(fv_dtype dtype, double x) {
  switch (dtype) {
    case FV_FLOAT16: return round_binary(x, 10, -14, 65504.0);
    case FV_BFLOAT16: return round_binary(x, 7, -126, 0x1.fep127);
    case FV_FLOAT32: return double(float(x));
    default: return x;
  }
}

Tensor::Tensor(fv_dtype dtype, Shape shape, double fill) : given_(true), dtype_(dtype), shape_(std::move(shape)) {
  strides_.resize(shape_.size());
  int64_t stride = size_of(dtype);
  for (size_t axis = shape_.size(); axis-- > 0;) {
    strides_[axis] = stride;
    stride *= shape_[axis];
  }
  memory_.resize(size_t(stride));
  refresh();
  for (int64_t i = 0; i < count(); ++i) set(i, fill);
}

Tensor Tensor::random(fv_dtype dtype, Shape shape, double scale, uint64_t seed) {
  Tensor t(dtype, std::move(shape));
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (int64_t i = 0; i < t.count(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    t.set(i, scale * (double(state >> 11) * 0x1p-52 - 1.0));
  }
  return t;
}

Tensor Tensor::as(fv_dtype dtype) const {
  Tensor t(dtype, shape_);
  for (int64_t i = 0; i < count(); ++i) t.set(i, get(i));
  return t;
}

Tensor Tensor::scattered() const {
  Tensor t = *this;
  t.contiguous_ = false;
  const size_t ndim = shape_.size();
  int64_t stride = size_of(dtype_);
  auto lay = [&](size_t axis) {  // with a gap of one element between neighbors
    t.strides_[axis] = 2 * stride;
    stride *= 2 * shape_[axis];
  };
  lay(ndim - 2);
  lay(ndim - 1);
  for (size_t axis = ndim - 2; axis-- > 0;) lay(axis);
  // an odd address, and rows that run backwards
  t.memory_.assign(size_t(stride) + 1, 0);
  t.origin_ = 1 + t.strides_[ndim - 2] * (shape_[ndim - 2] - 1);
  t.strides_[ndim - 2] = -t.strides_[ndim - 2];
  t.refresh();
  for (int64_t i = 0; i < count(); ++i) t.set(i, get(i));
  return t;
}

Tensor& Tensor::operator=(const Tensor& other) {
  given_ = other.given_;
  dtype_ = other.dtype_;
  shape_ = other.shape_;
  strides_ = other.strides_;
  origin_ = other.origin_;
  contiguous_ = other.contiguous_;
  memory_ = other.memory_;
  refresh();
  return *this;
}

void Tensor::refresh() {
  view_ = {memory_.data() + origin_, dtype_, int32_t(shape_.size()), shape_.data(), strides_.data()};
}

int64_t Tensor::count() const {
  int64_t n = given_ ? 1 : 0;
  for (int64_t extent : shape_) n *= extent;
  return n;
}

char* Tensor::address(int64_t flat) const {
  char* p = static_cast<char*>(view_.data);
  if (contiguous_) return p + flat * size_of(dtype_);
  for (size_t axis = shape_.size(); axis-- > 0;) {
    p += flat % shape_[axis] * strides_[axis];
    flat /= shape_[axis];
  }
  return p;
}

double Tensor::get(int64_t flat) const {
  const char* p = address(flat);
  switch (dtype_) {
    case FV_FLOAT16: return decode_half(load<uint16_t>(p));
    case FV_BFLOAT16: return decode_bfloat(load<uint16_t>(p));
    case FV_FLOAT32: return load<float>(p);
    case FV_FLOAT64: return load<double>(p);
    case FV_BOOL: return *p;
    default: return double(load<int64_t>(p));
  }
}

void Tensor::set(int64_t flat, double value) {
  char* p = address(flat);
  switch (dtype_) {
    case FV_FLOAT16: return store(p, encode_half(value));
    case FV_BFLOAT16: return store(p, encode_bfloat(value));
    case FV_FLOAT32: return store(p, float(value));
    case FV_FLOAT64: return store(p, value);
    case FV_BOOL: return store(p, char(value != 0));
    default: return store(p, int64_t(value));
  }
}

bool Tensor::same_bits(const Tensor& other) const { return shape_ == other.shape_ && memory_ == other.memory_; }

}  // namespace kernel_tests
