# foveate.cython_attention: attention for your own loops in Cython, without the GIL, as in
# scipy.linalg.cython_blas. The module's docstring, in cython_attention.pyx, says how it is used.
from libc.stdint cimport int32_t, int64_t, uint64_t

# ---- the C ABI: foveate/foveate.h says what each name means ----------------------------------------------------------

cdef extern from "foveate/foveate.h" nogil:
    enum: FV_MAX_DIMS

    ctypedef enum fv_status:
        FV_OK
        FV_TYPE_ERROR
        FV_VALUE_ERROR
        FV_NO_MEMORY
        FV_INTERRUPTED

    ctypedef enum fv_dtype:
        FV_FLOAT16
        FV_BFLOAT16
        FV_FLOAT32
        FV_FLOAT64
        FV_BOOL
        FV_INT64
        FV_INT8
        FV_INT4
        FV_FLOAT8_E4M3
        FV_FLOAT8_E5M2

    ctypedef struct fv_error:
        char message[512]

    ctypedef struct fv_array:
        void* data
        fv_dtype dtype
        int32_t ndim
        const int64_t* shape
        const int64_t* strides

    ctypedef struct fv_random:
        uint64_t key[2]

    ctypedef enum fv_family:
        FV_INNER
        FV_TANH
        FV_RELU
        FV_DISTANCE
        FV_LEAKY_RELU

    ctypedef enum fv_weighing:
        FV_SOFTMAX
        FV_BOXCAR
        FV_EPANECHNIKOV
        FV_TRIANGULAR
        FV_BIWEIGHT
        FV_TRIWEIGHT
        FV_TRICUBE
        FV_COSINE
        FV_SIGMOID
        FV_RECTIFIED
        FV_SPARSEMAX
        FV_ENTMAX15

    ctypedef struct fv_score:
        double scale
        double softcap
        fv_family family
        fv_weighing weighing
        const fv_array* factors
        double negligible
        const char* link
        double link_parameter
        double slope

    ctypedef struct fv_reach:
        const fv_array* mask
        int64_t left
        int64_t right
        const fv_array* offset
        int32_t offset_at_end
        int32_t leave_one_out
        const fv_array* key_lengths
        const fv_array* query_segments
        const fv_array* key_segments
        const fv_array* low
        const fv_array* high
        const fv_array* centers
        double half_width
        int64_t intervals
        const fv_array* blocks
        int64_t block_queries
        int64_t block_keys
        const fv_array* neighborhood
        const fv_array* edge_begins
        const fv_array* edge_keys
        const fv_array* edge_bias
        const fv_array* table
        const fv_array* query_places
        const fv_array* key_places

    ctypedef struct fv_problem:
        const fv_array* query
        const fv_array* key
        const fv_array* value
        const fv_array* sink
        fv_score score
        fv_reach reach
        double sigma
        double dropout
        fv_random random
        int64_t first_row
        const fv_array* key_scale
        const fv_array* value_scale
        int64_t key_block
        int64_t value_block
        const fv_array* key_table
        const fv_array* value_table
        int64_t first_lead
        int64_t first_key
        const fv_array* after
        const fv_array* before
        int32_t gives_scores
        int64_t moments
        int32_t one_order

    ctypedef struct fv_gradients:
        const fv_array* query
        const fv_array* key
        const fv_array* value
        const fv_array* mask
        const fv_array* sink
        const fv_array* factors
        const fv_array* centers
        const fv_array* sigma
        const fv_array* table
        const fv_array* edge_bias

    ctypedef struct fv_tangents:
        const fv_array* query
        const fv_array* key
        const fv_array* value
        const fv_array* mask
        const fv_array* sink

    ctypedef enum fv_selection:
        FV_ARGMAX
        FV_SAMPLE
        FV_TOP
        FV_DISTINCT

    ctypedef struct fv_filters:
        double temperature
        int64_t top_k
        double top_p
        double min_p
        const fv_array* bias
        int64_t first_row

