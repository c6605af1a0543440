"""self_attention and its gradients: against the reference, differences, and at the edges."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from block_checks import (
    BLOCK_REACHES,
    check,
    check_differences,
    check_each_wrt,
    check_threads,
    huge,
    weight,
)
from gradient_checks import EVERY, reach_of
from strategies import BFLOAT16, LAYOUTS, normal, score_of


def operands(
    length: int = 19,
    lead: tuple[int, ...] = (2,),
    size: int = 12,
    columns: tuple[int, int] = (8, 5),
    dtype: Any = np.float32,
) -> dict[str, np.ndarray]:
    inner, of_value = columns
    return {
        "x": normal(1, (*lead, length, size), dtype),
        "wq": weight(2, size, inner, dtype),
        "wk": weight(3, size, inner, dtype),
        "wv": weight(4, size, of_value, dtype),
    }


@pytest.mark.any_isa  # (it is NumPy alone)
@pytest.mark.parametrize("score", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("reach", ["all", "all of it", "dropout"])
def test_the_reference_against_differences(score, reach):
    keywords = reach_of(reach, (2,), 4, 4)
    if "mask" in keywords:
        keywords = {**keywords, "mask": keywords["mask"].astype(np.float64)}
    arrays = operands(4, size=3, columns=(3, 2), dtype=np.float64)
    check_differences("self_attention", arrays, score=score, **keywords)


@pytest.mark.parametrize("reach", BLOCK_REACHES)
def test_reaches(reach, dtype):
    check("self_attention", operands(dtype=dtype), **reach_of(reach, (2,), 19, 19))


@pytest.mark.parametrize("name", ["additive tanh", "concat tanh", "location tanh", "gaussian"])
def test_scores(name, dtype):
    score = score_of(name, 8, dtype)
    check("self_attention", operands(dtype=dtype), score=score, causal=True)


def test_keys_of_another_size():
    arrays = {**operands(), "wk": weight(3, 12, 6, np.float32)}
    check("self_attention", arrays, score=fv.Bilinear(weight(5, 8, 6, np.float32)))


def test_of_one_head_it_is_attention():
    arrays = operands()
    q, k, v = (arrays["x"] @ arrays[name] for name in ("wq", "wk", "wv"))
    np.testing.assert_array_equal(
        fv.self_attention(**arrays, causal=True), fv.attention(q, k, v, causal=True)
    )


def test_each_wrt():
    mask, sink = normal(6, (19, 19), np.float32), normal(7, (2,), np.float64)
    keywords: Any = {"mask": mask, "sink": sink, "score": fv.ScaledDot(0.5)}
    check_each_wrt("self_attention", operands(), **keywords)


@pytest.mark.parametrize(
    ("length", "lead", "size", "columns"),
    [(0, (2,), 3, (4, 5)), (5, (), 3, (4, 5)), (5, (0,), 3, (4, 5)), (5, (2,), 0, (4, 5)),
     (5, (2,), 3, (0, 5)), (5, (2,), 3, (4, 0)), (1, (2, 3), 1, (1, 1))],
)  # fmt: skip
def test_shapes(length, lead, size, columns, dtype):
    check("self_attention", operands(length, lead, size, columns, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    arrays = operands()
    expected = fv.self_attention(**arrays)
    laid = {name: LAYOUTS[layout](x) for name, x in arrays.items()}
    # another layout may be another product of the BLAS: a few roundings of sums of 12 terms
    np.testing.assert_allclose(fv.self_attention(**laid), expected, rtol=1e-5, atol=1e-6)
    output, pullback = fv.self_attention_vjp(**laid)
    check("self_attention", arrays, d_output=output)
    assert pullback(output).x.dtype == np.float32


def test_rows_that_are_broadcast():
    arrays = operands()
    arrays["x"] = np.broadcast_to(arrays["x"][:1], (3, 19, 12))
    _, found = check("self_attention", arrays)
    assert found.x.shape == (3, 19, 12)


def test_rows_that_are_not_seen_change_nothing():
    arrays = operands()
    spoilt = {**arrays, "x": arrays["x"].copy()}
    spoilt["x"][:, 11:] = np.nan
    valid = np.arange(19) < 11
    mask = valid & valid[:, None]  # neither seen nor seeing
    one, pull = fv.self_attention_vjp(**arrays, mask=mask)
    other, pull_spoilt = fv.self_attention_vjp(**spoilt, mask=mask)
    np.testing.assert_array_equal(one, other)
    d_output = normal(8, one.shape, np.float32)
    for a, b in zip(pull(d_output)[:4], pull_spoilt(d_output)[:4], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_spoils_the_rows_that_see_it(bad, dtype):
    arrays = operands(dtype=dtype)
    spoilt = {**arrays, "x": arrays["x"].copy()}
    spoilt["x"][0, 11] = bad
    one, other = (fv.self_attention(**given, causal=True) for given in (arrays, spoilt))
    assert other[0, :11].tobytes() == one[0, :11].tobytes()
    assert np.isnan(other[0, 11:]).all()
    assert other[1].tobytes() == one[1].tobytes()


def test_a_batch_alone_and_in_company(dtype):
    arrays = operands(lead=(3,), dtype=dtype)
    keywords: Any = {"key_lengths": np.array([19, 4, 11]), "sink": np.array([0.0, 1.0, -2.0])}
    output, pullback = fv.self_attention_vjp(**arrays, **keywords)
    whole = pullback(output)
    for n in range(3):
        own = {name: x[n] for name, x in keywords.items()}
        alone, pull = fv.self_attention_vjp(**{**arrays, "x": arrays["x"][n]}, **own)
        assert alone.tobytes() == output[n].tobytes()
        assert pull(alone).x.tobytes() == whole.x[n].tobytes()


def test_threads():
    check_threads("self_attention", operands(400, (3,)), causal=True, dropout=0.2, rng=1)


def test_what_is_too_large():
    w = np.zeros((8, 8), np.float32)
    for function in (fv.self_attention, fv.self_attention_vjp):
        with pytest.raises(MemoryError):
            function(huge(), w, w, w)


def test_a_row_that_sees_none_has_gradients_of_zero():
    output, pullback = fv.self_attention_vjp(**operands(), key_lengths=0)
    found = pullback(np.ones_like(output))
    assert not output.any()
    assert not any(x.any() for x in found[:4])


def test_bad_input():
    arrays = operands()

    def refused(error: type[Exception], match: str, **changed: Any) -> None:
        given = {**arrays, **changed}
        for function in (fv.self_attention, fv.self_attention_vjp):
            with pytest.raises(error, match=match):
                function(**given)

    refused(ValueError, r"x: got shape \(12,\), wanted two axes", x=arrays["x"][0, 0])
    refused(TypeError, "x: got dtype complex128", x=np.ones((3, 12), complex))
    refused(ValueError, r"wq: got shape \(11, 8\), wanted \(12, H\)", wq=arrays["wq"][1:])
    refused(ValueError, r"wv: got shape \(12,\)", wv=arrays["wv"][:, 0])
    refused(ValueError, "wk: got 7 columns, wanted 8", wk=arrays["wk"][:, 1:])
    refused(
        TypeError,
        "wv: got float64, wanted a dtype that fits into float32",
        wv=arrays["wv"].astype(np.float64),
    )
    refused(TypeError, "wk: got dtype int", wk=arrays["wk"].astype(int))
    refused(ValueError, "dropout: got 1", dropout=1.0)
    output, pullback = fv.self_attention_vjp(**arrays)
    with pytest.raises(ValueError, match="d_output: got shape"):
        pullback(output[0])
    with pytest.raises(TypeError, match="d_output: got dtype float64"):
        pullback(output.astype(np.float64))
    with pytest.raises(ValueError, match="wrt: got 'query'"):
        fv.self_attention_vjp(**arrays, wrt="query")


def test_weights_of_bfloat16_with_float32_rows():
    arrays = operands()
    arrays |= {name: arrays[name].astype(BFLOAT16) for name in ("wq", "wk", "wv")}
    _, found = check("self_attention", arrays)
    assert found.wq.dtype == BFLOAT16
