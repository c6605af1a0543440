"""Kernel regression with a Gaussian kernel: its workloads, and who else computes it.

    f(x) = sum_i g(x - x_i) y_i / sum_i g(x - x_i)        g(d) = exp(-1/2 |w d|^2)

Every pair of a query and a training point counts, and none may be skipped. The points lie in the
unit cube around the origin, where no peer needs the largest exponent subtracted first: none does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import foveate
import numpy as np
from foveate._cli.contenders import (
    FOVEATE,
    Contender,
    Prepared,
    UnavailableError,
    limit_blas,
    need,
)
from numpy.typing import NDArray

from kinds.counted import Rated
from kinds.dot_products import compiled, jax_on, torch_on

MOST_BY_ONE = 2000  # points of a contender that takes queries one by one, in Python
BLOCK = 1000  # queries at a time, where weights are stored: 80 MB at 20,000 training points


@dataclass(frozen=True)
class Regression(Rated):
    """As many queries as training points, of a number of dimensions; w, an inverse bandwidth."""

    points: int
    dimensions: int
    w: float
    counted: ClassVar[str] = "pairs"

    @property
    def work(self) -> float:
        return float(self.points) ** 2


# w: a tenth of the range; and where some hundreds of the points in 16 dimensions have a say.
WORKLOADS = (
    Regression("gaussian-2000x1", 10.0, 2_000, 1, 10.0),
    Regression("gaussian-20000x1", 10.0, 20_000, 1, 10.0),
    Regression("gaussian-20000x16", 5.0, 20_000, 16, 3.0),
)


class Data(NamedTuple):
    """Queries and training points (n, d), and what was measured at these, (n,)."""

    x: NDArray[np.float32]
    x_train: NDArray[np.float32]
    y_train: NDArray[np.float32]


def make_points(points: int, dimensions: int) -> Data:
    """Uniform in the unit cube, in no order; y is a wave with noise, far from 0 everywhere."""
    rng = np.random.default_rng(20)
    x, x_train = rng.random((2, points, dimensions), dtype=np.float32) - np.float32(0.5)
    y_train = 4.0 + np.sin(3.0 * x_train.sum(axis=-1)) + rng.normal(0.0, 0.2, points)
    return Data(x, x_train, y_train.astype(np.float32))


def make_data(workload: Regression) -> Data:
    return make_points(workload.points, workload.dimensions)


def as_column(answer: Any) -> NDArray[np.float32]:
    """(n,) -> (n, 1): each answer is checked by itself."""
    return np.asarray(answer).reshape(-1, 1)


def factors(workload: Regression, data: Data) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrices (n, d + 2) and (d + 2, n), whose product is -1/2 |w (x - x_i)|^2."""
    x, t = (workload.w * points for points in (data.x, data.x_train))
    ones = np.ones((len(x), 1), np.float32)
    left = np.hstack([x, -0.5 * (x**2).sum(axis=1, keepdims=True), ones])
    right = np.hstack([t, ones, -0.5 * (t**2).sum(axis=1, keepdims=True)])
    return left, np.ascontiguousarray(right.T)


