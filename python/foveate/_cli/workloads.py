"""The one table of timed attention: names, shapes, and the share of the machine's peak to reach.

The peak is the rate of fused multiply-adds of the dtype that does the arithmetic, or, for a decode,
the rate at which memory is read; both are measured in the same run. Only work that must be done is
counted: 4 D flops for each pair of a query and a key that it sees, half the square for a causal
problem; the bytes of keys and values for a decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from foveate import _core

ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# Where a kernel of this dtype does its arithmetic: float16 is converted, and multiplied in float32.
PEAK_DTYPES = {dtype: dtype for dtype in ITEM_BYTES} | {"float16": "float32"}
PEAK_SECONDS = 0.05  # long enough for the clock to settle, short beside a round


class Timed(Protocol):
    """A problem to time, as a comparison sees it: how much work it is, and the speed to reach.

    A speed is work a second, over a unit of it: the peak that is measured in the same run, or a
    round number.
    """

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def dtype(self) -> str:
        """The dtype of its arrays."""

    @property
    def work(self) -> float:
        """What a call must do, counted."""

    @property
    def unit(self) -> str:
        """What speeds are a multiple of."""

    def probe(self, threads: int) -> float:
        """The unit, in work a second, as it is now; 0 where it cannot be measured."""

    def goal_on(self, threads: int) -> float | None:
        """The speed to reach on this many threads; None: to be ahead of every peer."""

    def format_speed(self, speed: float) -> str:
        """A speed to read."""


AnyTimed = TypeVar("AnyTimed", bound=Timed)


@dataclass(frozen=True)
class Workload:
    """Attention to time: query (batch, heads, length, head_size), key_length keys of kv_heads."""

    name: str
    batch: int
    heads: int
    length: int
    head_size: int
    dtype: str = "float32"
    kv_heads: int = 0  # 0: as many as heads
    key_length: int = 0  # 0: as long as length
    causal: bool = False
    window: tuple[int, int] | None = None  # keys seen to the left and to the right of a query's own
    peak: Literal["flops", "read"] = "flops"
    goal: tuple[float, float] | None = (
        None  # share of the peak on 1 thread, on more; None: to be ahead of every peer
    )

    @property
    def keys(self) -> int:
        """Keys of a head."""
        return self.key_length or self.length

    @property
    def key_heads(self) -> int:
        """Heads of the keys and values."""
        return self.kv_heads or self.heads

    @property
    def group(self) -> int:
        """Query heads that share one key head."""
        return self.heads // self.key_heads

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, length, head size) of the queries."""
        return self.batch, self.heads, self.length, self.head_size

    @property
    def key_shape(self) -> tuple[int, int, int, int]:
        """(batch, key heads, keys, head size)."""
        return self.batch, self.key_heads, self.keys, self.head_size

    @property
    def scores_bytes(self) -> int:
        """Bytes of all scores, 4 each (8 in float64): what some contenders store."""
        return self.batch * self.heads * self.length * self.keys * max(4, ITEM_BYTES[self.dtype])

    @cached_property
    def seen(self) -> float:
        """Pairs of a query and a key that it sees, in one head."""
        if self.window is not None:
            position = np.arange(self.length)
            first = np.maximum(position - self.window[0], 0)
            last = np.minimum(position + self.window[1], self.keys - 1)
            return float((last - first + 1).sum())
        return self.length * self.keys * (0.5 if self.causal else 1.0)

    @property
    def work(self) -> float:
        """Flops that a call must do, or bytes that it must read: what divides the peak's rate."""
        if self.peak == "read":
            return 2.0 * ITEM_BYTES[self.dtype] * float(np.prod(self.key_shape))
        return 4.0 * self.batch * self.heads * self.head_size * self.seen

    @property
    def peak_dtype(self) -> str:
        """The dtype whose multiply-adds are the peak."""
        return PEAK_DTYPES[self.dtype]

    @property
    def unit(self) -> str:
        """The peak that the work is held to."""
        if self.peak == "read":
            return "read bandwidth, in bytes"
        return f"FMA peak of {self.peak_dtype}, in flops"

    def probe(self, threads: int) -> float:
        """Measure the peak, on as many threads.

        A read goes over as many bytes as the keys and values have: a cache helps both alike.
        """
        if self.peak == "read":
            size = max(1, int(self.work) // threads)
            return float(_core.measure_read(size, threads, PEAK_SECONDS))
        return float(_core.measure_flops(self.peak_dtype, threads, PEAK_SECONDS))

    def goal_on(self, threads: int) -> float | None:
        """The share of the peak to reach on this many threads."""
        return None if self.goal is None else self.goal[0 if threads == 1 else 1]

    def format_speed(self, speed: float) -> str:
        """A share of the peak."""
        return f"{speed:.{0 if speed >= 0.1 else 1}%}"

    def seen_mask(self) -> NDArray[np.bool_] | None:
        """The reach as a dense mask (length, keys), for those that know no window; None: all."""
        if self.window is None and not self.causal:
            return None
        left, right = self.window or (self.keys, self.keys)
        distance = np.arange(self.keys) - np.arange(self.length)[:, None]
        return (distance >= -left) & (distance <= (0 if self.causal else right))


def _named(prefix: str, shape: tuple[int, int, int, int], **rest: object) -> Workload:
    name = f"{prefix}-{'x'.join(map(str, shape))}"
    return Workload(name, *shape, **rest)  # type: ignore[arg-type]


def _decode(batch: int, keys: int, dtype: str) -> Workload:
    return Workload(
        f"decode-{dtype}-{batch}x{keys}",
        *(batch, 32, 1, 128),
        dtype=dtype,
        kv_heads=8,
        key_length=keys,
        peak="read",
        goal=(0.88, 0.88),
    )


_SHORT, _MIDDLE, _LONG = (8, 12, 512, 64), (1, 16, 1024, 64), (1, 8, 4096, 64)
_VERY_LONG = (1, 8, 65536, 64)

WORKLOADS: tuple[Workload, ...] = (
    _named("float32", _MIDDLE, goal=(0.88, 0.86)),
    _named("float32", _SHORT, goal=(0.88, 0.86)),
    _named("float32", _LONG, goal=(0.88, 0.86)),
    _named("float32", (1, 16, 2048, 128), goal=(0.91, 0.91)),
    _named("float32", (1, 4, 8192, 128), goal=(0.91, 0.91)),
    _named("float32-causal", _SHORT, causal=True, goal=(0.78, 0.78)),
    _named("float32-causal", _MIDDLE, causal=True, goal=(0.80, 0.80)),
    _named("float32-causal", _LONG, causal=True, goal=(0.85, 0.85)),
    _named("float32-short", (1, 12, 128, 64)),
    _named("float32-short", (32, 12, 64, 64)),
    _named("float32-short", (1, 1, 16, 64)),
    _named("bfloat16", _MIDDLE, dtype="bfloat16", goal=(0.76, 0.76)),
    _named("bfloat16", (1, 16, 2048, 128), dtype="bfloat16", goal=(0.84, 0.84)),
    _named("float16", _MIDDLE, dtype="float16", goal=(0.82, 0.82)),
    _named("float64", _MIDDLE, dtype="float64", goal=(0.84, 0.84)),
    _named("window128", _LONG, window=(128, 128), goal=(0.75, 0.75)),
    _named("window128", _VERY_LONG, window=(128, 128), goal=(0.65, 0.65)),
    _named("causal-window256", _LONG, window=(256, 0), goal=(0.75, 0.75)),
    _named("causal-window256", _VERY_LONG, window=(256, 0), goal=(0.65, 0.65)),
    _decode(1, 32768, "float32"),
    _decode(8, 4096, "float32"),
    _decode(1, 32768, "bfloat16"),
    _decode(8, 4096, "bfloat16"),
)


def select(patterns: Iterable[str], workloads: Sequence[AnyTimed]) -> list[AnyTimed]:
    """The workloads whose names match any of the patterns (``*`` and ``?`` match), in order.

    Raises
    ------
    ValueError
        A pattern matches no workload.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        names = [workload.name for workload in workloads if fnmatchcase(workload.name, pattern)]
        if not names:
            known = ", ".join(workload.name for workload in workloads)
            raise ValueError(f"no workload is called {pattern!r}; there are: {known}")
        chosen.update(names)
    return [workload for workload in workloads if workload.name in chosen]
