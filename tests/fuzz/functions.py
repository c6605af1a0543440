"""What is tested, by name, each as often as it stands here."""

from __future__ import annotations

from collections.abc import Callable

from fuzz import blocks, gradients, regression, sampling, soft, statistics, tangents
from fuzz.case import Case

FUNCTIONS: dict[str, tuple[Callable[[Case], None], int]] = {
    "attention": (soft.attention, 6),
    "attention_weights": (soft.attention_weights, 2),
    "attention_statistics": (statistics.attention_statistics, 2),
    "local_attention": (soft.local_attention, 2),
    "hard_attention": (soft.hard_attention, 3),
    "merge": (soft.merge, 1),
    "attention_vjp": (gradients.attention_vjp, 4),
    "attention_jvp": (tangents.attention_jvp, 2),
    "local_attention_vjp": (gradients.local_attention_vjp, 2),
    "hard_attention_vjp": (gradients.hard_attention_vjp, 2),
    "multi_head_attention": (blocks.multi_head_attention, 2),
    "self_attention": (blocks.self_attention, 1),
    "hierarchical_attention": (blocks.hierarchical_attention, 1),
    "predict_centers": (blocks.predict_centers, 1),
    "memory": (blocks.memory, 2),
    "kernel_regression": (regression.kernel_regression, 2),
    "kernel_regression_vjp": (regression.kernel_regression_vjp, 2),
    "multinoulli": (sampling.multinoulli, 1),
    "filtered_multinoulli": (sampling.filtered_multinoulli, 1),
    "multinomial": (sampling.multinomial, 1),
    "multinomial_logpmf": (sampling.multinomial_logpmf, 1),
}

_DRAWN = [name for name, (_, weight) in FUNCTIONS.items() for _ in range(weight)]


def function_of(case: Case) -> str:
    """Which function a seed tests."""
    return _DRAWN[case.bits("function") % len(_DRAWN)]
