"""The gradients of kernel regression of degree 1: differences, the formulas, edges."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from local_linear_checks import CLEAR, fit, limit
from regression_checks import KERNELS, NAMES, points
from strategies import normal
from tolerances import eps, wider

pytestmark = pytest.mark.threads

SAMPLE = np.array([0.5, 0.0, 2.0, 1.0, 0.3, 1.5, 0.0, 0.7, 1.0, 1.2, 0.1, 0.6])


def data(dtype: Any, d: int | None, k: int | None, n: int = 12) -> list[np.ndarray]:
    y = normal(2, (12,) if k is None else (12, k), dtype)
    return [points(n, d, dtype, 0), points(12, d, dtype, 1), y]


def differences(function: Any, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    gradient = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.any_isa
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("d", "k", "leave_one_out", "sample"),
    [(None, None, False, None), (1, 2, True, SAMPLE), (2, 2, False, SAMPLE), (2, None, True, None)],
    ids=str,
)
def test_against_differences(kernel, d, k, leave_one_out, sample):
    """Of the reference and of foveate; the error is that of a central difference of f."""
    arrays = dict(zip(NAMES, data(np.float64, d, k), strict=False))
    keywords = {"kernel": kernel, "leave_one_out": leave_one_out, "sample_weight": sample}
    w = np.linspace(0.3, 0.5, d or 1)
    arrays["x"][4] = 30.0  # far from all points
    if leave_one_out:
        arrays["x"][0] = arrays["x_train"][0]
    both = []
    for function in (reference.kernel_regression_vjp, fv.kernel_regression_vjp):
        output, pullback = function(*arrays.values(), w=w, degree=1, **keywords)
        there = (np.arange(12) != 4).reshape(-1, *[1] * (output.ndim - 1))
        # beyond a few bandwidths the planes of two points are too steep for a difference
        d_output = np.where(there, normal(5, output.shape, np.float64), 0)
        both.append(pullback(d_output))

    def loss(**changed: Any) -> float:
        given = {**arrays, "w": w, **keywords, **changed}
        got = reference.kernel_regression(**given, degree=1)
        return float(np.nansum(np.where(d_output == 0, 0, got * d_output)))

    for name, x in {**arrays, "w": w}.items():
        numeric = differences(lambda to, name=name: loss(**{name: to}), x)
        scale = 1 + np.abs(numeric).max()
        for found in both:
            np.testing.assert_allclose(
                getattr(found, name), numeric, rtol=1e-5, atol=3e-7 * scale, err_msg=name
            )


def check(*arrays: np.ndarray, **keywords: Any) -> fv.RegressionGradients:
    """Hold the gradients against the formulas one precision wider.

    They are computed in float64: what is left is the rounding of the gradients to their dtype, and
    a hundred ulp of float64 of the sums over absolute values, where all differences count as the
    range of the points, which is what the common center makes of them.
    """
    dtype = arrays[0].dtype
    exact = [wider(x) for x in arrays]
    output, pullback = fv.kernel_regression_vjp(*arrays, degree=1, **keywords)
    assert output.dtype == dtype
    with np.errstate(all="ignore"):
        weighted, planes = fit(exact, dtype, **keywords)
    clear = ~((planes.least < CLEAR * limit(dtype)) | (planes.most > limit(dtype) / CLEAR))
    clear &= np.abs(weighted.squares - 1).min(axis=1) > 32 * eps(np.float32)
    assert clear.mean() > 0.5, "hardly anything was compared"
    d_output = normal(9, output.shape, dtype)
    d_output[~clear] = 0
    found = pullback(d_output)
    wanted = reference.kernel_regression_vjp(*exact, degree=1, **keywords)[1](wider(d_output))
    d = np.abs(wider(d_output)).reshape(len(output), -1)
    span = np.ptp(np.concatenate([exact[0], exact[1]]), axis=0).max(initial=1)
    lever = 1 + span * np.abs(planes.lever).sum(axis=1)
    rest = 1 + np.abs(exact[2]).max() + span * np.abs(planes.slope).sum(axis=(1, 2))
    size = np.where(clear, lever**2 * rest, 0) @ d.sum(axis=1) * (1 + span)
    factor = np.max(keywords.get("w", 1.0)) * span
    for name, array in zip(NAMES, (*arrays, np.asarray(keywords.get("w", 1.0))), strict=True):
        got, want = (np.asarray(getattr(g, name)) for g in (found, wanted))
        assert got.shape == array.shape == want.shape, name
        off = np.abs(got.astype(want.dtype) - want)
        allowed = 100 * 2.0**-52 * size * (1 + factor) ** 2 + eps(got.dtype) * np.abs(want)
        if got.dtype == np.float16:
            allowed = allowed + float(np.finfo(np.float16).smallest_subnormal)
        assert (off <= allowed).all(), f"{name}: {np.max(off / allowed)} of what is allowed"
    return found


@pytest.mark.parametrize("kernel", KERNELS)
def test_against_the_reference(kernel, dtype):
    for d, k, w in ((None, None, 0.7), (2, 3, 0.4), (3, None, np.array([0.2, 0.3, 0.4]))):
        sample = SAMPLE if k else None
        check(*data(dtype, d, k, 33), w=w, kernel=kernel, sample_weight=sample)


@pytest.mark.parametrize("kernel", ["gaussian", "triangular"])
def test_leave_one_out(kernel, dtype):
    x = points(90, 2, dtype, 0)
    check(x, x, normal(1, (90,), dtype), kernel=kernel, w=0.75, leave_one_out=True)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_where_there_are_fewer_directions(kernel):
    """One neighbor: the gradient of the mean. On a line: that of the line's own regression."""
    x_train, y = np.array([[0.0, 0.0], [9.0, 9.0], [9.5, 9.5], [9.25, 9.25]]), np.arange(4.0)
    x = np.array([[0.25, 0.0], [9.125, 9.125], [50.0, 0.0]])
    sample = [1, 2, 3, 4]
    keywords = {"kernel": kernel, "w": 1.0 if kernel == "epanechnikov" else 8.0}
    of_all = {**keywords, "sample_weight": sample}
    _, pullback = fv.kernel_regression_vjp(x, x_train, y, degree=1, **of_all)
    _, flat = fv.kernel_regression_vjp(x, x_train, y, **of_all)
    for at in (0, 2):
        d_output = (np.arange(3) == at).astype(float)
        d_output[2] = 0 if kernel == "gaussian" else d_output[2]
        for got, want in zip(pullback(d_output), flat(d_output), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    found = pullback(np.array([0.0, 1.0, 0.0]))
    line = 2**0.5 * np.array([9.0, 9.5, 9.25])
    _, along = fv.kernel_regression_vjp(
        2**0.5 * x[1:2, 0], line, y[1:], degree=1, sample_weight=sample[1:], **keywords
    )
    want = along(np.ones(1))
    np.testing.assert_allclose(found.y_train[1:], want.y_train, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.x[1].sum() / 2**0.5, want.x[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.x_train[1:].sum(axis=1) / 2**0.5, want.x_train, atol=1e-11)
    np.testing.assert_allclose(found.w, want.w, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_seen_changes_nothing(kernel):
    arrays = data(np.float64, 2, 2)
    sample = SAMPLE.copy()
    keywords = {"kernel": kernel, "w": 0.5, "sample_weight": sample, "degree": 1}
    output, pullback = fv.kernel_regression_vjp(*arrays, **keywords)
    d_output = normal(1, output.shape, np.float64)
    want = pullback(d_output)
    arrays[2][[1, 6]] = np.nan, np.inf  # of weight 0
    again = fv.kernel_regression_vjp(*arrays, **keywords)[1](d_output)
    for got, clean in zip(again, want, strict=True):
        np.testing.assert_array_equal(got, clean)


def test_only_what_is_wanted(dtype):
    arrays = data(dtype, 2, None)
    output, pullback = fv.kernel_regression_vjp(*arrays, degree=1)
    whole = pullback(np.ones_like(output))
    for name in NAMES:
        _, pullback = fv.kernel_regression_vjp(*arrays, degree=1, wrt=name)
        part = pullback(np.ones_like(output))
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
        assert all(getattr(part, other) is None for other in NAMES if other != name)


def test_empty_axes():
    for n, m, k, d in [(0, 5, None, 2), (5, 0, None, 1), (4, 6, 0, 2), (4, 6, 2, 0)]:
        x, x_train = points(n, d, "f8", 0), points(m, d, "f8", 1)
        y = normal(2, (m,) if k is None else (m, k), "f8")
        output, pullback = fv.kernel_regression_vjp(x, x_train, y, degree=1)
        found = pullback(np.ones_like(output))
        assert [np.shape(g) for g in found] == [x.shape, x_train.shape, y.shape, ()]


def test_the_same_bits_for_any_number_of_threads():
    x = points(300, 2, "f4", 0)
    found = []
    for threads in (1, 2):
        with fv.num_threads(threads):
            output, pullback = fv.kernel_regression_vjp(x, x, x, degree=1)
            found.append([output, *pullback(np.ones_like(output))])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
