"""An external memory that is read and written by attention over its keys.

w = softmax(sharpness cosine(query, keys)),  read = w @ values
values <- values prod_i (1 - w_i e_i) + sum_i w_i a_i
"""

from __future__ import annotations

import os
from typing import Any, get_args

import numpy as np

from .._attention.gradients import MemoryGradients, MemoryInput, Names, names_of
from .._attention.hard import hard_attention
from .._attention.pullbacks import Pullback
from .._attention.soft import attention
from .._attention.soft_vjp import attention_vjp
from .._inputs.arrays import compute_dtype, float_arrays, integer, like, room_for, rounded, sum_to
from .._inputs.random import generator_of
from .._inputs.types import Array, ArrayLike, Int, MemorySelection, Real, Reals, Seed
from ..scores import Cosine
from ..scores._base import ScoreLike, finite, gradient_of, parameters_of, sum_of_gradients, widened
from ..scores._rows import project
from .memory_write import written
from .projection import needs_one_size, rows_of, total

# What the gradients of `attention_vjp` are called.
SELECTIONS: tuple[MemorySelection, ...] = get_args(MemorySelection)
_INNER = {"keys": "key", "values": "value", "sharpness": "score"}


class Memory:
    """A memory of keys and values, read and written by soft attention [1]_ [2]_.

    Parameters
    ----------
    keys : array (..., N, D)
        A key for each value: float16, bfloat16, float32 or float64. The array is kept, not copied.
    values : array (..., N, Dv)
        Of the dtype of `keys`. The array is kept, and neither copied nor modified: `write` makes a
        new one.

    Raises
    ------
    TypeError, ValueError
        For dtypes that are not supported, or mixed, and for shapes that do not fit.

    See Also
    --------
    attention : what a read computes.

    References
    ----------
    .. [1] A. Graves, G. Wayne and I. Danihelka, "Neural Turing Machines", arXiv:1410.5401, 2014.
    .. [2] S. Sukhbaatar, A. Szlam, J. Weston and R. Fergus, "End-To-End Memory Networks", NeurIPS
       2015.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> memory = fv.Memory(np.eye(3), np.zeros((3, 1)))
    >>> query = np.array([[0.0, 2.0, 0.0]])
    >>> memory.write(query, erase=1.0, add=5.0, sharpness=100.0)
    >>> memory.values.round(3).ravel()
    array([0., 5., 0.])
    >>> memory.read(query, sharpness=100.0).round(3)
    array([[5.]])
    """

    def __init__(self, keys: ArrayLike, values: ArrayLike) -> None:
        k, v = float_arrays(keys=keys, values=values)
        rows_of("keys", k)
        rows_of("values", v)
        if k.shape[-2] != v.shape[-2]:
            raise ValueError(
                f"values: got shape {v.shape}, wanted {k.shape[-2]} rows, as keys {k.shape} has"
            )
        _check_lead("values", v, "keys", k)
        self._keys, self._values = k, v

    @property
    def keys(self) -> Array:
        """The keys (..., N, D)."""
        return self._keys

    @property
    def values(self) -> Array:
        """The values (..., N, Dv), as the last `write` left them."""
        return self._values

    def __repr__(self) -> str:
        """Give the shapes and the dtype."""
        shapes = f"keys {self._keys.shape}, values {self._values.shape}"
        return f"Memory({shapes}, {self._keys.dtype})"

    @room_for("query")
    def read(
        self,
        query: ArrayLike,
        *,
        sharpness: Real = 1.0,
        score: ScoreLike | None = None,
        select: MemorySelection = "soft",
        hops: Int = 1,
        rng: Seed = None,
    ) -> Array:
        """Read the values whose keys are similar to the query.

        Parameters
        ----------
        query : array (..., Lq, D)
            Of the dtype of the keys; leading axes broadcast with those of the memory.
        sharpness : float, default 1.0
            Multiplies the cosine: the larger it is, the more the most similar key counts.
        score : str or score object, optional
            As for `attention`, instead of the cosine; it has its own scale.
        select : {"soft", "argmax", "sample"}, default "soft"
            The weighted sum of all values, or the value of one key, as `hard_attention` chooses it.
        hops : int, default 1
            How many times to read. Each result is added to the query before the next read, so Dv
            must be D.
        rng : None, int, SeedSequence, BitGenerator or Generator
            As for `hard_attention`; only "sample" uses it.

        Returns
        -------
        numpy.ndarray (..., Lq, Dv)
            What the last hop read, in the dtype of the keys; 0 for a memory without rows.

        Raises
        ------
        TypeError, ValueError, MemoryError, KeyboardInterrupt
            As `attention`; ValueError also for another `select`, for hops < 1 or that do not fit,
            and for a `sharpness` together with a `score`.

        Examples
        --------
        >>> import foveate as fv, numpy as np
        >>> memory = fv.Memory(np.eye(2), np.array([[0.0, 10.0], [1.0, 0.0]]))
        >>> query = np.array([[3.0, 0.0]])
        >>> memory.read(query, select="argmax"), memory.read(query, select="argmax", hops=2)
        (array([[ 0., 10.]]), array([[1., 0.]]))
        """
        if not isinstance(select, str) or select not in SELECTIONS:
            raise ValueError(f"select: got {select!r}, wanted one of {list(SELECTIONS)}")
        how = _score_of(score, sharpness)
        q, k, v = self._operands(query, how, hops)
        source = generator_of(rng) if select == "sample" else None
        for hop in range(hops):
            if select == "soft":
                found = attention(q, k, v, score=how)
            else:
                found = hard_attention(q, k, v, score=how, select=select, rng=source).output
            if hop + 1 < hops:
                with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
                    q = q + found
        return rounded(found, self._keys.dtype)

    @room_for("query")
    def read_vjp(
        self,
        query: ArrayLike,
        *,
        wrt: Names[MemoryInput] = None,
        sharpness: Real = 1.0,
        score: ScoreLike | None = None,
        hops: Int = 1,
    ) -> tuple[Array, Pullback[MemoryGradients]]:
        """Read softly, and return what was read with the pullback of its gradients.

        Parameters
        ----------
        query : array (..., Lq, D)
            As for `read`. It is kept, not copied: do not change it before the last pullback. The
            memory may be written in between.
        wrt : str or collection of str, optional
            The gradients to compute: names of fields of `MemoryGradients`. None means all of them.
        sharpness, score, hops : optional
            As for `read`.

        Returns
        -------
        output : numpy.ndarray (..., Lq, Dv)
            What `read` returns.
        pullback : function
            `pullback(d_output)` takes the gradient of a loss with respect to the output, of its
            shape and dtype, and returns the `MemoryGradients` of that loss. It may be called any
            number of times.

        Raises
        ------
        TypeError, ValueError, MemoryError, KeyboardInterrupt
            As `read`, and for a `wrt` that names no field.

        Examples
        --------
        >>> import foveate as fv, numpy as np
        >>> memory = fv.Memory(np.eye(2), np.array([[10.0], [20.0]]))
        >>> output, pullback = memory.read_vjp(np.array([[3.0, 0.0]]))
        >>> pullback(np.ones_like(output)).values.round(3)
        array([[0.731],
               [0.269]])
        """
        wanted = names_of(wrt, MemoryGradients._fields)
        learned = wanted - {"score" if score is None else "sharpness"}
        how = _score_of(score, sharpness)
        q, k, v = self._operands(query, how, hops)
        how = widened(how, compute_dtype(q.dtype))  # a sum over hops is rounded once
        inner: set[Any] = {_INNER.get(name, name) for name in learned}
        steps = []
        for hop in range(hops):
            # what a hop reads, and so all before it, acts on the next by the query
            hop_wanted = inner | {"query"} if hop and inner else inner
            found, pull = attention_vjp(q, k, v, wrt=hop_wanted, score=how)
            steps.append((pull, q.shape))
            if hop + 1 < hops:
                with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
                    q = q + found
        dtype = self._keys.dtype
        output = rounded(found, dtype)

        def pullback(d_output: ArrayLike) -> MemoryGradients:
            """Return the gradients, from that of the output."""
            d_found: Any = like("d_output", d_output, output.shape, dtype).astype(found.dtype)
            d_query = d_score = None
            sums: dict[str, Array | None] = dict.fromkeys(("keys", "values"))
            for pull, shape in reversed(steps) if inner else ():
                hop: Any = pull(d_found)
                with np.errstate(all="ignore"):
                    if d_query is not None:
                        d_query = sum_to(d_query, shape)
                    d_found = d_query = total(hop.query, d_query)
                    sums["keys"] = total(hop.key, sums["keys"])
                    sums["values"] = total(hop.value, sums["values"])
                d_score = sum_of_gradients(hop.score, d_score)
            sums["query"] = d_query
            made: dict[str, Any] = {
                name: rounded(x, dtype)
                for name, x in sums.items()
                if x is not None and name in wanted
            }
            if d_score is not None and score is None:
                made["sharpness"] = d_score.scale
            elif d_score is not None:
                made["score"] = gradient_of(score, **parameters_of(d_score))
            return MemoryGradients(**made)

        return output, pullback

    @room_for("query")
    def write(
        self,
        query: ArrayLike,
        *,
        erase: Reals,
        add: Reals,
        sharpness: Real = 1.0,
        score: ScoreLike | None = None,
    ) -> None:
        """Erase, and then add, where the keys are similar to the query.

        A value v becomes `v prod_i (1 - w_i e_i) + sum_i w_i a_i`, over the queries i, where w_i is
        the weight with which query i would read it. All queries erase before any of them adds, so
        their order does not matter. Afterwards `values` is a new array.

        Parameters
        ----------
        query : array (..., Lq, D)
            Of the dtype of the keys. Its leading axes broadcast into those of the values: whatever
            writes into the same memory must be on the axis of the queries.
        erase : array that broadcasts into (..., Lq, Dv)
            The e_i, 0 to 1, of any real dtype.
        add : array that broadcasts into (..., Lq, Dv)
            The a_i, of any real dtype.
        sharpness, score : optional
            As for `read`.

        Raises
        ------
        TypeError, ValueError, MemoryError, KeyboardInterrupt
            As `attention`, for shapes that do not fit, and for an `erase` outside of 0 to 1. The
            memory does not change then.

        Examples
        --------
        The two keys are equal: half of each value is erased, and 1/2 is added to it.

        >>> import foveate as fv, numpy as np
        >>> memory = fv.Memory(np.ones((2, 3)), np.array([[8.0], [4.0]]))
        >>> memory.write(np.ones((1, 3)), erase=1.0, add=1.0)
        >>> memory.values
        array([[4.5],
               [2.5]])
        """
        how = _score_of(score, sharpness)
        q, k, v = self._operands(query, how, 1)
        self._values = written(q, k, v, how, erase=erase, add=add)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory into a file, in NumPy's format npz, without pickles.

        Parameters
        ----------
        path : str or path
            The whole name of the file.

        Raises
        ------
        OSError
            For a file that cannot be written.

        See Also
        --------
        load : reads it.
        """
        from .memory_file import save

        save(path, self._keys, self._values)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Memory:
        """Read a memory from a file that `save` wrote; no code in it is run.

        Parameters
        ----------
        path : str or path

        Returns
        -------
        Memory

        Raises
        ------
        ValueError
            For a file that holds no memory.
        MemoryError
            For a file whose arrays are too large.
        OSError
            For a file that cannot be read.

        Examples
        --------
        >>> import foveate as fv, numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fv.Memory(np.eye(3), np.ones((3, 1))).save(f"{folder}/memory.npz")
        ...     fv.Memory.load(f"{folder}/memory.npz")
        Memory(keys (3, 3), values (3, 1), float64)
        """
        from .memory_file import load

        arrays = load(path)
        try:
            return cls(*arrays)
        except ValueError as error:
            raise ValueError(f"path: got {path}, which holds no memory: {error}") from error

    def _operands(self, query: object, score: object, hops: object) -> tuple[Array, Array, Array]:
        """Check the query and the hops, and return query, keys and values.

        For several hops they have the dtype of the computation: nothing is rounded in between.
        """
        q = float_arrays(query=query, keys=self._keys)[0]
        rows_of("query", q)
        _check_lead("query", q, "keys", self._keys)
        if q.shape[-1] != self._keys.shape[-1] and needs_one_size(score):
            raise ValueError(
                f"query: got shape {q.shape}, wanted {self._keys.shape[-1]} columns, as the keys "
                f"{self._keys.shape} have"
            )
        times = integer("hops", hops)
        if times < 1:
            raise ValueError(f"hops: got {times}, wanted one or more")
        k, v = self._keys, self._values
        if times == 1:
            return q, k, v
        if v.shape[-1] != q.shape[-1]:
            raise ValueError(
                f"hops: got {times} with values of {v.shape[-1]} columns, wanted as many as the "
                f"query, {q.shape[-1]}: each read is added to it"
            )
        return project(q, None), project(k, None), project(v, None)


def _score_of(score: Any, sharpness: object) -> Any:
    number = finite("sharpness", sharpness)
    if score is None:
        return Cosine(number)
    if number != 1:
        raise ValueError(
            f"sharpness: got {number} with the score {score!r}, wanted a scale in the score itself"
        )
    return score


def _check_lead(name: str, own: Array, others_name: str, others: Array) -> None:
    """Refuse rows whose leading axes do not broadcast with those of others."""
    try:
        np.broadcast_shapes(own.shape[:-2], others.shape[:-2])
    except ValueError:
        raise ValueError(
            f"{name}: got leading axes {own.shape[:-2]}, wanted ones that broadcast with those of "
            f"the {others_name}, {others.shape[:-2]}"
        ) from None
