"""kernel_regression_vjp: what is promised at the edges, and what is refused."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from regression_checks import COMPACT, KERNELS, NAMES, check, points, vjp
from strategies import normal

# --- what is promised ----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["boxcar", "constant"])
def test_flat_kernels(kernel):
    x, x_train, y = (points(30, 2, np.float32, seed) for seed in range(3))
    y[3] = np.nan
    _, found = vjp(fv.kernel_regression_vjp, (x, x_train, y), np.ones_like(y), kernel=kernel)
    assert not found.x.any()
    assert not found.x_train.any()
    assert found.w == 0.0
    assert found.y_train.any()


@pytest.mark.parametrize("kernel", COMPACT)
@pytest.mark.parametrize("fill_value", [np.nan, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_queries_without_a_neighbor_pass_nothing_on(kernel, fill_value, weighted, dtype):
    x, x_train, y = points(40, 2, dtype, 0), points(50, 2, dtype, 1), normal(2, (50, 3), dtype)
    sample = np.random.default_rng(0).integers(1, 9, 50) if weighted else None
    keywords = {"kernel": kernel, "fill_value": fill_value, "sample_weight": sample}
    x[5], x[17] = 100, -100
    d_output = normal(4, (40, 3), dtype)
    d_output[[5, 17]] = 0
    _, want = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, **keywords)
    d_output[5], d_output[17] = np.nan, np.inf
    output, found = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, **keywords)
    np.testing.assert_array_equal(output[[5, 17]].astype(float), np.full((2, 3), fill_value))
    for name in NAMES:
        got = np.asarray(getattr(found, name)).astype(float)
        assert np.isfinite(got).all(), name
        np.testing.assert_array_equal(got, np.asarray(getattr(want, name)).astype(float))
    assert not found.x[[5, 17]].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_single_point_left_out(kernel, dtype):
    x, y = np.array([[0.5, 1.0]], dtype), np.array([[2.0, 3.0]], dtype)
    output, found = vjp(
        fv.kernel_regression_vjp, (x, x, y), np.full_like(y, np.nan), kernel=kernel,
        leave_one_out=True,
    )  # fmt: skip
    assert np.isnan(output).all()
    for name in NAMES:
        assert not np.asarray(getattr(found, name)).any(), name


def test_all_weight_on_the_point_left_out(dtype):
    """Its mean is over no weight at all, though it has neighbors."""
    x, y = np.array([0.0, 0.25, 0.5], dtype), np.array([1.0, 2.0, 4.0], dtype)
    for kernel in KERNELS:
        output, found = vjp(
            fv.kernel_regression_vjp, (x, x, y), np.array([np.nan, 1, 1], dtype), kernel=kernel,
            leave_one_out=True, sample_weight=[1.0, 0.0, 0.0],
        )  # fmt: skip
        np.testing.assert_array_equal(output.astype(float), [np.nan, 1, 1])
        np.testing.assert_array_equal(found.y_train.astype(float), [2, 0, 0])
        for name in ("x", "x_train", "w"):
            assert not np.asarray(getattr(found, name)).any(), name


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("d", [None, 0, 1, 3], ids=str)
def test_empty_axes(kernel, d, dtype):
    for n, m, k in [(0, 5, None), (5, 0, None), (0, 0, 2), (4, 6, 0), (3, 4, 2)]:
        x, x_train = points(n, d, dtype, 0), points(m, d, dtype, 1)
        y = normal(2, (m,) if k is None else (m, k), dtype)
        for w in (0.25, np.full(d if d is not None else 1, 0.25)):
            for sample in (None, np.arange(1.0, m + 1), np.arange(m) % 2 + np.arange(m) // 2):
                check(x, x_train, y, w=w, kernel=kernel, sample_weight=sample)


def test_a_w_of_zero_does_not_count(dtype):
    """The gradient of a factor that is 0 is 0: the distance has its square."""
    x, x_train, y = points(40, 2, dtype, 0), points(50, 2, dtype, 1), normal(2, (50,), dtype)
    for kernel in KERNELS:
        found = check(x, x_train, y, w=[0.0, 1.0], kernel=kernel)
        assert found.w[0] == 0
        assert not found.x[:, 0].any()
        assert check(x, x_train, y, w=0.0, kernel=kernel).w == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_layouts(kernel):
    """The same bits as from contiguous arrays."""
    x, x_train, y = (
        points(40, 3, np.float32, 0),
        points(50, 3, np.float32, 1),
        points(50, 2, "f", 2),
    )
    d_output = normal(3, (40, 2), np.float32)
    _, want = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, kernel=kernel)
    for laid in (
        np.asfortranarray,
        lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
    ):
        arrays = [laid(a) for a in (x, x_train, y)]
        _, found = vjp(fv.kernel_regression_vjp, arrays, laid(d_output), kernel=kernel)
        for name in NAMES:
            np.testing.assert_array_equal(getattr(found, name), getattr(want, name))


def test_repeated_rows():
    """Points and values of stride 0 have a gradient for each row."""
    x = np.broadcast_to(np.float32(0.5), (20, 2))
    y = np.broadcast_to(np.float32(2.0), (20, 3))
    for kernel in KERNELS:
        check(x, x, y, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_bits_for_any_number_of_threads(kernel):
    x, x_train, y = (points(1500, 2, np.float32, seed) for seed in range(3))
    d_output = normal(3, (1500, 2), np.float32)

    def bits() -> list[bytes]:
        _, found = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, kernel=kernel)
        return [np.asarray(g).tobytes() for g in found]

    with fv.num_threads(1):
        one = bits()
    for threads in (2, 3, 7):
        with fv.num_threads(threads):
            assert bits() == one


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_what_is_wanted(kernel):
    arrays = [points(30, 2, np.float64, seed) for seed in range(3)]
    d_output = normal(3, (30, 2), np.float64)
    for function in (fv.kernel_regression_vjp, reference.kernel_regression_vjp):
        _, whole = vjp(function, arrays, d_output, kernel=kernel)
        for wrt in [*NAMES, ("x", "w"), [], {"x_train", "y_train"}]:
            names = [wrt] if isinstance(wrt, str) else wrt
            _, some = vjp(function, arrays, d_output, kernel=kernel, wrt=wrt)
            for name in NAMES:
                if name in names:
                    np.testing.assert_array_equal(getattr(some, name), getattr(whole, name))
                else:
                    assert getattr(some, name) is None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_pullback_can_be_used_again(kernel, weighted):
    """... also after the output was overwritten."""
    arrays = [points(30, 2, np.float32, seed) for seed in range(3)]
    d_output = normal(3, (30, 2), np.float32)
    sample = np.linspace(0.5, 1, 30) if weighted else None
    output, pullback = fv.kernel_regression_vjp(*arrays, kernel=kernel, sample_weight=sample)
    one = pullback(d_output)
    output[:] = np.nan
    two = pullback(d_output)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    twice = pullback(2 * d_output)
    np.testing.assert_allclose(twice.y_train, 2 * one.y_train, rtol=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "triangular"])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_not_finite_in_y_is_not_hidden(kernel, weighted):
    x, x_train, y = np.arange(12.0), np.arange(12.0) + 0.25, normal(2, (12, 2), np.float64)
    sample = np.linspace(0.5, 1, 12) if weighted else None
    d_output = normal(3, (12, 2), np.float64)
    arrays = (x, x_train, y)
    keywords = {"kernel": kernel, "sample_weight": sample}
    _, clean = vjp(fv.kernel_regression_vjp, arrays, d_output, **keywords)
    for bad in (np.nan, np.inf):
        y = y.copy()
        y[5, 1] = bad
        output, found = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, **keywords)
        seen = ~np.isfinite(output[:, 1])
        assert seen[5]
        assert not np.isfinite(found.x[seen]).any()
        # the same sums, in blocks of other sizes
        np.testing.assert_allclose(found.x[~seen], clean.x[~seen], rtol=1e-14, atol=1e-14)
        assert not np.isfinite(found.x_train[5])
        assert not np.isfinite(found.w)
        np.testing.assert_allclose(found.y_train, clean.y_train, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_point_of_weight_zero_has_no_gradient(kernel, leave_one_out):
    """Whatever it holds, and whatever the others hold."""
    x, x_train = np.arange(12.0), np.arange(12.0) + 0.25
    y, sample = normal(2, (12, 2), np.float64), np.linspace(0.5, 1, 12)
    y[4, 0], y[6, 1], x_train[6], sample[6], sample[5] = np.nan, np.inf, 6.5, 0, 0
    _, found = vjp(
        fv.kernel_regression_vjp, (x, x_train, y), normal(3, (12, 2), np.float64), kernel=kernel,
        leave_one_out=leave_one_out, sample_weight=sample,
    )  # fmt: skip
    for name in ("x_train", "y_train"):
        assert not getattr(found, name)[5:7].any(), name
    assert np.isfinite(found.y_train).all()
    assert found.y_train[4].any()


@pytest.mark.parametrize("kernel", ["gaussian", *COMPACT])
def test_nan_among_the_points_is_not_hidden(kernel):
    x, x_train, y = (points(30, 2, np.float32, seed) for seed in range(3))
    d_output = normal(3, (30, 2), np.float32)
    _, clean = vjp(fv.kernel_regression_vjp, (x, x_train, y), d_output, kernel=kernel)
    bad = x.copy()
    bad[3, 1] = np.nan
    _, found = vjp(fv.kernel_regression_vjp, (bad, x_train, y), d_output, kernel=kernel)
    others = np.arange(30) != 3
    np.testing.assert_array_equal(found.x[others], clean.x[others])
    assert np.isnan(found.y_train).all()
    if kernel != "boxcar":
        assert np.isnan(found.x[3]).all()
        assert np.isnan(found.x_train).all()
        assert np.isnan(found.w)
    bad = x_train.copy()
    bad[3, 1] = np.nan
    _, found = vjp(fv.kernel_regression_vjp, (x, bad, y), d_output, kernel=kernel)
    assert np.isnan(found.y_train).all()
    if kernel != "boxcar":
        assert np.isnan(found.x).all()


def test_w_is_learned_by_its_gradient():
    """The textbook's problem: the descent ends where the leave-one-out error is least."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 5, 50))
    y = 2 * np.sin(x) + x**0.8 + rng.normal(0, 0.5, 50)

    def error(w: float) -> float:
        return float(np.mean((fv.kernel_regression(x, x, y, w=w, leave_one_out=True) - y) ** 2))

    w = 1.0
    for _ in range(300):
        output, pullback = fv.kernel_regression_vjp(x, x, y, wrt="w", w=w, leave_one_out=True)
        w -= 10 * pullback(2 * (output - y) / len(y)).w
    assert abs(pullback(2 * (output - y) / len(y)).w) < 1e-6
    assert error(w) <= min(error(v) for v in np.geomspace(0.1, 100, 500))


