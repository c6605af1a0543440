"""The masks of transformers in foveate's words: which keys a query sees, by arithmetic.

A causal mask, a sliding window and a view of all keys are intervals, and padding behind the last
valid key is a length: none of them needs a cell for each query and key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask
from transformers.utils import is_tracing

from ._spans import Span, between, span_of

# Keywords of `foveate.torch.attention`, with key_lengths (batch,) and mask (batch, 1, Lq, Lk) where
# there are any; "low" and "high": int tensors (batch, Lq), of the keys that queries see;
# "padding": a bool tensor (batch, Lk), False where a key is padding that no length says; "seen":
# the slice of the keys that says all, where there is one query.
Reach: TypeAlias = dict[str, Any]

# What a tensor tells of itself without its cells.
_METADATA = frozenset(
    {
        torch.Tensor.dim,
        torch.Tensor.dtype.__get__,
        torch.Tensor.ndim.__get__,
        torch.Tensor.shape.__get__,
        torch.Tensor.size,
    }
)


# What gives the mask itself, as it is: generation asks for masks of a static cache contiguous, and
# gradient checkpointing (the reentrant one) detaches the arguments of a layer.
_ITSELF = frozenset({torch.Tensor.contiguous, torch.Tensor.detach})

# What hands out the memory of the cells, into which others write without torch's knowledge.
_LENDS = frozenset(
    {
        torch.Tensor.__array__,
        torch.Tensor.__dlpack__,
        torch.Tensor.data.__get__,
        torch.Tensor.data_ptr,
        torch.Tensor.numpy,
        torch.Tensor.untyped_storage,
    }
)


class Note(NamedTuple):
    """What the cells of a tensor say, as long as they are these."""

    reach: Reach
    cells: torch.Tensor


def noted(
    reach: Reach, shape: tuple[int, int, int, int], dtype: torch.dtype, make: Callable[[], Any]
) -> torch.Tensor:
    """Make the cells of one query, with a note of what they say.

    It is a plain tensor: where a graph was compiled for the token before, the cells are what it is
    given.
    """
    if "seen" in reach:
        cells = torch.full(shape, torch.finfo(dtype).min, dtype=dtype)
        cells[..., reach["seen"]] = 0
    else:
        cells = make()
    cells.foveate_note = Note(reach, cells.clone())
    return cells


def reach_of(mask: torch.Tensor, q_length: int, kv_length: int) -> Reach:
    """Say which of so many keys are seen, by a mask of any kind."""
    if isinstance(mask, Mask):
        return mask.reach(q_length, kv_length)
    note = None if torch.compiler.is_compiling() else getattr(mask, "foveate_note", None)
    if note is not None and mask.shape[-1] == kv_length and torch.equal(mask, note.cells):
        reach: Reach = note.reach
        return reach
    return {"mask": mask}


class Mask(torch.Tensor):  # type: ignore[misc]  # torch is untyped here
    """A mask (batch, 1, Lq, Lk) that is made when somebody looks at it.

    To a model it is the float tensor of "eager": any operation makes it, and works on what was
    made. It is on the device "meta", without memory, so that code which gets by the operations
    fails instead of computing with cells that are not there.

    Looking changes nothing: a layer that is computed again, as gradient checkpointing does, does
    the same again. Writing into the cells does: torch counts how often a tensor was written.
    """

    _lengths: tuple[int, int]
    _reach: Reach
    _make: Callable[[], torch.Tensor]
    _made: torch.Tensor | None
    _new: int | None  # how often the cells were written when new; None: their memory was lent

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        reach: Reach,
        make: Callable[[], Any],
    ) -> Mask:
        """Return the mask of a reach, which `make` makes a tensor of this shape and dtype."""
        mask: Mask = torch.empty(shape, dtype=dtype, device="meta").as_subclass(cls)
        mask._lengths, mask._reach = shape[-2:], reach
        mask._make, mask._made, mask._new = make, None, 0
        return mask

    def reach(self, q_length: int, kv_length: int) -> Reach:
        """Say which of so many keys are seen.

        The cells say it where somebody wrote into them, and where there are other numbers of
        queries and keys, into which they may broadcast.
        """
        if self._lengths == (q_length, kv_length) and not self.written:
            return self._reach
        return {"mask": _made(self)}

    @property
    def written(self) -> bool:
        """Whether somebody wrote into the cells, or may have."""
        return self._made is not None and self._made._version != self._new

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer for shape and dtype; give any other operation the mask that is made."""
        if func in _METADATA:
            return super().__torch_function__(func, types, args, kwargs)
        if func in _ITSELF and not kwargs and len(args) == 1:
            return args[0]
        made = _made(args), _made(kwargs or {})
        if func in _LENDS:
            args[0]._new = None
        return func(*made[0], **made[1])