cdef extern from "foveate/python.h":
    enum:
        FV_API_MAJOR
        FV_API_MINOR

    ctypedef struct fv_api:
        int32_t major
        int32_t minor
        int64_t problem_size
        fv_status (*output_shape)(const fv_problem*, int32_t* ndim, int64_t* shape, fv_error*) noexcept nogil
        fv_status (*attention)(const fv_problem*, const fv_array* out, const fv_array* lse, fv_error*) noexcept nogil
        fv_status (*attention_weights)(const fv_problem*, const fv_array* out, fv_error*) noexcept nogil
        fv_status (*hard_attention)(const fv_problem*, fv_selection, const fv_random*, int64_t draws,
                                    const fv_array* out, const fv_array* index, const fv_array* log_prob,
                                    fv_error*) noexcept nogil
        fv_status (*multinoulli)(const fv_array* p, int32_t logits, const fv_random*, int64_t draws,
                                 const fv_array* index, fv_error*) noexcept nogil
        const char* (*isa_selected)() noexcept nogil
        const char* (*isa_features)() noexcept nogil
        void (*set_num_threads)(int32_t count) noexcept nogil
        int32_t (*requested_num_threads)() noexcept nogil
        int32_t (*get_num_threads)() noexcept nogil
        fv_status (*attention_backward)(const fv_problem*, const fv_array* out, const fv_array* lse,
                                        const fv_array* d_out, const fv_array* d_lse, const fv_gradients*,
                                        fv_error*) noexcept nogil
        fv_status (*hard_attention_backward)(const fv_problem*, int64_t draws, const fv_array* index,
                                             const fv_array* lse, const fv_array* d_out, const fv_array* advantage,
                                             const fv_gradients*, fv_error*) noexcept nogil
        fv_status (*set_threading)(const char* name, fv_error*) noexcept nogil
        const char* (*get_threading)() noexcept nogil
        fv_status (*attention_jvp)(const fv_problem*, const fv_tangents*, const fv_array* out, const fv_array* lse,
                                   const fv_array* t_out, const fv_array* t_lse, fv_error*) noexcept nogil
        fv_status (*attention_tangent)(const fv_problem*, const fv_tangents*, const fv_array* out,
                                       const fv_array* t_out, const fv_array* t_lse, fv_error*) noexcept nogil
        fv_status (*attention_backward_jvp)(const fv_problem*, const fv_tangents*, const fv_array* out,
                                            const fv_array* lse, const fv_array* d_out, const fv_array* d_lse,
                                            const fv_array* t_out, const fv_array* t_lse, const fv_array* t_d_out,
                                            const fv_array* t_d_lse, const fv_gradients*, fv_error*) noexcept nogil
        fv_status (*filtered_multinoulli)(const fv_array* p, int32_t logits, const fv_filters*, int32_t distinct,
                                          const fv_random*, int64_t draws, const fv_array* index,
                                          const fv_array* log_prob, fv_error*) noexcept nogil
        fv_status (*quantize)(const fv_array* x, int64_t block, const fv_array* data, const fv_array* scale,
                              fv_error*) noexcept nogil
        fv_status (*attention_statistics)(const fv_problem*, int64_t first_query, int64_t end_query,
                                          const fv_array* key_sum, const fv_array* entropy, const fv_array* largest,
                                          const fv_array* place, fv_error*) noexcept nogil

    # To be called once by a module that fills an fv_problem of its own: an ImportError where the foveate that is
    # installed has another layout of it than the header that the module was compiled with.
    const fv_api* fv_import_api() except NULL

cdef fv_status fv_output_shape(
    const fv_problem* problem, int32_t* ndim, int64_t* shape, fv_error* error) noexcept nogil

cdef fv_status fv_attention(
    const fv_problem* problem, const fv_array* out, const fv_array* lse, fv_error* error) noexcept nogil

cdef fv_status fv_attention_weights(
    const fv_problem* problem, const fv_array* out, fv_error* error) noexcept nogil

cdef fv_status fv_attention_statistics(
    const fv_problem* problem, int64_t first_query, int64_t end_query, const fv_array* key_sum, const fv_array* entropy,
    const fv_array* largest, const fv_array* place, fv_error* error) noexcept nogil

cdef fv_status fv_hard_attention(
    const fv_problem* problem, fv_selection selection, const fv_random* random, int64_t draws,
    const fv_array* out, const fv_array* index, const fv_array* log_prob, fv_error* error) noexcept nogil

cdef fv_status fv_attention_backward(
    const fv_problem* problem, const fv_array* out, const fv_array* lse, const fv_array* d_out, const fv_array* d_lse,
    const fv_gradients* gradients, fv_error* error) noexcept nogil

