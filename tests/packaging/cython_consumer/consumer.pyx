# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""A user of foveate.cython_attention: loops of its own over the heads of a batch, without the GIL.

Arrays are (heads, length, size), with any strides between heads and between rows.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset, strncpy

from foveate.cython_attention cimport (
    FV_ARGMAX,
    FV_INNER,
    FV_FLOAT32,
    FV_FLOAT64,
    FV_INT4,
    FV_INT64,
    FV_INT8,
    FV_OK,
    FV_SAMPLE,
    attention,
    attention_weights,
    fv_array,
    fv_attention,
    fv_attention_backward,
    fv_attention_statistics,
    fv_attention_weights,
    fv_error,
    fv_get_num_threads,
    fv_gradients,
    fv_hard_attention,
    fv_hard_attention_backward,
    fv_filtered_multinoulli,
    fv_filters,
    fv_import_api,
    fv_isa_features,
    fv_isa_selected,
    fv_multinoulli,
    fv_output_shape,
    fv_problem,
    fv_quantize,
    fv_random,
    fv_requested_num_threads,
    fv_set_num_threads,
    fv_status,
    hard_attention,
    multinoulli,
    raise_if_failed,
)

fv_import_api()  # this module fills an fv_problem

ctypedef fused floating:
    float
    double


# ---- matrices --------------------------------------------------------------------------------------------------------


def heads_attention(
    const floating[:, :, :] query, const floating[:, :, :] key, const floating[:, :, :] value,
    double scale, bint causal, floating[:, :, :] out, floating[:, ::1] lse=None,
):
    cdef fv_error error
    cdef fv_status status = FV_OK
    cdef floating* denominators = NULL
    cdef Py_ssize_t head
    with nogil:
        for head in range(query.shape[0]):
            if lse is not None:
                denominators = &lse[head, 0]
            status = attention(
                query.shape[1], key.shape[1], query.shape[2], value.shape[2],
                &query[head, 0, 0], query.strides[1],
                &key[head, 0, 0], key.strides[1],
                &value[head, 0, 0], value.strides[1],
                scale, causal,
                &out[head, 0, 0], out.strides[1], denominators,
                &error,
            )
            if status != FV_OK:
                break
    raise_if_failed(status, &error)


def heads_weights(
    const floating[:, :, :] query, const floating[:, :, :] key, double scale, bint causal, floating[:, :, :] weights
):
    cdef fv_error error
    cdef fv_status status = FV_OK
    cdef Py_ssize_t head
    with nogil:
        for head in range(query.shape[0]):
            status = attention_weights(
                query.shape[1], key.shape[1], query.shape[2],
                &query[head, 0, 0], query.strides[1],
                &key[head, 0, 0], key.strides[1],
                scale, causal,
                &weights[head, 0, 0], weights.strides[1],
                &error,
            )
            if status != FV_OK:
                break
    raise_if_failed(status, &error)


def heads_hard_attention(
    const floating[:, :, :] query, const floating[:, :, :] key, const floating[:, :, :] value,
    double scale, bint causal, const uint64_t[::1] random_key,
    floating[:, :, :, ::1] out, int64_t[:, :, ::1] index, floating[:, :, ::1] log_prob,
):
    """Samples where there is a random key, with one of its own for each head; else the most probable key."""
    cdef fv_error error
    cdef fv_status status = FV_OK
    cdef fv_random random
    cdef bint sample = random_key is not None
    cdef Py_ssize_t head
    with nogil:
        for head in range(query.shape[0]):
            if sample:
                random.key[0] = random_key[0]
                random.key[1] = random_key[1] + <uint64_t> head
            status = hard_attention(
                query.shape[1], key.shape[1], query.shape[2], value.shape[2],
                &query[head, 0, 0], query.strides[1],
                &key[head, 0, 0], key.strides[1],
                &value[head, 0, 0], value.strides[1],
                scale, causal,
                FV_SAMPLE if sample else FV_ARGMAX, &random if sample else NULL, index.shape[2],
                &out[head, 0, 0, 0], &index[head, 0, 0], &log_prob[head, 0, 0],
                &error,
            )
            if status != FV_OK:
                break
    raise_if_failed(status, &error)


def draw(const floating[:, :] p, bint logits, const uint64_t[::1] random_key, int64_t[:, ::1] index):
    cdef fv_error error
    cdef fv_status status
    cdef fv_random random
    random.key = [random_key[0], random_key[1]]
    with nogil:
        status = multinoulli(
            p.shape[0], p.shape[1], &p[0, 0], p.strides[0], logits, &random, index.shape[1], &index[0, 0], &error)
    raise_if_failed(status, &error)


