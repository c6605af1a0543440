"""Ctrl-C: it stops a long call, and a long task of one, whoever's threads run it."""

from __future__ import annotations

import openmp_runtime
import pytest
from processes import stop_by_ctrl_c

OPENMP = openmp_runtime.load()
pytestmark = [pytest.mark.python, pytest.mark.threads, pytest.mark.any_isa]

# Each is ten seconds or more. Broadcast inputs, so that they need no memory.
LONG_CALLS = {
    "prefill": "fv.attention(ones(8, 200_000, 64), ones(200_000, 64), ones(200_000, 64))",
    "many heads": "fv.attention(ones(2**20, 64, 64), ones(2048, 64), ones(2048, 1))",
    "decode": "fv.attention(ones(128, 1, 64), ones(2**28, 64), ones(2**28, 64))",
    "tangents": """fv.attention_jvp(
                ones(8, 100_000, 64), *[ones(100_000, 64)] * 2, None, *[ones(100_000, 64)] * 2
            )""",
    "weights": "fv.attention_weights(ones(10_000, 2**14), ones(10_000, 2**14))",
    "gradients": """fv._core.attention_backward(
                **dict.fromkeys(("query", "key", "value", "output", "d_output"), ones(2**17, 64)),
                lse=ones(2**17), d_query=np.zeros((2**17, 64), np.float32),
            )""",
}


SET = {
    "1": "fv.set_num_threads(1)",
    "2": "fv.set_num_threads(2)",
    "2 borrowed": "fv._core.borrow_threads(fv._core.find_function(openmp, 'GOMP_parallel'), 2)",
    "2 of OpenMP": "fv.set_threading('openmp'); fv.set_num_threads(2)",
}
LONG = [
    pytest.param(call, threads, id=f"{name}-{count}")
    for name, call in LONG_CALLS.items()
    for count, threads in SET.items()
    if count in ("1", "2") or (OPENMP and name in ("prefill", "gradients"))
]


@pytest.mark.parametrize(("call", "threads"), LONG)
def test_ctrl_c_stops_a_long_call(call, threads):
    """About a tenth of a second after SIGINT; 2 seconds on a machine that is busy."""
    code = f"""
        import ctypes
        import signal
        import sys
        import numpy as np
        import foveate as fv
        openmp = {OPENMP!r}
        if openmp:
            ctypes.CDLL(openmp)
        # a shell's background job starts with SIGINT ignored, and its children too
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def ones(*shape):
            return np.broadcast_to(np.ones(1, np.float32), shape)
        {threads}
        print("ready", flush=True)
        try:
            {call}
        except KeyboardInterrupt:
            print("stopped", flush=True)
            y = np.ones((2, 40, 8), np.float32)
            assert (fv.attention(y, y, y) == 1).all()
            sys.exit(7)
    """
    stop_by_ctrl_c(code)


# A task, a block of queries against all keys, is several seconds of each: 1.5 million keys.
LONG_TASKS = {
    "soft": "fv.attention(ones(2048, 256), K, K)",
    "float64": "fv.attention(ones(2048, 256, float), K64, K64)",
    "mask": "fv.attention(ones(2048, 256), K, K, mask=ones(2048, 1_500_000, bool))",
    "hard": "fv.hard_attention(ones(2048, 256), K, K, rng=0)",
    "hard, few queries": "fv.hard_attention(ones(3, 4), K[:, :4], K[:, :4], rng=0, size=100_000)",
    "weights": "fv.attention_weights(normal(64, 4096), ones(1_500_000, 4096))",
    "statistics": "fv.attention_statistics(ones(2048, 256), K)",
    "decode": "fv.attention(ones(4000, 3, 256), K, K)",
    "near": "fv.kernel_regression(normal(60_000, 8), normal(1_500_000, 8), K[:, 0], w=0.01)",
    "additive": "fv.attention(normal(2048, 256), K, K, score=fv.Additive(W[0], W, W))",
    "gradients": "pull(ones(512, 256))",
}


LONG_TASKS_SET = [
    pytest.param(call, SET[count], id=f"{call}-{count}")
    for call in LONG_TASKS
    for count in SET
    if count in ("1", "2") or (OPENMP and call in ("soft", "decode", "gradients"))
]


@pytest.mark.parametrize(("call", "threads"), LONG_TASKS_SET)
def test_ctrl_c_stops_a_long_task(call, threads):
    """Within a task too; a second is for a machine that is busy."""
    code = f"""
        import ctypes
        import signal
        import sys
        import numpy as np
        import foveate as fv
        openmp = {OPENMP!r}
        if openmp:
            ctypes.CDLL(openmp)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def ones(*shape):
            *shape, dtype = shape if isinstance(shape[-1], type) else (*shape, np.float32)
            return np.broadcast_to(np.ones(1, dtype), shape)
        def normal(*shape):
            return np.random.default_rng(0).standard_normal(shape, np.float32)
        K, K64 = ones(1_500_000, 256), ones(1_500_000, 256, float)
        W = np.ones((256, 256), np.float32)
        {threads}
        if {call!r} == "gradients":
            pull = fv.attention_vjp(ones(512, 256), ones(200_000, 256), ones(200_000, 256))[1]
        print("ready", flush=True)
        try:
            {LONG_TASKS[call]}
        except KeyboardInterrupt:
            print("stopped", flush=True)
            y = np.ones((2, 40, 8), np.float32)
            assert (fv.attention(y, y, y) == 1).all()
            sys.exit(7)
    """
    stop_by_ctrl_c(code, within=1)
