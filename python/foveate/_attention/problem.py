"""One problem as the engine takes it: all that talks to the extension about attention is here.

`Problem` is `fv_problem` of the C ABI: its fields, and those of its reach, are keywords of the
entries of `foveate._core`, which takes the named tuples as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from .. import _core
from .._inputs.arrays import compute_dtype
from .._inputs.paged import Paged
from .._inputs.types import Array
from .._reach.reach import Reach
from . import by_rows

if TYPE_CHECKING:
    from ..scores import Family

Dropout: TypeAlias = tuple[float, tuple[int, int]]  # the rate, the key of its random numbers


KEYS_A_NUMBER = 168  # hard attention draws one random number for so many keys


class Answers(NamedTuple):
    """The results of the forward pass, and their gradients."""

    output: Array
    lse: Array  # with its parts
    d_output: Array
    d_lse: Array | None = None


class Choices(NamedTuple):
    """The keys that were chosen, the lse over all keys, and what the choices are judged by."""

    index: Array  # type: ignore[assignment]  # (..., Lq, S); hides a method of tuples
    lse: Array
    d_output: Array  # (..., Lq, S, Dv)
    advantage: Array  # (..., Lq, S)


class Tangents(NamedTuple):
    """How the operands of a problem move, in their shapes; None: not at all.

    Their leading axes broadcast to those of the output.
    """

    t_query: Array | None = None
    t_key: Array | None = None
    t_value: Array | None = None
    t_mask: Array | None = None  # of a float mask
    t_sink: Array | None = None  # float64, over leading axes


class Moved(NamedTuple):
    """How the answers move with the operands, as `jvp` gave it, and their gradients; None: not."""

    t_output: Array
    t_lse: Array
    t_d_output: Array | None = None
    t_d_lse: Array | None = None


class Outputs(NamedTuple):
    """Where a kernel writes the gradients; None: not wanted."""

    d_query: Array | None = None
    d_key: Array | None = None
    d_value: Array | None = None
    d_mask: Array | None = None
    d_factors: Array | None = None
    d_sink: Array | None = None
    d_centers: Array | None = None
    d_sigma: Array | None = None
    d_table: Array | None = None
    d_edge_bias: Array | None = None


class Problem(NamedTuple):
    """The operands, which begin as those of `Reduced`, and all choices; None: not given."""

    query: Array
    key: Any  # an array, FewBits, or what `taken_apart` makes such of, as `value`
    scale: float | None = None  # 1 / sqrt(D)
    family: Family | None = None  # "inner"
    factors: Array | None = None
    negligible: float | None = None
    link: tuple[str, float] | None = None
    slope: float | None = None
    value: Any = None  # as the key; of the weights there is none
    softcap: float | None = None
    reach: Reach | None = None
    sink: Any = None  # a number or an array
    dropout: Dropout | None = None
    sigma: float | None = None
    weighing: str | None = None  # "softmax"
    key_table: Array | None = None  # int64 (B, T): `key` is pages (P, ..., S, D)
    value_table: Array | None = None
    rows: int | None = None  # how many queries the only row of `query` stands for
    first_row: int | None = None  # what random numbers count the first query as
    first_lead: int | None = None  # and the first leading index, of hard attention
    first_key: int | None = None  # and the first key, a multiple of `KEYS_A_NUMBER`
    after: Array | None = None  # float64 (..., Lq, 3), written: the weight of the keys up to these
    before: Array | None = None  # `after` of the keys before these, of "sample"
    gives_scores: int | None = None  # 1: `choose` gives scores in place of probabilities
    moments: int | None = None  # 1: the means that local linear regression is made of
    one_order: bool | None = None  # sums in an order fixed by the numbers of keys alone

    @property
    def wide(self) -> np.dtype[Any]:
        """The dtype of the computation."""
        return compute_dtype(self.query.dtype)

    def taken_apart(self, check: bool = True) -> Problem:
        """Give keys and values in pages as what they are made of.

        Parameters
        ----------
        check : bool
            Whether to look for pages that there are not.

        Raises
        ------
        ValueError
            By the name of the argument, for pages that a query may see and that there are not.
        """
        if isinstance(self.key, np.ndarray) and not isinstance(self.value, Paged):
            return self
        parts: dict[str, Any] = {}
        for name, x in (("key", self.key), ("value", self.value)):
            if isinstance(x, Paged):
                if check:
                    x.check(name, None if self.reach is None else self.reach.key_lengths)
                parts |= {name: x.pages, f"{name}_table": x.table}
        return self._replace(**parts)

    def folded(self, unreduced: Array) -> Problem:
        """Compute one query where the score made all queries equal, and they see the same keys.

        Queries that are equal in the input are all computed: no layout of these changes a bit.
        """
        q = self.query
        if q is unreduced or q.strides[-2] != 0 or q.shape[-2] <= 1 or self.dropout is not None:
            return self
        if self.reach is not None and not self.reach.is_of_keys_alone:
            return self
        return self._replace(query=q[..., :1, :], rows=q.shape[-2])

    def attend(
        self, dtype: Any = None, *, out: Array | None = None, return_lse: bool | str = False
    ) -> Any:
        """Return the output, of this dtype or that of the query; and the lse, if it is wanted.

        With `return_lse="parts"` it is (..., Lq, 3) of float64, with its parts.
        """
        if self.is_by_tiles:
            return by_rows.attend(self, dtype, out, return_lse)
        return _core.attention(self, out=out, return_lse=return_lse, dtype=dtype)

    @property
    def is_by_tiles(self) -> bool:
        """Whether the mask is made row by row: then so are the answers."""
        return self.reach is not None and self.reach.is_by_tiles

    def with_cells(self) -> Problem:
        """Make the whole of a mask that is made row by row."""
        if not self.is_by_tiles:
            return self
        assert self.reach is not None
        mask = self.reach.mask
        return self._replace(reach=self.reach._replace(mask=mask.rows(0, mask.shape[-2])))

    def forward(self) -> tuple[Array, Array]:
        """Return the output, and the lse with its parts, as gradients need them.

        A 16-bit output would make the difference dP - delta too rough, and the rounding of an lse
        would be one of all weights of its query. Beside huge scores an lse has no digits left: the
        largest score and the logarithm of what is left are kept with it.
        """
        answer: tuple[Array, Array] = self.attend(self.wide, return_lse="parts")
        return answer

    def jvp(
        self, tangents: Tangents, dtype: Any = None, *, return_lse: bool | str = "parts"
    ) -> tuple[Array, Any, Array, Any]:
        """Return the output, the lse as `attend` does, and how the two move."""
        return _core.attention_jvp(self.with_cells(), tangents, return_lse=return_lse, dtype=dtype)

    def tangent(self, tangents: Tangents, output: Array, dtype: Any = None) -> tuple[Array, Array]:
        """Return how output and lse move, from the output of `forward`: less work than `jvp`."""
        return _core.attention_tangent(self.with_cells(), tangents, output=output, dtype=dtype)

    def weights(self, dtype: Any = None, *, out: Array | None = None) -> Array:
        """Return the weights (..., Lq, Lk)."""
        if self.is_by_tiles:
            return by_rows.weights(self, dtype, out)
        return _core.attention_weights(self, out=out, dtype=dtype)

    def statistics(self, first: int, end: int) -> tuple[Array, Array, Array, Array]:
        """Return sums over the queries first..end - 1, entropies, largest weights and places."""
        return _core.attention_statistics(self.with_cells(), first_query=first, end_query=end)

    def choose(
        self, draws: int, select: str, random: tuple[int, int] | None, dtype: Any = None
    ) -> tuple[Array, Array, Array]:
        """Return output, index and log_prob of so many choices, by one of `CHOICES`."""
        if self.is_by_tiles:
            return by_rows.choose(self, draws, select, random, dtype)
        return _core.hard_attention(self, size=draws, select=select, random=random, dtype=dtype)

    def backward(self, answers: Answers, outputs: Outputs) -> None:
        """Write the gradients of `attend`."""
        if self.is_by_tiles:
            by_rows.backward(self, answers, outputs)
        else:
            _core.attention_backward(self, answers, outputs)

    def backward_jvp(
        self, answers: Answers, tangents: Tangents, moved: Moved, outputs: Outputs
    ) -> None:
        """Write how what `backward` writes moves."""
        _core.attention_backward_jvp(self.with_cells(), answers, tangents, moved, outputs)

    def backward_of_choices(self, choices: Choices, outputs: Outputs) -> None:
        """Write the gradients of `choose`."""
        if self.is_by_tiles:
            by_rows.backward_of_choices(self, choices, outputs)
        else:
            _core.hard_attention_backward(self, choices, outputs)

    @property
    def lead(self) -> tuple[int, ...]:
        """The leading axes of the output: those of all arrays, broadcast together."""
        operands = [x.shape[:-2] for x in (self.query, self.key, self.value) if x is not None]
        others = [] if self.reach is None else self.reach.leading_axes
        return np.broadcast_shapes(*operands, *others, np.shape(self.sink))


def attend_by_dot(
    query: Array,
    key: Any,
    value: Any,
    softcap: float | None = None,
    reach: Reach | None = None,
    sink: float | Array | None = None,
    out: Array | None = None,
    return_lse: bool = False,
    *,
    scale: float | None = None,
    dtype: Any = None,
    one_order: bool | None = None,
) -> Any:
    """Attend by the scaled dot product with little overhead, as is done for each new token."""
    return _core.attention(
        query=query,
        key=key,
        value=value,
        scale=scale,
        softcap=softcap,
        reach=reach,
        sink=sink,
        out=out,
        return_lse=return_lse,
        dtype=dtype,
        one_order=one_order,
    )
