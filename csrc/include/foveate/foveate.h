/* foveate: attention on CPUs. The one public header: a C ABI of strided views and a status.
 *
 * Contract: no function throws, none keeps a pointer after it returns, none changes anything but its outputs.
 * Arguments are validated; a refused call says why in `fv_error`, which may be NULL, and writes nothing unless its
 * comment says otherwise. If another thread changes the inputs during a call, its answer may be anything.
 * Any number of threads may call at once. Strides are in bytes and may be zero or negative; leading axes broadcast as
 * in numpy.matmul.
 */
#ifndef FOVEATE_H
#define FOVEATE_H

#include <stdint.h>

/* The version of this header, for #if; fv_version() is that of the engine which a program runs with. */
#define FV_VERSION_MAJOR 0
#define FV_VERSION_MINOR 1
#define FV_VERSION_PATCH 0
#define FV_VERSION (10000 * FV_VERSION_MAJOR + 100 * FV_VERSION_MINOR + FV_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#define FV_NOEXCEPT noexcept
#else
#define FV_NOEXCEPT
#endif
#ifdef FV_BUILDING_SHARED
#pragma GCC visibility push(default)
#endif

#define FV_MAX_DIMS 64

typedef enum fv_status {
  FV_OK = 0,
  FV_TYPE_ERROR,  /* a dtype that is not taken here */
  FV_VALUE_ERROR, /* a shape or a value that is not taken here */
  FV_NO_MEMORY,   /* the sizes overflow, or scratch memory could not be allocated */
  FV_INTERRUPTED  /* the check given to fv_set_interrupt_check asked to stop; `out` is half written */
} fv_status;

/* Those of few bits are of keys and values alone, and go with scales. FV_INT4 holds two columns in a byte, the even one in
 * the low half, in two's complement; its shape counts columns, which are contiguous: the last stride says nothing. */
typedef enum fv_dtype {
  FV_FLOAT16,
  FV_BFLOAT16,
  FV_FLOAT32,
  FV_FLOAT64,
  FV_BOOL,
  FV_INT64,
  FV_INT8,
  FV_INT4,
  FV_FLOAT8_E4M3, /* the finite one: no inf, a largest number of 448 */
  FV_FLOAT8_E5M2
} fv_dtype;

typedef struct fv_error {
  char message[512]; /* names the argument, what came, and what was wanted */
} fv_error;

/* A strided view of memory that the caller keeps. Strides are in bytes; elements may stand at any address. */
typedef struct fv_array {
  void* data;
  fv_dtype dtype;
  int32_t ndim;
  const int64_t* shape;
  const int64_t* strides;
} fv_array;

/* Random numbers: Philox 4x64-10 under this key. Its counters say what each number is for (row, draw), so that the same
 * key gives the same draws for any number of threads, and whatever else is in the batch. */
typedef struct fv_random {
  uint64_t key[2];
} fv_random;

/* score: how related a query q and a key k are. With d = |factors (q - k)|^2, the squared distance with a factor for
 * each dimension:
 *   FV_INNER           q . k                                   the inner product
 *   FV_TANH, FV_RELU   sum_h factors_h act(q_h + k_h)          additive: query and key are the two projections
 *   FV_LEAKY_RELU      the same, act(x) = x where x > 0, slope x otherwise
 *   FV_DISTANCE        -d / 2
 * then scale * score, then the link, then softcap * tanh(score / softcap) where softcap > 0.
 * link: a function of the scores by its name, with a parameter p. NULL: none.
 *   "power"            score^p, of a whole number p >= 1; of FV_INNER only
 *   "root"             -sqrt(-2 score), which is -sqrt(d); of FV_DISTANCE with a positive scale only, p is 0. Where d is 0 its
 *                      derivative is taken as 0 */
typedef enum fv_family { FV_INNER, FV_TANH, FV_RELU, FV_DISTANCE, FV_LEAKY_RELU } fv_family;

