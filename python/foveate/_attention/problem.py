"""One problem of attention and its gradients: what every pullback shares.

It makes the arrays that the kernel writes into, calls it, and undoes the reduction of the score.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._inputs.arrays import Array, compute_dtype
from .._inputs.reach import Reach, lead_of
from ..scores import NAMED, Score
from ..scores._base import Reduced
from ..scores._undo import OfOperands, parameters_need, sum_to, undo
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

    @property
    def _is_flat(self) -> bool:
        """Whether a scale of 0 hides that of which the gradient of the scale is made."""
        return self.reduced.family == "inner" and self.reduced.scale == 0

    @property
    def _learned(self) -> bool:
        return not isinstance(self.score, str)

    def operands(self) -> tuple[Any, ...]:
        """Return the arguments of a backward kernel from query to sink.

        Of a scale of 0 the logits stay 0, and the gradients of the operands are those of scale 1.
        """
        q, k, scale = self.reduced[:3]
        if self._is_flat:
            q, scale = np.zeros_like(q), 1.0
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
        need = parameters_need(self.score) if self._learned and "score" in wanted else None
        of_query, of_key, of_weights = need or (False, False, False)
        mask = self._float_mask
        rows = (*lead, q.shape[-2])
        # what nothing is done to afterwards is rounded by the kernel
        whole = need is None and not self._is_flat
        whole = whole and q is self.query and k is self.key

        def dtype_of(x: Array, parts: tuple[int, ...], whole: bool = True) -> np.dtype[Any]:
            return x.dtype.newbyteorder("=") if whole and x.shape[:-2] == parts else wide

        has_gaussian = self.centers is not None and self.centers[2] is not None
        return Places(
            np.empty((*rows, q.shape[-1]), dtype_of(q, lead, whole))
            if of_query or "query" in wanted
            else None,
            np.zeros((*shared, *k.shape[-2:]), dtype_of(k, shared, whole))
            if of_key or "key" in wanted
            else None,
            np.zeros((*shared, *self.value.shape[-2:]), dtype_of(self.value, shared))
            if "value" in wanted
            else None,
            np.zeros(mask.shape, wide) if mask is not None and "mask" in wanted else None,
            np.empty(lead, np.float64) if self.sink is not None and "sink" in wanted else None,
            np.zeros(q.shape[-1], np.float64) if family != "inner" and of_weights else None,
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
            own = self._learned and "score" in wanted
            of_operands = self._of_operands(places, own)
            score = NAMED[self.score] if isinstance(self.score, str) else self.score
            undone = undo(score, self.query, self.key, of_operands, own)
            dtype = self.query.dtype.newbyteorder("=")

            def fit(name: str, x: Array | None, to: Any = dtype) -> Array | None:
                return x.astype(to, copy=False) if x is not None and name in wanted else None

            mask = self._float_mask
            return Gradients(
                fit("query", undone.query),
                fit("key", undone.key),
                fit("value", _summed(places.value, self.value.shape)),
                None if mask is None else fit("mask", places.mask, mask.dtype),
                None if self.sink is None else _summed(places.sink, np.shape(self.sink)),
                undone.score,
            )

    def _of_operands(self, places: Places, own: bool) -> OfOperands:
        q, k, scale, family, *_ = self.reduced
        d_query = _summed(places.query, (*self.query.shape[:-1], q.shape[-1]))
        d_key = _summed(places.key, (*self.key.shape[:-1], k.shape[-1]))
        d_scale = None
        if own and family == "inner" and scale is not None and d_query is not None:
            rows = np.einsum("...i,...i->...", q.astype(np.float64, copy=False), d_query)
            if not np.isfinite(rows).all():  # a query that sees nothing may hold what it likes
                rows = np.where(d_query.any(axis=-1), rows, 0)
            d_scale = float(rows.sum() / (1 if self._is_flat else scale))
        if self._is_flat:
            d_query, d_key = (None if x is None else x * 0 for x in (d_query, d_key))
        return OfOperands(d_query, d_key, d_scale, places.weights)


def _summed(x: Array | None, shape: tuple[int, ...]) -> Array | None:
    return None if x is None else sum_to(x, shape)


def _apart(x: Array) -> Array:
    """Copy an array that repeats itself along a leading axis: each part has its own gradient."""
    again = any(n > 1 and s == 0 for n, s in zip(x.shape[:-2], x.strides[:-2], strict=True))
    return np.ascontiguousarray(x) if again else x
