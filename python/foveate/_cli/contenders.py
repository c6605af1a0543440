"""What a contender of a benchmark is, foveate and NumPy among them, and the check of its answer.

Each contender prepares its own inputs from the same data, in the layout and by the call that serves
it best, and hands over a call without arguments. A contender that cannot do a workload says why, by
``UnavailableError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import foveate
from foveate._cli.workloads import ITEM_BYTES, Timed, Workload

# A contender that stores the whole matrix of scores is left out where that takes more: the machine
# would swap.
MOST_SCORES_BYTES = 2 << 30


MISSING = " is not installed"  # after the name of a package


class UnavailableError(Exception):
    """Why a contender does not run a workload here."""


class Data(NamedTuple):
    """Query (batch, heads, length, head size); key, value (batch, key heads, keys, head size)."""

    query: NDArray[Any]
    key: NDArray[Any]
    value: NDArray[Any]


class WrongAnswerError(Exception):
    """A contender does not give foveate's answer: one of the two is wrong."""


class Prepared(NamedTuple):
    """A call to time, and how its result becomes an array (batch, heads, length, head size)."""

    call: Callable[[], Any]
    to_array: Callable[[Any], NDArray[Any]] = np.asarray


@dataclass(frozen=True)
class Contender:
    """A library, or one way to call it."""

    name: str
    title: str
    prepare: Callable[[Any, Any, int], Prepared]  # of the workload, its data, and threads
    packages: tuple[str, ...] = ()  # whose import takes a while


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of this name; bfloat16 is that of ml_dtypes."""
    dtype: np.dtype[Any] = np.dtype(need("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    return dtype


def make_data(workload: Workload) -> Data:
    """Normal deviates of a fixed seed, C-contiguous: the same for every contender and run."""
    dtype = numpy_dtype(workload.dtype)
    rng = np.random.default_rng(20)
    shapes = (workload.shape, workload.key_shape, workload.key_shape)
    return Data(*(rng.standard_normal(shape, dtype=np.float32).astype(dtype) for shape in shapes))


def need(package: str) -> Any:
    """The module of this name, or UnavailableError."""
    try:
        return import_module(package)
    except ImportError as error:
        raise UnavailableError(package.partition(".")[0] + MISSING) from error


def refuse_large_scores(workload: Workload) -> None:
    """UnavailableError where a contender that stores all scores would need too much memory."""
    if workload.scores_bytes > MOST_SCORES_BYTES:
        size = f"{workload.scores_bytes / 2**30:.0f} GiB"
        raise UnavailableError(f"would store the whole matrix of scores, {size}")


def limit_blas(threads: int) -> None:
    """Set the threads of NumPy's BLAS."""
    need("threadpoolctl").threadpool_limits(limits=threads, user_api="blas")


# --- foveate --------------------------------------------------------------------------------------


def _prepare_foveate(workload: Workload, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    query, key, value = data
    reach: dict[str, Any] = {}
    if workload.causal:
        reach["causal"] = True
    if workload.window is not None:
        reach["window"] = workload.window
    if workload.group > 1:  # grouped queries are a broadcast axis
        query = query.reshape(workload.batch, workload.key_heads, workload.group, *query.shape[2:])
        key, value = key[:, :, None], value[:, :, None]
    return Prepared(
        partial(foveate.attention, query, key, value, **reach),
        lambda output: np.asarray(output).reshape(workload.shape),
    )


# --- NumPy ----------------------------------------------------------------------------------------


def plain_attention(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    scale: float,
    seen: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Softmax(scale * query @ key^T) @ value, as one writes it in NumPy, reusing temporaries."""
    scores = query @ key.swapaxes(-1, -2)
    scores *= scores.dtype.type(scale)
    if seen is not None:
        scores[..., ~seen] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return np.asarray(scores @ value)


def _prepare_numpy(workload: Workload, data: Data, threads: int) -> Prepared:
    refuse_large_scores(workload)
    limit_blas(threads)
    seen = workload.seen_mask()
    scale = workload.head_size**-0.5
    # NumPy multiplies 16-bit floats one by one: anyone in a hurry converts them first, and so the
    # call does here.
    compute = np.float64 if workload.dtype == "float64" else np.float32
    dtype = data.query.dtype
    grouped = (workload.batch, workload.key_heads, workload.group * workload.length, -1)

    def call() -> NDArray[Any]:
        query, key, value = (array.astype(compute, copy=False) for array in data)
        mask = seen
        if workload.group > 1:  # one row of queries after the other, against the keys they share
            query = query.reshape(grouped)
            mask = None if seen is None else np.tile(seen, (workload.group, 1))
        output = plain_attention(query, key, value, scale, mask)
        return output.reshape(workload.shape).astype(dtype, copy=False)

    return Prepared(call)


FOVEATE = Contender("foveate", "foveate", _prepare_foveate)
NUMPY = Contender("numpy", "NumPy, as one writes it", _prepare_numpy)


def choose(contenders: Iterable[Contender], names: Iterable[str]) -> list[Contender]:
    """The contenders of these names, and foveate, against which the others are checked.

    Raises
    ------
    ValueError
        There is no contender of a name.
    """
    known = {contender.name: contender for contender in contenders}
    wanted = {FOVEATE.name, *names}
    if unknown := sorted(wanted - known.keys()):
        raise ValueError(f"no contender is called {unknown[0]!r}; there are: {', '.join(known)}")
    return [contender for name, contender in known.items() if name in wanted]


# --- the same answer ------------------------------------------------------------------------------

# How far a row of an answer may be from foveate's, relative to the row's norm. float32, float64:
# rounding of scores, weights and sums, which add up over D products and thousands of keys at
# random: 64 eps is a few times what is seen, and a hundredth of what one key too many would change.
# float16, bfloat16: some peers round scores of about 4, the weights and the output to 16 bits, half
# an eps each.
TOLERANCES = {
    "float64": 64 * 2.0**-52,
    "float32": 64 * 2.0**-23,
    "float16": 4 * 2.0**-10,
    "bfloat16": 4 * 2.0**-7,
}


def difference(answer: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest difference of a row, relative to the wanted row's norm; inf for a NaN."""
    exact = wanted.astype(np.float64)
    error = np.linalg.norm(answer.astype(np.float64) - exact, axis=-1)
    worst = float(np.max(error / np.linalg.norm(exact, axis=-1), initial=0.0))
    return worst if np.isfinite(worst) else np.inf


def check(workload: Timed, answer: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Raise WrongAnswerError where an answer is not foveate's, to the tolerance of the dtype."""
    if answer.shape != wanted.shape:
        raise WrongAnswerError(f"gave shape {answer.shape}, where foveate gave {wanted.shape}")
    worst, allowed = difference(answer, wanted), TOLERANCES[workload.dtype]
    if worst > allowed:
        raise WrongAnswerError(
            f"differs from foveate by {worst:.2e} of a row's norm, where {allowed:.2e} is allowed"
        )


assert TOLERANCES.keys() == ITEM_BYTES.keys()
