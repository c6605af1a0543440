"""How long a call takes does not depend on how its operands lie in memory, nor do its bits."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

# Of a call of a millisecond on a machine that others use too. A loop over a stride of 2^36 bytes
# takes minutes at least.
PATIENCE = 60

STRAY = """
    import ml_dtypes
    import numpy as np
    import foveate as fv

    dtype = np.dtype("{dtype}")

    def stray(x):
        \"\"\"The same array, with strides that nothing may depend on where an axis has one element.\"\"\"
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
