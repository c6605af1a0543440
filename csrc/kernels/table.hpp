// What an instruction set offers to the drivers: tables of functions, one for each step of attention on a tile of keys and
// a panel of queries. Every function is serial, noexcept in effect, allocates nothing, and is compiled once per ISA. It
// stands under its name in a file of the folder that is named below, or beside; kernels.cpp and bfloat16.cpp list them.
//
// A panel holds `vectors * lanes` queries, transposed: [row][query]. A tile of scores is s[key][query]. The steps work on
// the same tile one after the other, so that any of them goes with any other:
//   score    Scoring (inner product, additive, distance), Link (softcap), add_bias (float mask), add_places     score/
//   reach    hide_outside, hide_unset: what is not seen becomes -inf                                hide/
//   select   soft, compact (then weighted_sum), argmax_place, shortlist_add, draw, weigh, soft_entropy,
//            key_sums                                                                               select/
//   factor   multiply_gaussian, clear_unset (dropout): what weights are multiplied by               factor/
#pragma once
#include <stdint.h>

namespace foveate {

constexpr int most_lanes = 32;  // queries in a panel, of any ISA: one bit each in a word
// A word with a bit for each of the first `count` lanes. Static: what is compiled for one ISA is shared with no other.
static constexpr uint32_t low_bits(int64_t count) { return count >= 32 ? ~uint32_t(0) : (uint32_t(1) << count) - 1; }

constexpr int sum_chains = 4;       // of the sums over a tile's keys of a softmax, and of few columns
constexpr int64_t query_group = 4;  // few queries: as many as share a load of the keys, at most

// As fv_dtype has them.
enum class Dtype : int32_t { float16, bfloat16, float32, float64, int8 = 6, int4, float8_e4m3, float8_e5m2 };
static constexpr bool is_few_bits(Dtype dtype) { return dtype >= Dtype::int8; }
// Bytes of an element; of int4, of which a byte holds two, those of two. Its rows are contiguous.
static constexpr int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::int8:
    case Dtype::int4:
    case Dtype::float8_e4m3:
    case Dtype::float8_e5m2: return 1;
    case Dtype::float16:
    case Dtype::bfloat16: return 2;
    case Dtype::float32: return 4;
    case Dtype::float64: break;
  }
  return 8;
}

// Bytes of a contiguous row.
static constexpr int64_t row_bytes(Dtype dtype, int64_t columns) {
  return dtype == Dtype::int4 ? (columns + 1) / 2 : columns * size_of(dtype);
}

// Rows of a matrix of any dtype and layout, strides in bytes. Of few bits, element [j][d] is what is stored times
// scale_of(j)[d / block], float32. Rows in pages have a list of where these begin; or each row is a page of its own.
struct Rows {
  const char* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t row_stride = 0, column_stride = 0;
  const char* scale = nullptr;
  int64_t scale_stride = 0;
  int64_t block = 0;                        // columns that share a scale, a multiple of 32; 0: the whole row
  const char* const* list = nullptr;        // null: all rows stand `row_stride` apart, from `data` on
  const char* const* scale_list = nullptr;  // likewise of scales; null only where `list` is, or there are none
  int64_t page_rows = 1, first = 0;         // row j is row (first + j) % page_rows of list[(first + j) / page_rows]
  int64_t listed = 0;                       // so many pages have addresses: perhaps one more than the rows are in

  [[gnu::always_inline]] const char* row(int64_t j) const {
    if (!list) return data + j * row_stride;
    return page_rows == 1 ? list[j] : list[(first + j) / page_rows] + (first + j) % page_rows * row_stride;
  }
  [[gnu::always_inline]] const char* scale_of(int64_t j) const {
    if (!scale_list) return scale + j * scale_stride;
    return page_rows == 1 ? scale_list[j]
                          : scale_list[(first + j) / page_rows] + (first + j) % page_rows * scale_stride;
  }
  [[gnu::always_inline]] Rows from(int64_t j) const {
    Rows rest = *this;
    if (!list) rest.data += j * row_stride;
    if (scale && !scale_list) rest.scale += j * scale_stride;
    if (page_rows > 1) {
      rest.first += j;
    } else {
      if (list) rest.list += j;
      if (scale_list) rest.scale_list += j;
      rest.listed -= j;
    }
    return rest;
  }
};

// Rows as a kernel reads them: in place, or as load_keys and load_values laid them out. Stride in bytes.
struct LoadedRows {
  const void* data;
  int64_t row_stride;
};

// Rows that will be used next: a product prefetches a few lines of them between one register tile and the next. Hardware
// does not look ahead of rows that are read side by side, and drops prefetches that come all at once.
struct Prefetch {
  struct Part {
    const char* row;
    int64_t rows, touches, step, row_stride;  // of each row so many lines, `step` bytes apart
    const char* const* list;                  // rows that stand anywhere, the first of them `row`; or null
  };
  Part parts[3];
  int32_t count;
  bool write;  // the last part is meant for writing
};

