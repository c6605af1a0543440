"""The arguments of kernel regression, checked, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from .._inputs.arrays import compute_dtype, real, reals, widest_arrays
from .._inputs.types import Array, ArrayLike, Bool, CompactKernel, Kernel, Real, Reals
from .means import Points

COMPACT: tuple[CompactKernel, ...] = get_args(CompactKernel)
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


class Data(NamedTuple):
    """What was given, checked, without the points that have no weight."""

    points: Points
    value: Array  # (m, k)
    sample: Array | None  # (m,), whose largest is 1
    kept: Array | None  # which training points these are, of those that were given; None: all
    fill_value: float
    shape: tuple[int, ...]  # of the output
    shapes: dict[str, tuple[int, ...]]  # of x, x_train and y_train
    dtypes: dict[str, np.dtype[Any]]  # likewise; integers are float64

    def nothing(self) -> Array:
        """Make the output where there are no training points."""
        return np.full(self.shape, self.fill_value, self.points.query.dtype)

    def fill(self, answer: Array, empty: Array) -> Array:
        """Make the output of answers (n, k), except for queries that have none."""
        answer[empty] = self.fill_value
        return answer.astype(self.points.query.dtype, copy=False).reshape(self.shape)


def take(
    x: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    w: Reals,
    kernel: str,
    leave_one_out: Bool,
    sample_weight: ArrayLike | None,
    fill_value: Real,
) -> Data:
    """Check the arguments of `kernel_regression`, and make matrices of the arrays.

    Raises
    ------
    TypeError, ValueError
        As `kernel_regression`.
    """
    (query, key, value), dtypes = widest_arrays(x=x, x_train=x_train, y_train=y_train)
    check_points(query, key)
    if value.ndim not in (1, 2) or len(value) != len(key):
        raise ValueError(
            f"y_train: got shape {value.shape}, wanted ({len(key)},) or ({len(key)}, k), a row for "
            f"each row of x_train"
        )
    check_name(kernel, KERNELS)
    check_left_out(leave_one_out, query, key)
    fill_value = real("fill_value", fill_value)
    shape = (len(query), *value.shape[1:])
    shapes = {"x": query.shape, "x_train": key.shape, "y_train": value.shape}
    query, key, value = (a[:, None] if a.ndim == 1 else a for a in (query, key, value))
    inverse = inverse_bandwidth(w, query.shape[1], compute_dtype(query.dtype))
    sample = None if sample_weight is None else sample_weights(sample_weight, len(key))
    kept = None
    if sample is not None and not sample.all():  # what has no weight is not seen
        has_weight = sample > 0
        if leave_one_out:  # which goes by position
            key, value = (np.where(has_weight[:, None], a, a.dtype.type(0)) for a in (key, value))
        else:
            kept = np.flatnonzero(has_weight)
            key, value, sample = key[kept], value[kept], sample[kept]
    points = Points(query, key, inverse, leave_one_out)
    return Data(points, value, sample, kept, fill_value, shape, shapes, dtypes)


def check_points(query: Array, key: Array) -> None:
    if query.ndim not in (1, 2):
        raise ValueError(f"x: got shape {query.shape}, wanted (n,) or (n, d)")
    if key.ndim != query.ndim or key.shape[1:] != query.shape[1:]:
        wanted = "(m,)" if query.ndim == 1 else f"(m, {query.shape[1]})"
        raise ValueError(
            f"x_train: got shape {key.shape}, wanted {wanted}, like x of shape {query.shape}"
        )


def check_name(kernel: object, names: Sequence[str]) -> None:
    if not isinstance(kernel, str):
        raise TypeError(f"kernel: got {kernel!r}, wanted one of {list(names)}")
    if kernel not in names:
        raise ValueError(f"kernel: got {kernel!r}, wanted one of {list(names)}")


def check_left_out(leave_one_out: object, query: Array, key: Array) -> None:
    check_bool("leave_one_out", leave_one_out)
    if leave_one_out and len(query) != len(key):
        raise ValueError(
            f"leave_one_out: got {len(query)} rows of x and {len(key)} of x_train, wanted equal "
            "numbers of rows"
        )


def check_degree(degree: object) -> None:
    if isinstance(degree, (bool, np.bool_)) or not isinstance(degree, (int, np.integer)):
        raise TypeError(f"degree: got {degree!r}, wanted 0 or 1")
    if degree not in (0, 1):
        raise ValueError(f"degree: got {degree}, wanted 0 or 1")


def check_bool(name: str, x: object) -> None:
    if not isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name}: got {x!r}, wanted True or False")


def inverse_bandwidth(w: Reals, size: int, accumulated: np.dtype[Any]) -> float | Array:
    inverse = reals("w", w)
    if not isinstance(inverse, float) and inverse.ndim == 0:
        inverse = float(inverse)
    if not isinstance(inverse, float) and inverse.shape != (size,):
        raise ValueError(f"w: got shape {inverse.shape}, wanted a number or shape ({size},)")
    factors = np.array(inverse, ndmin=1)
    with np.errstate(over="ignore"):
        wrong = ~(np.isfinite(factors.astype(accumulated)) & (factors >= 0))
    if wrong.any():
        raise ValueError(
            f"w: got {factors[wrong][0]}, wanted numbers that are not negative, and finite as "
            f"{accumulated}"
        )
    return inverse


def sample_weights(sample_weight: ArrayLike, count: int) -> Array | None:
    """Weights whose largest is 1, in float64; None where all are alike."""
    sample = reals("sample_weight", sample_weight)
    if isinstance(sample, float) or sample.shape != (count,):
        raise ValueError(
            f"sample_weight: got shape {np.shape(sample)}, wanted ({count},), one for each row of "
            "x_train"
        )
    wrong = sample[~(np.isfinite(sample) & (sample >= 0))]
    if wrong.size:
        raise ValueError(
            f"sample_weight: got {wrong[0]}, wanted finite numbers that are not negative"
        )
    if count and not sample.any():
        raise ValueError("sample_weight: got only zeros, wanted a positive number")
    with np.errstate(under="ignore"):
        sample = sample / sample.max(initial=0)
    return None if (sample == 1).all() else sample
