"""Attention in plain NumPy: the definition that the fast functions are checked against.

    output[i] = sum_j softmax_j(score(query[i], key[j])) value[j]

over the keys j in the reach of query i. Everything here is written to be read, and stores the whole
(..., Lq, Lk) matrix. It computes in the dtype of its input, widened to float32 for 16-bit input:
give it float64 copies to have a precise answer. One file for each of the three choices (score,
reach, select), and one that puts them together.
"""

from .._runtime.public import publish as _publish
from ._attention import attention, attention_weights
from ._cache import KVCache
from ._density import kernel_density, kernel_density_vjp
from ._dropout import dropout_mask
from ._gradients import attention_vjp
from ._hard import draw_categories, hard_attention
from ._hard_gradients import hard_attention_vjp
from ._hierarchical import hierarchical_attention, hierarchical_attention_vjp
from ._local import local_attention, predict_centers
from ._local_gradients import local_attention_vjp, predict_centers_vjp
from ._memory import Memory
from ._multi_head import multi_head_attention, multi_head_attention_vjp
from ._quantized import quantize
from ._random import philox, uniform
from ._reach import reach
from ._regression import kernel_regression
from ._regression_fit import kernel_regression_fit
from ._regression_gradients import kernel_regression_vjp
from ._rows import compute_dtype
from ._sampling import multinomial, multinomial_logpmf, multinoulli
from ._score import scores
from ._select import merge, softmax, weighted_sum
from ._self_attention import self_attention, self_attention_vjp
from ._statistics import attention_statistics
from ._tangents import attention_jvp

__all__ = [
    "KVCache",
    "Memory",
    "attention",
    "attention_jvp",
    "attention_statistics",
    "attention_vjp",
    "attention_weights",
    "compute_dtype",
    "draw_categories",
    "dropout_mask",
    "hard_attention",
    "hard_attention_vjp",
    "hierarchical_attention",
    "hierarchical_attention_vjp",
    "kernel_density",
    "kernel_density_vjp",
    "kernel_regression",
    "kernel_regression_fit",
    "kernel_regression_vjp",
    "local_attention",
    "local_attention_vjp",
    "merge",
    "multi_head_attention",
    "multi_head_attention_vjp",
    "multinomial",
    "multinomial_logpmf",
    "multinoulli",
    "philox",
    "predict_centers",
    "predict_centers_vjp",
    "quantize",
    "reach",
    "scores",
    "self_attention",
    "self_attention_vjp",
    "softmax",
    "uniform",
    "weighted_sum",
]

_publish(__name__)