/* weighing: how scores become weights. FV_SOFTMAX takes the softmax of the scores. The others are compact kernels, for
 * FV_DISTANCE only: weights that are 0 beyond a distance, divided by their sum. They take a scale of 1 and no softcap,
 * float mask or sink, and go with fv_attention and fv_attention_backward only. If all weights of a query are 0, its
 * output is NaN and its lse -inf.
 *   FV_BOXCAR          [d <= 1]
 *   FV_EPANECHNIKOV    max(1 - d, 0)
 *   FV_TRIANGULAR      max(1 - sqrt(d), 0)
 *   FV_BIWEIGHT        max(1 - d, 0)^2
 *   FV_TRIWEIGHT       max(1 - d, 0)^3
 *   FV_TRICUBE         max(1 - d^(3/2), 0)^3
 *   FV_COSINE          cos(pi/2 sqrt(d)) where d <= 1
 * And of any score s, behind softcap and mask, without a sink, negligible or sigma, for fv_attention, its weights and its
 * gradients:
 *   FV_SIGMOID         1 / (1 + e^-s)
 *   FV_RECTIFIED       max(s, 0)
 *   FV_SPARSEMAX       max(s - tau, 0), with the tau of each query for which its weights add up to 1
 *   FV_ENTMAX15        max(s / 2 - tau / 2, 0)^2, likewise
 * The lse of these is what scores are compared with: tau, or 0 where there is none. */
typedef enum fv_weighing {
  FV_SOFTMAX,
  FV_BOXCAR,
  FV_EPANECHNIKOV,
  FV_TRIANGULAR,
  FV_BIWEIGHT,
  FV_TRIWEIGHT,
  FV_TRICUBE,
  FV_COSINE,
  FV_SIGMOID,
  FV_RECTIFIED,
  FV_SPARSEMAX,
  FV_ENTMAX15
} fv_weighing;

typedef struct fv_score {
  double scale;
  double softcap;
  fv_family family;
  fv_weighing weighing;
  const fv_array* factors; /* (D,), contiguous, float32, or float64 for float64; optional for distances */
  /* Distances only: far keys may be left out if all of them together weigh less than this fraction of the other keys of
   * each query. They are left out tile by tile, which pays if near points are close in the order of queries and keys.
   * 0: only keys of weight 0 are left out. */
  double negligible;
  const char* link;
  double link_parameter;
  double slope; /* of FV_LEAKY_RELU alone: a finite number */
} fv_score;

/* reach: which keys a query sees. Every part is optional (NULL); the parts compose by AND.
 * Query i stands at p = i + offset on the key axis and sees the keys p - left <= j <= p + right. */
