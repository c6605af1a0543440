// A validated problem: what the drivers work on. `api/` makes it from the views of the public header, so that no
// driver checks anything again. Leading axes are broadcast by strides of 0; nothing is expanded.
//
// What stands in memory may change while a call runs, by another thread of the caller. Answers are anything then; but what
// says how long a loop is or where something stands (lengths, offsets, centers, indices, trials, tables) is brought
// within its bounds at every reading, or read once.
#pragma once
#include "runtime/operand.hpp"

namespace foveate {

// Of a position of a query on the key axis; leaves room to add a few lengths without overflow.
constexpr int64_t kMaxOffset = int64_t{1} << 61;

// An axis along which queries and keys both stand, and which of its places a query sees round its own.
struct NeighborAxis {
  int64_t length, window, dilation;
  bool causal;  // the last `window` places up to its own
  bool clip;    // windows are cut off at the ends; else moved inwards
};

// Hard attention draws one random number for so many keys; a part of a problem begins where they do.
constexpr int64_t kKeysANumber = 168;

// Of FV_TOP and FV_DISTINCT: more keys than this would want lists that outgrow the caches.
constexpr int kMostDistinct = 1024;

struct Problem {
  int lead_ndim = 0;  // leading axes of the output, outermost first
  int64_t lead_shape[FV_MAX_DIMS] = {};
  int64_t queries = 0, keys = 0;  // Lq, Lk
  int64_t head_size = 0;          // D
  int64_t value_size = 0;         // Dv (0 where there is no value)

  Operand query, key, value;
  // Of few bits: the scales of each row, float32, in the pages of the operand where that is in pages; and how many columns
  // share one, 0: all. Of pages: their numbers, int64, along row_stride.
  Operand key_scale, value_scale;
  int64_t key_block = 0, value_block = 0;
  Operand key_table, value_table;
  Operand out;   // (Lq, Dv), or (Lq, Lk) for the weights
  Operand lse;   // (Lq,): row_stride; or (Lq, 3), with its parts: column_stride too; optional
  Operand sink;  // one float64 a leading index; optional

  // hard attention: out is (Lq, draws, Dv), index and log_prob are (Lq, draws); there is no value to sum, but choices
  int64_t draws = 0;
  Operand choices;
  int64_t out_draw_stride = 0;
  Operand index, log_prob;
  fv_selection selection = FV_ARGMAX;
  fv_random random = {};                  // of hard attention, or of dropout
  int64_t first_row = 0;                  // what is added to the number of a query where it counts random numbers
  int64_t first_lead = 0, first_key = 0;  // and of a leading index and a key, of hard attention
  Operand before, after;                  // (Lq, 3) float64: the weight of keys before these, and up to these; optional
  bool gives_scores = false;              // in place of probabilities, float64

  // statistics, each optional: one number a key, the sum over the queries first_query <= i < end_query; and one a query
  Operand key_sum;  // (Lk,): row_stride
  int64_t first_query = 0, end_query = 0;
  Operand entropy, largest, place;  // (Lq,): row_stride

  // backward: out and lse are the forward's answers; what is wanted is given, and has an address for each element
  Operand d_out, d_lse;  // d_lse optional
  Operand advantage;     // (Lq, draws), of hard attention: d_out is (Lq, draws, Dv), index as it was given
  int64_t d_out_draw_stride = 0;
  Operand d_query;             // like the query, over all leading axes
  Operand d_key, d_value;      // over the leading axes along which key or value move, 0 along the others: a sum
  Operand d_mask;              // like the mask, of the accumulator's type: a sum where that is broadcast
  Operand d_sink;              // one float64 a leading index
  Operand d_factors;           // (D,) float64: row_stride; the sum over everything
  Operand d_centers, d_sigma;  // (Lq,) float64: row_stride
  Operand d_table;             // like the table, float64: a sum
  Operand d_edge_bias;         // like the edges' bias, float64: a sum

  // tangents: how operands and, of the second order, the gradient of the output move, each optional; and the answers do
  Operand t_query, t_key, t_value;  // like query, key and value
  Operand t_mask;                   // like a mask, of a float
  Operand t_sink;                   // one float64 a leading index
  Operand t_out;                    // like out
  Operand t_lse;                    // (Lq,) of the accumulator's type: row_stride
  Operand t_d_out, t_d_lse;         // like d_out and d_lse; t_out and t_lse are the forward's tangents then
  bool answered = false;            // out is the forward's answer, and its tangent alone is wanted

  double scale = 1.0, softcap = 0.0;  // softcap 0: none
  fv_family family = FV_INNER;
  fv_weighing weighing = FV_SOFTMAX;
  int32_t link = -1;  // which one of the arithmetic's; -1: none
  double link_parameter = 0.0;
  double slope = 0.0;             // of a leaky relu
  const void* factors = nullptr;  // (D,) of the accumulator's type, contiguous; optional for distances
  double negligible = 0.0;        // share of a query's weight that far keys may have and be left out

  // reach
  Operand mask;                   // (Lq, Lk), FV_BOOL or a float; optional
  int64_t left = -1, right = -1;  // negative: unbounded
  Operand offset;                 // one int64 a leading index; optional (0)
  bool offset_at_end = false;
  bool leave_one_out = false;
  Operand key_lengths;     // one int64 a leading index; optional (all keys)
  Operand query_segments;  // (Lq,) int64: row_stride; optional
  Operand key_segments;    // (Lk,) int64: row_stride; optional
  Operand low, high;       // (Lq, intervals) int64; optional, together
  int64_t intervals = 1;
  Operand centers;        // (Lq,) float64: row_stride; optional
  double half_width = 0;  // with centers: the keys j with |j - center| <= half_width
  double sigma = 0;       // with centers, of a Gaussian round them that multiplies the weights; 0: none
  Operand blocks;         // bool: a row for each block of queries, a column for each block of keys; optional
  int64_t block_queries = 0, block_keys = 0;
  int neighbor_axes = 0;  // 0: there is no neighborhood
  NeighborAxis neighbor_axis[3] = {};
  Operand edge_begins, edge_keys;  // (Lq + 1,) and (edges,) int64: row_stride; optional, together
  Operand edge_bias;               // (edges,): row_stride; optional
  int64_t edges = 0;
  Operand table;  // (table_size,): row_stride; optional, with query_places (Lq,) and key_places (Lk,) int64: row_stride
  int64_t table_size = 0;
  Operand query_places, key_places;

  int64_t moments = 0;  // of so many columns of y; 0: the output is the mean of the values

  bool one_order = false;  // sums in an order fixed by the numbers of keys alone, whatever the call is made of

  double dropout = 0;  // probability that a weight is 0, of numbers from `random`
};

// Compact kernels, of distances; and functions of a score and a threshold, which some have to find.
inline bool is_compact(fv_weighing weighing) { return weighing >= FV_BOXCAR && weighing <= FV_COSINE; }
inline bool has_threshold(fv_weighing weighing) { return weighing == FV_SPARSEMAX || weighing == FV_ENTMAX15; }

inline bool is_additive(fv_family family) { return family == FV_TANH || family == FV_RELU || family == FV_LEAKY_RELU; }

}  // namespace foveate
