"""Attention of PyTorch's tensors on the CPU: registered operators with gradients.

torch is needed here alone: `pip install "foveate[torch]"`.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "foveate.torch needs torch 2.7 or later: pip install 'foveate[torch]'"
    ) from error

from ._attention import attention, scaled_dot_product_attention
from ._scores import Additive, Bilinear, Concat, Cosine, Gaussian, Location

__all__ = [
    "Additive",
    "Bilinear",
    "Concat",
    "Cosine",
    "Gaussian",
    "Location",
    "attention",
    "scaled_dot_product_attention",
]
