#include "reaches.hpp"

#include <cmath>

namespace kernel_tests {
namespace {

Tensor lengths_for(const Case& c) {  // per key head, 0 for the second of them
  Tensor t(FV_INT64, {c.heads, 1});
  for (int64_t h = 0; h < c.heads; ++h) t.set(h, h == 1 ? 0 : double((c.keys + 1) / 2));
  return t;
}

Tensor segments_for(int64_t length) {
  Tensor t(FV_INT64, {length});
  for (int64_t i = 0; i < length; ++i) t.set(i, double(i * 3 / length));
  return t;
}

void window_with_offset(Case& c) {
  c.left = 9;
  c.right = 9;
  c.offset = Tensor(FV_INT64, {c.heads, 1});
  for (int64_t h = 0; h < c.heads; ++h) c.offset.set(h, double(7 * h - 4));
}

void bool_mask(Case& c, int64_t factor, int64_t modulus, int64_t seen) {
  c.mask = Tensor(FV_BOOL, {c.queries, c.keys});
  for (int64_t n = 0; n < c.mask.count(); ++n) c.mask.set(n, n * factor % modulus < seen);
}

// In no order, up to so long, some beyond both ends, some empty.
void intervals(Case& c, int64_t longest) {
  c.low = Tensor(FV_INT64, {c.heads, 1, c.queries});
  c.high = Tensor(FV_INT64, {c.heads, 1, c.queries});
  for (int64_t n = 0; n < c.low.count(); ++n) {
    c.low.set(n, double(n * 37 % (c.keys + 4) - 3));
    c.high.set(n, c.low.get(n) + double(n * 11 % (longest + 2)) - 1);
  }
}

// Centers in no order, some beyond both ends, whole, half and other numbers.
void centers(Case& c, double half_width, double sigma) {
  c.half_width = half_width;
  c.sigma = sigma;
  c.centers = Tensor(FV_FLOAT64, {c.heads, 1, c.queries});
  for (int64_t n = 0; n < c.centers.count(); ++n)
    c.centers.set(n, double(n * 37 % (c.keys + 14)) - 7 + double(n % 3) / (n % 2 ? 2 : 5));
}

}  // namespace

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"all keys", [](Case&) {}},
      {"causal", [](Case& c) { c.right = 0; }},
      {"causal, at the end",
       [](Case& c) {
         c.right = 0;
         c.offset_at_end = true;
       }},
      {"window",
       [](Case& c) {
         c.left = 5;
         c.right = 2;
       }},
      {"window, offset", window_with_offset},
      {"bool mask", [](Case& c) { bool_mask(c, 7, 5, 2); }},
      {"float mask",
       [](Case& c) {
         c.mask = Tensor::random(c.dtype, {c.queries, c.keys}, 2.0, 99);
         for (int64_t n = 0; n < c.mask.count(); n += 3) c.mask.set(n, -INFINITY);
       },
       true},
      {"key lengths", [](Case& c) { c.key_lengths = lengths_for(c); }},
      {"segments",
       [](Case& c) {
         c.query_segments = segments_for(c.queries);
         c.key_segments = segments_for(c.keys);
       }},
      {"intervals", [](Case& c) { intervals(c, c.keys / 3 + 2); }},
      {"intervals, window, mask",
       [](Case& c) {
         intervals(c, 2 * c.keys);
         window_with_offset(c);
         bool_mask(c, 7, 5, 3);
       }},
      {"softcap and sink",
       [](Case& c) {
         c.softcap = 3.0;
         c.sink = Tensor::random(FV_FLOAT64, {c.heads, c.groups}, 2.0, 5);
       },
       true},
      {"leave one out", [](Case& c) { c.leave_one_out = true; }},
      {"leave one out, window, offset",
       [](Case& c) {
         c.leave_one_out = true;
         window_with_offset(c);
       }},
      {"leave one out, at the end, mask",
       [](Case& c) {
         c.leave_one_out = true;
         c.right = 0;
         c.offset_at_end = true;
         bool_mask(c, 5, 6, 4);
       }},
      {"centers", [](Case& c) { centers(c, 6.5, 0); }},
      {"centers, sigma", [](Case& c) { centers(c, 9, 4.5); }},
      {"centers, wide, sigma", [](Case& c) { centers(c, 160, 30); }},
      {"centers and all else",
       [](Case& c) {
         centers(c, 20, 50);
         c.left = 200;
         c.right = 30;
         c.leave_one_out = true;
         c.key_lengths = lengths_for(c);
         bool_mask(c, 7, 5, 3);
       }},
      {"any strides",
       [](Case& c) {
         c.query = c.query.scattered();
         c.key = c.key.scattered();
         c.value = c.value.scattered();
       }},
      {"all of a reach",
       [](Case& c) {
         c.right = 3;
         c.left = 60;
         c.offset_at_end = true;
         c.key_lengths = lengths_for(c);
         c.mask = Tensor(FV_BOOL, {c.queries, c.keys});
         for (int64_t n = 0; n < c.mask.count(); ++n) c.mask.set(n, n * 3 % 7 != 1);
       }},
  };
  return all;
}

void apply_in_turn(Case& c, size_t n) {
  if (c.compact()) c.scale = 1;
  const size_t count = variants().size();
  size_t reach = n % count;
  while (c.compact() && variants()[reach].of_logits) reach = (reach + 1) % count;
  variants()[reach].apply(c);
}

}  // namespace kernel_tests