def beside_ones(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2): weights times this is the weighted sum, and the sum of the weights."""
    return np.column_stack([y, np.ones_like(y)])


def prepare_foveate(workload: Regression, data: Data, threads: int) -> Prepared:
    del threads  # the caller holds foveate.num_threads
    return Prepared(
        partial(foveate.kernel_regression, *data, w=workload.w, skip_far=False), as_column
    )


def prepare_numpy(workload: Regression, data: Data, threads: int) -> Prepared:
    """By matrix products, a block of queries at a time."""
    limit_blas(threads)

    def call() -> NDArray[np.float32]:
        left, right = factors(workload, data)
        values = beside_ones(data.y_train)
        sums = np.empty((workload.points, 2), np.float32)
        for first in range(0, workload.points, BLOCK):
            weights = left[first : first + BLOCK] @ right
            np.exp(weights, out=weights)
            np.matmul(weights, values, out=sums[first : first + BLOCK])
        return sums[:, 0] / sums[:, 1]

    return Prepared(call, as_column)


def prepare_torch_compile(workload: Regression, data: Data, threads: int) -> Prepared:
    """Compiled: in one dimension by differences, fused with both sums; else by matrix products."""
    torch = torch_on(threads)
    w = workload.w

    def by_differences(x: Any, x_train: Any, y_train: Any) -> Any:
        weights = torch.exp(-0.5 * (w * (x - x_train.T)) ** 2)
        return (weights * y_train).sum(1) / weights.sum(1)

    def by_products(left: Any, right: Any, values: Any) -> Any:
        sums = torch.exp(left @ right) @ values
        return sums[:, 0] / sums[:, 1]

    if workload.dimensions == 1:
        regress = torch.compile(by_differences, dynamic=False)
        return Prepared(compiled(partial(regress, *map(torch.from_numpy, data))), as_column)
    if workload.points % BLOCK:
        raise UnavailableError(f"is prepared here for multiples of {BLOCK} points")
    regress = torch.compile(by_products, dynamic=False)

    def call() -> Any:
        left, right = map(torch.from_numpy, factors(workload, data))
        values = torch.from_numpy(beside_ones(data.y_train))
        return torch.cat([regress(block, right, values) for block in left.split(BLOCK)])

    return Prepared(compiled(call), as_column)


def prepare_jax(workload: Regression, data: Data, threads: int) -> Prepared:
    """Jitted, a block of queries at a time; as torch.compile, by differences or by products."""
    if workload.points % BLOCK:
        raise UnavailableError(f"is prepared here for multiples of {BLOCK} points")
    jax = jax_on(threads)
    w = workload.w

    def by_differences(x: Any, x_train: Any, y_train: Any) -> Any:
        weights = jax.numpy.exp(-0.5 * (w * (x - x_train.T)) ** 2)
        return (weights * y_train).sum(1) / weights.sum(1)

    def by_products(left: Any, right: Any, values: Any) -> Any:
        sums = jax.numpy.exp(left @ right) @ values
        return sums[:, 0] / sums[:, 1]

    @jax.jit
    def regress(x: Any, *rest: Any) -> Any:
        of_block = by_differences if workload.dimensions == 1 else by_products
        blocks = x.reshape(-1, BLOCK, x.shape[-1])
        return jax.lax.map(lambda block: of_block(block, *rest), blocks).reshape(-1)

    def inputs() -> tuple[NDArray[np.float32], ...]:
        if workload.dimensions == 1:
            return data
        return (*factors(workload, data), beside_ones(data.y_train))

    return Prepared(lambda: regress(*inputs()).block_until_ready(), as_column)


@cache
def numba_sums(threads: int) -> Any:
    """Both sums of a query in one loop over the training points, compiled; a prange of queries."""
    numba = need("numba")
    numba.set_num_threads(threads)

    @numba.njit(parallel=True, fastmath=True)
    def regress(x: Any, x_train: Any, y_train: Any, w: Any) -> Any:
        out = np.empty(len(x), np.float32)
        for i in numba.prange(len(x)):
            totals, weighteds = 0.0, 0.0  # of blocks: a single float32 sum would lose digits
            for first in range(0, len(x_train), BLOCK):
                total = np.float32(0.0)
                weighted = np.float32(0.0)
                for j in range(first, min(first + BLOCK, len(x_train))):
                    square = np.float32(0.0)
                    for d in range(x.shape[1]):
                        off = w * (x[i, d] - x_train[j, d])
                        square += off * off
                    weight = np.exp(np.float32(-0.5) * square)
                    total += weight
                    weighted += weight * y_train[j]
                totals += total
                weighteds += weighted
            out[i] = weighteds / totals
        return out

    return regress


def prepare_numba(workload: Regression, data: Data, threads: int) -> Prepared:
    return Prepared(partial(numba_sums(threads), *data, np.float32(workload.w)), as_column)


def prepare_sklearn(workload: Regression, data: Data, threads: int) -> Prepared:
    """By `rbf_kernel`, a block of queries at a time."""
    rbf_kernel = need("sklearn.metrics.pairwise").rbf_kernel
    limit_blas(threads)
    gamma = workload.w**2 / 2
    values = beside_ones(data.y_train)

    def call() -> NDArray[np.float32]:
        blocks = np.split(data.x, range(BLOCK, workload.points, BLOCK))
        sums = np.concatenate([rbf_kernel(x, data.x_train, gamma) @ values for x in blocks])
        return sums[:, 0] / sums[:, 1]

    return Prepared(call, as_column)


def prepare_statsmodels(workload: Regression, data: Data, threads: int) -> Prepared:
    """`KernelReg`, locally constant, in float64: that is what it has."""
    if workload.points > MOST_BY_ONE:
        raise UnavailableError(f"takes queries one by one: timed up to {MOST_BY_ONE} points")
    limit_blas(threads)
    regression = need("statsmodels.nonparametric.kernel_regression").KernelReg
    bandwidth = np.full(workload.dimensions, 1 / workload.w)
    model = regression(
        data.y_train, data.x_train, "c" * workload.dimensions, reg_type="lc", bw=bandwidth
    )
    return Prepared(partial(model.fit, data.x), lambda answer: as_column(answer[0]))


def prepare_keops(workload: Regression, data: Data, threads: int) -> Prepared:
    """A reduction that is never stored, compiled by KeOps with the C++ compiler of the machine."""
    need("pykeops").set_verbose(False)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    lazy = need("pykeops.numpy").LazyTensor
    w = np.float32(workload.w)
    values = beside_ones(data.y_train)
    rows, columns = w * data.x[:, None], w * data.x_train[None]

    def call() -> NDArray[np.float32]:
        square = ((lazy(rows) - lazy(columns)) ** 2).sum(-1)
        sums = (-square / 2).exp() @ values
        return sums[:, 0] / sums[:, 1]

    return Prepared(compiled(call), as_column)


CONTENDERS = (
    Contender(FOVEATE.name, FOVEATE.title, prepare_foveate),
    Contender("numpy", "NumPy by matrix products, in blocks", prepare_numpy),
    Contender("torch-compile", "torch.compile", prepare_torch_compile),
    Contender("jax", "JAX, jitted, in blocks", prepare_jax),
    Contender("numba", "numba, a loop in parallel", prepare_numba),
    Contender("sklearn", "scikit-learn's rbf_kernel, in blocks", prepare_sklearn),
    Contender("statsmodels", "statsmodels' KernelReg", prepare_statsmodels),
    Contender("keops", "KeOps' LazyTensor", prepare_keops),
)