def refused(int64_t queries, bint with_out, bint with_error=True):
    """What a call of matrices answers: the status and the message."""
    cdef fv_error error
    cdef float numbers[64]
    cdef fv_status status
    memset(numbers, 0, sizeof(numbers))
    error.message[0] = 0
    with nogil:
        status = attention(
            queries, 4, 4, 4, <const float*> numbers, 16, <const float*> numbers, 16, <const float*> numbers, 16, 1.0,
            False, <float*> numbers + 32 if with_out else NULL, 16, <float*> NULL, &error if with_error else NULL)
    return int(status), (<const char*> error.message).decode()


# ---- the C ABI -------------------------------------------------------------------------------------------------------


cdef struct View:
    fv_array array
    int64_t shape[3]
    int64_t strides[3]


cdef const fv_array* view(View* place, const floating[:, :, :] x) noexcept nogil:
    cdef int axis
    for axis in range(3):
        place.shape[axis] = x.shape[axis]
        place.strides[axis] = x.strides[axis]
    place.array.data = <void*> &x[0, 0, 0]
    place.array.dtype = FV_FLOAT32 if floating is float else FV_FLOAT64
    place.array.ndim = 3
    place.array.shape = &place.shape[0]
    place.array.strides = &place.strides[0]
    return &place.array


def window_attention(
    const floating[:, :, :] query, const floating[:, :, :] key, const floating[:, :, :] value,
    double scale, int64_t left, int64_t right, int64_t key_length, floating[:, :, :] out,
):
    """Leading axes that broadcast, a window and a length of the keys; returns the shape of the answer."""
    cdef fv_error error
    cdef fv_problem problem
    cdef View q, k, v, answer
    cdef fv_array length
    cdef fv_status status
    cdef int32_t ndim = 0
    cdef int64_t shape[64]
    memset(&problem, 0, sizeof(problem))
    memset(&length, 0, sizeof(length))
    length.data = &key_length
    length.dtype = FV_INT64
    problem.query = view(&q, query)
    problem.key = view(&k, key)
    problem.value = view(&v, value)
    problem.score.family = FV_INNER
    problem.score.scale = scale
    problem.reach.left = left
    problem.reach.right = right
    problem.reach.key_lengths = &length
    with nogil:
        status = fv_output_shape(&problem, &ndim, shape, &error)
        if status == FV_OK:
            status = fv_attention(&problem, view(&answer, out), NULL, &error)
    raise_if_failed(status, &error)
    return tuple([shape[axis] for axis in range(ndim)])


def few_bits_attention(
    const float[:, :, :] query, const float[:, :, :] key, const float[:, :, :] value, double scale,
    signed char[:, :, ::1] key_data, const float[:, :, :] key_scale,
    unsigned char[:, :, ::1] value_data, const float[:, :, :] value_scale, float[:, :, :] out,
):
    """Keys become int8 and values int4, and are attended to as such."""
    cdef fv_error error
    cdef fv_problem problem
    cdef View q, k, v, answer, scales_of_keys, scales_of_values
    cdef fv_array keys, values
    cdef int64_t keys_shape[3], keys_strides[3], values_shape[3], values_strides[3]
    cdef int axis
    cdef fv_status status
    memset(&problem, 0, sizeof(problem))
    for axis in range(3):
        keys_shape[axis] = key.shape[axis]
        keys_strides[axis] = key_data.strides[axis]
        values_shape[axis] = value.shape[axis]  # in columns, two a byte
        values_strides[axis] = value_data.strides[axis]
    keys.data = &key_data[0, 0, 0]
    keys.dtype = FV_INT8
    keys.ndim = 3
    keys.shape = keys_shape
    keys.strides = keys_strides
    values.data = &value_data[0, 0, 0]
    values.dtype = FV_INT4
    values.ndim = 3
    values.shape = values_shape
    values.strides = values_strides
    problem.query = view(&q, query)
    problem.key = &keys
    problem.key_scale = view(&scales_of_keys, key_scale)
    problem.value = &values
    problem.value_scale = view(&scales_of_values, value_scale)
    problem.score.family = FV_INNER
    problem.score.scale = scale
    problem.reach.left = -1
    problem.reach.right = -1
    with nogil:
        status = fv_quantize(view(&k, key), 0, &keys, problem.key_scale, &error)
        if status == FV_OK:
            status = fv_quantize(view(&v, value), 0, &values, problem.value_scale, &error)
        if status == FV_OK:
            status = fv_attention(&problem, view(&answer, out), NULL, &error)
    raise_if_failed(status, &error)


def general_weights(
    const floating[:, :, :] query, const floating[:, :, :] key, double scale, floating[:, :, :] weights
):
    cdef fv_error error
    cdef fv_problem problem
    cdef View q, k, answer
    cdef fv_status status
    memset(&problem, 0, sizeof(problem))
    problem.query = view(&q, query)
    problem.key = view(&k, key)
    problem.score.scale = scale
    problem.reach.left = problem.reach.right = -1
    with nogil:
        status = fv_attention_weights(&problem, view(&answer, weights), &error)
    raise_if_failed(status, &error)