def _made(x: Any) -> Any:
    """Give the same arguments with each mask made."""
    if isinstance(x, Mask):
        if x._made is None:
            with torch.inference_mode(False):  # of whose tensors torch does not count the writes
                x._made = x._make()
            x._new = x._made._version
        return x._made
    if isinstance(x, dict):
        return {name: _made(item) for name, item in x.items()}
    if type(x) in (tuple, list):
        return type(x)(map(_made, x))
    return x


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    **rest: Any,
) -> torch.Tensor | None:
    """Make the mask of a model: what transformers calls a mask interface.

    Parameters
    ----------
    batch_size, q_length, kv_length : int
        The shape is (batch_size, 1, q_length, kv_length).
    q_offset, kv_offset : int or int tensor of one element
        The positions of the first query and of the first key.
    mask_function : callable
        Of the indices of batch, head, query and key: whether the query may see the key.
    attention_mask : tensor (batch_size, length), optional
        False where a key is padding.
    dtype : torch.dtype
        Of the cells, for those who look at them.
    allow_is_causal_skip : bool
        Whether a causal mask may do without cells: not where the next token goes through a graph
        that was compiled for the one before.
    allow_is_bidirectional_skip : bool
        Whether None may say that all keys are seen.
    **rest
        What `sdpa_mask` and `eager_mask` of transformers take besides.

    Returns
    -------
    Mask, torch.Tensor or None
        None only where all queries see all keys, as "eager" has it: unlike that of "sdpa", a None
        never stands for a causal mask. The tensor of "eager" while a graph is traced, and where
        cells are asked for.
    """
    arguments = {
        "batch_size": batch_size,
        "q_length": q_length,
        "kv_length": kv_length,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": mask_function,
        "attention_mask": attention_mask,
        **rest,
    }
    make = partial(eager_mask, dtype=dtype, **arguments)
    if is_tracing(attention_mask) or is_tracing(q_offset):  # no value may be read
        mask: torch.Tensor | None = make(allow_is_bidirectional_skip=allow_is_bidirectional_skip)
        return mask
    start, first = int(q_offset), int(kv_offset)
    span = span_of(mask_function, start, q_length)
    if span is None or (attention_mask is not None and attention_mask.ndim != 2):
        reach = {"mask": sdpa_mask(**arguments, allow_is_causal_skip=False)}
    else:
        reach = _reach(span, start - first, first, q_length, kv_length)
        if attention_mask is not None:
            reach = _without_padding(reach, attention_mask, first, kv_length)
        if not reach and allow_is_bidirectional_skip:
            return None
    shape = (batch_size, 1, q_length, kv_length)
    if allow_is_causal_skip or span is None or span.right != 0 or span.low is not None:
        return Mask.of(shape, dtype, reach, make)
    if q_length > 1:
        return make()
    return noted(reach, shape, dtype, make)


def _reach(span: Span, offset: int, first: int, q_length: int, kv_length: int) -> Reach:
    """Say what a span hides of these queries and keys, with query 0 at key `offset`."""
    left, right = span.left, span.right
    if span.low is not None or span.high is not None:
        low, high = between(span, offset + first, q_length)
        return {"low": low - first, "high": high - first}
    if left is not None and offset + q_length - 1 - left <= 0:
        left = None  # the last query sees the first key
    if right is not None and offset + right >= kv_length - 1:
        right = None  # the first query sees the last key
    if left is None and right is None:
        return {}
    reach = {"window": (left, right), "offset": offset}
    if q_length == 1:
        begin = 0 if left is None else offset - left
        end = kv_length if right is None else offset + right + 1
        if 0 <= begin < end <= kv_length:
            reach["seen"] = slice(begin, end)
    return reach


def _without_padding(
    reach: Reach, attention_mask: torch.Tensor, first: int, kv_length: int
) -> Reach:
    """Add to a reach which keys are valid.

    The mask is (batch, length) over all positions, False where padding. What is behind its end is
    a cache's room for more.
    """
    seen = reach.get("seen", slice(0, kv_length))
    of_seen = attention_mask[:, first + seen.start : first + seen.stop]
    if of_seen.shape[-1] == seen.stop - seen.start and bool(of_seen.all()):
        return reach
    missing = first + kv_length - attention_mask.shape[-1]
    if missing > 0:
        attention_mask = torch.nn.functional.pad(attention_mask, (0, missing))
    valid = attention_mask[:, first : first + kv_length].to(torch.bool)
    count = valid.sum(dim=-1)
    position = torch.arange(1, kv_length + 1, device=valid.device)
    lengths = (valid * position).amax(dim=-1)  # up to the last that is valid
    reach = {**reach, "key_lengths": lengths}
    reach.pop("seen", None)
    return reach if torch.equal(lengths, count) else {**reach, "padding": valid}


def without_smallest(mask: torch.Tensor) -> torch.Tensor:
    """Put -inf, which is not seen, where a float mask has the smallest number for it, or nearly."""
    if mask.dtype == torch.bool or mask.numel() == 0:
        return mask
    least = torch.finfo(mask.dtype).min / 2
    if is_tracing(mask) or mask.detach().amin() < least:
        return torch.where(mask < least, -torch.inf, mask)
    return mask
