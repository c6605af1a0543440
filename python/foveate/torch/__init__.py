"""Attention for PyTorch tensors on the CPU: registered operators with gradients, and modules.

Only this module needs torch; the extra `torch` installs it.
"""

from __future__ import annotations

from .._runtime.install import install as _install

try:
    import torch as _torch  # noqa: F401  (the files below need it: here it is missed by name)
except ImportError as _error:
    message = f"foveate.torch needs torch 2.9 or later: {_install('torch')}"
    raise ImportError(message) from _error

from .._runtime.public import publish as _publish
from ..scores import Additive, Bilinear, Concat, Cosine, Gaussian, Location, Polynomial
from ._activate import activate, activated, deactivate, explain
from ._attention import attention
from ._explain import Explanation
from ._hard import hard_attention
from ._local import local_attention, predict_centers
from ._modules import (
    AdditiveAttention,
    BilinearAttention,
    HardAttention,
    LocalAttention,
    NadarayaWatson,
)
from ._regression import kernel_regression
from ._ring import ring_attention
from ._sdpa import scaled_dot_product_attention
from ._sequence import join_sequence, split_sequence
from ._statistics import AttentionStatistics, attention_statistics
from ._stored import Paged, Quantized, quantize

__all__ = [
    "Additive",
    "AdditiveAttention",
    "AttentionStatistics",
    "Bilinear",
    "BilinearAttention",
    "Concat",
    "Cosine",
    "Explanation",
    "Gaussian",
    "HardAttention",
    "LocalAttention",
    "Location",
    "NadarayaWatson",
    "Paged",
    "Polynomial",
    "Quantized",
    "activate",
    "activated",
    "attention",
    "attention_statistics",
    "deactivate",
    "explain",
    "hard_attention",
    "join_sequence",
    "kernel_regression",
    "local_attention",
    "predict_centers",
    "quantize",
    "ring_attention",
    "scaled_dot_product_attention",
    "split_sequence",
]

_publish(__name__)
