"""kernel_regression_vjp: against differences, the formulas and torch."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate.reference._regression_gradients import kernel_slopes
from regression_checks import COMPACT, KERNELS, NAMES, check, points, vjp
from strategies import BFLOAT16, normal
from tolerances import FLOORS, eps


def w_of(d: int | None) -> float:
    """One with which a query has many neighbors, and not all of the points: u^2 is about 2."""
    return (1.0 / (d or 1)) ** 0.5 * (0.9 if d == 16 else 1.0)


# --- the reference itself: central differences ---------------------------------------------------


def differences(function: Any, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a number, element by element."""
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (function(up) - function(down)) / (2 * step)
    return gradient


SAMPLE = np.array([0.5, 0.0, 2.0, 1.0, 0.3, 1.5, 0.0, 0.7, 1.0])


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("sample", [None, SAMPLE], ids=["even", "weighted"])
@pytest.mark.parametrize(("d", "k"), [(None, None), (1, 2), (3, 2), (3, None)])
def test_the_reference_against_differences(kernel, leave_one_out, sample, d, k):
    """The error of a central difference: step^2 for the curvature, eps / step for the rounding.

    Among these few points none is within the step of a kink.
    """
    arrays = {
        "x": points(9, d, np.float64, 0),
        "x_train": points(9, d, np.float64, 1),
        "y_train": normal(2, (9,) if k is None else (9, k), np.float64),
    }
    arrays["x"][4] = 30.0  # far from all points
    keywords = {"kernel": kernel, "leave_one_out": leave_one_out, "sample_weight": sample}
    for w in (0.8, np.linspace(0.5, 1.0, d or 1), np.zeros(d or 1)):
        output, pullback = reference.kernel_regression_vjp(*arrays.values(), w=w, **keywords)
        assert np.isnan(output[4]).all() == (kernel in COMPACT and np.any(w))
        d_output = normal(5, output.shape, np.float64)
        found = pullback(np.where(np.isnan(output), np.nan, d_output))

        def loss(w=w, d_output=d_output, **changed: Any) -> float:
            got = reference.kernel_regression(**{**arrays, "w": w, **keywords, **changed})
            return float(np.nansum(got * d_output))

        for name, x in {**arrays, "w": np.asarray(w)}.items():
            numeric = differences(lambda to, name=name, loss=loss: loss(**{name: to}), x)
            got = getattr(found, name)
            np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7, err_msg=name)


def test_slopes_at_the_corners():
    squares = np.array([0.0, 0.25, 1.0, 4.0, np.nan])
    for kernel, want in {
        "boxcar": [0, 0, 0, 0, 0],
        "epanechnikov": [-1, -1, 0, 0, 0],
        "triangular": [0, -1, 0, 0, 0],
    }.items():
        np.testing.assert_array_equal(kernel_slopes(squares, kernel)[:4], want[:4])


# --- against the reference -----------------------------------------------------------------------


# On both sides of the queries of a panel and of the keys of a tile.
LENGTHS = [(1, 1), (31, 33), (168, 169), (1, 337), (337, 1), (337, 440)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [None, 1, 2, 3, 5, 16], ids=str)
def test_lengths(kernel, d, dtype):
    for seed, (n, m) in enumerate(LENGTHS):
        x, x_train = points(n, d, dtype, seed), points(m, d, dtype, seed + 100)
        if n * m == 1:
            x = x_train + np.asarray(0.25, dtype)  # within reach
        check(x, x_train, normal(7, (m, 3), dtype), kernel=kernel, w=w_of(d))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_keywords(kernel, leave_one_out, weighted, dtype):
    sample = None
    if weighted:
        sample = np.random.default_rng(0).random(90)
        sample[::7] = 0
    for d in (None, 3):
        w = w_of(d)
        for given in (w, np.array(w), np.full(d or 1, w), np.linspace(0, 1, d or 2)[-(d or 1) :]):
            x, x_train = points(90, d, dtype, 1), points(90, d, dtype, 2)
            found = check(
                x, x_train, normal(3, (90,), dtype), w=given, kernel=kernel,
                leave_one_out=leave_one_out, sample_weight=sample,
            )  # fmt: skip
            assert isinstance(found.w, float if np.ndim(given) == 0 else np.ndarray)
            if weighted:
                for name in ("x_train", "y_train"):
                    assert not getattr(found, name)[::7].any(), name


@pytest.mark.parametrize("kernel", KERNELS)
def test_many_points(kernel):
    """More keys than one worker holds, and more queries than a block."""
    for dtype in (np.float32, np.float64):
        x, x_train = points(300, 2, dtype, 0), points(3000, 2, dtype, 1)
        check(x, x_train, normal(2, (3000, 2), dtype), kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_array_as_points_and_training_points(kernel, dtype):
    """Distances of 0, where the triangular kernel has its corner."""
    x = points(60, 2, dtype, 0)
    check(x, x, normal(1, (60,), dtype), kernel=kernel)
    check(x, x, normal(1, (60,), dtype), kernel=kernel, leave_one_out=True)


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
@pytest.mark.parametrize("d", [None, 3, 16], ids=str)
def test_near_points_far_from_the_origin(kernel, d):
    """Their differences are exact: the gradients are those of the points moved to the origin."""
    far = np.float32(1e4)
    x, x_train = (points(80, d, np.float32, seed) + far for seed in (0, 1))
    y = normal(2, (80, 2), np.float32)
    there = check(x, x_train, y, kernel=kernel, w=w_of(d))
    here = check(x - far, x_train - far, y, kernel=kernel, w=w_of(d))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name), err_msg=name)