typedef struct fv_reach {
  const fv_array* mask;           /* (..., Lq, Lk): bool, True = seen; or float, added to the scores, -inf = not seen */
  int64_t left, right;            /* negative: unbounded; causal is right = 0 */
  const fv_array* offset;         /* int64 (...): where query 0 stands on the key axis; NULL: 0 */
  int32_t offset_at_end;          /* nonzero: the last query stands at the last valid key */
  int32_t leave_one_out;          /* nonzero: a query does not see the key at its own position */
  const fv_array* key_lengths;    /* int64 (...): keys at and beyond this are not seen */
  const fv_array* query_segments; /* int64 (..., Lq), with key_segments: a query sees the keys of its own id */
  const fv_array* key_segments;   /* int64 (..., Lk) */
  const fv_array* low;            /* int64 (..., Lq), with high: query i sees the keys low[i] <= j < high[i] */
  const fv_array* high;
  const fv_array* centers; /* float64 (..., Lq): a query sees the keys |j - center| <= half_width */
  double half_width;       /* with centers: positive */
  /* How many intervals a query has: low and high are (..., Lq, intervals), and it sees the keys of all of them. 0: one,
   * and low and high are (..., Lq). */
  int64_t intervals;
  /* bool (..., ceil(Lq / block_queries), ceil(Lk / block_keys)): the queries of a block see the keys of those blocks that are
   * True. */
  const fv_array* blocks;
  int64_t block_queries, block_keys;
  /* int64 (axes, 5), contiguous, of 1 to 3 axes along which queries and keys both stand, the last one fastest: of each its
   * length, window, dilation, whether it is causal, and whether windows are cut off at borders (1) or moved inwards (0). */
  const fv_array* neighborhood;
  /* Edges of a graph: query i sees the keys edge_keys[e], edge_begins[i] <= e < edge_begins[i + 1], and edge_bias[e] is
   * added to their scores, -inf = not seen. int64 (Lq + 1,), from 0 on; int64 (edges,), rising for each query; float
   * (..., edges), optional. They go with no mask, blocks, neighborhood, table, centers, tangents and compact kernel. */
  const fv_array* edge_begins;
  const fv_array* edge_keys;
  const fv_array* edge_bias;
  /* A bias by position: query i and key j add table[clip(query_places[i] - key_places[j], 0, n - 1)] to their score; -inf is
   * a number like others. float (..., n); int64 (..., Lq) and (Lk,), of which what is beyond 2^40 in size counts as 2^40. */
  const fv_array* table;
  const fv_array* query_places;
  const fv_array* key_places;
} fv_reach;

/* One problem: query (..., Lq, D), key (..., Lk, D), value (..., Lk, Dv). The leading axes of these, and of the arrays
 * of the reach and the sink, broadcast to those of the output. float16, bfloat16 and float32 mix freely among query,
 * key and value, and accumulate in float32; float64 goes with float64 only. */
typedef struct fv_problem {
  const fv_array* query;
  const fv_array* key;
  const fv_array* value; /* NULL for fv_attention_weights and fv_attention_statistics */
  const fv_array* sink;  /* float64 (...): one more logit in the denominator; NULL: none */
  fv_score score;
  fv_reach reach;
  /* With centers: after the softmax, weights are multiplied by exp(-(j - center)^2 / (2 sigma^2)), and not normalized
   * again. 0: no such factor. */
  double sigma;
  /* After the softmax each weight becomes 0 with this probability, 0 <= dropout < 1, and is divided by 1 - dropout
   * otherwise. The numbers of `random` are counted by leading index, query and key. For fv_attention and
   * fv_attention_backward only, and not with compact kernels. */
  double dropout;
  fv_random random;
  /* The number of the first query where random numbers are counted, those of fv_hard_attention too: of queries that are a
   * part of others, which get the same numbers. */
  int64_t first_row;
  /* Of keys and values of few bits, which go with a query of any dtype: float32 (..., Lk, blocks). An element is what is
   * stored, times the scale of its block of columns. block: the columns that share a scale, a multiple of 32, the last block
   * may be shorter; 0: one scale a row, and blocks is 1. NULL: none. There are no gradients. */
  const fv_array* key_scale;
  const fv_array* value_scale;
  int64_t key_block, value_block;
  /* Of keys and values in pages of S rows: key is (P, ..., S, D), its scales (P, ..., S, blocks), and this, int64 (B, T),
   * says which pages follow each other: it stands for (B, ..., T * S, D). Pages may be shared. A number outside 0..P-1 is a
   * page that no query may see. NULL: not in pages. There are no gradients. */
  const fv_array* key_table;
  const fv_array* value_table;
  /* Of fv_hard_attention, for a problem that is a part of another one, whose choices it joins: the numbers of the first leading
   * index and of the first key where random numbers are counted, as first_row; first_key is a multiple of 168. */
  int64_t first_lead, first_key;
  /* float64 (..., Lq, 3), written: the natural logarithm of the weight of these keys, and of FV_SAMPLE two numbers more, as
   * `before` of the next keys takes them. NULL: not wanted. */
  const fv_array* after;
  /* float64 (..., Lq, 3), for FV_SAMPLE with `after`: what `after` was of the keys before these, which may be drawn too. Then the
   * output is 0, the index -1 and the log_prob -inf; `after` is of all up to these. So the draws from parts of the keys, one after
   * the other, of which the last one counts, are bit for bit those from all of more than 4 queries. NULL: none. */
  const fv_array* before;
  /* 1: log_prob is float64, and holds the scores of the keys, in natural units. */
  int32_t gives_scores;
  /* 1: for fv_attention and FV_DISTANCE with FV_SOFTMAX or a compact kernel, without edges, sigma and dropout, and D from 1
   * to 3: instead of the means of the values, those that local linear regression is made of. Values are s, y_1 .. y_k, and
   * further columns, which are finite and not used, up to (1 + k) (1 + D) + D (D + 1) / 2 in all. With z = key - query the
   * output is the means of s; s y; s z; s z_a z_b, a <= b; s z_a y, a by a. 0: none. */
  int64_t moments;
  /* 1: fv_attention sums in one order, fixed by the number of a key alone: a query has the same bits whatever other queries,
   * keys that it does not see, strides, pages, and ways to say what it sees there are. Not with edges. Others take it and
   * compute as ever. 0: the fastest order for the call. */
  int32_t one_order;
} fv_problem;