// Keys of a tile, counted from its first, that not all vectors of a panel see: the keys before `first` are seen by the
// first vector alone, those from `last` on by the last one alone. Products leave the other cells out: inner scores do not
// write them, and the weighted sum does not read them. All are multiples of 4, except at the end of the tile. Panels of
// one vector ignore them.
struct PartialKeys {
  int64_t first, last;
  // Of what the first vector and the last one see: the keys before lower_end are seen by its lower half alone, those from
  // upper_begin on by its upper half alone. Inner scores of two vectors need not write the other half, and all of these do not
  // fall from the first to the last.
  int64_t lower_end[2], upper_begin[2];

  static constexpr PartialKeys none(int64_t count) { return {0, count, {0, 0}, {count, count}}; }
};

// One way to score: how it lays out queries and keys, and the scores of a panel with a tile of them. `factors` are those
// that Arithmetic::prepare made for an additive score; T[columns] or null for distances; unused by the inner product.
struct Scoring {
  bool in_place;  // loaded keys are rows of elements: such rows of the arithmetic's in_place dtype need no loading
  int64_t (*panel_size)(int64_t columns);  // bytes of a packed panel, for each query
  int64_t (*row_size)(int64_t columns);    // bytes of a loaded key
  void (*load_keys)(const Rows&, int64_t count, int64_t columns, void* to);
  // rows[i] points at the first element of query i. There are `live` queries; the rest of the panel is zero. The queries
  // of an inner product of T are multiplied by `factor`, which is 1 for all others. scratch: a row of each query.
  void (*pack_queries)(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int32_t vectors,
                       int64_t columns, double factor, const void* factors, void* scratch, void* panel);
  // top: the largest score of each query; of an inner product, null where it is not wanted
  void (*scores)(const void* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t columns,
                 const void* factors, void* s, void* top, const PartialKeys&, const Prefetch&);
  // What score/columns.hpp says, which leaves the constants of a column to the driver; the factors are those of the call.
  // Null for the inner product, whose gradients are products.
  void (*gradients)(const void* panel, int32_t vectors, LoadedRows keys, int64_t count, int64_t columns,
                    const void* factors, const void* d_scores, void* to_query, void* to_key, void* to_factors);
  // How the scores move when queries and keys do, of which d_panel and d_keys are laid out as these. Null for inner
  // products, of which it is two of them, and where there is none.
  void (*tangents)(const void* panel, const void* d_panel, int32_t vectors, LoadedRows keys, LoadedRows d_keys,
                   int64_t count, int64_t columns, const void* factors, void* to);
};

// A link is what a score becomes after its product and before its bias: s = f(scale s) unit, with a parameter of f. The
// last link of a score has the unit log2(e): from here on scores are in base 2. Most scores have no link: the scale of an
// inner product is in its queries, and a softmax multiplies by that of the others.
struct LinkParameters {
  double scale;
  double parameter;
  double unit;
};
struct Link {
  const char* name;                 // as fv_score has it; null for those that it does not name
  bool of_distance;                 // likewise: of a distance alone, or of an inner product alone
  bool (*takes)(double parameter);  // likewise
  // s becomes f(scale s) unit. kept: what the gradient needs of each cell, as T; null where no gradient is wanted.
  void (*apply)(void* s, int32_t vectors, int64_t count, const LinkParameters&, void* kept);
  // d_scores, the gradients of f, become those of scale s; 0 stays 0. Null where f is the identity.
  void (*gradient)(const void* kept, void* d_scores, int32_t vectors, int64_t count, const LinkParameters&);
  // Of the second order: d_scores as `gradient`, and how they move, `moved`, where scale s moves by `tangents`:
  // moved f' + d_scores f'' tangents. Where both are 0 they stay 0.
  void (*curvature)(const void* kept, const void* tangents, void* d_scores, void* moved, int32_t vectors, int64_t count,
                    const LinkParameters&);
};

// Neighboring queries of a panel, on lanes of one vector from `lane` on, whose biases by place stand side by side: with a key
// whose step is p they begin at the cell first - p of a line.
struct PlaceRun {
  int64_t first;
  int32_t lane, length;
};

// 2^-(rate (j - center))^2 of the keys j of a tile, from its first; center = whole[i] + rest[i] of each query, |rest| <= 1/2.
struct Gaussian {
  double rate;
  double whole[most_lanes], rest[most_lanes];
};

// Lanes of a strip, one bit each, that see columns close to each other: `column` + place[lane], no more than a vector wide;
// see neighborhood.hpp.
struct StripRun {
  uint32_t lanes;
  int64_t column;
  int32_t place[most_lanes];
};

