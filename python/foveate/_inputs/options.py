"""The keywords that many functions take, as types of their `**options`.

Each is explained where it is taken by name: in `foveate.attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from ..scores import Score
    from .arrays import ArrayInput
    from .random import Seed
    from .reach import Mask, Segments, Window


class ReachOptions(TypedDict, total=False):
    """Which keys a query sees."""

    mask: Mask | None
    causal: bool
    window: Window | None
    offset: ArrayInput | str | None
    key_lengths: ArrayInput | None
    segments: Segments | None


class ScoreOptions(ReachOptions, total=False):
    """Which keys a query sees, and how related it is to them."""

    score: Score | str
    softcap: float | None


class AttentionOptions(ScoreOptions, total=False):
    """What attention may be told beside its operands."""

    sink: ArrayInput | None
    dropout: float
    rng: Seed
