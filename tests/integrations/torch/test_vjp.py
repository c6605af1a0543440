"""Gradients through foveate.torch against those of NumPy's side: the same bits where it can be."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import FLOATS, REACHES, hold, reach_of, sizes
from strategies import DTYPES, WITH_PARAMETERS, normal, problem, score_of
from tolerances import RATIO, eps, wider
from torch_checks import (
    array,
    as_torch,
    ft,
    gradients,
    leaf,
    rounded,
    score_named,
    tensor,
    tensors_of,
    torch,
    with_tensors,
)


@pytest.fixture
def seed_of_five(monkeypatch):
    """Tensors draw the key that rng=5 is on the side of NumPy."""
    words = tensor(np.array(fv._inputs.random.key_of(5), np.uint64).view(np.int64))
    for name in ("_attention", "_hard"):
        module = __import__(f"foveate.torch.{name}", fromlist=["draw_seed"])
        monkeypatch.setattr(module, "draw_seed", lambda _: words)


@pytest.mark.usefixtures("seed_of_five")
@pytest.mark.parametrize("reach", REACHES)
def test_the_bits_of_numpy(reach, dtype):
    """Of a dot product nothing is left to torch."""
    arrays = problem(33, 65, lead=(2, 2), size=16, value_size=24, dtype=dtype)
    keywords = reach_of(reach, (2, 2), 33, 65)
    output, pullback = fv.attention_vjp(*arrays, **keywords)
    wide = reference.compute_dtype(dtype)
    d_output, d_lse = normal(9, output.shape, dtype), normal(10, output.shape[:-1], wide)
    wanted = pullback(d_output, d_lse)
    others = as_torch({x: y for x, y in keywords.items() if x != "rng"}, leaf)
    inputs = [leaf(x) for x in arrays]
    inputs += [others[x] for x in ("mask", "sink") if getattr(others.get(x), "requires_grad", 0)]
    answers = ft.attention(*inputs[:3], return_lse=True, **others)
    np.testing.assert_array_equal(array(answers[0]), output)
    found = gradients(answers, inputs, d_output, d_lse)
    named = [x for x in (*wanted[:3], wanted.mask, wanted.sink) if x is not None]
    for x, y in zip(found, named, strict=False):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", WITH_PARAMETERS)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_parameters(name, dtype):
    """Held as the gradients of NumPy's side are."""
    arrays = problem(33, 65, lead=(2,), size=10, value_size=6, dtype=dtype)
    score = score_of(name, 10, dtype)
    own = as_torch(score, leaf)
    if name.startswith("location"):
        own = dataclasses.replace(own, b=leaf(np.array(score.b, dtype)))
    if name == "gaussian":
        own = ft.Gaussian(leaf(np.array(score.w)))
    names = [x for x, y in vars(own).items() if isinstance(y, torch.Tensor)]
    inputs = [leaf(x) for x in arrays] + [getattr(own, x) for x in names]
    output, lse = ft.attention(*inputs[:3], score=own, return_lse=True)
    d_output, d_lse = normal(9, output.shape, dtype), normal(10, lse.shape, dtype)
    torch.autograd.backward((output, lse), (tensor(d_output), tensor(d_lse)))
    grads = [array(torch.zeros_like(x) if x.grad is None else x.grad) for x in inputs]
    one = dataclasses.replace(own, **dict(zip(names, grads[3:], strict=True)))
    found = fv.Gradients(*grads[:3], None, None, one)
    _, pull = reference.attention_vjp(*map(wider, arrays), score=score)
    _, plain = reference.attention_vjp(*arrays, score=score)
    hold(
        found,
        pull(wider(d_output), wider(d_lse)),
        plain(d_output, d_lse),
        sizes(arrays, d_output, d_lse, score=score),
        dtype,
    )


@pytest.mark.parametrize("name", ["bilinear", "additive tanh", "additive relu", "concat tanh"])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda dtype: dtype.name)
def test_parameters_of_16_bits(name, dtype):
    """At most twice as far from the gradients in float64 as those of the plain formula in torch."""
    arrays = problem(33, 65, lead=(2,), size=10, value_size=6, dtype=dtype)
    score = score_named(name, 10, dtype)
    d_output = normal(9, (2, 33, 6), dtype)

    def made(attend: Any, of: Any) -> list[np.ndarray]:
        own = as_torch(score, leaf)
        inputs, parameters = [leaf(x) for x in arrays], tensors_of(own)
        cast = [x.detach().to(of).requires_grad_() for x in (*inputs, *parameters)]
        output = attend(*cast[:3], with_tensors(own, cast[3:]))
        found = torch.autograd.grad(output, cast, tensor(d_output).to(output.dtype))
        return [array(x).astype(np.float64) for x in found]

    def plain(query: Any, key: Any, value: Any, own: Any) -> Any:
        return torch.softmax(rounded(own, query, key), -1) @ value.double()

    exact = made(plain, torch.float64)
    usual = made(plain, tensor(arrays[0]).dtype)
    found = made(lambda *x: ft.attention(*x[:3], score=x[3]), tensor(arrays[0]).dtype)
    for x, y, wanted in zip(found, usual, exact, strict=True):
        # and a rounding of the output and its gradient, of which float64 has none here
        allowed = RATIO * np.abs(y - wanted).max() + 4 * eps(dtype) * np.abs(wanted).max()
        assert np.abs(x - wanted).max() <= allowed


