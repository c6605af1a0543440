"""Kernel densities: their workloads, and who else computes them exactly.

    f(x) = sum_i g(x - x_i) / (n (2 pi)^(d / 2) h^d)        g(e) = exp(-1/2 |e / h|^2)

Points are standard normal, h is Scott's bandwidth, and everything is float64, which all have. Far
points may be skipped where they change no digit, as every contender does that can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import foveate
import numpy as np
from foveate._cli.contenders import FOVEATE, Contender, Prepared, limit_blas, need
from numpy.typing import NDArray

from kinds.counted import Rated

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Density(Rated):
    """As many queries as points of the sample, of a number of dimensions."""

    points: int
    dimensions: int
    counted: ClassVar[str] = "pairs"
    dtype: ClassVar[str] = "float64"

    @property
    def work(self) -> float:
        return float(self.points) ** 2

    @property
    def bandwidth(self) -> float:
        return float(self.points ** (-1 / (self.dimensions + 4)))


# 85 seconds of SciPy in one thread, over 20.
WORKLOADS = (Density("density-100000x1", 2.4, 100_000, 1),)


def make_data(workload: Density) -> Points:
    rng = np.random.default_rng(30)
    x, x_train = rng.standard_normal((2, workload.points, workload.dimensions))
    return x, x_train


def as_column(answer: Any) -> NDArray[np.float64]:
    """(n,) -> (n, 1): each answer is checked by itself."""
    return np.asarray(answer, np.float64).reshape(-1, 1)


def prepare_foveate(workload: Density, data: Points, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    w = 1 / workload.bandwidth
    return Prepared(partial(foveate.kernel_density, *data, w=w), as_column)


def prepare_scipy(workload: Density, data: Points, threads: int) -> Prepared:
    """`gaussian_kde`, by the factor of the deviation that makes this bandwidth."""
    limit_blas(threads)
    x, x_train = data
    deviation = np.sqrt(np.linalg.det(np.atleast_2d(np.cov(x_train.T))) ** (1 / len(x_train[0])))
    kde = need("scipy.stats").gaussian_kde(x_train.T, workload.bandwidth / deviation)
    return Prepared(partial(kde, x.T), as_column)


def prepare_sklearn(workload: Density, data: Points, threads: int) -> Prepared:
    """`KernelDensity`, whose tree is asked for exact sums."""
    del threads  # it has one
    x, x_train = data
    model = need("sklearn.neighbors").KernelDensity(bandwidth=workload.bandwidth, atol=0, rtol=0)
    model.fit(x_train)
    return Prepared(lambda: np.exp(model.score_samples(x)), as_column)


def prepare_kdepy(workload: Density, data: Points, threads: int) -> Prepared:
    """`NaiveKDE`, a loop over the sample."""
    limit_blas(threads)
    x, x_train = data
    model = need("KDEpy").NaiveKDE(kernel="gaussian", bw=workload.bandwidth).fit(x_train)
    return Prepared(partial(model.evaluate, x), as_column)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("scipy", "SciPy's gaussian_kde", prepare_scipy),
    Contender("sklearn-kde", "scikit-learn's KernelDensity, exact", prepare_sklearn),
    Contender("kdepy", "KDEpy's NaiveKDE", prepare_kdepy),
)
