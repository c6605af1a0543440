# cython: language_level=3, boundscheck=False, freethreading_compatible=True
"""Attention for your own loops in Cython, without the GIL, as in `scipy.linalg.cython_blas`.

The kernels are those of `foveate._core`: this module holds pointers to them and no copy. It has two levels, both
`noexcept nogil`:

- `attention`, `attention_weights`, `hard_attention` and `multinoulli` take pointers to matrices of float or double,
  and strides between their rows in bytes;
- `fv_attention` and the like are the C ABI of `foveate/foveate.h` itself: any leading axes, strides, scores, reaches
  and types, stated by an `fv_problem`. A module that fills one calls `fv_import_api()` once as it is imported; that
  raises an ImportError where the header that it was compiled with has another layout.

Each returns an `fv_status`; one that is not `FV_OK` comes with a message in the `fv_error`. `raise_if_failed` raises
them as an exception, and takes the GIL only for that. Calls use as many threads as `foveate.set_num_threads` says;
inside an OpenMP region, such as that of `prange`, they use their own thread alone.

Examples
--------
heads.pyx, which loops over the heads of a batch (its first line keeps the GIL of a free-threaded Python off):

    # cython: freethreading_compatible=True
    from libc.math cimport sqrt

    from foveate.cython_attention cimport FV_OK, attention, fv_error, fv_status, raise_if_failed

    def causal_heads(
        const float[:, :, ::1] query, const float[:, :, ::1] key, const float[:, :, ::1] value, float[:, :, ::1] out
    ):
        cdef fv_error error
        cdef fv_status status = FV_OK
        cdef double scale = 1 / sqrt(<double> query.shape[2])
        cdef Py_ssize_t head
        with nogil:
            for head in range(query.shape[0]):
                status = attention(
                    query.shape[1], key.shape[1], query.shape[2], value.shape[2],
                    &query[head, 0, 0], query.strides[1],
                    &key[head, 0, 0], key.strides[1],
                    &value[head, 0, 0], value.strides[1],
                    scale, True,
                    &out[head, 0, 0], out.strides[1], NULL,
                    &error,
                )
                if status != FV_OK:
                    break
        raise_if_failed(status, &error)

setup.py, which compiles it with the header of the package and links nothing:

    import foveate
    from Cython.Build import cythonize
    from setuptools import Extension, setup

    heads = Extension("heads", ["heads.pyx"], include_dirs=[foveate.get_include()])
    setup(name="heads", ext_modules=cythonize([heads]))
"""
from cpython.exc cimport PyErr_Occurred
from libc.string cimport memset

cdef const fv_api* api = fv_import_api()

# ---- the C ABI -------------------------------------------------------------------------------------------------------

cdef fv_status fv_output_shape(
    const fv_problem* problem, int32_t* ndim, int64_t* shape, fv_error* error) noexcept nogil:
    return api.output_shape(problem, ndim, shape, error)


cdef fv_status fv_attention(
    const fv_problem* problem, const fv_array* out, const fv_array* lse, fv_error* error) noexcept nogil:
    return api.attention(problem, out, lse, error)


cdef fv_status fv_attention_weights(
    const fv_problem* problem, const fv_array* out, fv_error* error) noexcept nogil:
    return api.attention_weights(problem, out, error)


cdef fv_status fv_attention_statistics(
    const fv_problem* problem, int64_t first_query, int64_t end_query, const fv_array* key_sum, const fv_array* entropy,
    const fv_array* largest, const fv_array* place, fv_error* error) noexcept nogil:
    return api.attention_statistics(problem, first_query, end_query, key_sum, entropy, largest, place, error)


cdef fv_status fv_hard_attention(
    const fv_problem* problem, fv_selection selection, const fv_random* random, int64_t draws,
    const fv_array* out, const fv_array* index, const fv_array* log_prob, fv_error* error) noexcept nogil:
    return api.hard_attention(problem, selection, random, draws, out, index, log_prob, error)


cdef fv_status fv_attention_backward(
    const fv_problem* problem, const fv_array* out, const fv_array* lse, const fv_array* d_out, const fv_array* d_lse,
    const fv_gradients* gradients, fv_error* error) noexcept nogil:
    return api.attention_backward(problem, out, lse, d_out, d_lse, gradients, error)


