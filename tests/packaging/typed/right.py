"""Right uses of foveate, which type checkers take and which run.

Where a type is written beside a name, a checker compares it with the one that it has found.
"""

import array
import dataclasses
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate import typing as ft
from numpy.typing import NDArray

rng = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)


q, k, v = normal(2, 6, 4), normal(2, 6, 4), normal(2, 6, 4)
x, w = normal(4, 4), normal(4, 4)
points = np.linspace(0.0, 1.0, 6)

# --- arrays, in any form -------------------------------------------------------------------------

output: NDArray[Any] = fv.attention(q, k, v)
fv.attention(q.data, k.data, v.data)
fv.attention([[1.0, 2]], [[3, 4.0], [5, 6]], ((7,), (8,)))
fv.attention(list(x), list(x), x)
of_lists, from_lists = fv.attention_vjp([[1.0]], [[2]], [[3.0]], score=fv.Bilinear([[1.0]]))
from_lists([[1.0]])
fv.self_attention([[1.0]], [[1.0]], [[1]], [[0.5]])
fv.predict_centers([[1.0]], [[1.0]], [1], 6)
fv.attention([row.tolist() for row in x], [[1, 0.5, 0, 0]], [[np.float64(1)]])
fv.multinoulli(array.array("d", [1.0, 3.0]), rng=1)
fv.multinoulli(np.float64(2.0) * points, (2, 3), rng=np.random.SeedSequence(1))
fv.multinoulli([1, 2], size=np.int64(3), rng=[1, 2])
fv.multinoulli(x, logits=True, temperature=0.7, top_k=50, top_p=np.float32(0.9), min_p=0)
tokens: ft.Array = fv.multinoulli(x, 3, logits=True, bias=[0.0, 1.0, 2, 3], replace=False)
token, token_log_prob = fv.multinoulli(x, logits=True, return_log_prob=True)
counts: ft.Array = fv.multinomial([3, 4], [0.5, 0.5], size=2)
fv.multinomial_logpmf([1, 1], [1.0, 3.0])


class OfAnotherLibrary:
    """An array that is none of NumPy's."""

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **_: object) -> object:
        return x.__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


fv.attention(OfAnotherLibrary(), OfAnotherLibrary(), OfAnotherLibrary())

# --- names, reaches, numbers of NumPy ------------------------------------------------------------


def attend(query: ft.ArrayLike, score: ft.ScoreLike = "cosine") -> ft.Array:
    return fv.attention(query, k, v, score=score, causal=True)


scores: list[ft.ScoreName] = ["dot", "scaled_dot", "cosine", "gaussian"]
for score in (*scores, fv.Gaussian(0.5)):
    attend(q, score)
fv.attention(q, k, v, causal=np.bool_(True), window=(2, None), softcap=np.float32(30), sink=0.0)
fv.attention(q, k, v, window=3, offset="end", key_lengths=[3, 4], segments=np.zeros(6, int))
fv.attention(q, k, v, mask=np.ones((6, 6), bool), key_lengths=np.int64(3), offset=[0, 1])
fv.attention(q, k, v, mask=fv.Neighborhood((2, 3), (1, 3), causal=(True, False), border="clip"))
biased = (fv.Alibi([0.5, 0.25]), fv.RelativeBias([0.0], rule="clip"), fv.Alibi(0.5))
fv.attention(q, k, v, mask=(*biased, fv.RelativeBias2d(np.zeros((3, 5)), (2, 3))))
fv.RelativeBias(np.zeros((2, 32)), rule="t5", bidirectional=False, max_distance=np.int64(64))
fv.attention(q, k, v, mask=(fv.Intervals(0, [1, 2, 3, 4, 5, 6]), np.zeros((6, 6))), dropout=0.5)
fv.attention(q, k, v, mask=fv.BlockMask(np.ones((2, 3), np.bool_), (np.int64(3), 2)))
fv.attention(q, k, v, mask=(fv.BlockMask([[True]], 8), fv.Intervals([[0, 4]], [[1, 6]])))
fv.attention(q, k, v, segments=([0, 0, 0, 1, 1, 1], np.zeros(6, np.int32)), out=np.empty_like(q))
weights: ft.Array = fv.attention_weights(q, k, score=fv.Additive(x[0], x, x, activation="relu"))
sparse: ft.Array = fv.attention(q, k, v, normalizer="sparsemax")
ordered: ft.Array = fv.attention(q, k, v, deterministic="order")
leaky: ft.ScoreLike = fv.Concat(x[0], x, activation="leaky_relu", slope=0.1)
looked: fv.AttentionStatistics = fv.attention_statistics(q, k, causal=True, queries=slice(-3, None))

# --- more than one answer ------------------------------------------------------------------------