@pytest.mark.parametrize("place", [10.0, 300.0, 3e4])
def test_queries_far_from_all_points(place):
    """A Gaussian sees the nearest points alone there."""
    for dtype in (np.float32, np.float64):
        for d in (None, 2):
            x, x_train = points(20, d, dtype, 0) + dtype(place), points(50, d, dtype, 1)
            found = check(x, x_train, normal(2, (50,), dtype))
            assert np.isfinite(found.w)


def test_a_query_so_far_that_squares_overflow():
    """It has no answer, and passes nothing on, also where another far one needs float64."""
    x, x_train = np.array([0.5, 1e30, 1e4], np.float32), np.array([0.0, 1.0], np.float32)
    y, d_output = np.array([2.0, 4.0], np.float32), np.array([1, np.nan, 0], np.float32)
    for far in (3, 2):
        output, found = vjp(fv.kernel_regression_vjp, (x[:far], x_train, y), d_output[:far])
        assert np.isnan(output[1])
        np.testing.assert_allclose(found.y_train, [0.5, 0.5], rtol=1e-6)
        np.testing.assert_allclose(found.x, [0.5, 0, 0][:far], rtol=1e-6)
        assert found.w == 0


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_ties_far_from_all_points(leave_one_out):
    """Points that are equally near have the same weight, however far they are."""
    x_train = np.array([0, 0, 0, 1, 1, 1], np.float32)
    x = np.full(6, 1e5, np.float32)
    y = np.array([0, 0, 0, 1, 2, 3], np.float32)
    for weights in (None, np.ones(6)):
        output, pullback = fv.kernel_regression_vjp(
            x, x_train, y, leave_one_out=leave_one_out, sample_weight=weights
        )
        d_y = pullback(np.ones_like(output)).y_train
        np.testing.assert_allclose(d_y.sum(), 6, rtol=1e-5)
        if not leave_one_out:
            np.testing.assert_allclose(d_y[3:], 2, rtol=1e-5)
        assert not d_y[:3].any()


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40], ids=["tiny", "huge"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_units_do_not_matter(kernel, scale):
    """x in other units with w in theirs: the gradients are in the inverse units, exactly."""
    x, x_train, y = (points(60, 2, np.float32, seed) for seed in (0, 1, 2))
    d_output = normal(3, (60, 2), np.float32)
    _, want = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, w=2.0, kernel=kernel)
    moved = (x * np.float32(scale), x_train * np.float32(scale), y)
    _, got = vjp(fv.kernel_regression_vjp, moved, d_output, w=2.0 / scale, kernel=kernel)
    np.testing.assert_array_equal(got.y_train, want.y_train)
    np.testing.assert_array_equal(got.x * np.float32(scale), want.x)
    np.testing.assert_array_equal(got.x_train * np.float32(scale), want.x_train)
    np.testing.assert_allclose(got.w / scale, want.w, rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_output_is_that_of_kernel_regression(kernel, dtype):
    x, x_train, y = points(50, 2, dtype, 0), points(70, 2, dtype, 1), normal(2, (70, 3), dtype)
    x[3] = 100
    output, _ = fv.kernel_regression_vjp(x, x_train, y, kernel=kernel, fill_value=-1.0)
    want = fv.kernel_regression(x, x_train, y, kernel=kernel, fill_value=-1.0, skip_far=False)
    # a single w is the scale of the squares there, and the factor of the differences here
    floor = FLOORS[dtype].output * eps(dtype) if kernel == "gaussian" else 0
    floor = max(floor, 2.0**-8 if dtype == BFLOAT16 and kernel == "gaussian" else 0)
    np.testing.assert_allclose(
        output.astype(float), want.astype(float), rtol=0, atol=floor * np.abs(y.astype(float)).max()
    )


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_autograd_of_torch(torch, leave_one_out, weighted):
    """In float64, where both are within 1e-10 of sums of a few hundred terms of size one."""
    x, x_train, y = (points(90, 3, np.float64, seed) for seed in range(3))
    w, d_output = np.array([0.5, 1.0, 2.0]), normal(4, (90, 3), np.float64)
    sample = np.random.default_rng(0).random(90) + 0.1 if weighted else None
    keywords = {"w": w, "leave_one_out": leave_one_out, "sample_weight": sample}
    output, found = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, **keywords)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, x_train, y, w)]
    tx, tx_train, ty, tw = tensors
    logits = -0.5 * (tw * (tx[:, None] - tx_train[None])).square().sum(-1)
    if sample is not None:
        logits = logits + torch.tensor(np.log(sample))
    if leave_one_out:
        logits = logits.masked_fill(torch.eye(90).bool(), -torch.inf)
    answer = torch.softmax(logits, -1) @ ty
    (answer * torch.tensor(d_output)).sum().backward()
    np.testing.assert_allclose(output, answer.detach().numpy(), rtol=1e-10, atol=1e-10)
    for name, tensor in zip(NAMES, tensors, strict=True):
        np.testing.assert_allclose(
            getattr(found, name), tensor.grad.numpy(), rtol=1e-10, atol=1e-10, err_msg=name
        )