/* Gives the shape of the output, (..., Lq, Dv), or (..., Lq, Lk) if `value` is NULL. Validates the whole problem. */
fv_status fv_output_shape(const fv_problem*, int32_t* ndim, int64_t shape[FV_MAX_DIMS], fv_error*) FV_NOEXCEPT;

/* out (..., Lq, Dv), of any float dtype. lse (..., Lq), float32 or float64 (float64 for float64), may be NULL: the
 * natural logarithm of the denominator, the sink included. Or lse (..., Lq, 3), float64: lse, then two numbers for the
 * gradients of the same problem, namely the largest score as the kernels hold it, and the logarithm of the denominator
 * over the weight of that score. fv_attention_backward derives these two from lse if the first of them is NaN. */
fv_status fv_attention(const fv_problem*, const fv_array* out, const fv_array* lse, fv_error*) FV_NOEXCEPT;

/* How the operands of a problem move; each is optional (NULL: not at all). Their leading axes broadcast to those of the
 * output. float64 goes with float64 only. */
typedef struct fv_tangents {
  const fv_array* query; /* (..., Lq, D) */
  const fv_array* key;   /* (..., Lk, D) */
  const fv_array* value; /* (..., Lk, Dv) */
  const fv_array* mask;  /* of a float mask: what broadcasts to (..., Lq, Lk), of any float dtype */
  const fv_array* sink;  /* of a sink: float64 (...) */
} fv_tangents;

/* fv_attention, and how its answers move when the operands do: the derivative along the tangents, in one pass and with as
 * little memory. out and lse as for fv_attention; t_out (..., Lq, Dv), of any float dtype; t_lse (..., Lq), float32
 * (float64 for float64), may be NULL. Of FV_INNER and FV_DISTANCE with the softmax alone; `negligible` counts as 0. A row
 * that sees nothing has the tangent 0, and its lse that of the sink. */
fv_status fv_attention_jvp(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* lse,
                           const fv_array* t_out, const fv_array* t_lse, fv_error*) FV_NOEXCEPT;

/* The tangents of fv_attention_jvp alone, where out is what fv_attention gave: a product less. An error of out is one of
 * its tangent; of 16-bit operands it had better be float32. */
fv_status fv_attention_tangent(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* t_out,
                               const fv_array* t_lse, fv_error*) FV_NOEXCEPT;

/* out (..., Lq, Lk): the weights. */
fv_status fv_attention_weights(const fv_problem*, const fv_array* out, fv_error*) FV_NOEXCEPT;

