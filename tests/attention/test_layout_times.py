"""How long a call takes does not depend on how its operands lie in memory, nor do its bits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import LAYOUTS, normal, problem

# Of a call of a millisecond on a machine that others use too. A loop over a stride of 2^36 bytes
# takes minutes at least.
PATIENCE = 60

STRAY = """
    import ml_dtypes
    import numpy as np
    import foveate as fv

    dtype = np.dtype("{dtype}")

    def stray(x):  # the same array, with other strides where an axis has one element
        if not isinstance(x, np.ndarray):
            return x
        strides = [2**36 if n == 1 else s for n, s in zip(x.shape, x.strides)]
        return np.lib.stride_tricks.as_strided(x, x.shape, strides)

    rng = np.random.default_rng(0)
    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    def compare(function, *arrays, **keywords):
        expected = function(*arrays, **keywords)
        got = function(*map(stray, arrays), **{{n: stray(x) for n, x in keywords.items()}})
        for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, expected))):
            np.testing.assert_array_equal(a, b)

    def pull(function):
        def gradients(*arrays, **keywords):
            output, pullback = function(*arrays, **keywords)
            got = pullback(stray(np.ones_like(output)))
            return output, *(x for x in got if isinstance(x, np.ndarray))
        return gradients

    def hard_pull(*arrays, **keywords):
        result, pullback = fv.hard_attention_vjp(*arrays, rng=5, **keywords)
        got = pullback(stray(np.ones_like(result.output)), stray(np.ones_like(result.log_prob)))
        return result.output, got.query, got.key, got.value

    for lead in ((), (1,), (2, 1), (1, 3)):
        for queries in (1, 3, 40, 700):  # decode, few queries, a panel, several blocks
            for keys in (1, 400):
                for size, value_size in ((1, 1), (1, 16), (16, 1), (16, 16)):
                    q, k = normal(*lead, queries, size), normal(*lead, keys, size)
                    v = normal(*lead, keys, value_size)
                    out = stray(np.empty((*lead, queries, value_size), q.dtype))
                    np.testing.assert_array_equal(
                        fv.attention(stray(q), stray(k), stray(v), out=out), fv.attention(q, k, v))
                    compare(fv.attention, q, k, v, window=3, offset=0)
                    compare(fv.attention, q, k, v, mask=normal(*lead, queries, keys))
                    compare(fv.attention_weights, q, k)
                    compare(fv.hard_attention, q, k, v, rng=5)
                    compare(fv.hard_attention, q, k, v, rng=5, size=2)
                    compare(fv.local_attention, q, k, v, half_width=2,
                            centers=np.linspace(0, keys, queries) * np.ones((*lead, 1)))
                    compare(pull(fv.attention_vjp), q, k, v)
                    compare(hard_pull, q, k, v)
                    if not lead and dtype.kind == "f" and dtype.itemsize > 2:
                        compare(fv.kernel_regression, q, k, v)
                        compare(pull(fv.kernel_regression_vjp), q, k, v)
    print("done")
