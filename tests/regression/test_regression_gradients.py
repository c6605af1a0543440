"""kernel_regression_vjp: against differences, the formulas and torch, and its edges."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate.reference._regression import KERNELS
from foveate.reference._regression_gradients import kernel_slopes
from regression_checks import COMPACT, FLOOR_ULP, Sizes, rows
from strategies import BFLOAT16, normal
from tolerances import FLOORS, RATIO, eps, wider

NAMES = fv.RegressionGradients._fields


def vjp(function: Any, arrays: Any, d_output: Any, **keywords: Any) -> Any:
    output, pullback = function(*arrays, **keywords)
    return output, pullback(d_output)


def check(*arrays: np.ndarray, seed: int = 9, **keywords: Any) -> fv.RegressionGradients:
    """Hold kernel_regression_vjp against the formulas one precision wider."""
    dtype = arrays[0].dtype.newbyteorder("=")
    wide = reference.compute_dtype(dtype)
    before = [x.tobytes() for x in arrays]
    output, pullback = fv.kernel_regression_vjp(*arrays, **keywords)
    assert output.dtype == dtype
    exact = [wider(x) for x in arrays]
    with np.errstate(all="ignore"):
        sizes = Sizes(exact, eps(wide), **keywords)
    assert sizes.clear.sum() >= 0.7 * len(output), "hardly anything was compared"
    d_output = normal(seed, output.shape, dtype)
    d_output[~sizes.clear] = 0  # rounding decides what they see
    found = pullback(d_output)
    assert before == [x.tobytes() for x in arrays], "an input was modified"

    want_output, want = vjp(reference.kernel_regression_vjp, exact, wider(d_output), **keywords)
    _, usual = vjp(reference.kernel_regression_vjp, arrays, d_output, **keywords)
    np.testing.assert_array_equal(
        np.isnan(output.astype(float))[sizes.clear], np.isnan(want_output)[sizes.clear]
    )
    bounds = sizes.of(rows(wider(d_output)))
    # the weights of bfloat16 are rounded in the forward pass, for the product and for the lse
    ulps = FLOOR_ULP * eps(wide) + FLOORS[dtype].rounded_weights
    for name, array in zip(NAMES, (*arrays, np.asarray(keywords.get("w", 1.0))), strict=True):
        got, w, plain = (np.asarray(getattr(g, name)) for g in (found, want, usual))
        assert got.shape == array.shape == w.shape, name
        if name != "w":
            assert got.dtype == dtype, name
        else:
            assert got.dtype == (wide if got.ndim else np.float64)
        bound = bounds[name] if got.ndim or name != "w" else bounds[name].sum()
        off = np.abs(got.astype(w.dtype) - w)
        assert np.isfinite(off).all(), name
        allowed = ulps * np.reshape(bound, w.shape) + RATIO * np.max(np.abs(plain - w), initial=0)
        allowed = allowed + eps(got.dtype) * np.abs(w)
        if got.dtype == np.float16:
            allowed = allowed + float(np.finfo(np.float16).smallest_subnormal)
        bad = off > allowed
        assert not bad.any(), (
            f"{name}: {bad.sum()} of {bad.size} are off, by {off[bad][0]:.3g}, "
            f"allowed {allowed[bad][0]:.3g}"
        )
    return found


def points(n: int, d: int | None, dtype: Any, seed: int) -> np.ndarray:
    return normal(seed, (n,) if d is None else (n, d), dtype)


def w_of(d: int | None) -> float:
    """One with which a query has many neighbours, and not all of the points: u^2 is about 2."""
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
def test_queries_without_a_neighbour_pass_nothing_on(kernel, fill_value, weighted, dtype):
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
    """Its mean is over no weight at all, though it has neighbours."""
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
    with pytest.raises(ValueError, match=r"^kernel: got 'cosine', wanted one of"):
        fv.kernel_regression_vjp(x, x_train, y, kernel="cosine")
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
    with pytest.raises(ValueError, match=r"^sample_weight: got zeros only"):
        fv.kernel_regression_vjp(x, x_train, y, sample_weight=np.zeros(6))