output, lse = fv.attention(q, k, v, return_lse=True)
whole: tuple[ft.Array, ft.Array] = fv.merge([output, output], [lse, lse])
either: ft.Array | tuple[ft.Array, ft.Array] = fv.attention(q, k, v, return_lse=bool(points[0]))
drawn = fv.hard_attention(q, k, v, select="argmax")
index: ft.Array = drawn.index
place: ft.Array = looked.place
log_prob: ft.Array = fv.hard_attention(q, k, v, size=(2, 3), rng=0).log_prob
index = fv.hard_attention(q, k, v, select="top", size=2).index
index = fv.hard_attention(q, k, v, replace=False, size=2, rng=0).index

# --- gradients -----------------------------------------------------------------------------------

output, pullback = fv.attention_vjp(q, k, v)
g = pullback(np.ones_like(output))
q -= 0.1 * g.query
k, v = k - 0.1 * g.key, v - 0.1 * g.value
again: fv.Gradients = pullback(np.ones_like(output), d_lse=np.ones(output.shape[:-1], np.float32))

sink = np.zeros(2)
bias = np.zeros((6, 6), np.float32)
output, with_sink = fv.attention_vjp(q, k, v, wrt=("sink", "mask"), sink=sink, mask=bias)
g = with_sink(np.ones_like(output))
sink -= 0.1 * g.sink
bias -= 0.1 * g.mask
assert g.query is None

bilinear = fv.Bilinear(np.eye(4, dtype=np.float32))
output, pullback = fv.attention_vjp(q, k, v, wrt=["query", "score"], score=bilinear)
step: ft.AttentionPullback = pullback
bilinear = dataclasses.replace(bilinear, w=np.eye(4, dtype=np.float32) - 0.1 * step(output).score.w)

drawn, reinforce = fv.hard_attention_vjp(q, k, v, rng=0, wrt={"query", "key"})
baseline = fv.MovingAverageBaseline()
q -= 0.1 * reinforce(advantage=baseline(np.ones(drawn.log_prob.shape))).query
reinforce(drawn.output, advantage=1.0)

centers, of_centers = fv.predict_centers_vjp(x, x, x[0], 6)
output, local = fv.local_attention_vjp(x, x, x, half_width=2, centers=centers, sigma="half")
local_pullback: ft.Pullback[fv.LocalGradients] = local
d_centers: ft.Array = local_pullback(d_output=output).centers
x -= 0.1 * of_centers(d_centers).query
fv.local_attention(x, x, x, half_width=np.float32(1.5), centers=[0.0, 1.0, 2.0, 2.0], sigma=None)

output, regression = fv.kernel_regression_vjp(points, points, points, w=2.0, wrt="w")
width = 2.0 - 0.1 * regression(np.ones_like(output)).w
density, of_density = fv.kernel_density_vjp(points, points, w=2.0, wrt="w", log=True)
kernels: tuple[ft.Kernel, ...] = ("gaussian", "exponential", "boxcar", "tricube", "constant")
for kernel in kernels:
    fv.kernel_regression(points, points, points, kernel=kernel, sample_weight=[1, 2, 1, 2, 1, 2])

# --- blocks --------------------------------------------------------------------------------------

output, own = fv.self_attention_vjp(x, w, w, w, causal=True)
w -= 0.1 * own(np.ones_like(output)).wq
output, heads = fv.multi_head_attention_vjp(
    x, wq=w, wk=w, wv=w, wo=w, bq=x[0], num_heads=np.int64(2), mask=fv.Intervals(0, 4)
)
w -= 0.1 * heads(np.ones_like(output)).wo
fv.hierarchical_attention(x, x, x, segments=[0, 0, 1, 1], score=fv.ScaledDot(), upper_score="dot")

memory = fv.Memory(x, x)
memory.write(x, erase=0.5, add=[[0.0, 0.0, 0.0, 1.0]] * 4, sharpness=2)
for select in ("soft", "argmax", "sample"):
    memory.read(x, select=select, hops=2)
output, reading = memory.read_vjp(x)
x -= 0.1 * reading(np.ones_like(output)).query

cache = fv.KVCache(1, 2, head_size=4, dtype="int8", window=8, sinks=np.int64(1))
cache.append(q[None], v[None], lengths=[2])
answer: ft.Array = cache.attention(q[None, :, :1], causal=False, sink=0.5)
answer, logs = cache.attention(q[None, :, :1], return_lse=True)
cache.truncate(1)
cache.reorder([0, 0])

# --- a score of one's own, the reference, threads -------------------------------------------------


class Scaled(fv.scores.Score):
    """Half the inner product."""

    def reduce(self, query: ft.Array, key: ft.Array) -> fv.scores.Reduced:
        return fv.scores.Reduced(query, key, 0.5)


fv.attention(x, x, x, score=Scaled())
reference.attention(x, x, x, score="gaussian", causal=True)
fv.reference.hard_attention(x, x, x, select="argmax")
with fv.num_threads(1):
    threads: int = fv.get_num_threads()
facts: dict[str, dict[str, Any]] = fv.show_config("dicts")
include = Path(fv.get_include())