"""


def test_strides_of_axes_with_one_element_mean_nothing(dtype):
    """Any stride may stand there: NumPy's own slices and as_strided leave what they like."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(STRAY.format(dtype=dtype.name))],
        env=os.environ | {"FOVEATE_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def _columns(x: np.ndarray) -> np.ndarray:
    """Fortran order of the last two axes: columns stand together."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


FURTHER = {
    **{name: lay for name, lay in LAYOUTS.items() if name not in ("contiguous", "read-only")},
    "columns": _columns,
    "columns backwards": lambda x: _columns(x[..., ::-1, :])[..., ::-1, :],
    "columns spread": lambda x: _columns(np.repeat(x, 2, axis=-2))[..., ::2, :],
    "columns apart": lambda x: _columns(np.repeat(x, 3, axis=-2))[..., ::3, :],
    "every other": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "columns of a table": lambda x: np.repeat(x, 5, axis=-1)[..., ::5],
    "row of a table": lambda x: np.concatenate([x, x, x], axis=-1)[..., : x.shape[-1]],
}


@pytest.mark.parametrize("layout", FURTHER)
def test_the_same_bits_in_each_layout(layout, dtype):
    """Lengths and sizes round whole squares of vectors, with NaN in keys that are not seen."""
    lay = FURTHER[layout]

    def check(function: Callable[..., Any], *arrays: np.ndarray, **keywords: Any) -> None:
        expected = function(*arrays, **keywords)
        for which in ((0,), (1,), (2,), (0, 1, 2)):
            laid = [lay(x) if n in which else x for n, x in enumerate(arrays)]
            for a, b in zip(function(*laid, **keywords), expected, strict=True):
                # as float64: NumPy takes no two NaN of bfloat16 for equal
                np.testing.assert_array_equal(a.astype(np.float64), b.astype(np.float64))

    def both(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda q, k, *v, **keywords: (function(q, k, *v, **keywords),)

    def gradients(q: np.ndarray, k: np.ndarray, v: np.ndarray, **keywords: Any) -> tuple:
        output, pullback = fv.attention_vjp(q, k, v, **keywords)
        got = pullback(lay(np.ones_like(output)))
        return output, got.query, got.key, got.value

    for queries, keys, size in ((70, 50, 40), (3, 300, 33), (1, 70, 16), (40, 33, 1), (33, 16, 7)):
        q, k, v = problem(queries, keys, lead=(2, 3), size=size, dtype=dtype)
        v[..., -2:, :] = np.nan
        at = {"offset": 0}
        check(both(fv.attention), q, k, v, key_lengths=keys - 2)
        check(both(fv.attention), q, k, v, window=4, **at)
        check(fv.hard_attention, q, k, v, key_lengths=keys - 2, rng=3)
        check(gradients, q, k, v, key_lengths=keys - 2)
        expected = fv.attention_weights(q, k)
        np.testing.assert_array_equal(fv.attention_weights(lay(q), lay(k)), expected)
        mask = normal(9, (2, 3, queries, keys), dtype)
        for cells in (mask, mask > 0):
            expected = fv.attention(q, k, v, mask=cells, key_lengths=keys - 2)
            got = fv.attention(q, k, v, mask=lay(cells), key_lengths=keys - 2)
            np.testing.assert_array_equal(got, expected)


def spent(*calls: Callable[[], object], times: int = 7) -> list[float]:
    """Processor time of each call, in turns: the least of several."""
    least = [np.inf] * len(calls)
    for call in calls:
        call()
    for _ in range(times):
        for n, call in enumerate(calls):
            begin = time.process_time()
            call()
            least[n] = min(least[n], time.process_time() - begin)
    return least


# At most 2 times as long is promised for operands in Fortran order (measured: 1.0 to 1.6, and
# 4 to 8 where elements are gathered one by one); half as much again for a machine that others use.
FORTRAN = 3

CALLS: dict[str, tuple[Callable[..., object], tuple[tuple[int, ...], ...]]] = {
    "prefill": (fv.attention, ((4, 512, 64),) * 3),
    "16 queries": (fv.attention, ((16, 64), (4096, 64), (4096, 64))),
    "window": (lambda q, k, v: fv.attention(q, k, v, window=64), ((4, 512, 64),) * 3),
    "weights": (lambda q, k, _: fv.attention_weights(q, k), ((4, 512, 64),) * 3),
    "hard": (lambda q, k, v: fv.hard_attention(q, k, v, rng=0), ((4, 512, 64),) * 3),
    "gradients": (lambda q, k, v: fv.attention_vjp(q, k, v)[1](q), ((4, 512, 64),) * 3),
    "regression": (
        lambda x, x_train, y: fv.kernel_regression(x, x_train, y[:, 0]),
        ((50, 4), (100_000, 4), (100_000, 1)),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_fortran_order_takes_no_longer(call):
    """Prefetches of a row's whole extent made this 3 to 700 times as long."""
    function, shapes = CALLS[call]
    arrays = [normal(n, shape, np.float32) for n, shape in enumerate(shapes)]
    columns = [_columns(x) for x in arrays]
    with fv.num_threads(1):
        plain, fortran = spent(lambda: function(*arrays), lambda: function(*columns))
    assert fortran < FORTRAN * plain
