"""The masks of transformers in foveate's words: which keys a query sees, by arithmetic.

A causal mask, a sliding window and a view of all keys are intervals, and padding behind the last
valid key is a length: none of them needs a cell for each query and key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias

import torch
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    eager_mask,
    sdpa_mask,
    sliding_window_bidirectional_overlay,
    sliding_window_overlay,
)
from transformers.utils import is_tracing

# Keywords of `foveate.torch.attention`, with key_lengths (batch,) and mask (batch, 1, Lq, Lk) where
# there are any; and "padding": a bool tensor (batch, Lk), False where a key is padding that no
# length says.
Reach: TypeAlias = dict[str, Any]

# The functions of transformers that return a mask function are known by the code of what they
# return: it is one object, whatever the window.
_AND = and_masks().__code__
_WINDOW = sliding_window_overlay(1).__code__
_WINDOW_BOTH_SIDES = sliding_window_bidirectional_overlay(1).__code__

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
    sides = _sides(mask_function)
    is_causal = sides is not None and sides[1] == 0
    if (
        (is_causal and not allow_is_causal_skip)
        or is_tracing(attention_mask)
        or is_tracing(q_offset)  # no value may be read
    ):
        mask: torch.Tensor | None = make(allow_is_bidirectional_skip=allow_is_bidirectional_skip)
        return mask
    if sides is None or (attention_mask is not None and attention_mask.ndim != 2):
        reach = {"mask": sdpa_mask(**arguments, allow_is_causal_skip=False)}
    else:
        reach = _interval(sides, q_length, kv_length, int(q_offset) - int(kv_offset))
        if attention_mask is not None:
            reach |= _valid(attention_mask, kv_length, int(kv_offset))
        if not reach and allow_is_bidirectional_skip:
            return None
    return Mask.of((batch_size, 1, q_length, kv_length), dtype, reach, make)


def _sides(function: Callable[..., Any]) -> tuple[int | None, int | None] | None:
    """Say how far a query at i sees to the left and right, None without bound; None: otherwise."""
    if function is causal_mask_function:
        return None, 0
    if function is bidirectional_mask_function:
        return None, None
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    inside = dict(
        zip(code.co_freevars, (x.cell_contents for x in function.__closure__ or ()), strict=True)
    )
    if code is _AND:
        both = [_sides(part) for part in inside.get("mask_functions", ())]
        if not both or None in both:
            return None
        left = [side[0] for side in both if side is not None and side[0] is not None]
        right = [side[1] for side in both if side is not None and side[1] is not None]
        return min(left, default=None), min(right, default=None)
    window = inside.get("sliding_window")
    if not isinstance(window, int) or window < 1:
        return None
    if code is _WINDOW:
        return window - 1, None
    return (window, window) if code is _WINDOW_BOTH_SIDES else None


def _interval(
    sides: tuple[int | None, int | None], q_length: int, kv_length: int, offset: int
) -> Reach:
    """Say what an interval hides of these queries and keys, with query 0 at key `offset`."""
    left, right = sides
    if left is not None and offset + q_length - 1 - left <= 0:
        left = None  # the last query sees the first key
    if right is not None and offset + right >= kv_length - 1:
        right = None  # the first query sees the last key
    if left is None and right is None:
        return {}
    return {"window": (left, right), "offset": offset}


def _valid(attention_mask: torch.Tensor, kv_length: int, kv_offset: int) -> Reach:
    """Say which keys are valid: a mask (batch, length) over all positions, False where padding."""
    missing = kv_offset + kv_length - attention_mask.shape[-1]
    if missing > 0:  # a cache with room for more
        attention_mask = torch.nn.functional.pad(attention_mask, (0, missing))
    valid = attention_mask[:, kv_offset : kv_offset + kv_length].to(torch.bool)
    count = valid.sum(dim=-1)
    if int(count.sum()) == valid.numel():
        return {}
    position = torch.arange(1, kv_length + 1, device=valid.device)
    lengths = (valid * position).amax(dim=-1)  # up to the last that is valid
    reach = {"key_lengths": lengths}
    return reach if torch.equal(lengths, count) else {**reach, "padding": valid}