/* Statistics of the weights, which are not stored; each is optional (NULL). float32 (float64 for float64), place int64:
 *   key_sum (..., Lk)   the sum of the weights of each key over the queries first_query <= i < end_query
 *   entropy (..., Lq)   -sum_j w_j log(w_j) of each query, in natural units
 *   largest (..., Lq)   its largest weight, and
 *   place (..., Lq)     the key that has it, the first of equals
 * A sink takes its share of the weights, and is no key. A query that sees no key has the statistics 0, and the place -1; one
 * whose scores leave no distribution (a NaN or +inf among them, or only -inf) has NaN, -1, and the weight NaN at every key
 * that it sees. `value` is NULL. Takes no compact kernel, no sigma and no dropout. */
fv_status fv_attention_statistics(const fv_problem*, int64_t first_query, int64_t end_query, const fv_array* key_sum,
                                  const fv_array* entropy, const fv_array* largest, const fv_array* place,
                                  fv_error*) FV_NOEXCEPT;

/* Where gradients are written; each is optional (NULL). */
typedef struct fv_gradients {
  const fv_array* query; /* (..., Lq, D), over all leading axes: if query is broadcast, the caller sums */
  /* (..., Lk, D) and (..., Lk, Dv), with as many axes as the output: their leading axes are those of key and value,
   * broadcast together. Along an axis where both have an extent of 1, the gradient is summed. */
  const fv_array* key;
  const fv_array* value;
  const fv_array* mask; /* for a float mask, of its shape, holding zeros: the gradient is added to them */
  const fv_array* sink; /* float64, over all leading axes */
  /* (D,), float64: the sum over everything. If a distance was given no factors, these are the gradients at 1. */
  const fv_array* factors;
  const fv_array* centers; /* (..., Lq), over all leading axes, float64 */
  const fv_array* sigma;   /* (..., Lq), over all leading axes, float64: the part of each query */
  const fv_array* table; /* float64, of the shape of the reach's table, holding zeros: the gradient is added to them */
  const fv_array* edge_bias; /* likewise, of its edge_bias */
} fv_gradients;

/* The gradients of fv_attention. out and lse are what it gave for the problem; d_out is the gradient of out, of its
 * shape; d_lse (..., Lq), that of lse, may be NULL. An error of lse is an error of every weight of its row: an lse
 * (..., Lq, 3) avoids it for scores of any size, one of float64 for scores up to 1e9. d_lse and the gradient of the
 * mask are float32 (float64 for float64); out, d_out and the gradients of query, key and value are of any float dtype
 * (float64 for float64). No axis of key or value may be broadcast by a stride of 0 alone. A row that sees nothing, or
 * whose compact weights are all 0, has the gradient 0. `negligible` counts as 0. */
fv_status fv_attention_backward(const fv_problem*, const fv_array* out, const fv_array* lse, const fv_array* d_out,
                                const fv_array* d_lse, const fv_gradients*, fv_error*) FV_NOEXCEPT;

/* How what fv_attention_backward writes moves, the second order: when the operands move along the tangents, out and lse by
 * t_out (..., Lq, Dv) and t_lse (..., Lq), which fv_attention_jvp gives for these, and d_out and d_lse by t_d_out and
 * t_d_lse, in their shapes, each optional (NULL: not at all). t_lse and t_d_lse are float32 (float64 for float64). The
 * tangents of key and value have no leading axis along which both have an extent of 1. gradients: where the tangents of
 * those of query, key, value, mask (added to) and sink go, as fv_attention_backward has the gradients; the others have
 * none. If d_out is the output's cotangent, this is also the double backward: the gradients for query, key and value,
 * where the tangents are the cotangents of their gradients; for d_out it is what fv_attention_jvp gives. */
fv_status fv_attention_backward_jvp(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* lse,
                                    const fv_array* d_out, const fv_array* d_lse, const fv_array* t_out,
                                    const fv_array* t_lse, const fv_array* t_d_out, const fv_array* t_d_lse,
                                    const fv_gradients*, fv_error*) FV_NOEXCEPT;

