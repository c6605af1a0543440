"""Any array comes in: strides, alignment, byte order, protocols; nothing is modified but `out`."""

from __future__ import annotations

import array

import foveate as fv
import numpy as np
import pytest
from strategies import BFLOAT16, LAYOUTS, normal, problem
from tolerances import assert_within, check_attention, expect

pytestmark = pytest.mark.python

SHAPES = {"prefill": (40, 70), "decode": (1, 300)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_input_in_each_layout(layout, shape, dtype):
    arrays = problem(*shape, lead=(2, 3), size=24, dtype=dtype)
    lay = LAYOUTS[layout]
    for n in range(3):
        check_attention(*(lay(x) if m == n else x for m, x in enumerate(arrays)))
    check_attention(*(lay(x) for x in arrays))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_an_axis_of_stride_zero(axis, dtype):
    """Every axis may be a broadcast one: of leading indices, of rows, of elements."""
    arrays = problem(20, 33, lead=(2, 3), size=9, dtype=dtype)

    def flat(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.take(x, [0], axis=axis), x.shape)

    for n in range(3):
        check_attention(*(flat(x) if m == n else x for m, x in enumerate(arrays)))
    check_attention(*(flat(x) for x in arrays))


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize("step", [-1, 2, -3])
def test_slices(axis, step, dtype):
    arrays = problem(60, 90, lead=(6,), size=24, dtype=dtype)
    cut = [slice(None)] * 3
    cut[axis] = slice(None, None, step)
    check_attention(*(x[tuple(cut)] for x in arrays))


def test_rows_that_overlap(dtype):
    """A sliding view: key j + 1 begins one element after key j."""
    line = normal(0, (100,), dtype)
    keys = np.lib.stride_tricks.sliding_window_view(line, 16)
    check_attention(normal(1, (20, 16), dtype), keys, keys)


def test_one_array_as_query_key_and_value(dtype):
    x = normal(0, (2, 50, 16), dtype)
    check_attention(x, x, x)


@pytest.mark.parametrize("layout", ["fortran", "backwards", "spread", "heads inside", "unaligned"])
def test_out_in_each_layout(layout, dtype):
    q, k, v = problem(40, 70, lead=(2, 3), dtype=dtype)
    expected = fv.attention(q, k, v)
    out = LAYOUTS[layout](np.zeros_like(expected))
    assert fv.attention(q, k, v, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_out_writes_only_its_own_elements(dtype):
    q, k, v = problem(10, 70, lead=(2,), size=5, dtype=dtype)
    larger = np.full((4, 24, 11), 7, dtype)
    out = larger[1:3, 3:23:2, 10:0:-2]
    fv.attention(q, k, v, out=out)
    np.testing.assert_array_equal(out, fv.attention(q, k, v))
    out[...] = 7
    assert (larger == 7).all()


@pytest.mark.parametrize("which", ["query", "key", "value"])
def test_out_that_overlaps_an_input(which, dtype):
    """The answer is that of the inputs as they were before the call."""
    arrays = dict(zip(("query", "key", "value"), problem(40, 40, dtype=dtype), strict=True))
    expected = fv.attention(*arrays.values())
    assert fv.attention(*arrays.values(), out=arrays[which]) is arrays[which]
    np.testing.assert_array_equal(arrays[which], expected)


# --- objects that are not NumPy arrays ------------------------------------------------------------


class OnlyDLPack:
    def __init__(self, x: np.ndarray) -> None:
        self._x = x

    def __dlpack__(self, **keywords):
        return self._x.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self._x.__dlpack_device__()


class OnlyArray:
    def __init__(self, x: np.ndarray) -> None:
        self._x = x

    def __array__(self, dtype=None, copy=None):
        return self._x if dtype is None else self._x.astype(dtype)


PROTOCOLS = {"dlpack": OnlyDLPack, "array": OnlyArray, "memoryview": memoryview}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_protocols(protocol, kind):
    arrays = problem(20, 30, dtype=np.dtype(kind))
    output = fv.attention(*(PROTOCOLS[protocol](x) for x in arrays))
    assert type(output) is np.ndarray
    np.testing.assert_array_equal(output, fv.attention(*arrays))


def test_protocols_for_the_rest_of_the_arguments():
    q, k, v = problem(20, 20)
    plain = {
        "mask": np.random.default_rng(1).random((20, 20)) < 0.5,
        "key_lengths": np.array([12, 20]),
        "offset": np.array([3, -2]),
        "segments": np.repeat(np.arange(4), 5),
        "sink": np.array([0.5, 1.5]),
    }
    wrapped = {name: OnlyArray(x) for name, x in plain.items()}
    expected = fv.attention(q, k, v, causal=True, **plain)
    np.testing.assert_array_equal(fv.attention(q, k, v, causal=True, **wrapped), expected)
    lists = {name: x.tolist() for name, x in plain.items()}
    np.testing.assert_array_equal(fv.attention(q, k, v, causal=True, **lists), expected)


def test_array_of_the_standard_library():
    numbers = [array.array("f", normal(n, (24,), np.float32).tobytes()) for n in range(3)]
    views = [memoryview(x).cast("B").cast("f", (6, 4)) for x in numbers]
    arrays = [np.frombuffer(x, np.float32).reshape(6, 4) for x in numbers]
    np.testing.assert_array_equal(fv.attention(*views), fv.attention(*arrays))


def test_read_only_buffers():
    arrays = problem(4, 6, lead=(), size=4)
    views = [memoryview(x.tobytes()).cast("B").cast("f", x.shape) for x in arrays]
    np.testing.assert_array_equal(fv.attention(*views), fv.attention(*arrays))


def test_bfloat16_over_dlpack(torch):
    """NumPy itself does not know bfloat16, so that its own `from_dlpack` refuses it."""
    arrays = problem(20, 30, dtype=BFLOAT16)
    tensors = [torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) for x in arrays]

    class Tensor:
        def __init__(self, x) -> None:
            self._x = x

        def __dlpack__(self, **keywords):
            return self._x.__dlpack__(**keywords)

        def __dlpack_device__(self):
            return self._x.__dlpack_device__()

    output = fv.attention(*(Tensor(x) for x in tensors))
    assert output.dtype == BFLOAT16
    np.testing.assert_array_equal(output, fv.attention(*arrays))


def test_subclasses_come_out_as_arrays():
    class Own(np.ndarray):
        pass

    q, k, v = problem(4, 6, lead=())
    output = fv.attention(q.view(Own), k.view(np.recarray), v.view(Own))
    assert type(output) is np.ndarray
    np.testing.assert_array_equal(output, fv.attention(q, k, v))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_each_layout(layout, dtype):
    q, k, _ = problem(20, 33, lead=(2, 3), dtype=dtype)
    lay = LAYOUTS[layout]
    weights = fv.attention_weights(lay(q), lay(k))
    expected = expect(q, k, np.broadcast_to(np.eye(33, dtype=dtype), (2, 3, 33, 33)))
    assert_within(weights, expected.output, expected.output_error, "weights")
