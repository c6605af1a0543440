"""foveate.numba: calls of C from functions that numba compiles, without the GIL."""

from __future__ import annotations

import doctest
import threading

import foveate as fv
import numpy as np
import pytest
from numpy.testing import assert_array_equal

pytest.importorskip("numba")

import foveate.numba
import numba

pytestmark = [pytest.mark.any_isa, pytest.mark.python]


@numba.njit(nogil=True)
def heads(query, key, value, scale, causal):
    """Every other row of each head."""
    out = np.empty((query.shape[0], query.shape[1] // 2, value.shape[2]), query.dtype)
    for i in range(len(query)):
        foveate.numba.attention(query[i, ::2], key[i], value[i], out[i], scale, causal)
    return out


def operands(dtype):
    rng = np.random.default_rng(0)
    shapes = (3, 10, 8), (3, 7, 8), (3, 7, 5)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_compiled_loop_has_the_answers_of_python(dtype):
    q, k, v = operands(dtype)
    for causal in (False, True):
        reach = {"causal": True, "offset": "end"} if causal else {}
        wanted = fv.attention(q[:, ::2], k, v, score=fv.ScaledDot(0.3), **reach)
        assert_array_equal(heads(q, k, v, 0.3, causal), wanted)


def test_threads_run_at_once_without_the_gil():
    q, k, v = operands("float64")
    wanted, found = heads(q, k, v, 0.3, False), {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: heads(q, k, v, 0.3, False)}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[n], wanted) for n in range(4))


def test_refusals():
    q, k, v = operands("float64")
    with pytest.raises(ValueError, match="key: wanted a row for each of value"):
        heads(q, k[:, :5], v, 0.3, False)
    with pytest.raises(ValueError, match="columns: got some that stand apart"):
        heads(q[..., ::2], k[..., ::2], v, 0.3, False)
    with pytest.raises(ValueError, match="attention was refused"):
        heads(q, k, v, np.nan, False)
    with pytest.raises(numba.TypingError, match=r"key: got .*float32.*, wanted a matrix"):
        heads(q, k.astype(np.float32), v, 0.3, False)
    with pytest.raises(TypeError, match="got a call by Python"):
        foveate.numba.attention(q[0], k[0], v[0], q[0], 1.0)
    with pytest.raises(ValueError, match="dtype: got float16"):
        foveate.numba.c_attention(np.float16)


def test_examples():
    assert doctest.testmod(foveate.numba).failed == 0
