"""The keywords that many functions take, as types of their `**options`.

Each is explained where it is taken by name: in `foveate.attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from .._reach.reach import Mask
    from ..scores._base import ScoreLike
    from .types import (
        Bool,
        Deterministic,
        Ints,
        Normalizer,
        Offset,
        Real,
        Reals,
        Seed,
        Segments,
        Window,
    )


class ReachOptions(TypedDict, total=False):
    """Which keys a query sees."""

    mask: Mask | None
    causal: Bool
    window: Window | None
    offset: Offset | None
    key_lengths: Ints | None
    segments: Segments | None


class ScoreOptions(ReachOptions, total=False):
    """Which keys a query sees, and how related it is to them."""

    score: ScoreLike
    softcap: Real | None


class AttentionOptions(ScoreOptions, total=False):
    """What attention may be told beside its operands."""

    sink: Reals | None
    dropout: Real
    rng: Seed


class NormalizedOptions(AttentionOptions, total=False):
    """The same, how scores become weights, and what is promised of the bits."""

    normalizer: Normalizer
    deterministic: Deterministic
