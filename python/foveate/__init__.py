"""Attention on CPUs, fast, from NumPy arrays.

Soft attention is one pass over tiles of (queries x keys) with three independent choices: the score
(how related a query and a key are), the reach (which keys a query sees) and the selection (how the
scores become an answer).

>>> import foveate as fv, numpy as np
>>> rng = np.random.default_rng(0)
>>> query, key, value = rng.normal(size=(3, 8, 128, 64)).astype(np.float32)  # heads, length, size
>>> fv.attention(query, key, value, causal=True).shape
(8, 128, 64)
"""

from typing import TYPE_CHECKING

from ._runtime import main_interpreter as _main_interpreter  # noqa: F401  (first: it may refuse)

# isort: split

from . import _core as _core  # (before NumPy, which dies on a CPU that this refuses by name)

# isort: split

from ._attention.gradients import (
    CenterGradients,
    DensityGradients,
    Gradients,
    HardGradients,
    HierarchicalGradients,
    LocalGradients,
    MemoryGradients,
    MultiHeadGradients,
    RegressionFit,
    RegressionGradients,
    SelfGradients,
)
from ._attention.hard import HardAttention, hard_attention
from ._attention.hard_vjp import hard_attention_vjp
from ._attention.jvp import attention_jvp
from ._attention.local import local_attention, predict_centers
from ._attention.local_vjp import local_attention_vjp, predict_centers_vjp
from ._attention.merge import merge
from ._attention.reinforce import MovingAverageBaseline, leave_one_out_advantage
from ._attention.soft import attention, attention_weights
from ._attention.soft_vjp import attention_vjp
from ._attention.statistics import AttentionStatistics, attention_statistics
from ._blocks.hierarchical import hierarchical_attention, hierarchical_attention_vjp
from ._blocks.memory import Memory
from ._blocks.multi_head import multi_head_attention, multi_head_attention_vjp
from ._blocks.self_attention import self_attention, self_attention_vjp
from ._cache.cache import KVCache
from ._categories import multinomial, multinomial_logpmf
from ._density.density import kernel_density
from ._density.density_vjp import kernel_density_vjp
from ._draws import multinoulli
from ._inputs.paged import Paged
from ._inputs.quantized import Quantized, quantize
from ._regression.fit import kernel_regression_fit
from ._regression.regression import kernel_regression
from ._regression.regression_vjp import kernel_regression_vjp
from ._runtime.config import (
    get_num_threads,
    get_threading,
    num_threads,
    set_num_threads,
    set_threading,
    show_config,
)
from ._runtime.paths import get_cmake_dir, get_include
from ._runtime.public import publish as _publish
from .rules import (
    Alibi,
    BlockMask,
    Edges,
    Intervals,
    Neighborhood,
    Packed,
    RelativeBias,
    RelativeBias2d,
)
from .scores import (
    Additive,
    Bilinear,
    Concat,
    Cosine,
    Dot,
    Gaussian,
    Location,
    Polynomial,
    ScaledDot,
)

if TYPE_CHECKING:
    from . import reference
    from . import typing as typing

    __version__: str

__all__ = [
    "Additive",
    "Alibi",
    "AttentionStatistics",
    "Bilinear",
    "BlockMask",
    "CenterGradients",
    "Concat",
    "Cosine",
    "DensityGradients",
    "Dot",
    "Edges",
    "Gaussian",
    "Gradients",
    "HardAttention",
    "HardGradients",
    "HierarchicalGradients",
    "Intervals",
    "KVCache",
    "LocalGradients",
    "Location",
    "Memory",
    "MemoryGradients",
    "MovingAverageBaseline",
    "MultiHeadGradients",
    "Neighborhood",
    "Packed",
    "Paged",
    "Polynomial",
    "Quantized",
    "RegressionFit",
    "RegressionGradients",
    "RelativeBias",
    "RelativeBias2d",
    "ScaledDot",
    "SelfGradients",
    "__version__",
    "attention",
    "attention_jvp",
    "attention_statistics",
    "attention_vjp",
    "attention_weights",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "get_threading",
    "hard_attention",
    "hard_attention_vjp",
    "hierarchical_attention",
    "hierarchical_attention_vjp",
    "kernel_density",
    "kernel_density_vjp",
    "kernel_regression",
    "kernel_regression_fit",
    "kernel_regression_vjp",
    "leave_one_out_advantage",
    "local_attention",
    "local_attention_vjp",
    "merge",
    "multi_head_attention",
    "multi_head_attention_vjp",
    "multinomial",
    "multinomial_logpmf",
    "multinoulli",
    "num_threads",
    "predict_centers",
    "predict_centers_vjp",
    "quantize",
    "reference",
    "self_attention",
    "self_attention_vjp",
    "set_num_threads",
    "set_threading",
    "show_config",
]

_publish(__name__)


def __getattr__(name: str) -> object:
    """Import `reference` and `typing`, and look up the version, where they are asked for."""
    if name in ("reference", "typing"):
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    if name == "__version__":
        from ._runtime.config import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "__version__", "reference", "typing"})
