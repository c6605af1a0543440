"""The weights of attention as a tensor: the operator `foveate::attention_weights`.

They are made once, (..., Lq, Lk), to be looked at. There are no derivatives of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ._operator import TAGS, library, register
from ._problem import ARGUMENTS, NAMES, backward_of, output_shape, state
from ._reach import resolve
from ._scores import reduce
from ._tensors import as_array, threads_of_torch
from ._vmap import along_leading_axes

library.define(f"attention_weights({ARGUMENTS}) -> Tensor", tags=TAGS)


def weights(
    query: Tensor,
    key: Tensor,
    score: Any,
    *,
    softcap: float | None = None,
    sink: Tensor | None = None,
    mask: Any = None,
    causal: bool = False,
    window: Any = None,
    offset: Any = None,
    key_lengths: Any = None,
    segments: Any = None,
) -> Tensor:
    """Compute the weights of `foveate.torch.attention`, without derivatives."""
    query, key = query.detach(), key.detach()
    reach = resolve(query, key, mask, causal, window, offset, key_lengths, segments)
    stated = state(reduce(score, query, key), key, reach, softcap, sink)
    made: Tensor = torch.ops.foveate.attention_weights.default(*stated)
    return made


def _empty(query: Tensor, key: Tensor, *others: Any) -> Tensor:
    shape = output_shape(query, key, *others)
    return query.new_empty((*shape[:-1], key.shape[-2]))


def _compute(*stated: Any) -> Tensor:
    made = _empty(*stated)
    problem = backward_of(*stated).problem._replace(value=None)
    out = as_array("output", made)
    with threads_of_torch:
        problem.weights(out.dtype, out=out)
    return made


register("attention_weights", _compute, _empty, partial(along_leading_axes, names=NAMES))