@pytest.mark.usefixtures("seed_of_five")
@pytest.mark.parametrize(
    ("select", "size"),
    [("argmax", None), ("sample", None), ("sample", 4), ("top", 9), ("distinct", 9)],
    ids=str,
)
@pytest.mark.parametrize("reach", ["all", "all of it", "lengths"])
def test_reinforce(reach, select, size, dtype):
    """log_prob passes the advantage on, and the output its gradient: hard_attention_vjp."""
    arrays = problem(33, 65, lead=(2, 2), size=16, value_size=24, dtype=dtype)
    keywords = reach_of(reach, (2, 2), 33, 65)
    keywords = {x: y for x, y in keywords.items() if x != "sink"}
    own = {"select": select, "size": size}
    if select == "distinct":
        own = {"replace": False, "size": size}
    result, pullback = fv.hard_attention_vjp(*arrays, rng=5, **own, **keywords)
    d_output = normal(9, result.output.shape, dtype)
    advantage = normal(10, result.log_prob.shape, result.log_prob.dtype)
    others = as_torch(keywords, leaf)
    inputs = [leaf(x) for x in arrays]
    inputs += [others["mask"]] if "mask" in others else []
    answer = ft.hard_attention(*inputs[:3], **own, **others)
    for x, y in zip(answer, result, strict=True):
        assert array(x).dtype == y.dtype
        np.testing.assert_array_equal(array(x), y)
    assert not answer.index.requires_grad
    one_of_them = {"d_output": (0, d_output), "advantage": (2, advantage)}
    for given in (("d_output", "advantage"), ("advantage",), ("d_output",)):
        wanted = pullback(**{x: one_of_them[x][1] for x in given})
        outputs = [answer[one_of_them[x][0]] for x in given]
        d_outputs = [tensor(one_of_them[x][1]) for x in given]
        found = torch.autograd.grad(outputs, inputs, d_outputs, retain_graph=True)
        named = [x for x in (*wanted[:3], wanted.mask) if x is not None]
        for x, y in zip(found, named, strict=True):
            np.testing.assert_array_equal(array(x), y)


@pytest.mark.parametrize("sigma", ["half", None, 1.5])
def test_local_bits(sigma, dtype):
    arrays = problem(33, 65, lead=(2,), size=16, value_size=24, dtype=dtype)
    centers = np.random.default_rng(4).uniform(-3, 70, (2, 33))
    keywords = {"half_width": 6.5, "key_lengths": np.array([65, 40])}
    for places in (centers, None):
        output, pullback = fv.local_attention_vjp(*arrays, centers=places, sigma=sigma, **keywords)
        d_output = normal(9, output.shape, dtype)
        wanted = pullback(d_output)
        spread = leaf(np.array(sigma)) if isinstance(sigma, float) else sigma
        inputs = [leaf(x) for x in arrays]
        at = None if places is None else leaf(places)
        found = ft.local_attention(*inputs, centers=at, sigma=spread, **as_torch(keywords))
        np.testing.assert_array_equal(array(found), output)
        found.backward(tensor(d_output))
        for x, y in zip(inputs, wanted[:3], strict=True):
            np.testing.assert_array_equal(array(x.grad), y)
        if places is not None:
            # without a Gaussian a center only says which keys are seen
            y = np.zeros((2, 33)) if sigma is None else wanted.centers
            np.testing.assert_array_equal(array(at.grad), y)
        if isinstance(sigma, float):
            np.testing.assert_array_equal(array(spread.grad), wanted.sigma)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov", "constant"])
def test_kernel_regression_bits(kernel, dtype):
    rng = np.random.default_rng(2)
    x, x_train, y = (rng.uniform(0, 2, shape).astype(dtype) for shape in [(9, 2), (30, 2), (30, 3)])
    w = np.array([0.5, 0.75])
    _, pullback = fv.kernel_regression_vjp(x, x_train, y, w=w, kernel=kernel)
    d_output = normal(9, (9, 3), dtype)
    wanted = pullback(d_output)
    inputs = [leaf(a) for a in (x, x_train, y, w)]
    found = ft.kernel_regression(*inputs[:3], w=inputs[3], kernel=kernel)
    assert array(found).dtype == dtype
    np.testing.assert_array_equal(
        array(found), fv.kernel_regression(x, x_train, y, w=w, kernel=kernel)
    )
    for one, other in zip(gradients(found, inputs, d_output), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
