"""flash-attention's function for decoding: new rows go into the caches, and queries see these."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from .._reach.reach import Reach
from ..torch._pages import attend_to_pages
from ._attend import Answer, attend, dense
from ._errors import also_runtime_errors
from ._operands import Told, check_heads, floats, integers, told
from ._rotary import check_angles, check_positions, turn


@also_runtime_errors
def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """Attend as `flash_attn.flash_attn_with_kvcache` of flash-attention 2, on the CPU.

    Parameters
    ----------
    q : tensor (B, Lq, H, D)
        Of float16, bfloat16, float32 or float64.
    k_cache : tensor (C, size, Hk, D)
        With a `block_table`, pages (pages, page size, Hk, D) of any size.
    v_cache : tensor (C, size, Hk, Dv)
    k : tensor (B, n, Hk, D), optional
        New rows, which are written into the cache behind those that are valid.
    v : tensor (B, n, Hk, Dv), optional
        With `k` alone.
    rotary_cos, rotary_sin : tensor (positions, R / 2), optional
        Turns `q` and `k` by their positions, which are those in the cache. Where neither `causal`
        nor a window is given, all queries stand at the first new row.
    cache_seqlens : int or int tensor (B,), optional
        How many rows of the caches are valid before the new ones. None: all, without new ones.
    cache_batch_idx : int tensor (B,), optional
        Which entry of the caches is that of each sequence. Not with a `block_table`.
    cache_leftpad : int tensor (B,), optional
        The first row of each sequence that is valid. Not with a `block_table`.
    block_table : int tensor (B, pages of a sequence), optional
        The pages of each sequence, in order. Rows are read where they stand; with ALiBi those of
        one sequence after the other are copied together.
    softmax_scale, causal, window_size, softcap, alibi_slopes : optional
        As for `flash_attn_func`, where Lk is the number of valid rows, the new ones included.
    rotary_interleaved : bool, default True
        Which columns are turned together: 2 n and 2 n + 1, or n and n + R / 2.
    num_splits : int, default 0
        Changes nothing: the keys are split by the sizes of the problem.
    return_softmax_lse : bool, default False
        Also return the lse.

    Returns
    -------
    out : tensor (B, Lq, H, Dv)
    softmax_lse : tensor (B, H, Lq)
        Only with `return_softmax_lse`.

    Raises
    ------
    TypeError, ValueError
        By the name of the argument, before anything is written.

    See Also
    --------
    flash_attn_func : what the options mean.

    Notes
    -----
    The caches are changed in place. There are no gradients.

    Examples
    --------
    >>> import torch
    >>> from foveate.flash_attn import flash_attn_with_kvcache
    >>> cache, new = torch.zeros(2, 1, 16, 2, 8), torch.ones(1, 1, 2, 8)
    >>> flash_attn_with_kvcache(new, *cache, new, new, cache_seqlens=3).shape
    torch.Size([1, 1, 2, 8])
    >>> cache[0, 0, :5, 0, 0]
    tensor([0., 0., 0., 1., 0.])
    """
    if not isinstance(return_softmax_lse, bool):
        raise TypeError(f"return_softmax_lse: got {return_softmax_lse!r}, wanted a bool")
    if not isinstance(rotary_interleaved, bool):
        raise TypeError(f"rotary_interleaved: got {rotary_interleaved!r}, wanted a bool")
    operator.index(num_splits)
    options = (0.0, softmax_scale, causal, window_size, softcap, alibi_slopes)
    rotary = None if rotary_cos is None and rotary_sin is None else (rotary_cos, rotary_sin)
    return with_cache(
        (q, k_cache, v_cache, k, v),
        (cache_seqlens, cache_batch_idx, cache_leftpad, block_table),
        options,
        rotary,
        rotary_interleaved,
        return_softmax_lse,
    )


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped here
def with_cache(
    operands: tuple[Any, ...],
    places: tuple[Any, ...],
    options: tuple[Any, ...],
    rotary: Any = None,
    interleaved: bool = True,
    wants_lse: bool = False,
    sink: Tensor | None = None,
) -> Any:
    """Write the new rows, and attend."""
    q, caches, new = _operands(*operands)
    check_heads(q, caches[0], caches[1], "q k_cache v_cache")
    by = told(q, q.shape[0], options, False, wants_lse, sink)
    cache = _Cache(q, caches, new, *places)
    if rotary is not None:
        q, new = _turned(q, new, cache, rotary, interleaved, by.hides)
    if new:
        cache.write(new)
    output, lse, _ = cache.attend(q, by)
    return (output, lse) if wants_lse else output


def _operands(
    q: Any, k_cache: Any, v_cache: Any, k: Any, v: Any
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    if (k is None) != (v is None):
        missing, there = ("k", "v") if k is None else ("v", "k")
        raise ValueError(f"{missing}: got None, wanted a tensor with {there}")
    of_cache = "caches or pages, rows, Hk, D"
    named = [
        ("q", q, "B, Lq, H, D"),
        ("k_cache", k_cache, of_cache),
        ("v_cache", v_cache, of_cache),
    ]
    if k is not None:
        named += [("k", k, "B, n, Hk, D"), ("v", v, "B, n, Hk, Dv")]
    q, k_cache, v_cache, *new = floats(*named, autocast=False)  # a cache is written as it is
    for name, x, of in zip("kv", new, (k_cache, v_cache), strict=False):
        wanted = (q.shape[0], new[0].shape[1], *of.shape[2:])
        if tuple(x.shape) != wanted:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, wanted {wanted}")
    return q, [k_cache, v_cache], new


class _Cache:
    """Where the rows of each sequence are, in caches (C, size, ...) or in pages."""

    def __init__(
        self,
        q: Tensor,
        caches: list[Tensor],
        new: list[Tensor],
        lengths: Any,
        entries: Any,
        left: Any,
        table: Any,
    ) -> None:
        batch, self.caches = q.shape[0], caches
        count, size = caches[0].shape[:2]
        own = (batch,), f"({batch},)"
        self.table = self.entries = self.left = None
        if table is not None:
            for name, x in ("cache_batch_idx", entries), ("cache_leftpad", left):
                if x is not None:
                    raise ValueError(
                        f"{name}: got a tensor with a block_table, wanted one of the two"
                    )
            self.table = integers("block_table", table, (batch, -1), f"({batch}, n)").to(
                torch.int64
            )
            self.room = self.table.shape[1] * size
        else:
            self.room = size
            if entries is not None:
                self.entries = _within(
                    "cache_batch_idx", integers("cache_batch_idx", entries, *own), 0, count - 1
                )
            elif count != batch:
                raise ValueError(
                    f"k_cache: got {count} entries, wanted {batch}, one for each of q, or "
                    "cache_batch_idx"
                )
        grown = new[0].shape[1] if new else 0
        if lengths is None:
            if new:
                raise ValueError("cache_seqlens: got None, wanted where the rows of k and v go")
            lengths = self.room
        if not isinstance(lengths, Tensor):
            try:
                lengths = torch.full((batch,), operator.index(lengths), device="cpu")
            except TypeError as error:
                raise TypeError(
                    f"cache_seqlens: got {lengths!r}, wanted an int or an int tensor ({batch},)"
                ) from error
        lengths = integers("cache_seqlens", lengths, *own)
        of = "the rows of k_cache" if table is None else "the rows of block_table"
        of += f" less the {grown} of k" if new else ""
        self.begins = _within("cache_seqlens", lengths, 0, self.room - grown, of)
        self.ends = self.begins + grown
        if left is not None:
            self.left = _within(
                "cache_leftpad", integers("cache_leftpad", left, *own), 0, self.room
            )
        if self.table is not None:
            used = -(-self.ends // max(size, 1))
            taken = torch.arange(self.table.shape[1], device="cpu") < used[:, None]
            _within("block_table", self.table[taken], 0, count - 1)

    def write(self, new: list[Tensor]) -> None:
        """Put new rows behind those that are valid."""
        rows = self.begins[:, None] + torch.arange(new[0].shape[1], device="cpu")
        if self.table is None:
            which = torch.arange(len(rows), device="cpu") if self.entries is None else self.entries
            places = which[:, None].expand_as(rows), rows
        else:
            size = max(self.caches[0].shape[1], 1)
            places = self.table.gather(1, rows // size), rows % size
        for cache, x in zip(self.caches, new, strict=True):
            cache.index_put_(places, x)

    def attend(self, q: Tensor, by: Told) -> Answer:
        """Let queries see the rows that are valid."""
        in_place = by.slopes is None and q.shape[-2] > 0 and not torch.compiler.is_compiling()
        if self.table is not None and in_place:
            sides = by.left, None if q.shape[1] == 1 else by.right  # which stands at the last key
            pages = self.caches[0], self.caches[1]
            rest = by.scale, sides, by.softcap, by.sink
            return *attend_to_pages(q, pages, self.table, self.ends, *rest), None
        ends = self.ends.tolist()
        plain = self.table is None and self.entries is None and self.left is None
        if plain and len(set(ends)) <= 1:
            keys, values = (x[:, : ends[0] if ends else 0] for x in self.caches)
            return dense(q, keys, values, by)
        if plain and by.slopes is None:
            keys, values = (x[:, : max(ends)] for x in self.caches)
            heads, of_keys = q.shape[-2], keys.shape[-2]
            lead = (len(q), heads) if heads == of_keys else (len(q), of_keys, heads // of_keys)
            lengths = self.ends.view(-1, *(1,) * (len(lead) - 1)).expand(lead)
            right = None if q.shape[1] == 1 else by.right  # the query stands at the last key
            reach = Reach(left=by.left, right=right, offset="end", key_lengths=lengths)
            return attend(q, keys, values, by, reach)
        answers = [self._attend_to(n, q[n : n + 1], end, by) for n, end in enumerate(ends)]
        output = torch.cat([x[0] for x in answers])
        lse = torch.cat([x[1] for x in answers if x[1] is not None]) if by.wants_probs else None
        return output, lse, None

    def _attend_to(self, n: int, q: Tensor, end: int, by: Told) -> Answer:
        """Attend to one sequence."""
        first = 0 if self.left is None else int(self.left[n])
        if self.table is None:
            entry = n if self.entries is None else int(self.entries[n])
            keys, values = (x[entry, first : max(end, first)] for x in self.caches)
        else:
            used = self.table[n, : -(-end // max(self.caches[0].shape[1], 1))]
            keys, values = (x[used].flatten(0, 1)[:end] for x in self.caches)
        if by.slopes is not None and by.slopes.ndim == 2:
            by = by._replace(slopes=by.slopes[n : n + 1])
        return dense(q, keys[None], values[None], by)


def _turned(
    q: Tensor, new: list[Tensor], cache: _Cache, rotary: Any, interleaved: bool, in_order: bool
) -> tuple[Tensor, list[Tensor]]:
    """Turn queries and new keys by their positions in the cache."""
    for name, x in zip(("rotary_cos", "rotary_sin"), rotary, strict=True):
        if x is None:
            raise ValueError(f"{name}: got None, wanted a tensor with the other of the two")
    if not new:
        raise ValueError("rotary_cos: got a tensor without k, wanted new rows that it turns")
    cos, sin = rotary
    check_angles("rotary_cos", cos, "rotary_sin", sin, q.shape[-1])
    begins = cache.begins[:, None]
    of_q = begins + (torch.arange(q.shape[1], device="cpu") if in_order else 0)
    of_k = begins + torch.arange(new[0].shape[1], device="cpu")
    check_positions("rotary_cos", of_q, cos)
    check_positions("rotary_cos", of_k, cos)
    keys = turn(new[0], cos, sin, of_k, interleaved)
    return turn(q, cos, sin, of_q, interleaved), [keys, new[1]]


def _within(name: str, x: Tensor, low: int, high: int, why: str = "") -> Tensor:
    """Check that values are in low..high; give them as int64."""
    if x.numel() > 0:
        least, most = (int(n) for n in x.aminmax())
        if least < low or most > high:
            raise ValueError(
                f"{name}: got {least if least < low else most}, wanted {low} to {high}"
                + (f", {why}" if why else "")
            )
    return x.to(torch.int64)
