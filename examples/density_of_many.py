"""
A density of many points
========================

The density of a sample that is larger than memory: it is drawn chunk by chunk, when it is needed,
and each chunk is forgotten again. In place of the drawing there may be files. The answer is the
mixture of the densities of all chunks, exact, and is held against the density that the points were
drawn from.

Run it with ``python examples/density_of_many.py [PICTURE [POINTS]]``: 1e8 points took a minute on
two busy cores, in 180 megabytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask.array as da
import foveate.dask
import numpy as np
from dask.diagnostics import ProgressBar
from numpy.typing import NDArray

POINTS, CHUNK = 1_000_000, 1_000_000  # of the sample by default; at a time, at most
CENTERS, WIDTHS, SHARES = (-2.0, 1.0), (0.4, 1.0), (0.3, 0.7)  # of two bells
GRID = np.linspace(-4.0, 4.0, 401)

# %%
# The sample
# ----------
# Nothing is drawn here: an array of dask says how its chunks are to be made.


def sample_of(points: int) -> Any:
    """Points of the two bells, lazily."""
    random = da.random.default_rng(20)
    chunks = min(CHUNK, -(-points // 4))
    first = random.random(points, chunks=chunks) < SHARES[0]
    bells = [
        random.normal(c, s, points, chunks=chunks) for c, s in zip(CENTERS, WIDTHS, strict=True)
    ]
    return da.where(first, *bells).astype(np.float32)


def truth(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The density that they are drawn from."""
    bells = [
        np.exp(-(((x - c) / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi))
        for c, s in zip(CENTERS, WIDTHS, strict=True)
    ]
    density: NDArray[np.float64] = SHARES[0] * bells[0] + SHARES[1] * bells[1]
    return density


# %%
# The density
# -----------
# Each chunk meets the grid in a task, and the answers are joined in a tree. On a cluster the same
# lines run on all its workers.


def main(points: int = POINTS, picture: Path | None = None) -> float:
    """Estimate, print, and return how far the estimate is off at most, of the largest density."""
    sample = sample_of(points)
    bandwidth = 0.5 * points**-0.2  # narrower than one bell would want
    density = foveate.dask.kernel_density(GRID.astype(np.float32), sample, w=1 / bandwidth)
    print(f"{points:,} points in {sample.numblocks[0]} chunks, bandwidth {bandwidth:.4f}")
    with ProgressBar():
        estimate = density.compute()
    want = truth(GRID)
    error = float(np.abs(estimate - want).max() / want.max())
    for i in range(0, len(GRID), 50):
        bar = "#" * round(120 * float(estimate[i]))
        print(f"{GRID[i]:6.1f}  {estimate[i]:.4f}  {want[i]:.4f}  {bar}")
    print(f"largest error: {error:.2%} of the largest density")
    if picture is not None:
        draw(estimate, want, picture)
    return error


def draw(estimate: NDArray[np.float32], want: NDArray[np.float64], path: Path) -> None:
    """Save a picture: the estimate over what the points were drawn from."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot(GRID, want, "--", color="gray", label="drawn from")
    axes.plot(GRID, estimate, color="tab:blue", label="estimate")
    axes.set_xlabel("x")
    axes.set_ylabel("density")
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# %%
# Run it
# ------

if __name__ == "__main__":
    main(
        int(float(sys.argv[2])) if sys.argv[2:] else POINTS,
        Path(sys.argv[1]) if sys.argv[1:] else None,
    )