cdef fv_status fv_hard_attention_backward(
    const fv_problem* problem, int64_t draws, const fv_array* index, const fv_array* lse, const fv_array* d_out,
    const fv_array* advantage, const fv_gradients* gradients, fv_error* error) noexcept nogil:
    return api.hard_attention_backward(problem, draws, index, lse, d_out, advantage, gradients, error)


cdef fv_status fv_multinoulli(
    const fv_array* p, int32_t logits, const fv_random* random, int64_t draws, const fv_array* index,
    fv_error* error) noexcept nogil:
    return api.multinoulli(p, logits, random, draws, index, error)


cdef fv_status fv_filtered_multinoulli(
    const fv_array* p, int32_t logits, const fv_filters* filters, int32_t distinct, const fv_random* random,
    int64_t draws, const fv_array* index, const fv_array* log_prob, fv_error* error) noexcept nogil:
    return api.filtered_multinoulli(p, logits, filters, distinct, random, draws, index, log_prob, error)


cdef fv_status fv_quantize(
    const fv_array* x, int64_t block, const fv_array* data, const fv_array* scale, fv_error* error) noexcept nogil:
    return api.quantize(x, block, data, scale, error)


cdef const char* fv_isa_selected() noexcept nogil:
    return api.isa_selected()


cdef const char* fv_isa_features() noexcept nogil:
    return api.isa_features()


cdef void fv_set_num_threads(int32_t count) noexcept nogil:
    api.set_num_threads(count)


cdef int32_t fv_requested_num_threads() noexcept nogil:
    return api.requested_num_threads()


cdef int32_t fv_get_num_threads() noexcept nogil:
    return api.get_num_threads()


cdef fv_status fv_set_threading(const char* name, fv_error* error) noexcept nogil:
    return api.set_threading(name, error)


cdef const char* fv_get_threading() noexcept nogil:
    return api.get_threading()


cdef int raise_if_failed(fv_status status, const fv_error* error) except -1 nogil:
    cdef const char* reason = b"no reason was asked for"
    if status == FV_OK:
        return 0
    if error != NULL:
        reason = <const char*> error.message
    with gil:
        if status == FV_INTERRUPTED and PyErr_Occurred() != NULL:
            return -1  # with what the signal handler raised
        message = reason.decode("utf-8", "replace")
        if status == FV_TYPE_ERROR:
            raise TypeError(message)
        if status == FV_VALUE_ERROR:
            raise ValueError(message)
        if status == FV_NO_MEMORY:
            raise MemoryError(message)
        if status == FV_INTERRUPTED:
            raise KeyboardInterrupt
        raise SystemError(f"foveate: unexpected status {<int> status}")


# ---- matrices --------------------------------------------------------------------------------------------------------

# A view, and the numbers that it points to.
cdef struct Matrix:
    fv_array view
    int64_t shape[3]
    int64_t strides[3]


cdef struct Problem:
    fv_problem given
    Matrix query
    Matrix key
    Matrix value


cdef fv_dtype dtype_of(const floating* data) noexcept nogil:
    return FV_FLOAT32 if floating is float else FV_FLOAT64


cdef int64_t size_of(fv_dtype dtype) noexcept nogil:
    return 4 if dtype == FV_FLOAT32 else 8


cdef void describe(Matrix* matrix, void* data, fv_dtype dtype, int32_t ndim) noexcept nogil:
    matrix.view.data = data
    matrix.view.dtype = dtype
    matrix.view.ndim = ndim
    matrix.view.shape = &matrix.shape[0]
    matrix.view.strides = &matrix.strides[0]


cdef void place(
    Matrix* matrix, const void* data, fv_dtype dtype, int64_t rows, int64_t columns, int64_t stride) noexcept nogil:
    matrix.shape[0] = rows
    matrix.shape[1] = columns
    matrix.strides[0] = stride
    matrix.strides[1] = size_of(dtype)
    describe(matrix, <void*> data, dtype, 2)


# In C order: (rows, columns, depth), of which the first `ndim` are axes.
cdef void place_packed(
    Matrix* matrix, void* data, fv_dtype dtype, int32_t ndim, int64_t rows, int64_t columns, int64_t depth
) noexcept nogil:
    cdef uint64_t stride = size_of(dtype)  # unsigned: sizes too large are refused later, and may wrap here
    cdef int32_t axis
    matrix.shape[0] = rows
    matrix.shape[1] = columns
    matrix.shape[2] = depth
    for axis in range(ndim - 1, -1, -1):
        matrix.strides[axis] = <int64_t> stride
        stride *= <uint64_t> matrix.shape[axis]
    describe(matrix, data, dtype, ndim)


