"""foveate.torch.attention: its answers against those of NumPy's side, the reference and torch."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import (
    BFLOAT16,
    REACHES,
    normal,
    problem,
)
from tolerances import RATIO, assert_within, expect
from torch_checks import (
    MORE,
    SCORES,
    array,
    as_torch,
    case,
    ft,
    leaf,
    rounded,
    score_named,
    tensor,
    torch,
)

CASES = [*REACHES, *MORE]


@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_numpy(name, dtype):
    """Of a dot product nothing is left to torch: the kernel sees what it sees from NumPy."""
    arrays, keywords = case(name, dtype)
    wanted, lse = fv.attention(*arrays, return_lse=True, **keywords)
    others = as_torch(keywords)
    plain = ft.attention(*map(tensor, arrays), **others)
    with_lse = ft.attention(*map(tensor, arrays), return_lse=True, **others)
    learned = ft.attention(*map(leaf, arrays), return_lse=True, **others)
    assert plain.dtype == tensor(wanted).dtype
    assert not plain.requires_grad
    assert learned[0].requires_grad
    assert learned[1].requires_grad
    for output in (plain, with_lse[0], learned[0]):
        np.testing.assert_array_equal(array(output), wanted)
    for found in (with_lse[1], learned[1]):
        # counted in float64 here, and rounded once more
        assert array(found).dtype == lse.dtype
        np.testing.assert_allclose(array(found), lse, rtol=2 * np.finfo(lse.dtype).eps, atol=0)


@pytest.mark.parametrize(
    "leads",
    [((), (), ()), ((3,), (), ()), ((), (3,), ()), ((), (), (3,)), ((1,), (3,), (1,)),
     ((2, 4), (2, 1), (2, 1)), ((2, 1), (1, 3), (3,)), ((0,), (1,), (1,)), ((2,), (1, 2), (4, 1))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("keys", [9, 5], ids=["as many", "fewer"])
def test_leading_axes_broadcast(leads, keys, dtype):
    arrays = [
        normal(n, (*lead, length, 8), dtype)
        for n, (lead, length) in enumerate(zip(leads, (9, keys, keys), strict=True))
    ]
    wanted = fv.attention(*arrays)
    np.testing.assert_array_equal(array(ft.attention(*map(tensor, arrays))), wanted)
    np.testing.assert_array_equal(array(ft.attention(*map(leaf, arrays))), wanted)


@pytest.mark.parametrize(
    "shapes",
    [((0, 4), (5, 4), (5, 4)), ((3, 4), (0, 4), (0, 4)), ((3, 0), (5, 0), (5, 2)),
     ((3, 4), (5, 4), (5, 0)), ((2, 0, 0), (2, 0, 0), (2, 0, 0)), ((0, 2, 3, 4),) * 3],
    ids=str,
)  # fmt: skip
def test_empty_tensors(shapes, dtype):
    arrays = [normal(n, shape, dtype) for n, shape in enumerate(shapes)]
    wanted, lse = fv.attention(*arrays, return_lse=True)
    inputs = [leaf(x) for x in arrays]
    output, found = ft.attention(*inputs, return_lse=True)
    np.testing.assert_array_equal(array(output), wanted)
    np.testing.assert_array_equal(array(found), lse)
    (output.sum() + found[found.isfinite()].sum()).backward()
    assert all(x.grad.shape == x.shape and not x.grad.isnan().any() for x in inputs)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("reach", ["all", "causal at end", "all of it"])
def test_scores(name, reach, dtype):
    arrays, keywords = case(reach, dtype)
    score = score_named(name, arrays[0].shape[-1], dtype)
    expected = expect(*arrays, score=score, **keywords)
    error = expected.output_error
    inputs, others = [tensor(x) for x in arrays], as_torch(keywords)
    if dtype.itemsize == 2 and name.partition(" ")[0] in ("bilinear", "additive", "concat"):
        # The plain formula in torch, of which twice the error is allowed.
        logits = rounded(as_torch(score), *inputs[:2])
        cap = keywords.get("softcap")
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        seen = reference.reach(
            (2, 3), 20, 40, **{x: y for x, y in keywords.items() if x not in ("softcap", "sink")}
        )
        logits = np.where(seen, logits.numpy(), -np.inf)
        sink = np.broadcast_to(keywords.get("sink", -np.inf), (2, 3))[..., None, None]
        plain, _ = reference.softmax(logits, seen, sink)
        plain = plain @ arrays[2].astype(np.float64)
        error = error + RATIO * np.abs(plain - expected.output).max()
    for one in (score, as_torch(score)):
        output = array(ft.attention(*inputs, score=one, **others))
        assert_within(output, expected.output, error, "output")
        learned = ft.attention(*map(leaf, arrays), score=one, **others)
        assert_within(array(learned), expected.output, error, "output that learns")


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e25])
def test_lengths_of_rows_neither_overflow_nor_vanish(size):
    arrays = [(x * size).astype(np.float32) for x in problem(4, 6, lead=(), size=5)[:2]]
    arrays.append(normal(3, (6, 2), np.float32))
    output = array(ft.attention(*map(tensor, arrays), score="cosine"))
    expected = expect(*arrays, score="cosine")
    assert_within(output, expected.output, expected.output_error, "output")


def test_parameters_of_another_dtype():
    """Narrow ones are widened, none is rounded; a single number may be of any."""
    q, k, v = problem(5, 6, lead=(), size=4, dtype=np.float64)
    w, h = normal(5, (4, 4), np.float32), normal(6, (4,), np.float16)
    score = ft.Additive(tensor(h), tensor(w), tensor(w.astype(BFLOAT16)), tensor(h))
    wide = fv.Additive(h, w, w.astype(BFLOAT16), h)
    expected = expect(q, k, v, score=wide)
    output = array(ft.attention(*map(tensor, (q, k, v)), score=score))
    assert_within(output, expected.output, expected.output_error, "output")
    narrow = [x.astype(BFLOAT16) for x in (q, k, v)]
    output = array(ft.attention(*map(tensor, narrow), score=ft.Bilinear(tensor(w))))
    expected = expect(*narrow, score=fv.Bilinear(w))
    assert_within(output, expected.output, expected.output_error, "output")
    for number in (0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        assert ft.attention(*map(tensor, narrow), score=ft.Cosine(number)).dtype is torch.bfloat16
        assert ft.attention(*map(tensor, narrow), score=ft.Gaussian(number)).dtype is torch.bfloat16


# --- the edges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scaled", *SCORES[3:], "cosine"])
def test_what_is_not_seen_changes_nothing(name):
    """Neither the answer nor a gradient, whatever it holds: of keys, values, queries."""
    spoilt = problem(6, 9, lead=(2,), size=5, value_size=4)
    score = score_named(name, 5, np.float32)
    lengths, alone = torch.tensor([9, 4]), np.ones((6, 9), bool)
    alone[5] = False  # the last query sees nothing

    def answers(spoil: float) -> Any:
        arrays = [x.copy() for x in spoilt]
        arrays[1][1, 4:] = arrays[2][1, 4:] = arrays[0][:, 5] = spoil
        inputs = [leaf(x) for x in arrays]
        own = as_torch(score, leaf)
        parameters = [x for x in getattr(own, "__dict__", {}).values() if hasattr(x, "grad")]
        output = ft.attention(*inputs, score=own, key_lengths=lengths, mask=tensor(alone))
        learns = [x for x in (*inputs, *parameters) if name.partition(" ")[0] != "location" or
                  x is not inputs[0]]  # fmt: skip
        return [output, *torch.autograd.grad(output.square().sum(), learns)]

    for x, y in zip(answers(np.nan), answers(0.0), strict=True):
        np.testing.assert_array_equal(array(x), array(y))
        assert not x.isnan().any()


def test_a_zero_row_has_no_direction():
    """Its cosine is 0, and so is its gradient, as on the side of NumPy."""
    key = tensor(normal(1, (4, 3), np.float32))
    query = torch.zeros(2, 3, requires_grad=True)
    output = ft.attention(query, key, key, score="cosine")
    np.testing.assert_allclose(array(output), np.tile(array(key).mean(axis=0), (2, 1)), rtol=1e-6)
    output.sum().backward()
    assert not query.grad.any()


def test_rows_that_see_nothing():
    arrays = problem(3, 5, lead=(), size=4)
    inputs = [leaf(x) for x in arrays]
    output, lse = ft.attention(*inputs, mask=torch.zeros(3, 5, dtype=torch.bool), return_lse=True)
    assert not output.any()
    assert (lse == -torch.inf).all()
    output.sum().backward()
    assert not any(x.grad.any() for x in inputs)
    output, lse = ft.attention(*inputs, key_lengths=0, sink=2.0, return_lse=True)
    assert not output.any()
    assert (lse == 2).all()


# --- examples -------------------------------------------------------------------------------------

MODULES = ["foveate.torch", *(x.name for x in pkgutil.iter_modules(ft.__path__, "foveate.torch."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