// A row of what is seen, and the sums that it is added to, a slot each: those that begin at it with 0, or go on from what they
// were left at; and after it those that are left, and those that are done, which are written to answers, times factors. At
// a place each of these is as far on as SumPlace says.
constexpr int most_sum_slots = 7;
struct SumStep {
  const char* values;
  uint32_t begin, resume, leave, end;  // a bit each slot
  const void* weights[most_sum_slots];
  void* sums[most_sum_slots];
  const void* factors[most_sum_slots];
  char* answers[most_sum_slots];
};
struct SumPlace {
  int64_t values, answers;  // bytes
  int64_t sums, factors;    // elements of T
  const int32_t* weights;   // elements of T, one each row that is seen
  int64_t count;
};

// The weight of a squared distance d, s = -d: a file each in profile/.
enum class Profile : int32_t { boxcar = 1, epanechnikov, triangular, biweight, triweight, tricube, cosine };

// The largest numbers so far of a panel's queries, in lists side by side, [row][query]. Where a list has no number there is
// -inf, up to the capacity. keys and counts are integers as wide as T.
struct Shortlist {
  void* values;
  void* scores;  // what belongs to the numbers; or null
  void* keys;
  void* counts;      // of each query: the rows up to its last number
  void* least;       // of each query: only larger numbers are taken
  int64_t rows;      // up to the last number of all
  int64_t capacity;  // in rows
};

// What becomes of scores that are no logits of a softmax; of those with a threshold also what their weights grow by with
// a score.
enum class Normalizer : int32_t {
  none,
  sigmoid = 8,
  rectified,
  sparsemax,
  entmax15,
  sparsemax_slopes,
  entmax15_slopes,
};

// The kernels of one accumulator T (float32 or float64) and one kind of product. There are four kinds of product:
//
//   product        operands   a word of T holds    keys are read in place    values are loaded in groups
//   multiply-add   T          one element          of any size               of 1 key: rows
//   bf16 pairs     bfloat16   a pair of elements   of an even size           of 2 keys: rows of pairs
//   bf16 quads     bfloat16   a pair of elements   of a multiple of 4        of 4 keys: rows of quads
//   AMX            bfloat16   a pair of elements   of a multiple of 32       of 32 keys: tiles of pairs
//
// `group` is 1, 2, 4 or 32. What is said of pairs holds for all three kinds of bfloat16. Wherever values are loaded, a range of keys begins at a multiple of it.
struct Arithmetic {
  int32_t lanes;         // queries on one vector
  int32_t max_vectors;   // vectors in a panel; kernels take 1 or max_vectors
  int32_t element_size;  // of T, in bytes
  Dtype in_place;        // of operands in memory that the products can read where they stand, in contiguous rows
  bool pairs;            // a product takes pairs: queries have no factor, weights and d_scores are rounded to bfloat16
  int32_t group;
  int64_t (*value_size)(int64_t columns);  // bytes of a group of loaded values
  int32_t tile_keys;                       // keys in a tile; 0 where the default serves
  int32_t cell_size;                       // bytes of a weight or a d_score as query_sum takes them

  // Called by a thread before its first kernel and after its last, where they are not null: registers have to be set up.
  void (*enter)();
  void (*leave)();

  // score
  Scoring inner, tanh, relu, leaky_relu, distance;
  // The factors of an additive score, T[columns], and the slope of a leaky relu, as its kernels take them. Returns a factor
  // for the scale.
  int64_t (*prepared_size)(int64_t columns);
  double (*prepare)(const void* factors, int64_t columns, double slope, void* to);
  Link scaled;        // f is the identity; without the unit, which the scale has
  Link softcap;       // f(x) = softcap tanh(x / softcap), where softcap is the parameter
  const Link* links;  // those that fv_score names
  int32_t link_count;
  // s += bias * log2(e). rows[i] points at the bias of query i for the first key of the tile.
  void (*add_bias)(void* s, int32_t vectors, int64_t count, const char* const* rows, Dtype, int64_t key_stride,
                   int32_t live);
  // s += the biases of runs of queries, in base 2; steps: one a key. A line has room for a panel on both sides.
  void (*add_places)(void* s, int32_t vectors, int64_t count, const PlaceRun* runs, int32_t run_count,
                     const int64_t* steps, const void* line);

  // reach
  // Query i sees low[i] <= j < high[i], where j is the place of the key in the tile.
  void (*hide_outside)(void* s, int32_t vectors, int64_t begin, int64_t end, const int32_t* low, const int32_t* high);
  // Query i sees key j where bit i of seen[j] is set.
  void (*hide_unset)(void* s, int32_t vectors, int64_t count, const uint32_t* seen);

