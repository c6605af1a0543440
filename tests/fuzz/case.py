"""One case: choices that follow from a seed, numbers from pools, and calls of what is tested.

Every choice has a name, and depends on the seed and that name alone. So a finding is made simpler
by fixing choices one after the other, and all others stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import foveate as fv
import numpy as np
from foveate import _core

from fuzz.memory import Memory, guard, junk

T = TypeVar("T")
_M = 2**64 - 1
_POOL = 1 << 18
_rng = np.random.default_rng(0)
_NORMAL = _rng.standard_normal(2 * _POOL)
_UNIFORM = _rng.random(2 * _POOL)

ISAS = _core.isa_names()


class Finding(AssertionError):
    """Something that is not as promised."""


def mixed(x: int) -> int:
    """The finalizer of splitmix64: 64 bits of which each depends on all of x."""
    x = (x + 0x9E3779B97F4A7C15) & _M
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _M
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _M
    return x ^ (x >> 31)


class Case:
    """The choices of one seed. Options stand in a list from the simplest on."""

    memory = Memory()
    guard(memory)

    def __init__(
        self,
        seed: int,
        fixed: dict[str, int] | None = None,
        isas: Sequence[str] = tuple(ISAS),
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.seed, self.fixed, self.isas, self.tell = seed, fixed or {}, isas, tell
        self.taken: dict[str, int] = {}  # the choices that are not the simplest
        self.chosen: dict[str, Any] = {}
        self.calls = 0
        self.last: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
        self.setting = ""
        self.kept: list[Any] = []  # answers live on, so that no right one lies in freed memory
        self.memory.reset()

    def bits(self, name: str) -> int:
        return mixed(self.seed ^ mixed(zlib.crc32(name.encode())))

    def pick(self, name: str, options: Sequence[T]) -> T:
        """One of these, each as likely; the first is the simplest."""
        place = self.bits(name) % len(options)
        place = min(self.fixed.get(name, place), len(options) - 1)
        if place:
            self.taken[name] = place
        self.chosen[name] = options[place]
        return options[place]

    def chance(self, name: str, p: float) -> bool:
        """Whether something happens; that it does not is simpler."""
        place = int(self.bits(name) < p * 2.0**64)
        place = self.fixed.get(name, place)
        if place:
            self.taken[name] = place
        return bool(place)

    def _from(self, pool: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        begin = self.bits(name) % _POOL
        part = pool[begin : begin + count]
        return (part if len(part) == count else np.resize(part, count)).reshape(shape)

    def normal(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._from(_NORMAL, name, shape)

    def uniform(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._from(_UNIFORM, name, shape)

    def integers(self, name: str, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """Whole numbers low <= x < high."""
        return low + np.floor(self.uniform(name, shape) * (high - low)).astype(np.int64)

    # --- calls ------------------------------------------------------------------------------------

    def variants(self) -> list[tuple[str, int]]:
        """Instruction sets and numbers of threads; the first two share the instruction set."""
        first = self.bits("isa") % len(self.isas)
        order = [*self.isas[first:], *self.isas[:first]]
        if self.fixed.get("isa") is not None:
            order = [self.isas[min(self.fixed["isa"], len(self.isas) - 1)]]
        counts = [1, 1, 1, 2, 2, 3, 4, 8]
        chosen = [(isa, self.pick(f"threads {n}", counts)) for n, isa in enumerate(order)]
        again = self.pick("threads again", counts)
        return [chosen[0], (order[0], again), *chosen[1:]]

    def call(self, function: str, *arguments: Any, expected: Sequence[int] = (), **keywords: Any):
        """Call a function of foveate, with junk in what was freed before.

        `expected` are the sizes in bytes of what it will allocate for its answers.
        """
        of: Any = fv
        for part in function.split("."):
            of = getattr(of, part)
        return self.run(function, of, *arguments, expected=expected, **keywords)

    def run(
        self,
        name: str,
        function: Callable[..., Any],
        *arguments: Any,
        expected: Sequence[int] = (),
        **keywords: Any,
    ) -> Any:
        self.last = (name, arguments, keywords)
        self.calls += 1
        if self.tell:
            self.tell(self.describe())
        junk(expected, self.bits("junk"))
        answer = function(*arguments, **keywords)
        self.kept.append(answer)
        return answer

    def under(self, isa: str, threads: int) -> None:
        """Call by this instruction set and number of threads from now on."""
        self.setting = f"isa {isa}, {threads} threads"
        _core.isa_select(isa)
        _core.set_num_threads(threads)

    def describe(self) -> str:
        """What was called last, and with what."""
        if self.last is None:
            return "no call"
        name, arguments, keywords = self.last
        parts = [summary(x) for x in arguments]
        parts += [f"{at}={summary(x)}" for at, x in keywords.items()]
        return f"{name}({', '.join(parts)})  # {self.setting}"

    def fail(self, message: str) -> None:
        raise Finding(message)


def summary(x: Any) -> str:
    """An array by its dtype, shape and strides, and by its numbers where they are few integers."""
    if isinstance(x, np.ndarray):
        text = f"{x.dtype.newbyteorder('=').name}{list(x.shape)}"
        if not x.dtype.isnative:
            text += " swapped"
        if not x.flags.c_contiguous:
            text += f" strides {list(x.strides)}"
        if not x.flags.aligned:
            text += " unaligned"
        if not x.flags.writeable:
            text += " read-only"
        if x.dtype.kind in "iub" and x.size <= 12:
            text += f" {x.tolist()}"
        return text
    if isinstance(x, tuple | list):
        inner = ", ".join(summary(y) for y in x)
        return f"({inner})" if isinstance(x, tuple) else f"[{inner}]"
    if hasattr(x, "__dataclass_fields__"):
        inner = ", ".join(f"{at}={summary(getattr(x, at))}" for at in x.__dataclass_fields__)
        return f"{type(x).__name__}({inner})"
    return repr(x)