cdef fv_status fv_hard_attention_backward(
    const fv_problem* problem, int64_t draws, const fv_array* index, const fv_array* lse, const fv_array* d_out,
    const fv_array* advantage, const fv_gradients* gradients, fv_error* error) noexcept nogil

cdef fv_status fv_multinoulli(
    const fv_array* p, int32_t logits, const fv_random* random, int64_t draws, const fv_array* index,
    fv_error* error) noexcept nogil

cdef fv_status fv_filtered_multinoulli(
    const fv_array* p, int32_t logits, const fv_filters* filters, int32_t distinct, const fv_random* random,
    int64_t draws, const fv_array* index, const fv_array* log_prob, fv_error* error) noexcept nogil

cdef fv_status fv_quantize(
    const fv_array* x, int64_t block, const fv_array* data, const fv_array* scale, fv_error* error) noexcept nogil

cdef const char* fv_isa_selected() noexcept nogil
cdef const char* fv_isa_features() noexcept nogil
cdef void fv_set_num_threads(int32_t count) noexcept nogil
cdef int32_t fv_requested_num_threads() noexcept nogil
cdef int32_t fv_get_num_threads() noexcept nogil
cdef fv_status fv_set_threading(const char* name, fv_error* error) noexcept nogil
cdef const char* fv_get_threading() noexcept nogil

# Raises the TypeError, ValueError, MemoryError or KeyboardInterrupt that a status stands for; FV_OK costs a comparison.
cdef int raise_if_failed(fv_status status, const fv_error* error) except -1 nogil

# ---- the usual case: matrices of float or double whose rows stand a stride apart -------------------------------------
#
# A row's elements are next to each other; the stride between rows is in bytes, and may be 0 or negative. `error` may be
# NULL. Each is one problem, so that the caller's loop goes over batch and heads; what has leading axes, other scores,
# masks, windows or 16 bits is for the C ABI above.

ctypedef fused floating:
    float
    double

# out (queries, value_size) = softmax(scale * query @ key.T) @ value, with query (queries, head_size), key (keys,
# head_size), value (keys, value_size). Where `causal`, the last query stands at the last key and none sees a later one.
# lse (queries,), next to each other, may be NULL: the natural logarithm of the softmax's denominator.
cdef fv_status attention(
    int64_t queries, int64_t keys, int64_t head_size, int64_t value_size,
    const floating* query, int64_t query_stride,
    const floating* key, int64_t key_stride,
    const floating* value, int64_t value_stride,
    double scale, bint causal,
    floating* out, int64_t out_stride, floating* lse,
    fv_error* error) noexcept nogil

# weights (queries, keys) = softmax(scale * query @ key.T)
cdef fv_status attention_weights(
    int64_t queries, int64_t keys, int64_t head_size,
    const floating* query, int64_t query_stride,
    const floating* key, int64_t key_stride,
    double scale, bint causal,
    floating* weights, int64_t weights_stride,
    fv_error* error) noexcept nogil

# One key for each query (FV_ARGMAX, which takes no `random` and one draw), or `draws` of them: drawn (FV_SAMPLE), drawn and
# different (FV_DISTINCT), or the most probable ones (FV_TOP, which takes no `random`; a missing one is -1). Their values
# out (queries, draws, value_size), index (queries, draws) and log_prob (queries, draws), each in C order. Draws are
# counted by query and draw alone: two problems under one `random` draw alike, so give each a key of its own.
cdef fv_status hard_attention(
    int64_t queries, int64_t keys, int64_t head_size, int64_t value_size,
    const floating* query, int64_t query_stride,
    const floating* key, int64_t key_stride,
    const floating* value, int64_t value_stride,
    double scale, bint causal,
    fv_selection selection, const fv_random* random, int64_t draws,
    floating* out, int64_t* index, floating* log_prob,
    fv_error* error) noexcept nogil

# index (rows, draws), in C order: categories drawn from each row of p (rows, categories), weights that need not sum to 1
# or, where `logits`, logarithms of such. Counted by row and draw alone, as above.
cdef fv_status multinoulli(
    int64_t rows, int64_t categories,
    const floating* p, int64_t p_stride, bint logits,
    const fv_random* random, int64_t draws,
    int64_t* index,
    fv_error* error) noexcept nogil
