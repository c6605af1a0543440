"""The attention implementation "foveate" of Hugging Face transformers.

`register()` enters two functions into the registries of transformers. The one for masks tells
foveate which keys a query sees by a few numbers: a window, where the first query stands, how many
keys are valid, which are padding, or from which key to which it sees, where sequences are packed or
chunked, or images see all of themselves. Such a mask stores no cells: when a model looks at it,
slices it or adds to it, the float mask of "eager" is made at that moment. Any other mask is built
as "sdpa" builds it. The one for attention turns a model's call into one call of
`foveate.torch.attention`: grouped heads are not repeated, and it refuses by name what it cannot
honor. Models that write out their attention themselves come here too.

Only this module needs transformers; the extra `transformers` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    # The files below need these: here they are missed by name.
    import torch as _torch  # noqa: F401
    from transformers import AttentionMaskInterface as _AttentionMaskInterface  # noqa: F401

    from . import _mask  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "foveate.transformers needs torch, and transformers 5.4 or later: "
        f"{_install('transformers')}"
    ) from _error

from .._runtime.public import publish as _publish
from ._generate import generate
from ._kv_cache import KVCache
from ._register import attention_statistics, attention_weights, calls, register
from ._sampler import LogitsSampler

__all__ = [
    "KVCache",
    "LogitsSampler",
    "attention_statistics",
    "attention_weights",
    "calls",
    "generate",
    "register",
]

_publish(__name__)
