"""Rules of reach: objects in `mask=` that say which keys a query sees, or add to their scores.

A rule is a small class in a file of its own. Alone, in a tuple with others and with arrays, and
beside every keyword it means `dense`, cell by cell; the engine takes what it is reduced to.
"""

from __future__ import annotations

from .._runtime.public import publish as _publish
from ._alibi import Alibi
from ._base import ReducedRule, Rule, RuleGradients
from ._block_mask import BlockMask
from ._edges import Edges
from ._intervals import Intervals
from ._neighborhood import Neighborhood
from ._packed import Packed
from ._relative_bias import RelativeBias
from ._relative_bias_2d import RelativeBias2d

__all__ = [
    "Alibi",
    "BlockMask",
    "Edges",
    "Intervals",
    "Neighborhood",
    "Packed",
    "ReducedRule",
    "RelativeBias",
    "RelativeBias2d",
    "Rule",
    "RuleGradients",
]

_publish(__name__)