cdef void state(
    Problem* problem, int64_t queries, int64_t keys, int64_t head_size,
    const floating* query, int64_t query_stride, const floating* key, int64_t key_stride, double scale, bint causal,
) noexcept nogil:
    memset(&problem.given, 0, sizeof(fv_problem))
    place(&problem.query, query, dtype_of(query), queries, head_size, query_stride)
    place(&problem.key, key, dtype_of(key), keys, head_size, key_stride)
    problem.given.query = &problem.query.view
    problem.given.key = &problem.key.view
    problem.given.score.family = FV_INNER
    problem.given.score.scale = scale
    problem.given.reach.left = -1
    problem.given.reach.right = 0 if causal else -1
    problem.given.reach.offset_at_end = causal


cdef void give_values(
    Problem* problem, int64_t keys, int64_t value_size, const floating* value, int64_t value_stride) noexcept nogil:
    place(&problem.value, value, dtype_of(value), keys, value_size, value_stride)
    problem.given.value = &problem.value.view


cdef fv_status attention(
    int64_t queries, int64_t keys, int64_t head_size, int64_t value_size,
    const floating* query, int64_t query_stride,
    const floating* key, int64_t key_stride,
    const floating* value, int64_t value_stride,
    double scale, bint causal,
    floating* out, int64_t out_stride, floating* lse,
    fv_error* error) noexcept nogil:
    cdef Problem problem
    cdef Matrix answer, denominators
    state(&problem, queries, keys, head_size, query, query_stride, key, key_stride, scale, causal)
    give_values(&problem, keys, value_size, value, value_stride)
    place(&answer, out, dtype_of(out), queries, value_size, out_stride)
    place_packed(&denominators, lse, dtype_of(out), 1, queries, 0, 0)
    return api.attention(&problem.given, &answer.view, &denominators.view if lse != NULL else NULL, error)


cdef fv_status attention_weights(
    int64_t queries, int64_t keys, int64_t head_size,
    const floating* query, int64_t query_stride,
    const floating* key, int64_t key_stride,
    double scale, bint causal,
    floating* weights, int64_t weights_stride,
    fv_error* error) noexcept nogil:
    cdef Problem problem
    cdef Matrix answer
    state(&problem, queries, keys, head_size, query, query_stride, key, key_stride, scale, causal)
    place(&answer, weights, dtype_of(weights), queries, keys, weights_stride)
    return api.attention_weights(&problem.given, &answer.view, error)


cdef fv_status hard_attention(
    int64_t queries, int64_t keys, int64_t head_size, int64_t value_size,
    const floating* query, int64_t query_stride,
    const floating* key, int64_t key_stride,
    const floating* value, int64_t value_stride,
    double scale, bint causal,
    fv_selection selection, const fv_random* random, int64_t draws,
    floating* out, int64_t* index, floating* log_prob,
    fv_error* error) noexcept nogil:
    cdef Problem problem
    cdef Matrix values, indices, logarithms
    state(&problem, queries, keys, head_size, query, query_stride, key, key_stride, scale, causal)
    give_values(&problem, keys, value_size, value, value_stride)
    place_packed(&values, out, dtype_of(out), 3, queries, draws, value_size)
    place_packed(&indices, index, FV_INT64, 2, queries, draws, 0)
    place_packed(&logarithms, log_prob, dtype_of(out), 2, queries, draws, 0)
    return api.hard_attention(
        &problem.given, selection, random, draws, &values.view, &indices.view, &logarithms.view, error)


cdef fv_status multinoulli(
    int64_t rows, int64_t categories,
    const floating* p, int64_t p_stride, bint logits,
    const fv_random* random, int64_t draws,
    int64_t* index,
    fv_error* error) noexcept nogil:
    cdef Matrix weights, indices
    place(&weights, p, dtype_of(p), rows, categories, p_stride)
    place_packed(&indices, index, FV_INT64, 2, rows, draws, 0)
    return api.multinoulli(&weights.view, logits, random, draws, &indices.view, error)