  // select
  // The largest score of each query, of scores that have changed since the product found theirs.
  void (*find_top)(const void* s, int32_t vectors, int64_t count, void* top);
  // The online softmax: s becomes the weights, as weighted_sum takes them. top, m, l, exact and alpha are one T a query.
  // l adds up the weights as the product takes them; exact, where it is not null, as they were before pairs rounded them.
  // With a Gaussian, which pairs do not have, weights are multiplied by it after they were added to l. next: what
  // weighted_sum will read.
  void (*soft)(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l, void* exact,
               void* alpha, const Gaussian*, const Prefetch& next);
  // `soft` without a Gaussian, with the tangents of the scores, t = factor (tangents + more), more optional: tangents
  // become weights times t, as weighted_sum takes them. d adds these up as l does the weights; d_exact, of pairs, as they
  // were before they were rounded, null where exact is.
  void (*soft_tangent)(void* s, void* tangents, const void* more, int32_t vectors, int64_t count, double scale,
                       double factor, const void* top, void* m, void* l, void* exact, void* d, void* d_exact,
                       void* alpha);
  // s becomes the weights of a compact kernel, whose sum is added to l.
  void (*compact)(void* s, int32_t vectors, int64_t count, Profile, void* l);
  // s becomes the weights of a normalizer, f(scale (s - m) - t), whose sum is added to l. m and t are one T a query.
  void (*normalize)(void* s, int32_t vectors, int64_t count, double scale, Normalizer, const void* m, const void* t,
                    void* l);
  // Of one with a threshold t: what the weights add up to is added to sums[0][query], and to sums[1][query] how fast that
  // falls with t: of sparsemax sum(x+) and the number of these, of entmax15 sum(x+^2) and sum(x+), with x = scale (s - m) - t.
  void (*threshold_sums)(const void* s, int32_t vectors, int64_t count, double scale, Normalizer, const void* m,
                         const void* t, void* sums);
  // The queries whose top is larger than m, one bit each, and its first place in the tile.
  uint32_t (*argmax_place)(const void* s, int32_t vectors, int64_t count, const void* top, const void* m,
                           int32_t* place);
  // `soft`, with weights of T for any product, and the running sums of the tile in `runs`: runs_of(count) T a query.
  void (*soft_runs)(void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l,
                    void* alpha, void* runs);
  int64_t (*runs_of)(int64_t count);
  // After soft_runs: the queries for which a key of this tile replaces the one drawn before, one bit each, and the place of
  // that key in the tile. uniform: one T in [0, 1) a query.
  uint32_t (*draw)(const void* weights, int32_t vectors, int64_t count, const void* runs, const void* l,
                   const void* uniform, int32_t* place);
  // `soft` of T for any product without a Gaussian, into `weights`, which may be s. Beside l, t adds up weight times the
  // logarithm to base 2 of the weight: the entropy is log(l) - log(2) t / l.
  void (*soft_entropy)(const void* s, int32_t vectors, int64_t count, double scale, const void* top, void* m, void* l,
                       void* t, void* weights);
  // to[j] += the sum over the queries of weights[j] 2^(scale (at - m)) share: at is the m that the weights are beside. A
  // query whose share is 0 adds nothing, whatever its weights are.
  void (*key_sums)(const void* weights, int32_t vectors, int64_t count, double scale, const void* at, const void* m,
                   const void* share, double* to);
  // To the lists: the numbers of a tile, with their scores where these are kept, of keys first_key and on. Returns of how
  // many keys, as many as there is room for.
  int64_t (*shortlist_add)(const void* numbers, const void* scores, int32_t vectors, int64_t count, int64_t first_key,
                           Shortlist& to);
  // Leaves the largest of each list, of equal ones the first: `size` of them, or up to `most`.
  void (*shortlist_cut)(Shortlist& list, int32_t vectors, int64_t size, int64_t most);
  // to = scale (s - shift) + Gumbel noise in base 2, of uniform numbers in (0, 1). shift: one T a query.
  void (*add_noise)(const void* s, int32_t vectors, int64_t count, double scale, const void* shift, const void* uniform,
                    void* to);
  // s = 2^(scale (s - m)) * factor: the weights, where m and l are known.
  void (*weigh)(void* s, int32_t vectors, int64_t count, double scale, const void* m, const void* factor);

  // factor; not of pairs
  void (*multiply_gaussian)(void* weights, int32_t vectors, int64_t count, const Gaussian&);
  // Weights are multiplied by 0 where bit i of kept[j] is not set.
  void (*clear_unset)(void* weights, int32_t vectors, int64_t count, const uint32_t* kept);

