"""Wrong uses of foveate: type checkers refuse each line that says so, and no other.

Each of them raises when it runs, too, but where a reason stands behind the mark.
"""

from collections import deque

import foveate as fv
import numpy as np
from foveate import typing as ft

q = k = v = np.ones((2, 6, 4))
x = np.ones((4, 4))
output, pullback = fv.attention_vjp(q, k, v)
g = pullback(output)
_, hard = fv.hard_attention_vjp(q, k, v, rng=0)
memory = fv.Memory(x, x)
cache = fv.KVCache(1, head_size=4)

fv.attention("query", k, v)  # error
fv.attention(b"query", k, v)  # error
fv.attention(["a", "b"], k, v)  # error
fv.attention(1.0, k, v)  # error
fv.attention([[1j]], k, v)  # error
fv.attention(range(4), k, v)  # error
fv.attention(deque([1.0]), k, v)  # error
fv.attention(None, k, v)  # error
fv.attention(q, k)  # error
fv.attention(q, k, v, True)  # error
fv.attention(q, k, v, scores="dot")  # error
fv.attention(q, k, v, score="scaled-dot")  # error
fv.attention(q, k, v, score=fv.Dot)  # error
fv.attention(q, k, v, score=1)  # error
fv.attention(q, k, v, causal=1.0)  # error
fv.attention(q, k, v, causal="yes")  # error
fv.attention(q, k, v, mask="causal")  # error
fv.attention(q, k, v, window=2.0)  # error
fv.attention(q, k, v, window=(1, 2, 3))  # error
fv.attention(q, k, v, offset="start")  # error
fv.attention(q, k, v, offset=0.5)  # error
fv.attention(q, k, v, key_lengths=[1.5, 2.0])  # error
fv.attention(q, k, v, segments="a")  # error
fv.attention(q, k, v, softcap="none")  # error
fv.attention(q, k, v, softcap=[1.0])  # error
fv.attention(q, k, v, sink="none")  # error
fv.attention(q, k, v, dropout="0.5")  # error
fv.attention(q, k, v, dropout=0.5, rng="seed")  # error
fv.attention(q, k, v, return_lse="yes")  # error: truth counts when it runs
fv.attention(q, k, v, out=[[0.0]])  # error
fv.attention_weights(q, k, v)  # error
fv.attention_weights(q, k, score="Gaussian")  # error
fv.attention_statistics(q, k, v)  # error
fv.attention_statistics(q, k, queries=(0, 3))  # error
fv.hard_attention(q, k, v, select="soft")  # error
fv.hard_attention(q, k, v, size=2.0)  # error
fv.hard_attention(q, k, v, size=2, replace="no")  # error
fv.hard_attention(q, k, v, sink=0.0)  # error
found = fv.hard_attention(q, k, v, rng=0).probability  # error
fv.multinoulli(x, "3")  # error
fv.multinoulli(x, logits=0.0)  # error
fv.multinoulli(x, top_k=5.0)  # error
fv.multinoulli(x, top_p="0.9")  # error
fv.multinomial(1.5, x)  # error
fv.multinomial_logpmf([1.5, 2.0], [1.0, 1.0])  # error
fv.merge(x, "lses")  # error
fv.local_attention(q, k, v)  # error
fv.local_attention(q, k, v, half_width="1")  # error
fv.local_attention(q, k, v, half_width=1, sigma="full")  # error
fv.local_attention(q, k, v, half_width=1, centers=1.0)  # error
fv.predict_centers(x, "w", x[0], 6)  # error
fv.kernel_regression(x, x, x, kernel="box")  # error
fv.kernel_regression(x, x, x, w="scott")  # error
fv.kernel_density(x, x, kernel="constant")  # error
fv.kernel_regression(x, x, x, leave_one_out=1)  # error
fv.attention_vjp(q, k, v, wrt="keys")  # error
fv.attention_vjp(q, k, v, wrt=("query", "centers"))  # error
fv.attention_vjp(q, k, v, return_lse=True)  # error
fv.hard_attention_vjp(q, k, v, wrt="sink")  # error
fv.local_attention_vjp(q, k, v, half_width=1, wrt="mask")  # error
pullback()  # error
pullback("output")  # error
pullback([["0"]])  # error
pullback(output, advantage=1.0)  # error
hard(d_lse=output)  # error
found = g.keys  # error
found = g.query.no_such_attribute  # error
fv.Bilinear([[1j]])  # error
fv.Bilinear("w")  # error
fv.Additive(x[0], activation="gelu")  # error
fv.attention(q, k, v, normalizer="gelu")  # error
fv.attention(q, k, v, deterministic="bits")  # error
fv.Concat(x[0])  # error
fv.Location(x[0], b="0")  # error
fv.Gaussian("w")  # error
fv.Cosine(scale="1")  # error
fv.ScaledDot("1")  # error
fv.Polynomial("2")  # error
fv.Polynomial(2.0)  # error
fv.Dot(1.0)  # error
fv.Neighborhood(4, 3, border="wrap")  # error
fv.Alibi("0.5")  # error
fv.RelativeBias([0.0], rule="T5")  # error
fv.RelativeBias([0.0], "t5")  # error
fv.RelativeBias2d([[0.0]], 1)  # error
fv.Intervals("0", 1)  # error
fv.Intervals(0.0, 1)  # error
fv.BlockMask([[True]], 8.0)  # error
fv.BlockMask([[True]], (8, 8, 8))  # error
fv.self_attention(x, x, x)  # error
fv.self_attention(x, x, x, x, causal=0.5)  # error
fv.self_attention(x, x, x, ["wv"])  # error
fv.multi_head_attention(x, wq=x, wk=x, wv=x, wo=x)  # error
fv.multi_head_attention(x, wq=x, wk=x, wv=x, wo=x, num_heads="2")  # error
fv.multi_head_attention(x, wq=x, wk=x, wv=x, wo=x, num_heads=1, score="bilinear")  # error
fv.multi_head_attention_vjp(x, wq=x, wk=x, wv=x, wo=x, num_heads=1, wrt="w")  # error
fv.hierarchical_attention(x, x, x)  # error
fv.hierarchical_attention(x, x, x, segments="ids")  # error
memory.read(x, select="top")  # error
memory.read(x, sharpness="1")  # error
memory.read(x, hops=1.5)  # error
memory.write(x, erase=0.5)  # error
memory.keys = x  # error
fv.KVCache(1)  # error
fv.KVCache(1, 4)  # error
fv.KVCache(1.0, head_size=4)  # error
fv.KVCache(1, head_size=4, dtype="int16")  # error
fv.KVCache(1, head_size=4, window=(2, 0))  # error
cache.append("rows", x)  # error
cache.reorder(0.5)  # error
cache.lengths = x  # error
fv.set_num_threads("1")  # error
fv.show_config("json")  # error
fv.no_such_function(x)  # error


def attend(name: str) -> ft.Array:
    return fv.attention(q, k, v, score=name)  # error: when it runs, the names of scores pass


kernel: ft.Kernel = "gauss"  # error: a wrong annotation
both: ft.Array = fv.attention(q, k, v, return_lse=True)  # error: a wrong annotation
swapped: ft.Pullback[fv.HardGradients] = pullback  # error: a wrong annotation
