// Scores of few queries: s[j][q] = sum_d K[j][d] Q[q][d], the dimensions on the lanes: lanes chains over d, then a tree over
// the lanes. The order of every sum is fixed by the shape alone. Numbers of few bits are widened and scaled in
// registers.
#pragma once
#include "runs.hpp"

namespace foveate::FOVEATE_ISA {
namespace {

// One round of the tree that sums the lanes of many vectors at once: vectors a and b become one, whose lanes hold the
// sums of neighbors, a's where bit `block` of the lane is 0, b's where it is 1.
template <class T, int block>
[[gnu::always_inline]] inline Vec<T> fold(Vec<T> a, Vec<T> b) {
  Vec<T> pair[2] = {a, b};
  swap_blocks<T, block>(pair[0], pair[1]);
  return pair[0] + pair[1];
}
// Lane i of the result: the sum of the lanes of x[i].
template <class T, int block = 1>
[[gnu::always_inline]] inline Vec<T> sum_of_lanes(const Vec<T>* x) {
  // x[i] and x[i + block] meet in the round of `block`
  if constexpr (block == lanes<T>) {
    return x[0];
  } else {
    return fold<T, block>(sum_of_lanes<T, block * 2>(x), sum_of_lanes<T, block * 2>(x + block));
  }
}

// query: rows of T, `query_stride` elements apart, zero up to a whole vector. keys: whose scales are those of the run.
template <class T, Dtype dtype, int queries>
[[gnu::noinline]] void decode_scores_of(const T* query, int64_t query_stride, const Run& run, const Rows& keys,
                                        int64_t count, int64_t head_size, T* s) {
  constexpr int block = lanes<T> / queries;  // keys at a time: as many sums as a vector has lanes
  constexpr bool busy = queries > 1;         // see runs.hpp
  constexpr int streams = 4 / int(size_of(dtype)) > 0 ? 4 / int(size_of(dtype)) : 1;
  constexpr int side = busy || streams > block ? block : streams;  // keys side by side
  constexpr int64_t step = byte_of(dtype, lanes<T>);
  constexpr int steps = step < line_bytes ? int(line_bytes / step) : 1;  // vectors of each key before the next line
  const int64_t bytes = row_bytes(dtype, head_size);
  const bool one_stream = run.stride == bytes;
  const int64_t ahead_apart = one_stream ? line_bytes : run.stride,
                ahead_step = one_stream ? side * line_bytes : line_bytes;
  for (int64_t first = 0; first < count; first += block) {
    alignas(vector_bytes) T sums[lanes<T>][lanes<T>];
    for (int64_t beside = 0; beside < block; beside += side) {
      const char* row[side];
      for (int j = 0; j < side; ++j)
        row[j] = run.data + (first + beside + j < count ? first + beside + j : count - 1) * run.stride;
      const char* ahead = run.ahead + first * run.stride;
      Vec<T> sum[side * queries] = {};
      const auto add = [&](auto load_key, int64_t d) INLINED {
        Vec<T> x[queries];
        unroll<queries>([&](int q) INLINED { x[q] = load(query + q * query_stride + d); });
        unroll<side>([&](int j) INLINED {
          Vec<T> key = load_key(row[j]);
          if constexpr (is_few_bits(dtype)) {
            const int64_t at = first + beside + j;
            key *= T(scale_of_column(keys, at < count ? at : count - 1, d));
          }
          unroll<queries>([&](int q) INLINED { sum[j * queries + q] += key * x[q]; });
        });
      };
      int64_t d = 0;
      for (; d + steps * lanes<T> <= head_size; d += steps * lanes<T>) {
        if constexpr (busy) {
          unroll<side>([&](int j) INLINED { __builtin_prefetch(ahead + j * ahead_apart); });
          ahead += ahead_step;
        }
        unroll<steps>([&](int i) INLINED {
          add([&](const char* p) INLINED { return load_any<T, dtype>(p + byte_of(dtype, d) + i * step); },
              d + i * lanes<T>);
        });
      }
      for (; d + lanes<T> <= head_size; d += lanes<T>)
        add([&](const char* p) INLINED { return load_any<T, dtype>(p + byte_of(dtype, d)); }, d);
      if (d < head_size)
        add([&](const char* p) INLINED { return load_some<T, dtype>(p + byte_of(dtype, d), head_size - d); }, d);
      if constexpr (side == block) {
        store<T>(s + first * queries, sum_of_lanes<T>(sum));
      } else {
        unroll<side * queries>([&](int i) INLINED { store<T>(sums[beside * queries + i], sum[i]); });
      }
    }
    if constexpr (side < block) {
      Vec<T> sum[lanes<T>];
      unroll<lanes<T>>([&](int i) INLINED { sum[i] = load(sums[i]); });
      store<T>(s + first * queries, sum_of_lanes<T>(sum));
    }
  }
}

// The same of rows in lines of a head size that is known, so that registers are left for what is loaded. Two queries compute so
// little with a line that what fetches ahead by itself is fastest, key by key. query: rows of head_size.
template <class T, Dtype dtype, int queries, int head_size>
[[gnu::noinline]] void scores_in_lines(const T* query, const Run& run, int64_t count, T* s) {
  constexpr int block = lanes<T> / queries, side = queries > 2 ? 2 : 1;
  constexpr int64_t bytes = head_size * sizeof(T);
  const int64_t stride = run.stride;
  const int64_t apart = stride == bytes ? line_bytes : stride, step = stride == bytes ? side * line_bytes : line_bytes;
  for (int64_t first = 0; first < count; first += block) {
    Vec<T> sum[block * queries] = {};
    unroll<block / side>([&](int beside) INLINED {
      const int64_t key = first + beside * side;
      const char* row[side];
      for (int j = 0; j < side; ++j) row[j] = run.data + (key + j < count ? key + j : count - 1) * stride;
      [[maybe_unused]] const char* far = run.ahead + key * stride;
      for (int64_t d = 0; d < head_size; d += lanes<T>) {
        Vec<T> x[queries];
        unroll<queries>([&](int q) INLINED { x[q] = load(query + q * head_size + d); });
        unroll<side>([&](int j) INLINED {
          if constexpr (side > 1) prefetch_far(far + j * apart);
          Vec<T> k = load_anywhere<T>(row[j] + d * int64_t(sizeof(T)));
          load_once(k);
          unroll<queries>([&](int q) INLINED { sum[(beside * side + j) * queries + q] += k * x[q]; });
        });
        if constexpr (side > 1) far += step;
      }
    });
    store<T>(s + first * queries, sum_of_lanes<T>(sum));
  }
}
// Calls scores for rows in lines of two or four queries, and says whether it did.
template <class T, Dtype dtype, class F>
bool with_lines(int32_t queries, const Rows& keys, int64_t head_size, int64_t query_stride, F&& scores) {
  if constexpr (in_lines<T>(dtype)) {
    if (queries == 1 || head_size != query_stride) return false;
    if (queries == 2 && keys.row_stride != row_bytes(dtype, head_size))
      return false;  // nothing fetches ahead by itself
    if (head_size == 64)
      queries == 2 ? scores(scores_in_lines<T, dtype, 2, 64>) : scores(scores_in_lines<T, dtype, 4, 64>);
    if (head_size == 128)
      queries == 2 ? scores(scores_in_lines<T, dtype, 2, 128>) : scores(scores_in_lines<T, dtype, 4, 128>);
    return head_size == 64 || head_size == 128;
  }
  return false;
}

// queries: 1, 2 or 4. s: [count rounded up to whole vectors][queries]. keys: contiguous columns.
template <class T>
void decode_scores(const T* query, int64_t query_stride, int32_t queries, const Rows& keys, int64_t count,
                   int64_t head_size, T* s) {
  with_any_dtype<T>(keys.dtype, [&](auto dtype) {
    if constexpr (lanes<T> == 2) {  // a vector holds two sums: two queries at a time would need a gather of s
      T two[2];
      for (int64_t j = 0; j < count; ++j)
        for (int32_t q = 0; q < queries; q += 2) {
          const Rows key = keys.from(j);
          decode_scores_of<T, dtype, 2>(query + q * query_stride, queries > 1 ? query_stride : 0,
                                        {key.row(0), key.row(0), 0}, key, 1, head_size, two);
          s[j * queries + q] = two[0];
          if (q + 1 < queries) s[j * queries + q + 1] = two[1];
        }
    } else {
      const auto runs = [&](int64_t ahead, auto scores) {
        in_runs(
            keys, count, 0, row_bytes(dtype, head_size), lanes<T> / queries,
            [&](int64_t first, int64_t some, const Run& run, const Rows& from) {
              scores(run, from, some, s + first * queries);
            },
            ahead);
      };
      if (with_lines<T, dtype>(queries, keys, head_size, query_stride, [&](auto scores) {
            runs(far_ahead, [&](const Run& run, const Rows&, int64_t some, T* to) { scores(query, run, some, to); });
          }))
        return;
      runs(prefetch_ahead, [&](const Run& run, const Rows& from, int64_t some, T* to) {
        if (queries == 1) decode_scores_of<T, dtype, 1>(query, query_stride, run, from, some, head_size, to);
        if (queries == 2) decode_scores_of<T, dtype, 2>(query, query_stride, run, from, some, head_size, to);
        if (queries == 4) decode_scores_of<T, dtype, 4>(query, query_stride, run, from, some, head_size, to);
      });
    }
  });
}

}  // namespace
}  // namespace foveate::FOVEATE_ISA