/* Hard attention chooses keys for each query:
 *   FV_ARGMAX     the most probable one, the first of equals; `draws` is 1
 *   FV_SAMPLE     `draws` keys, each drawn with the weights of attention as probabilities
 *   FV_TOP        the `draws` most probable ones, best first, equals in their order; `draws` is at most 1024
 *   FV_DISTINCT   `draws` different keys, drawn one after the other, each with the weights of those that are left; at most
 *                 1024. Their numbers are counted by leading index, query and key
 * FV_ARGMAX and FV_TOP take no random. */
typedef enum fv_selection { FV_ARGMAX, FV_SAMPLE, FV_TOP, FV_DISTINCT } fv_selection;

/* out (..., Lq, draws, Dv): the values of the chosen keys; index (..., Lq, draws), int64; log_prob (..., Lq, draws),
 * float32 (float64 for float64): the natural logarithm of the probability of the key. A query that sees no key has the
 * output 0, the index -1 and the log_prob 0; one whose scores leave no distribution (a NaN or +inf among them, or only
 * -inf) has NaN, -1 and NaN. Of FV_TOP and FV_DISTINCT, the probability is that among all keys; where fewer keys than
 * `draws` are seen, or none, the rest has the output 0, the index -1 and the log_prob -inf. Takes no sink, no compact
 * kernel, no sigma and no dropout. */
fv_status fv_hard_attention(const fv_problem*, fv_selection, const fv_random*, int64_t draws, const fv_array* out,
                            const fv_array* index, const fv_array* log_prob, fv_error*) FV_NOEXCEPT;

/* The gradients of sum(d_out * out) + sum(advantage * log_prob), with the choices held fixed: index (..., Lq, draws) is
 * what fv_hard_attention gave, lse (..., Lq) what fv_attention gives for the problem. d_out (..., Lq, draws, Dv);
 * advantage (..., Lq, draws), float32 (float64 for float64). A draw of index -1 adds nothing; if its query has no
 * distribution, the NaN of that query is passed on. Otherwise as fv_attention_backward; there is no sink. */
fv_status fv_hard_attention_backward(const fv_problem*, int64_t draws, const fv_array* index, const fv_array* lse,
                                     const fv_array* d_out, const fv_array* advantage, const fv_gradients*,
                                     fv_error*) FV_NOEXCEPT;

/* Rows x (..., L, D) of any float dtype as few bits: data (..., L, D) of one of their dtypes, and scale (..., L, blocks) of
 * float32, both with contiguous columns. block: how many columns share a scale, a multiple of 32; 0: the whole row, and
 * blocks is 1. A scale is the largest magnitude of its columns over the largest number of the dtype (127, 7, 448 or 57344);
 * a number is what is stored, to nearest even, times its scale. A scale below 1.2e-38 is 0. Refused are NaN and inf, and
 * float64 whose scale float32 does not hold; they are found on the way, and the outputs are then half written. */
fv_status fv_quantize(const fv_array* x, int64_t block, const fv_array* data, const fv_array* scale,
                      fv_error*) FV_NOEXCEPT;

/* Sums of Gaussians within a tolerance, by boxes of points and polynomials: with K_ij = exp(-|w (x_i - y_j)|^2 / 2),
 *   sums[i][c] exp(log_scale[i]) = sum_j K_ij values[j][c]
 * x (n, d), y (m, d), values (m, k) and w (d,) of float64, finite; d is 1 to 6. The error of a sum is at most `tolerance`, which
 * is 1e-13 to 0.5, times sum_j K_ij |values[j][c]|, or 2^-52 of the largest of these sums over the columns, each column
 * divided by its largest |value|, where that is more; and what float64 rounds. sums (n, k) and log_scale (n,) of float64: so
 * that no sum is 0 far from all points. Without points the sums are 0. leave_one_out: x_i does not see y_i, and x and y are
 * the same points. directions: sums is (n, k + k d), and has sum_j K_ij values[j][c] w (y_j - x_i) behind the k sums, d for each
 * of them; their error is relative to sum_j K_ij |values[j][c]| (1 + |w (y_j - x_i)|).
 * declined may be NULL, for sums in any case; else 1 where it is cheaper to take all pairs elsewhere, and nothing was
 * computed. A pair there costs pair_cost of one here; skips_far: and pairs that are too far away to count cost nothing. */
