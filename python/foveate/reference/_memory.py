"""An external memory, by the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._attention.gradients import MemoryGradients, MemoryInput, Names, names_of
from .._inputs.random import generator_of
from .._inputs.types import MemorySelection
from ..scores import Cosine
from ..scores._base import ScoreLike, gradient_of, parameters_of, sum_of_gradients
from ..scores._base import widened as widened_score
from ._attention import attention, attention_weights
from ._gradients import attention_vjp
from ._hard import hard_attention
from ._quiet import quiet
from ._rows import floats, sum_to
from ._self_attention import widened

Array = NDArray[Any]


class Memory:
    """`foveate.Memory` by the formulas.

    Parameters
    ----------
    keys, values : arrays (..., N, D), (..., N, Dv), of one float dtype

    Examples
    --------
    >>> import numpy as np
    >>> memory = Memory(np.ones((2, 3)), np.array([[8.0], [4.0]]))
    >>> memory.write(np.ones((1, 3)), erase=1.0, add=1.0)
    >>> memory.values
    array([[4.5],
           [2.5]])
    >>> memory.read(np.ones((1, 3)))
    array([[3.5]])
    """

    def __init__(self, keys: ArrayLike, values: ArrayLike) -> None:
        self.keys: Array = floats(keys)
        self.values: Array = floats(values)

    @quiet
    def read(
        self,
        query: ArrayLike,
        *,
        sharpness: float = 1.0,
        score: ScoreLike | None = None,
        select: MemorySelection = "soft",
        hops: int = 1,
        rng: Any = None,
    ) -> Array:
        """Read, each further hop with what was read added to the query."""
        how = Cosine(sharpness) if score is None else score
        q, k, v = widened(query, self.keys, self.values)
        generator = generator_of(rng) if select == "sample" else None
        found: Any = 0.0
        for hop in range(hops):
            q = q + found if hop else q
            if select == "soft":
                found = attention(q, k, v, score=how)
            else:
                found = hard_attention(q, k, v, score=how, select=select, rng=generator).output
        return np.asarray(found).astype(self.keys.dtype)

    @quiet
    def read_vjp(
        self,
        query: ArrayLike,
        *,
        wrt: Names[MemoryInput] = None,
        sharpness: float = 1.0,
        score: ScoreLike | None = None,
        hops: int = 1,
    ) -> tuple[Array, Callable[[ArrayLike], MemoryGradients]]:
        """Read softly, with the gradients: those of each hop by the chain rule."""
        wanted = names_of(wrt, MemoryGradients._fields)
        dtype = self.keys.dtype
        q, k, v = widened(query, self.keys, self.values)
        wide = np.dtype(np.float64 if q.dtype.itemsize > 4 else np.float32)
        how = widened_score(Cosine(sharpness) if score is None else score, wide)
        queries, pulls = [q], []
        for _ in range(hops):
            found, pull = attention_vjp(queries[-1], k, v, score=how)
            pulls.append(pull)
            if len(pulls) < hops:
                queries.append(queries[-1] + found)

        @quiet
        def pullback(d_output: ArrayLike) -> MemoryGradients:
            d_found: Any = np.asarray(d_output).astype(q.dtype)
            after, d_query = None, d_found
            d_keys: Any = 0
            d_values: Any = 0
            d_score: Any = None
            for hop in reversed(range(hops)):
                own: Any = pulls[hop](d_found)
                d_query = own.query
                if after is not None:  # q[hop + 1] = q[hop] + found[hop]
                    d_query = d_query + sum_to(after, d_query.shape)
                d_keys, d_values = d_keys + own.key, d_values + own.value
                d_score = sum_of_gradients(own.score, d_score)
                d_found = after = d_query
            found = {"query": d_query, "keys": d_keys, "values": d_values}
            found = {at: np.asarray(d).astype(dtype) for at, d in found.items()}
            if score is None:
                found["sharpness"] = d_score.scale
            elif d_score is not None:
                found["score"] = gradient_of(score, **parameters_of(d_score))
            return MemoryGradients(**{at: d for at, d in found.items() if at in wanted})

        return found.astype(dtype), pullback

    @quiet
    def write(
        self,
        query: ArrayLike,
        *,
        erase: ArrayLike,
        add: ArrayLike,
        sharpness: float = 1.0,
        score: ScoreLike | None = None,
    ) -> None:
        """Erase by all queries, and then add by all."""
        how = Cosine(sharpness) if score is None else score
        q, k, v = widened(query, self.keys, self.values)
        weights = attention_weights(q, k, score=how)
        shape = (*v.shape[:-2], q.shape[-2], v.shape[-1])
        gates, news = (np.broadcast_to(x, shape) for x in widened(q, erase, add)[1:])
        for i in range(q.shape[-2]):
            v = v * (1 - weights[..., i, :, None] * gates[..., i, None, :])
        for i in range(q.shape[-2]):
            v = v + weights[..., i, :, None] * news[..., i, None, :]
        self.values = v.astype(self.values.dtype)