  // the answer
  // finite: inf and NaN become 0.
  void (*load_values)(const Rows&, int64_t count, int64_t columns, bool finite, void* to);
  // output = alpha * output + the sum over the keys of weights * values; output is [column][query].
  void (*weighted_sum)(const void* weights, int32_t vectors, LoadedRows values, int64_t count, int64_t value_size,
                       const void* alpha, void* output, const PartialKeys&, const Prefetch&);
  // In place of weighted_sum: the sums of moments.hpp, for panels and keys of distances with 1 to 3 axes. Of T; not of pairs.
  void (*moments)(const void* weights, int32_t vectors, const void* panel, LoadedRows keys, LoadedRows values,
                  int64_t count, int64_t axes, int64_t columns, const void* alpha, void* output, const PartialKeys&);
  // output += weights * values for the values that are inf or NaN, where they are seen. Weights are `width` queries
  // wide; output is at d * column_step + query * query_step, in elements.
  void (*add_not_finite)(const void* weights, int32_t width, const Rows& values, int64_t count, int64_t value_size,
                         const uint32_t* seen, void* output, int64_t column_step, int64_t query_step);
  // Writes the columns of a panel as rows, to[i][r] = panel[r][i] * factor[i], for `live` queries. Returns whether all are
  // finite. scratch: lanes * rows of T.
  bool (*store_rows)(const void* panel, int32_t vectors, int64_t rows, const void* factor, int32_t live, void* scratch,
                     char* const* to, Dtype, int64_t column_stride);
  // Writes one contiguous row of T.
  void (*store_row)(const void* row, int64_t columns, char* to, Dtype, int64_t column_stride);

  // backward
  // s and d_weights, the gradients of the weights, become weights and gradients of the scores:
  //   weights     cells for query_sum, in rows `stride` apart
  //   d_scores    likewise; and in d_weights as weighted_sum takes them. Where d_scores is null, in d_weights alone, as T
  // lse is scale top + rest, in base 2. top, rest and shift are one T a query; a query whose rest is inf has no weight.
  void (*soft_gradient)(const void* s, void* d_weights, int32_t vectors, int64_t count, double scale, const void* top,
                        const void* rest, const void* shift, void* weights, void* d_scores, int64_t stride);
  // Of the second order: s, d_weights, how these move, `moved`, and how the scores do, `tangents` in natural units, become
  // the weights and how they move, in rows `stride` apart, and the gradients of the scores, in d_weights, and how these
  // move, in `moved`. t_lse and t_shift: how lse, natural, and shift move. Of T; not of pairs.
  void (*soft_gradient_tangent)(const void* s, void* d_weights, void* moved, const void* tangents, int32_t vectors,
                                int64_t count, double scale, const void* top, const void* rest, const void* shift,
                                const void* t_lse, const void* t_shift, void* weights, void* t_weights, int64_t stride);
  // The gradients of add_places, added up: sums is a line of them.
  void (*sum_places)(const void* d_scores, int32_t vectors, int64_t count, const PlaceRun* runs, int32_t run_count,
                     const int64_t* steps, double* sums);
  // What soft_gradient leaves undone where d_scores is null.
  void (*store_cells)(void* d_weights, int32_t vectors, int64_t count, void* d_scores, int64_t stride);
  // As soft_gradient without d_scores, for a compact kernel, where lse is rest.
  void (*compact_gradient)(const void* s, void* d_weights, int32_t vectors, int64_t count, Profile, const void* rest,
                           const void* shift, void* weights, int64_t stride);
  // As soft_gradient, for a normalizer.
  void (*normalize_gradient)(const void* s, void* d_weights, int32_t vectors, int64_t count, double scale, Normalizer,
                             const void* m, const void* t, const void* shift, void* weights, void* d_scores,
                             int64_t stride);
  // Of the center c and the width of a Gaussian F, except for powers of sigma: to[0][query] += sum_j g (j - c) and
  // to[1][query] += sum_j g (j - c)^2, with g = P F dP: weights are P, before the Gaussian, and d_weights are F dP.
  void (*gaussian_gradient)(const void* weights, const void* d_weights, int32_t vectors, int64_t count, const Gaussian&,
                            void* to);
  // Up to a panel of rows to x, as query_sum takes them, from row `first` on, a multiple of a panel. Columns up to whole
  // vectors, and of pairs the rows up to a whole panel, are filled with 0. Returns whether all were finite; with `finite`,
  // inf and NaN become 0.
  bool (*load_summands)(const char* const* rows, Dtype, int64_t column_stride, int32_t live, int64_t columns,
                        bool finite, void* x, int64_t first);
  // to[j][d] += the sum over q < queries of cells[j * stride + q] * x[q][d]. `columns` is a multiple of the lanes. Products
  // of pairs read on: in each row the cells up to a whole panel, which must be 0, and up to 15 rows beyond the last, which
  // may hold anything.
  void (*query_sum)(const void* cells, int64_t stride, int64_t count, int64_t queries, const void* x, int64_t columns,
                    void* to);
  // to[i] = the inner product of the rows a[i] and b[i]; `columns` is a multiple of the lanes.
  void (*dot_rows)(const void* a, const void* b, int64_t count, int64_t columns, void* to);