def test_bad_input():
    x, x_train, y = points(5, 2, np.float32, 0), points(6, 2, np.float32, 1), points(6, 3, "f", 2)
    output, pullback = fv.kernel_regression_vjp(x, x_train, y)
    with pytest.raises(ValueError, match=r"^d_output: got shape \(5,\), wanted \(5, 3\)"):
        pullback(output[:, 0])
    with pytest.raises(TypeError, match=r"^d_output: got dtype float64, wanted float32"):
        pullback(output.astype(np.float64))
    with pytest.raises(TypeError, match=r"^d_output: got NoneType, wanted"):
        pullback(None)
    with pytest.raises(ValueError, match=r"^wrt: got 'key', wanted names among \['x', 'x_train'"):
        fv.kernel_regression_vjp(x, x_train, y, wrt="key")
    with pytest.raises(TypeError, match=r"^wrt: got 1, wanted"):
        fv.kernel_regression_vjp(x, x_train, y, wrt=1)
    with pytest.raises(ValueError, match=r"^kernel: got 'logistic', wanted one of"):
        fv.kernel_regression_vjp(x, x_train, y, kernel="logistic")
    with pytest.raises(TypeError, match=r"^kernel: got None, wanted one of"):
        fv.kernel_regression_vjp(x, x_train, y, kernel=None)
    with pytest.raises(ValueError, match=r"^leave_one_out: got 5 rows of x and 6 of x_train"):
        fv.kernel_regression_vjp(x, x_train, y, leave_one_out=True)
    with pytest.raises(TypeError, match=r"^leave_one_out: got 1, wanted True or False"):
        fv.kernel_regression_vjp(x, x_train, y, leave_one_out=1)
    with pytest.raises(ValueError, match=r"^w: got -1.0, wanted numbers that are not negative"):
        fv.kernel_regression_vjp(x, x_train, y, w=-1)
    with pytest.raises(ValueError, match=r"^w: got shape \(3,\), wanted a number or shape \(2,\)"):
        fv.kernel_regression_vjp(x, x_train, y, w=np.ones(3))
    with pytest.raises(ValueError, match=r"^y_train: got shape \(5, 3\), wanted \(6,\)"):
        fv.kernel_regression_vjp(x, x_train, y[:5])
    with pytest.raises(TypeError, match=r"^x: got dtype complex64"):
        fv.kernel_regression_vjp(x.astype(np.complex64), x_train, y)
    with pytest.raises(ValueError, match=r"^sample_weight: got only zeros"):
        fv.kernel_regression_vjp(x, x_train, y, sample_weight=np.zeros(6))
