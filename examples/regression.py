"""
A curve through noisy points
============================

The textbook example of attention pooling (Zhang, Lipton, Li and Smola, "Dive into Deep Learning",
"Attention Pooling: Nadaraya-Watson Kernel Regression"): y = 2 sin x + x^0.8 + noise. Queries: the
points x where the curve is wanted. Keys: the training points. Values: the y measured there. The
answer is f(x) = sum_i softmax_i(-1/2 (w (x - x_i))^2) y_i, and w, an inverse bandwidth, is learned
by gradient descent on the leave-one-out error.

Run it with ``python examples/regression.py [PICTURE]``, or ``python -m foveate demo regression``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import foveate
import numpy as np
from foveate import reference
from foveate.typing import Kernel
from numpy.typing import NDArray

from promise import WIDTH, Promise

POINTS, END, NOISE = 50, 5.0, 0.5  # of training and of test points; their range; its deviation
# The descent: steps of Adam (Kingma and Ba, 2015) on log w, so that w stays positive and a step is
# a share of it, about 20% at first and then ever less. Of the seeds 0 to 59 all but one end within
# 0.1% of the least error that any w has, and that one, in another valley, within 1.2%.
START, STEPS, RATE, KEPT, KEPT_OF_SQUARES = 1.0, 80, 0.2, 0.8, 0.95
# Where the picture shows the error of each w: from a kernel wider than the range to one narrower
# than the gaps between the points.
WIDEST, NARROWEST, GRID = 0.1, 100.0, 201
# No map of weights is darkest below this weight: even weights, of 2%, are seen to be small.
PALEST = 0.05

Floats = NDArray[np.float32]


class Points(NamedTuple):
    """Training points in order, what was measured there, and an even grid to be answered."""

    key: Floats
    value: Floats
    query: Floats


@dataclass(frozen=True)
class Pooling:
    """A way to average the values: the kernel and its w, the curve, and the weights behind it."""

    name: str
    kernel: Kernel
    w: float
    curve: Floats  # (queries,)
    weights: Floats  # (queries, keys)


class Descent(NamedTuple):
    """The w of each step, the first included, and the leave-one-out errors with them."""

    w: NDArray[np.float64]
    errors: NDArray[np.float64]


# %%
# The points
# ----------
#
# The curve, and points on it with noise.


def truth(x: NDArray[Any]) -> NDArray[Any]:
    """The curve without noise."""
    return np.asarray(2.0 * np.sin(x) + x**0.8)


def make_points(seed: int) -> Points:
    """The points: where the training points lie, and the noise, are drawn from the seed."""
    rng = np.random.default_rng(seed)
    key = np.sort(rng.uniform(0.0, END, POINTS))
    value = truth(key) + rng.normal(0.0, NOISE, POINTS)
    query = np.arange(POINTS) * (END / POINTS)
    return Points(*(array.astype(np.float32) for array in (key, value, query)))


# %%
# Learn the bandwidth
# -------------------
#
# Each training point is predicted from all the others. `foveate.kernel_regression_vjp` gives the
# derivative of the error by w, and Adam descends along it.


def left_out_error(points: Points, w: float, kernel: Kernel = "gaussian") -> float:
    """The mean squared error where each training point is predicted from all the others."""
    key, value = points.key, points.value
    predicted = foveate.kernel_regression(key, key, value, w=w, kernel=kernel, leave_one_out=True)
    return float(np.mean((predicted - value) ** 2))


def error_and_slope(points: Points, w: float) -> tuple[float, float]:
    """The leave-one-out error, and its derivative by w."""
    key, value = points.key, points.value
    predicted, pullback = foveate.kernel_regression_vjp(
        key, key, value, wrt="w", w=w, leave_one_out=True
    )
    off = predicted - value
    return float(np.mean(off**2)), pullback(2 / len(off) * off).w


def learn(points: Points) -> Descent:
    """Descend from w = 1 to where the leave-one-out error is least."""
    w, errors = np.full(STEPS + 1, START), np.empty(STEPS + 1)
    mean = square = 0.0
    for step in range(STEPS):
        errors[step], slope = error_and_slope(points, w[step])
        slope *= w[step]  # of log w
        mean = KEPT * mean + (1 - KEPT) * slope
        square = KEPT_OF_SQUARES * square + (1 - KEPT_OF_SQUARES) * slope**2
        size = np.sqrt(square / (1 - KEPT_OF_SQUARES ** (step + 1)))  # averages that began with 0
        rate = RATE * (1 - step / STEPS)
        w[step + 1] = w[step] * np.exp(-rate * mean / (1 - KEPT ** (step + 1)) / size)
    errors[-1] = left_out_error(points, float(w[-1]))
    return Descent(w, errors)


# %%
# Three curves
# ------------
#
# An average of all points, a Gaussian kernel with w = 1, and the same with the learned w.


def poolings(points: Points, learned: float) -> list[Pooling]:
    """Average pooling, the Gaussian kernel with w = 1, and with the learned w."""
    key, value, query = points
    mean = foveate.kernel_regression(query, key, value, kernel="constant")
    even = np.full((len(query), len(key)), 1.0 / len(key), np.float32)
    found = [Pooling("average pooling", "constant", 1.0, mean, even)]
    for name, w in (("Gaussian kernel,", 1.0), ("Gaussian kernel, learned", learned)):
        score = foveate.Gaussian(w)
        weights = foveate.attention_weights(query[:, None], key[:, None], score=score)
        curve = foveate.kernel_regression(query, key, value, w=w)
        found.append(Pooling(f"{name} w = {w:.3g}", "gaussian", w, curve, weights))
    return found


# %%
# The check, and what is printed
# ------------------------------
#
# `foveate.reference` is the definition, in plain NumPy. In float64 it is the exact answer, in
# float32 the plain formula: no answer may be more than twice as far off as that.


def run(seed: int, picture: Path | None) -> bool:
    """Fit, check, draw; says whether the check passed."""
    points = make_points(seed)
    descent = learn(points)
    found = poolings(points, float(descent.w[-1]))
    print(f"A curve is fitted to {POINTS} noisy points, three times.\n")
    print(f"{'':37}error at the queries   leave-one-out error")
    wanted = truth(points.query.astype(np.float64))
    for pooling in found:
        error = float(np.mean((pooling.curve - wanted) ** 2))
        left_out = left_out_error(points, pooling.w, pooling.kernel)
        print(f"  {pooling.name:<35}{error:>11.3f}{left_out:>22.3f}")
    print(
        f"\n  w learned in {STEPS} steps             from {descent.w[0]:.3g} to "
        f"{descent.w[-1]:.3g}\n"
        f"  its leave-one-out error            from {descent.errors[0]:.3f} to "
        f"{descent.errors[-1]:.3f}"
    )
    promises = [promise for pooling in found for promise in _promises(points, pooling)]
    promises.append(_promise_of_slope(points))
    worst = max(promises, key=lambda promise: (not promise.kept, promise.error / promise.bound))
    print(f"\n  against foveate.reference          {worst}")
    print()
    print(
        fill(
            "How: the curve is y = 2 sin(x) + x^0.8. It is measured at points x from 0 to "
            f"{END:g}, with noise of standard deviation {NOISE:g}. These x are the keys, the y the "
            "values, and an even grid of x the queries. Attention answers each query with an "
            "average of the y. Average pooling gives all the same weight. The Gaussian kernel "
            "weighs by distance, softmax(-1/2 (w (query - key))^2): this is kernel regression "
            "(Nadaraya and Watson, 1964). The larger w, the fewer neighbors count.",
            WIDTH,
        ),
        end="\n\n",
    )
    print(
        fill(
            "Errors are mean squares. At the queries: from the curve without noise. Leave-one-out: "
            "each point is predicted from all others. w is learned by gradient descent on "
            "the leave-one-out error, in steps of Adam on log w; it never sees the curve.",
            WIDTH,
        ),
        end="\n\n",
    )
    if picture is not None:
        draw(points, found, descent, picture)
        print(
            f"Picture: {picture}\n"
            "A row: the points, the curve and its fit; beside it the attention weights, where\n"
            "a row is a query and a column a point. Below: the descent, and the error over w."
        )
    return worst.kept


def _promises(points: Points, pooling: Pooling) -> Iterator[Promise]:
    """The curve, and the weights of the kernel, against the definition."""

    def curve(points: Iterable[NDArray[Any]]) -> NDArray[Any]:
        key, value, query = points
        return reference.kernel_regression(query, key, value, w=pooling.w, kernel=pooling.kernel)

    def weights(points: Iterable[NDArray[Any]]) -> NDArray[Any]:
        key, _, query = points
        score = foveate.Gaussian(pooling.w)
        return reference.attention_weights(query[:, None], key[:, None], score=score)

    exact = [array.astype(np.float64) for array in points]
    yield Promise.of(pooling.curve, plain=curve(points), exact=curve(exact))
    if pooling.kernel == "gaussian":
        yield Promise.of(pooling.weights, plain=weights(points), exact=weights(exact))


def _promise_of_slope(points: Points) -> Promise:
    """The derivative by w at the first step, against the definition."""
    key, value, _ = points
    predicted, pullback = foveate.kernel_regression_vjp(
        key, key, value, wrt="w", w=START, leave_one_out=True
    )
    d_output = predicted - value

    def slope(*arrays: NDArray[Any]) -> NDArray[Any]:
        key, value, d_output = arrays
        pull = reference.kernel_regression_vjp(key, key, value, w=START, leave_one_out=True)[1]
        return np.asarray(pull(d_output).w)

    exact = (array.astype(np.float64) for array in (key, value, d_output))
    answer = np.asarray(pullback(d_output).w, np.float32)
    return Promise.of(answer, plain=slope(key, value, d_output), exact=slope(*exact))


# %%
# The picture
# -----------


def draw(points: Points, found: list[Pooling], descent: Descent, path: Path) -> None:
    """Save a picture: each way's curve, beside the heatmap of its weights, and the descent."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(found) + 1, 2, figsize=(9.5, 3.4 * (len(found) + 1)), layout="constrained"
    )
    figure.suptitle("A curve through noisy points, by attention alone")
    for (left, right), pooling in zip(axes[:-1], found, strict=True):
        left.plot(points.query, truth(points.query), "--", color="gray", label="no noise")
        left.plot(points.key, points.value, "o", color="tab:orange", alpha=0.5, label="points")
        left.plot(points.query, pooling.curve, color="tab:blue", label="fit by attention")
        left.set_title(pooling.name)
        left.set_xlabel("x")
        left.set_ylabel("y")
        most = max(PALEST, float(pooling.weights.max()))
        picture = right.imshow(
            pooling.weights, cmap="Reds", vmin=0.0, vmax=most, interpolation="nearest"
        )
        right.set_xlabel("measured points (keys), in order")
        right.set_ylabel("grid (queries), in order")
        figure.colorbar(picture, ax=right, label="attention weight")
    axes[0, 0].legend(fontsize=8)
    _draw_descent(points, descent, *axes[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_descent(points: Points, descent: Descent, left: Any, right: Any) -> None:
    left.plot(descent.errors, color="tab:blue")
    left.set_title("gradient descent on the leave-one-out error")
    left.set_xlabel("step")
    left.set_ylabel("leave-one-out error")
    grid = np.geomspace(WIDEST, NARROWEST, GRID)
    errors = [left_out_error(points, float(w)) for w in grid]
    right.semilogx(grid, errors, color="gray", label="error of each w")
    right.plot(descent.w, descent.errors, ".-", color="tab:blue", label="steps of the descent")
    right.plot(descent.w[-1], descent.errors[-1], "o", color="tab:orange", label="learned w")
    right.set_title("where the steps lead")
    right.set_xlabel("w")
    right.set_ylabel("leave-one-out error")
    right.legend(fontsize=8)


# %%
# Run it
# ------

if __name__ == "__main__":
    picture = Path(sys.argv[1]) if sys.argv[1:] else None
    if not run(0, picture):
        raise SystemExit("an answer is further from that of the reference than is promised")