  // Few queries (1, 2 or 4), see decode.hpp. Keys and values have contiguous columns. Queries and outputs are rows of T of
  // whole vectors, queries with zeros at the end. s is [key][query], with room for a whole vector of keys more.
  void (*decode_scores)(const void* query, int64_t query_stride, int32_t queries, const Rows& keys, int64_t count,
                        int64_t head_size, void* s);
  // As add_bias.
  void (*decode_bias)(void* s, int32_t queries, int64_t count, const char* const* rows, Dtype, int64_t key_stride,
                      int32_t live);
  void (*decode_soft)(void* s, int32_t queries, int64_t count, double scale, void* m, void* l, void* output,
                      int64_t output_stride, int64_t value_size);
  void (*decode_sum)(const void* weights, int32_t queries, const Rows& values, int64_t count, int64_t value_size,
                     void* output, int64_t output_stride);
  // In the order of panels, see decode/in_order.hpp. values: contiguous rows of T, at any address, so many bytes apart.
  void (*decode_chain)(const void* weights, int32_t queries, const char* values, int64_t value_stride, int64_t count,
                       int64_t value_size, void* parts, int64_t stride);
  void (*decode_tops)(void* s, int32_t queries, int64_t count, void* tops);
  void (*decode_weights)(void* s, int32_t queries, int64_t count, double scale, const void* m, void* sums);
  void (*decode_fold)(int32_t queries, double scale, const void* m, const void* next_m, const void* sums,
                      const void* parts, int64_t stride, int64_t value_size, void* l, void* outputs);

  // A contiguous row of T, at any address, as few bits: codes, contiguous, and scales, one for each `block` columns, or of 0
  // one for all. False where a number or a scale is not finite. It wants subnormal numbers as they are.
  bool (*quantize)(const void* row, int64_t columns, Dtype, int64_t block, char* data, float* scales);

  // Products from registers, in as many chains as hide the latency; returns the flops done.
  double (*spin)(int64_t rounds);
};

// Draws from categories. A row's categories are taken in blocks, those of a block in classes: by their index in the
// block, modulo draw_classes. All of this is fixed, so that a draw is the same on every ISA.
constexpr int draw_block = 4096;
constexpr int draw_classes = 64;

// Up to draw_block categories of a row as they lie in memory, at any address: weights, or logits. top: what is taken
// off logits, as sum_block gave it.
struct Categories {
  const char* data;
  Dtype dtype;
  bool logits;
  int64_t stride;
  int64_t count;
  double top;
};

// What a block weighs: of logits, the sum of exp(logit - top), top being the largest (0 where all are -inf). doubtful:
// a sign bit is set somewhere. A NaN or an infinity makes a total that is not finite.
struct BlockSum {
  double total, top;
  bool doubtful;
};

// The drawing functions of one accumulator T. `classes`: T[draw_classes], sums of no more than 64 terms each, in order.
struct Drawing {
  BlockSum (*sum_block)(const Categories&, void* classes, void* buffer);  // buffer: T[draw_block]
  // One draw from each of some blocks, for fractions in [0, 1): the category at that fraction of the block's weight, in
  // an order of their own: by class % 8, class / 8, place in the class % 8, place / 8. Categories that have no weight
  // are never drawn. Sums are positive and normal numbers. classes[i]: what sum_block gave for block i.
  void (*pick)(const Categories* blocks, const void* const* classes, const double* fractions, int64_t count,
               int64_t* index);
  // to[i] = the sum of the weights up to and including i, in units of 1 / scale, each cut off to an integer: exact
  // from there on. Returns the last.
  int64_t (*cumulate)(const Categories&, double scale, int64_t* to, void* buffer);
};

// Cumulated weights of a row, in order, the last group of draw_group filled up with INT64_MAX; the last is `total`.
// guide[x >> shift] is the first group that ends beyond (x >> shift) << shift: draws look on from there.
constexpr int draw_group = 8;
struct DrawTable {
  const int64_t* cumulated;
  const uint32_t* guide;
  int32_t shift;
  int64_t total;
};

// Filters of a row: of the blocks of its categories, spans of numbers side by side.
constexpr int filter_span = 128;
constexpr int sample_run = 16;

// Up to draw_block numbers of a row, at any address: logits, to which a bias is added in the accumulator's dtype, or
// weights.
struct Candidates {
  const char* data;
  Dtype dtype;
  int64_t stride;
  int64_t count;
  const char* bias;  // null: none
  Dtype bias_dtype;
  int64_t bias_stride;
};

// The largest number. doubtful: there is a NaN, or a weight whose sign bit is set.
struct BlockTop {
  double top;
  bool doubtful;
};

struct WeightParts {
  double whole, above;
  int64_t count;
};

// How numbers become weights, the largest of a row being `top`: exp(rate (x - top)); or (x scale[0] scale[1])^rate, divided by
// that of the top where rate is not 1. scale: two powers of 2 that take the top to [1/2, 1).
struct Weighing {
  bool logits;
  double top, rate, scale[2];
};

