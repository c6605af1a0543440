"""Where calls of torch's attention went: how many ran here, and how many torch did, and why."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .. import _core


@dataclass(frozen=True)
class Explanation:
    """What became of torch's attention while foveate was active in it.

    Attributes
    ----------
    active : bool
        Whether foveate is active now.
    here : mapping of str to int
        How many calls ran in foveate, by the way on which they came: "fused attention" is what
        torch itself computes with its fused kernel, and "its gradients" are counted beside it; for
        "attention by formulas" torch would have made all weights; "multi-head attention" is the
        fast path of `torch.nn.MultiheadAttention` and `TransformerEncoderLayer`.
    left : mapping of str to int
        How many calls torch computed after all, by the reason.
    """

    active: bool
    here: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Give a table: a line for each way, and for each reason."""
        lines = [f"foveate is {'active' if self.active else 'not active'} in torch's attention"]
        for title, counts in (("ran in foveate", self.here), ("left to torch", self.left)):
            lines.append(f"{title}: {'' if counts else 'nothing'}".rstrip())
            order = sorted(counts.items(), key=lambda pair: -pair[1])
            lines += [f"{count:>10,}  {name}" for name, count in order]
        return "\n".join(lines)


_FEW = "gradients of fewer than 64 queries, where torch's kernel is faster"

_lock = threading.Lock()
_here: Counter[str] = Counter()
_left: Counter[str] = Counter()
_before = [0, 0, 0]  # what the kernels had counted when counting began


def ran(way: str) -> None:
    """Count a call that ran here."""
    with _lock:
        _here[way] += 1


def left(reason: str) -> None:
    """Count a call that torch computes."""
    with _lock:
        _left[reason] += 1


def summary(active: bool, reset: bool) -> Explanation:
    """Give the counts; with `reset` they begin again."""
    with _lock:
        calls = _core.torch_calls()
        names = ("fused attention", "its gradients", _FEW)
        fused = {n: c - b for n, c, b in zip(names, calls, _before, strict=True) if c > b}
        few = {n: fused.pop(n) for n in (_FEW,) if n in fused}
        answer = Explanation(
            active, MappingProxyType({**fused, **_here}), MappingProxyType({**few, **_left})
        )
        if reset:
            _here.clear()
            _left.clear()
            _before[:] = calls
    return answer