fv_status fv_sums_of_gaussians(const fv_array* x, const fv_array* y, const fv_array* values, const fv_array* w,
                               double tolerance, int32_t leave_one_out, int32_t directions, const fv_array* sums,
                               const fv_array* log_scale, double pair_cost, int32_t skips_far, int32_t* declined,
                               fv_error*) FV_NOEXCEPT;

/* Draws from the categories of each row of p (..., K), of any float dtype: weights that need not sum to 1, or logits.
 * index (..., draws), int64. A category of weight 0 (logit -inf) is never drawn. Refused are rows whose weights are all
 * 0, and weights that are negative, NaN or infinite (logits NaN or +inf); they are found on the way, and the output is
 * then half written. Few draws from a row and many draws go through its categories in different orders. */
fv_status fv_multinoulli(const fv_array* p, int32_t logits, const fv_random*, int64_t draws, const fv_array* index,
                         fv_error*) FV_NOEXCEPT;

/* Filters that categories go through before a draw, in this order, each over what the one before left. A filter that is
 * given as "none" does nothing. */
typedef struct fv_filters {
  double temperature; /* > 0 and finite: logits are divided by it, weights taken to the power of its inverse. 1: none */
  int64_t top_k;      /* >= 0: the categories with the largest numbers stay, and equals of the last. 0: none */
  double top_p;       /* in (0, 1]: from the largest down, as many stay as it takes for this share of the weight; of
                         * equals those with the lowest index. 1: none */
  double min_p;       /* in [0, 1): those stay that have this share of the largest weight. 0: none */
  const fv_array* bias; /* (..., K), of any float dtype, which broadcasts: added to logits first. NULL: none */
  int64_t
      first_row; /* >= 0: the number of the first row where random numbers are counted: of rows that are a part of others */
} fv_filters;

/* As fv_multinoulli, from what the filters leave; filters may be NULL. distinct: 0, or 1 for draws from a row that are
 * different categories, in the order in which they are drawn, which is refused where fewer are left. log_prob (..., draws),
 * float32 (float64 for float64), may be NULL: the natural logarithm of the probability of each under the distribution that
 * the filters leave. Without filters and not distinct, the draws are those of fv_multinoulli. */
fv_status fv_filtered_multinoulli(const fv_array* p, int32_t logits, const fv_filters*, int32_t distinct,
                                  const fv_random*, int64_t draws, const fv_array* index, const fv_array* log_prob,
                                  fv_error*) FV_NOEXCEPT;

/* The counts of trials[...] such draws from each row of weights p (..., K), `draws` times: counts (..., draws, K),
 * int64, which must hold zeros. trials, int64, broadcasts into the leading axes. The time is proportional to the
 * trials. */
fv_status fv_multinomial(const fv_array* trials, const fv_array* p, const fv_random*, int64_t draws,
                         const fv_array* counts, fv_error*) FV_NOEXCEPT;

/* Instruction sets: those that were compiled and that this CPU runs, best first. Where it runs none, calls are refused
 * with what the CPU lacks, and none is in use: NULL. */
int32_t fv_isa_count(void) FV_NOEXCEPT;
const char* fv_isa_name(int32_t index) FV_NOEXCEPT; /* NULL beyond the end */
const char* fv_isa_features(void) FV_NOEXCEPT;      /* of the one in use, for example "avx512 bf16 amx" */
/* Chooses one by name (not while another call runs). If a CPU runs several variants of one name, the name is that of
 * the best; the others are chosen by their features: "avx512 bf16" without AMX, "avx512 float32" without either. */