// The filtering functions of one accumulator T. tops: T for each span. Thresholds are numbers of T. Lists of numbers,
// values, are of T and have room for draw_classes more.
struct Filtering {
  BlockTop (*span_tops)(const Candidates&, bool weights, void* tops);
  // Lists the numbers above `least`, and those equal to it at places before `equals`; and their places, unless that is null.
  int64_t (*keep)(const Candidates&, const void* tops, double least, int64_t equals, void* values, int32_t* places);
  // The place behind number *rank, from 1 on, of those equal to x; or -1, and *rank is what is left of it.
  int64_t (*place_of_equal)(const Candidates&, const void* tops, double x, int64_t* rank);
  double (*sum_weights)(void* values, int64_t count, const Weighing&);  // of a block's at most; changes what is behind
  // The same of those from `least` on.
  double (*sum_listed)(const void* values, int64_t count, double least, const Weighing&);
  double (*sum_exactly)(void* values, int64_t count, const Weighing&);  // the same in any order
  // The weight of all numbers, and of those from `high` on; and a list of those from `low` on that are less.
  WeightParts (*sum_parts)(const Candidates&, double low, double high, const Weighing&, void* values);
  // Lists the first sample_run numbers of spans first, first + step, ...
  int64_t (*sample)(const Candidates&, int64_t first, int64_t step, void* values);
  void (*weights_of)(const void* values, int64_t count, const Weighing&, void* weights);  // of whole classes
  // The sum of the weights, or of their squares, of numbers from `least` on; of whole classes.
  double (*sum_from)(const void* values, const void* weights, int64_t count, double least, bool squares);
  // The place in the list at a fraction in [0, 1) of its weight, in order. values become weights.
  int64_t (*pick)(void* values, int64_t count, const Weighing&, double fraction);
  void (*log_weights)(const Candidates&, const int32_t* places, int64_t count, const Weighing&, double* to);
  // The number of a rank, 1 of the largest; values change.
  double (*number_at_rank)(void* values, int64_t count, int64_t rank);
  // The number at which the sum of the weights, from the largest down, comes to `weight`; how many of its equals are
  // needed for that, and how many there are. values change.
  double (*number_at_weight)(void* values, int64_t count, double weight, const Weighing&, int64_t* needed,
                             int64_t* equals);
};

struct Digits;
struct FewPairs;

// Rows that stand anywhere: T in whole vectors of columns, at base + offsets[e], in bytes.
struct EdgeRows {
  const char* base;
  const int64_t* offsets;
};

// One row against others, the columns on the lanes: see edges.hpp. `columns` is a multiple of the lanes; s has room for a whole
// vector of edges. factors: T[columns], v of an additive score (with zeros at the end), w of a distance (1 where there are
// none); in gradients the slope of a leaky relu, or w. Null gradients: they are sums.
struct EdgeScoring {
  void (*scores)(const void* row, const EdgeRows& others, int64_t count, int64_t columns, const void* factors,
                 double slope, void* s);
  void (*gradients)(const void* row, const EdgeRows& others, int64_t count, int64_t columns, const void* factors,
                    const void* d_scores, void* to_row, void* to_factors);
};
struct EdgeKernels {
  EdgeScoring inner, tanh, relu, leaky_relu, distance;
  void (*sum)(const void* weights, const EdgeRows& rows, int64_t count, int64_t columns, void* to);
};

// Neighborhoods, see neighborhood.hpp; strides are in elements of T but where they are of operands.
struct StencilKernels {
  // Rows of places times a factor to columns, to[column][place], whole vectors of places each, of which one stands
  // `vector_stride` after the other. scratch: a row of each lane. What is behind a row that is read may be fetched too.
  void (*load_places)(const char* const* rows, Dtype, int64_t column_stride, int64_t count, int64_t columns,
                      double factor, void* scratch, int64_t stride, int64_t vector_stride, void* to);
  // What a strip sees of these, to[column][distance][lane]: 0 where it does not see.
  void (*gather_places)(const void* from, int64_t stride, int64_t columns, const StripRun* runs, int32_t run_count,
                        const uint32_t* seen, int64_t window, int64_t step, void* to);
  // The scores of some rows of queries with what they see of a row of keys, scores[row][distance][lane]. Beside them a
  // vector of places each is fetched ahead from two addresses.
  void (*place_scores)(const void* const* queries, int32_t rows, const void* keys, int64_t stride, int64_t step,
                       int64_t columns, int64_t window, void* const* scores, const char* const* ahead);
  // Sums of rows of T by weights, at some places, `step` bytes from one row to the next. `columns` is a multiple of the lanes.
  void (*sum_steps)(const SumStep* steps, int64_t count, int32_t slots, const SumPlace* places, int32_t place_count,
                    int64_t step, int64_t columns);
};

