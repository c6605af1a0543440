"""Inputs that another thread changes during a call: memory, time and messages stay what they are.

Answers may be anything then. Each run has an interpreter of its own, so that one which crashes or
hangs is seen as such. The engine's own inputs are scribbled on in tests/kernels/scribble_test.cpp.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.any_isa, pytest.mark.threads]

# Some thousand times as long as a run takes.
PATIENCE = 120

# `calls(call, *(array, other))`: for a third of a second, while a thread writes the one and the
# other into each array; what is refused names an argument, what came, and what was wanted.
SETTING = """
    import re, threading, time
    import foveate as fv
    import numpy as np

    def calls(call, *changes, scribble=None):
        done = threading.Event()
        images = [(array, array.copy(), np.full_like(array, other)) for array, other in changes]

        def write():
            while not done.is_set():
                for array, first, second in images:
                    array[...] = second
                    array[...] = first
                if scribble:
                    scribble()

        thread = threading.Thread(target=write)
        thread.start()
        end = time.monotonic() + 0.3
        try:
            while time.monotonic() < end:
                try:
                    call()
                except ValueError as error:
                    assert re.match(r"[a-z_, ]+: got .*, wanted ", str(error)), error
        finally:
            done.set()
            thread.join()

    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 3, 90, 16)), rng.normal(size=(2, 1, 700, 16))
"""

RUNS = {
    "edges of a graph": """
        indices = np.sort(rng.integers(0, 99, (90, 7)) + 100 * np.arange(7), 1).ravel()
        edges = fv.Edges(np.arange(91) * 7, indices)
        def call():
            output, pull = fv.attention_vjp(q, k, k, mask=edges)
            pull(output)
        calls(call, (edges.indices, 10**15), (edges.indptr, 10**15))
        calls(call, (edges.indices, 3), (edges.indptr, 0))
        calls(lambda: fv.hard_attention(q, k, k, mask=edges, rng=1), (edges.indices, -5))
    """,
    "weights of a table": """
        p = rng.random(300_000)
        calls(lambda: fv.multinoulli(p, 10_000, rng=1), (p, 1e300))
        calls(lambda: fv.multinoulli(p, 10_000, rng=1), (p, -1.0))
    """,
    "weights of few draws": """
        p = rng.random((40, 9_000)).astype(np.float32)
        calls(lambda: fv.multinoulli(p, rng=1), (p, np.nan))
        calls(lambda: fv.multinoulli(p, 3, logits=True, rng=1), (p, np.inf))
    """,
    "logits that are filtered": """
        p = rng.normal(size=(8, 20_000)).astype(np.float32)
        keywords = {"logits": True, "top_p": 0.9, "return_log_prob": True, "rng": 1}
        calls(lambda: fv.multinoulli(p, **keywords), (p, np.nan), (p, 3e38))
        calls(lambda: fv.multinoulli(p, top_k=50, **keywords), (p, np.inf))
        calls(lambda: fv.multinoulli(p, 40, replace=False, top_k=50, **keywords), (p, -np.inf))
    """,
    "trials": """
        n, p = np.full(500, 20), rng.random((500, 300))
        calls(lambda: fv.multinomial(n, p, rng=1), (n, -1), (p, 0.0))
    """,
    "lengths": """
        lengths = np.full((2, 1), 650)
        for of in (q, q[..., :2, :]):
            calls(lambda: fv.attention(of, k, k, key_lengths=lengths), (lengths, 2**40))
            calls(lambda: fv.hard_attention(of, k, k, key_lengths=lengths), (lengths, -(2**40)))
    """,
    "offsets": """
        offset = np.full((2, 1), 650)
        for of in (q, q[..., :2, :]):
            keywords = {"causal": True, "offset": offset, "window": 9}
            calls(lambda: fv.attention(of, k, k, **keywords), (offset, 2**62))
            calls(lambda: fv.hard_attention(of, k, k, rng=1, **keywords), (offset, -(2**63)))
    """,
    "centers": """
        centers = np.full((2, 3, 90), 350.0)
        keywords = {"centers": centers, "half_width": 9.0}
        calls(lambda: fv.local_attention(q, k, k, **keywords), (centers, np.nan))
        calls(lambda: fv.local_attention(q, k, k, **keywords), (centers, -np.inf))
    """,
    "segments": """
        ids, lengths = np.arange(700) // 50, np.full(2, 650)
        values = k[:, 0]
        def hierarchical():
            fv.hierarchical_attention(
                q[:, 0], values, values, segments=ids, key_lengths=lengths
            )
        calls(hierarchical, (ids, 3), (lengths, 2**40))
        of_queries = np.arange(90) // 7
        calls(lambda: fv.attention(q, k, k, segments=(of_queries, ids)), (ids, -1), (of_queries, 9))
    """,
    "masks": """
        mask = rng.random((90, 700)) < 0.5
        calls(lambda: fv.attention(q, k, k, mask=mask), (mask, False))
        calls(lambda: fv.hard_attention(q[..., :2, :], k, k, mask=mask[:2], rng=1), (mask, False))
    """,
    "shapes": """
        shapes = [(q.shape, k.shape), ((q.size,), (k.size,))]
        def reshape():
            for of_query, of_key in reversed(shapes):
                q.shape, k.shape = of_query, of_key
        calls(lambda: fv.attention(q, k, k), scribble=reshape)
    """,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUNS)
def test_scribbling(name):
    code = textwrap.dedent(SETTING) + textwrap.dedent(RUNS[name])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
