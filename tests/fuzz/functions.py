"""What is tested, by name, each as often as it stands here."""

from __future__ import annotations

from collections.abc import Callable

from fuzz import soft
from fuzz.case import Case

FUNCTIONS: dict[str, tuple[Callable[[Case], None], int]] = {
    "attention": (soft.attention, 6),
    "attention_weights": (soft.attention_weights, 2),
    "local_attention": (soft.local_attention, 2),
    "hard_attention": (soft.hard_attention, 3),
    "merge": (soft.merge, 1),
}

_DRAWN = [name for name, (_, weight) in FUNCTIONS.items() for _ in range(weight)]


def function_of(case: Case) -> str:
    """Which function a seed tests."""
    return _DRAWN[case.bits("function") % len(_DRAWN)]