fv_status fv_isa_select(const char* name, fv_error*) FV_NOEXCEPT;
const char* fv_isa_selected(void) FV_NOEXCEPT;

/* Threads. fv_set_num_threads(0) returns to the default: FOVEATE_NUM_THREADS, if that is a whole number > 0; else what
 * the program has told a runtime of OpenMP; else OMP_NUM_THREADS; else the CPUs that the process may use, by its affinity
 * and by the CPU quota of its container. Never used are more than FV_MAX_THREADS, more than OMP_THREAD_LIMIT, more than
 * the program lowered a runtime of OpenMP to, or more than the system lets the process have. Inside a parallel region
 * of OpenMP a call uses its own thread alone. */
#define FV_MAX_THREADS 1024
void fv_set_num_threads(int32_t count) FV_NOEXCEPT;
int32_t fv_requested_num_threads(void) FV_NOEXCEPT; /* what fv_set_num_threads was given last, within FV_MAX_THREADS; 0:
                                                       the default */
int32_t fv_get_num_threads(void) FV_NOEXCEPT;       /* what a call made now would use */

/* Who runs them, by name: "pool", threads of the engine's own, which the calling thread waits for only if they have taken
 * a task, and which a child of fork starts anew; or "openmp", those of the OpenMP runtime that the engine is linked with,
 * or, where it is linked with none, that the process has loaded. At first FOVEATE_THREADING, else "pool". Where "openmp"
 * is wanted, the pool serves as long as there is no runtime, and in a child of fork; fv_get_threading says what a call
 * made now would use. Refused are other names, and "openmp" where there is no runtime. */
fv_status fv_set_threading(const char* name, fv_error*) FV_NOEXCEPT;
const char* fv_get_threading(void) FV_NOEXCEPT;
/* The runtimes of OpenMP that there are now: "linked: " or "found: ", and a path. NULL beyond the end. */
const char* fv_openmp_name(int32_t index) FV_NOEXCEPT;

/* From now on calls from this thread use `count` threads, whatever is said above; 0 ends that. A program with a thread
 * pool of its own, which would contend with the engine's, can lend it: `run` calls work(context) on `threads` threads
 * at once, the calling one among them, and returns when all have returned; flags is 0. GOMP_parallel of the program's
 * OpenMP library is such a function. NULL: the engine's own threads. */
typedef void (*fv_parallel)(void (*work)(void*), void* context, unsigned threads, unsigned flags);
void fv_borrow_threads(fv_parallel run, int32_t count) FV_NOEXCEPT;

/* A long call calls this on the calling thread about every 50 ms, and stops if it returns 1. NULL: it does not. */
void fv_set_interrupt_check(int (*check)(void)) FV_NOEXCEPT;

/* Elementary functions of the instruction set in use, element by element, for tests: "exp2", "log" or "tanh", of
 * FV_FLOAT32 or FV_FLOAT64. */
fv_status fv_elementary(const char* name, fv_dtype, const void* in, void* out, int64_t count, fv_error*) FV_NOEXCEPT;

/* Rates of this machine with the instruction set in use, to judge a kernel by, measured on `threads` threads for about
 * `seconds`: flops a second of fused multiply-adds of float32, float64 or bfloat16 (by AMX if the kernels use it), and
 * bytes a second read from a buffer of `bytes` bytes for each thread (0 if it could not be allocated). */
double fv_measure_flops(fv_dtype, int32_t threads, double seconds) FV_NOEXCEPT;
double fv_measure_read(int64_t bytes, int32_t threads, double seconds) FV_NOEXCEPT;

/* FV_VERSION of the engine. */
int32_t fv_version(void) FV_NOEXCEPT;

#ifdef FV_BUILDING_SHARED
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
