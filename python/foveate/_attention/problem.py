"""One problem of attention and its gradients: what every pullback shares.

It makes the arrays that the kernel writes into, calls it, and undoes the reduction of the score.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._inputs.arrays import Array, compute_dtype, sum_to
from .._inputs.reach import Reach, lead_of
from ..scores import Score, score_object
from ..scores._base import Need, Reduced, needed
from .gradients import Gradients

if TYPE_CHECKING:
    from .._core import Centers, Dropout


class Answers(NamedTuple):
    """What the forward pass gave, and the gradients of that."""

    output: Array
    lse: Array  # with its parts
    d_output: Array
    d_lse: Array | None = None


class Places(NamedTuple):
    """Where a kernel writes the gradients of what it was given; None: not wanted."""

    query: Array | None
    key: Array | None
    value: Array | None
    mask: Array | None
    sink: Array | None
    weights: Array | None
    centers: Array | None
    sigma: Array | None


def kind_of(reduced: Reduced) -> tuple[str, Array | None, float, bool] | None:
    """Give the family of a reduced score as the extension takes it."""
    if reduced.family == "inner":
        return None
    kind = "gaussian" if reduced.family == "distance" else reduced.family
    return kind, reduced.factors, reduced.negligible, False


@dataclass(frozen=True, eq=False)
class Problem:
    """The operands of a problem, as they were given and as they were reduced, and its choices."""

    query: Array
    key: Array
    value: Array
    score: Score | str
    reduced: Reduced
    softcap: float | None
    reach: Reach
    sink: float | Array | None = None
    centers: Centers | None = None
    dropout: Dropout | None = None

    @property
    def wide(self) -> np.dtype[Any]:
        """The dtype of the computation."""
        return compute_dtype(self.query.dtype)

    def forward(self) -> tuple[Array, Array]:
        """Return the output, and the lse with its parts, (..., Lq, 3).

        A 16-bit output would make the difference dP - delta too rough, and the rounding of an lse
        would be one of all weights of its query. Beside huge scores an lse has no digits left: the
        largest score and the logarithm of what is left are kept with it.
        """
        answer: tuple[Array, Array] = self.answer(None, "parts")
        return answer

    def answer(self, out: Array | None, return_lse: bool | str) -> Any:
        """Return the output, of the wide dtype or that of `out`, alone or with the lse."""
        q, k, scale = self.reduced[:3]
        return _core.attention(
            q,
            k,
            self.value,
            scale,
            self.softcap,
            *self.reach,
            self.sink,
            out,
            return_lse,
            self.wide if out is None else out.dtype,
            kind_of(self.reduced),
            self.centers,
            self.dropout,
        )

    def narrowed(self, output: Array) -> Array:
        """Return the output in the dtype of the query."""
        with np.errstate(all="ignore"):  # what is too large for it is inf
            return output.astype(self.query.dtype.newbyteorder("="), copy=False)

    def gradients(
        self, wanted: Collection[str], answers: Answers
    ) -> tuple[Gradients, Array | None, Array | None]:
        """Call the kernel for what is wanted, and undo the reduction of the score.

        Beside the gradients those of the centres and of sigma, for each query, over all leading
        axes, as the kernel wrote them.
        """
        places = self.places(wanted)
        of_family = (kind_of(self.reduced), places.weights)
        of_centers = (self.centers, places.centers, places.sigma)
        written = (*places[:5], *of_family, *of_centers, self.dropout)
        arguments: Any = (*self.operands(), *answers, *written)
        _core.attention_backward(*arguments)
        return self.undone(wanted, places), places.centers, places.sigma

    def _learns(self, wanted: Collection[str]) -> bool:
        """Whether the gradients of the score's parameters are wanted; one by its name has none."""
        return "score" in wanted and not isinstance(self.score, str)

    def _needed(self, wanted: Collection[str]) -> Need:
        rows = [name for name in wanted if name != "score"]
        return needed(score_object(self.score), wanted if self._learns(wanted) else rows)

    def operands(self) -> tuple[Any, ...]:
        """Return the arguments of a backward kernel from query to sink."""
        q, k, scale = self.reduced[:3]
        arrays = (q, _apart(k), _apart(self.value))
        return (*arrays, scale, self.softcap, *self.reach, self.sink)

    def places(self, wanted: Collection[str]) -> Places:
        """Make the arrays for the gradients that are wanted, or that these are made of.

        Zeros where a kernel may not write: what has no query, or no leading index at all.
        """
        q, k, _, family, *_ = self.reduced
        wide = self.wide
        centers = None if self.centers is None else self.centers[0]
        operands = (q, k, self.value)
        lead = lead_of(*operands, reach=self.reach, sink=self.sink, centers=centers)
        shared = np.broadcast_shapes(k.shape[:-2], self.value.shape[:-2])
        shared = (1,) * (len(lead) - len(shared)) + shared
        need = self._needed(wanted)
        mask = self._float_mask
        rows = (*lead, q.shape[-2])
        # what nothing is done to afterwards is rounded by the kernel
        whole = need.is_final and q is self.query and k is self.key

        def dtype_of(x: Array, parts: tuple[int, ...], whole: bool = True) -> np.dtype[Any]:
            return x.dtype.newbyteorder("=") if whole and x.shape[:-2] == parts else wide

        has_gaussian = self.centers is not None and self.centers[2] is not None
        return Places(
            np.empty((*rows, q.shape[-1]), dtype_of(q, lead, whole)) if need.query else None,
            np.zeros((*shared, *k.shape[-2:]), dtype_of(k, shared, whole)) if need.key else None,
            np.zeros((*shared, *self.value.shape[-2:]), dtype_of(self.value, shared))
            if "value" in wanted
            else None,
            np.zeros(mask.shape, wide) if mask is not None and "mask" in wanted else None,
            np.empty(lead, np.float64) if self.sink is not None and "sink" in wanted else None,
            np.zeros(q.shape[-1], np.float64) if family != "inner" and need.factors else None,
            np.zeros(rows, np.float64) if has_gaussian and "centers" in wanted else None,
            np.zeros(rows, np.float64) if has_gaussian and "sigma" in wanted else None,
        )

    @property
    def _float_mask(self) -> Array | None:
        mask = self.reach[0]
        return None if mask is None or mask.dtype == np.bool_ else mask

    def undone(self, wanted: Collection[str], places: Places) -> Gradients:
        """Turn what a kernel wrote into the gradients of what was given."""
        with np.errstate(all="ignore"):  # NaN and inf spoil their own row alone
            d_query, d_key, d_score = self._undone_rows(places)
            dtype = self.query.dtype.newbyteorder("=")

            def fit(name: str, x: Array | None, to: Any = dtype) -> Array | None:
                return x.astype(to, copy=False) if x is not None and name in wanted else None

            mask = self._float_mask
            return Gradients(
                fit("query", d_query),
                fit("key", d_key),
                fit("value", _summed(places.value, self.value.shape)),
                None if mask is None else fit("mask", places.mask, mask.dtype),
                None if self.sink is None else _summed(places.sink, np.shape(self.sink)),
                d_score() if d_score is not None and self._learns(wanted) else None,
            )

    def _undone_rows(self, places: Places) -> tuple[Array | None, Array | None, Any]:
        """Return the gradients of query and key, and a function that makes those of the score."""
        q, k, _, family, _, _, undo = self.reduced
        assert undo is not None
        found = _summed(places.query, q.shape), _summed(places.key, k.shape), places.weights
        if all(x is None for x in found):
            return None, None, None
        return undo(*(found[:2] if family == "inner" else found))


def _summed(x: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if x is None else sum_to(x, shape)


def _apart(x: Array) -> Array:
    """Copy an array that repeats itself along a leading axis: each part has its own gradient."""
    again = any(n > 1 and s == 0 for n, s in zip(x.shape[:-2], x.strides[:-2], strict=True))
    return np.ascontiguousarray(x) if again else x