def general_statistics(
    const floating[:, :, :] query, const floating[:, :, :] key, double scale, int64_t first, int64_t end,
    floating[:, :, :] key_sum, floating[:, :, :] entropy,
):
    """Sums (heads, Lk, 1) over the queries first..end - 1, and the entropies (heads, Lq, 1) of all."""
    cdef fv_error error
    cdef fv_problem problem
    cdef View q, k, sums, entropies
    cdef fv_status status
    memset(&problem, 0, sizeof(problem))
    problem.query = view(&q, query)
    problem.key = view(&k, key)
    problem.score.scale = scale
    problem.reach.left = problem.reach.right = -1
    view(&sums, key_sum)
    view(&entropies, entropy)
    sums.array.ndim = entropies.array.ndim = 2
    with nogil:
        status = fv_attention_statistics(&problem, first, end, &sums.array, &entropies.array, NULL, NULL, &error)
    raise_if_failed(status, &error)


def general_gradients(
    const floating[:, :, :] query, const floating[:, :, :] key, const floating[:, :, :] value, double scale,
    floating[:, :, :] d_out, floating[:, :, :] d_query, floating[:, :, :] d_key, floating[:, :, :] d_value,
    floating[:, :, :] out, double[:, :, :] lse,
):
    """The answer, with lse (..., Lq, 3) in double, as fv.attention_vjp has it, and its gradients."""
    cdef fv_error error
    cdef fv_problem problem
    cdef fv_gradients gradients
    cdef View q, k, v, answer, denominator, of_answer, of_query, of_key, of_value
    cdef fv_status status
    memset(&problem, 0, sizeof(problem))
    memset(&gradients, 0, sizeof(gradients))
    problem.query = view(&q, query)
    problem.key = view(&k, key)
    problem.value = view(&v, value)
    problem.score.scale = scale
    problem.reach.left = problem.reach.right = -1
    gradients.query = view(&of_query, d_query)
    gradients.key = view(&of_key, d_key)
    gradients.value = view(&of_value, d_value)
    view(&answer, out)
    view(&denominator, lse)
    with nogil:
        status = fv_attention(&problem, &answer.array, &denominator.array, &error)
        if status == FV_OK:
            status = fv_attention_backward(
                &problem, &answer.array, &denominator.array, view(&of_answer, d_out), NULL, &gradients, &error)
    raise_if_failed(status, &error)


def none_given():
    """The messages of the C ABI where it is given nothing."""
    cdef fv_error error
    messages = []
    fv_hard_attention(NULL, FV_ARGMAX, NULL, 1, NULL, NULL, NULL, &error)
    messages.append((<const char*> error.message).decode())
    fv_multinoulli(NULL, 0, NULL, 1, NULL, &error)
    messages.append((<const char*> error.message).decode())
    fv_filtered_multinoulli(NULL, 0, NULL, 0, NULL, 1, NULL, NULL, &error)
    messages.append((<const char*> error.message).decode())
    fv_hard_attention_backward(NULL, 1, NULL, NULL, NULL, NULL, NULL, &error)
    messages.append((<const char*> error.message).decode())
    return messages


def draw_filtered(const floating[:, :, :] p, int64_t top_k, random_key, int64_t[:, :, :] index, floating[:, :, :] log_prob):
    """Different logits of the top_k."""
    cdef fv_error error
    cdef fv_status status
    cdef fv_random random
    cdef fv_filters filters
    cdef View rows, drawn, logarithms
    cdef int axis
    random.key = [random_key[0], random_key[1]]
    filters.temperature, filters.top_k, filters.top_p, filters.min_p, filters.bias = 1, top_k, 1, 0, NULL
    filters.first_row = 0
    view(&rows, p)
    view(&logarithms, log_prob)
    view(&drawn, log_prob)
    for axis in range(3):
        drawn.strides[axis] = index.strides[axis]
    drawn.array.data, drawn.array.dtype = &index[0, 0, 0], FV_INT64
    with nogil:
        status = fv_filtered_multinoulli(
            &rows.array, True, &filters, True, &random, index.shape[2], &drawn.array, &logarithms.array, &error)
    raise_if_failed(status, &error)


# ---- running ---------------------------------------------------------------------------------------------------------


def raise_for(int status, bytes message=None):
    cdef fv_error error
    if message is None:
        return raise_if_failed(<fv_status> status, NULL)
    strncpy(error.message, message, sizeof(error.message) - 1)
    error.message[sizeof(error.message) - 1] = 0
    return raise_if_failed(<fv_status> status, &error)


def runtime(int threads):
    """The instruction set, its features, and the threads: asked for, and in use."""
    fv_set_num_threads(threads)
    return (
        fv_isa_selected().decode(), fv_isa_features().decode(), fv_requested_num_threads(), fv_get_num_threads()
    )
