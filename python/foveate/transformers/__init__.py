"""The attention implementation "foveate" of Hugging Face transformers.

`register()` enters two functions into the registries of transformers. The one for masks says in
foveate's own words which keys a query sees: a window, where the first query stands, how many keys
are valid, which are padding. Such a mask holds no cells: a model that looks at it, cuts it or adds
to it finds the float mask of "eager" there, made at that moment. Any other mask (of packed
sequences, chunks, images) is built as "sdpa" builds it. The one for attention turns a model's call
into one call of `foveate.torch.attention`: grouped heads are not repeated, and what it cannot
honor it refuses by name.

transformers is needed here alone; the extra `transformers` brings it.
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
from ._register import calls, register

__all__ = ["calls", "register"]

_publish(__name__)