// Sums of Gaussians between boxes of points, in float64: see sums.hpp. One table for each number of dimensions.
constexpr int32_t most_sum_dims = 6;
constexpr int64_t sum_block_most = 32;  // rows of `series` are multiples of this
struct SumPoints {
  const double* at;      // [dims][stride]
  const double* values;  // [columns][stride]
  int64_t stride;
  int32_t columns;
};
struct SumKernels {
  int32_t lanes;  // numbers that `moments` takes of scratch memory for each of its results
  void (*moments)(const SumPoints&, int64_t first, int64_t end, const double* d, int32_t degree, int64_t terms,
                  double* scratch, double* to);
  void (*series)(const double* x, int64_t stride, int64_t count, const double* tilt, double shift, int32_t degree,
                 int64_t terms, const double* coefficients, int32_t columns, double* sums);
  void (*pairs)(const SumPoints&, int64_t first, int64_t end, const double* d, double shift, double* sums);
  void (*pairs_of_rows)(const SumPoints&, int64_t first, int64_t end, const double* x, int64_t stride, int64_t count,
                        const double* d, const double* shift, double* sums);
  double (*nearest)(const SumPoints&, int64_t first, int64_t end, const double* d);
};

struct Kernels {
  const char* name;
  Arithmetic float32, float64;
  const Arithmetic* bfloat16;  // dispatch.cpp points it at one that Bfloat16 makes; else it is null, and float32 serves

  // bits[j] |= (row[j] != 0) << lane
  void (*bits_of_bools)(const char* row, int64_t stride, int64_t count, int32_t lane, uint32_t* bits);
  // clears bit `lane` of bits[j] where the bias is -inf
  void (*clear_minus_infinity)(const char* row, Dtype, int64_t stride, int64_t count, int32_t lane, uint32_t* bits);

  // clears bit `lane` of bits[j] where ids[j] != id
  void (*clear_other_segments)(const char* ids, int64_t stride, int64_t id, int64_t count, int32_t lane,
                               uint32_t* bits);

  Drawing drawing_float32, drawing_float64;
  Filtering filtering_float32, filtering_float64;
  // index[i]: the first category whose cumulated weight is more than total * words[i] / 2^64
  void (*look_up)(const DrawTable&, const uint64_t* words, int64_t count, int64_t* index);

  void (*elementary)(int32_t function, bool is_double, const void* in, void* out, int64_t count);
  double (*sum_bytes)(const void* data, int64_t bytes);  // reads every cache line
  const EdgeKernels *edges_float32, *edges_float64;
  const StencilKernels *stencils_float32, *stencils_float64;
  const SumKernels* sums_of_gaussians;
  const Digits* digits = nullptr;       // where there are products of bytes
  const FewPairs* few_pairs = nullptr;  // where there are products of pairs of bfloat16 that take rows as they are
};

// Few queries of bfloat16 over keys and values of bfloat16, by products of pairs: see decode/pairs.hpp. Of float32; those that
// are not named here come as decode_scores and decode_sum take them.
struct FewPairs {
  int64_t (*query_size)(int64_t columns);  // bytes of a query
  void (*load_query)(const char* from, int64_t column_stride, int64_t columns, void* to);
  // Numbers of float32 that bfloat16 has, as such, in place.
  void (*narrow)(void* data, int64_t count);
  // query: rows of load_query, one after the other.
  void (*scores)(const void* query, int32_t queries, const Rows& keys, int64_t count, int64_t head_size, double factor,
                 void* s);
  void (*sum)(const void* weights, int32_t queries, const Rows& values, int64_t count, int64_t value_size, void* output,
              int64_t output_stride);
};

// Few queries over keys and values of int8 and int4, by products of integers of so many digits: see decode/digits.hpp. Of
// float32; those that are not named here come as decode_scores and decode_sum take them.
struct Digits {
  int64_t (*queries_size)(Dtype, int64_t block, int64_t columns);  // bytes of a group of queries
  // Lays out queries for such keys.
  void (*load_queries)(const void* query, int64_t query_stride, int32_t queries, int32_t digits, Dtype, int64_t block,
                       int64_t columns, void* to);
  void (*scores)(const void* queries_of_digits, int32_t queries, int32_t digits, const Rows& keys, int64_t count,
                 int64_t columns, void* s);
  bool (*takes_values)(Dtype, int64_t block);
  void (*sum)(const void* weights, int32_t queries, int32_t digits, const Rows& values, int64_t count,
              int64_t value_size, void* output, int64_t output_stride);
};

// What an ISA that multiplies bfloat16 adds to the Kernels of another that has the same vectors: from the other's float32
// it makes the arithmetic of its products. amx: of those by AMX, null where it was not compiled.
struct Bfloat16 {
  Arithmetic (*products)(const Arithmetic& float32);
  Arithmetic (*amx)(const Arithmetic& float32);
  const FewPairs* few;  // null where there are no such products
};

}  // namespace foveate
