"""`quantize` and `Quantized`: codes and scales are those of the formula; what is refused."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
from strategies import BFLOAT16, normal

KINDS = ["int8", "int4", "float8_e4m3", "float8_e5m2"]


def check(x: Any, kind: Any, block: int | None = None) -> None:
    """The codes, scales and numbers of the formula, each bit of them."""
    got, wanted = (module.quantize(x, kind, block=block) for module in (fv, reference))
    np.testing.assert_array_equal(got.data, wanted.data)
    np.testing.assert_array_equal(got.scale, wanted.scale)
    assert (got.shape, got.dtype, got.block) == (np.shape(x), kind, block)
    assert got.nbytes == got.data.nbytes + got.scale.nbytes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 3, 16, 31, 33, 64, 100, 130])
def test_codes_are_those_of_the_formula(size, kind, dtype):
    x = normal(size, (2, 12, size), np.float32)
    for row, factor in enumerate([0, 1e-3, 30, 1e-41, 1e-38, 1e-36, 1.2e-36]):
        x[:, row] *= factor if dtype != np.float16 or factor > 1e-4 else 1e-7
    x = x.astype(dtype)
    for block in (None, 32, 64):
        check(x, kind, block)
        check(x[:, ::-1, ::-1], kind, block)
        check(np.asfortranarray(x), kind, block)
        check(np.repeat(x, 2, axis=-1)[..., ::2], kind, block)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_halves_go_to_even(kind, dtype):
    """Numbers at, just below and just above the middle of two codes, and the codes themselves."""
    codes = np.arange(128, dtype=np.uint8)
    data = codes[None].view(np.int8) if kind == "int8" else codes[None]
    if kind == "int4":
        data = np.uint8([[0x10, 0x32, 0x54, 0x76]])
    numbers = fv.Quantized(data, np.ones((1, 1), np.float32), kind).dequantize(dtype)
    numbers = numbers[np.isfinite(numbers)]
    middle = (numbers[1:] + numbers[:-1]) / 2
    x = np.concatenate([numbers, middle, *(np.nextafter(middle, dtype(y)) for y in (0, 1e9))])
    check(np.stack([x, -x]), kind)
    assert fv.quantize(x[None], kind).scale == 1


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_near(kind):
    """The error is half a step at most; zero rows are zero, whatever the signs."""
    x = normal(0, (4, 50, 96), np.float32)
    x[0, 3] = -0.0
    q = fv.quantize(x, kind, block=32)
    largest = np.abs(x).reshape(4, 50, 3, 32).max(axis=-1).repeat(32, axis=-1)
    step = {"int8": largest / 127, "int4": largest / 7}
    step |= {"float8_e4m3": np.maximum(np.abs(x) / 8, largest / 448 * 2.0**-9)}
    step |= {"float8_e5m2": np.maximum(np.abs(x) / 4, largest / 57344 * 2.0**-16)}
    assert (np.abs(q.dequantize() - x) <= 0.5001 * step[kind]).all()
    assert not q.data[0, 3].any()
    assert not q.scale[0, 3].any()


def test_dequantize():
    q = fv.quantize(normal(0, (3, 5, 33), np.float32), "int4", block=32)
    exact = q.dequantize("float64")
    assert exact.dtype == np.float64
    np.testing.assert_array_equal(q.dequantize(), exact.astype(np.float32))
    for dtype in (np.float16, BFLOAT16):
        np.testing.assert_array_equal(q.dequantize(dtype), exact.astype(np.float32).astype(dtype))
    assert repr(q) == "<Quantized (3, 5, 33) of int4, block=32>"
    with pytest.raises(TypeError, match=r"^dtype: got 'int8', wanted float16, bfloat16"):
        q.dequantize("int8")


def test_threads_and_large():
    x = normal(0, (40, 300, 64), np.float32)
    answers = []
    for threads in (1, 2):
        with fv.num_threads(threads):
            answers.append(fv.quantize(x, "int4"))
    np.testing.assert_array_equal(answers[0].data, answers[1].data)


X, ROWS = np.ones((2, 8)), np.ones((2, 8), np.int8)
ONE = np.ones((2, 1), np.float32)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: fv.quantize(X, "int3"), ValueError, r"^dtype: got 'int3', wanted one of \['int8'"),
        (lambda: fv.quantize(X, np.int8), TypeError, r"^dtype: got <class 'numpy.int8'>, wanted"),
        (lambda: fv.quantize(X, block=16), ValueError, r"^block: got 16, wanted one of \[None, 32"),
        (lambda: fv.quantize(X, block=1.5), TypeError, r"^block: got float, wanted an int"),
        (lambda: fv.quantize(X[0]), ValueError, r"^x: got shape \(8,\), wanted \(..., L, D\)"),
        (lambda: fv.quantize(ROWS), TypeError, r"^x: got dtype int8, wanted float16"),
        (lambda: fv.quantize(X * np.nan), ValueError, r"^x: got NaN, inf or numbers whose scale"),
        (lambda: fv.quantize(X * -np.inf), ValueError, r"^x: got NaN, inf or numbers whose scale"),
        (lambda: fv.quantize(X * 1e300), ValueError, r"^x: got NaN, inf or numbers whose scale"),
        (lambda: fv.Quantized(X, ONE, "int8"), TypeError, r"^data: got dtype float64, wanted int8"),
        (
            lambda: fv.Quantized(ROWS, ONE, "int4"),
            TypeError,
            r"^data: got dtype int8, wanted uint8",
        ),
        (lambda: fv.Quantized(ROWS, ONE * 1.0, "int9"), ValueError, r"^dtype: got 'int9'"),
        (lambda: fv.Quantized(ROWS, X, "int8"), TypeError, r"^scale: got dtype float64, wanted"),
        (lambda: fv.Quantized(ROWS, ONE[:1], "int8"), ValueError, r"^scale: got shape \(1, 1\), w"),
        (
            lambda: fv.Quantized(ROWS, ONE, "int8", columns=9),
            ValueError,
            r"^columns: got 9 with data of 8 bytes, wanted 8",
        ),
        (
            lambda: fv.Quantized(ROWS.view(np.uint8), ONE, "int4", columns=14),
            ValueError,
            r"^columns: got 14 with data of 8 bytes, wanted 15 or 16",
        ),
    ],
)
def test_what_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


Q = fv.quantize(X)
DOUBLED = type("Doubled", (fv.scores.Score,), {"reduce": lambda _, q, k: fv.scores.Reduced(q, k)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fv.attention(Q, X, X), r"^query: got foveate.Quantized, wanted an array"),
        (lambda: fv.attention_vjp(X, Q, X), r"^key: got foveate.Quantized, .* its dequantize\(\)"),
        (lambda: fv.attention_vjp(X, X, Q), r"^value: got foveate.Quantized, .* its dequantize\("),
        (lambda: fv.attention_jvp(X, Q, X, d_query=X), r"^key: got foveate.Quantized, wanted an"),
        (lambda: fv.hard_attention_vjp(X, Q, X), r"^key: got foveate.Quantized, wanted an array"),
        (lambda: fv.local_attention_vjp(X, X, Q, half_width=1), r"^value: got foveate.Quantized"),
        (lambda: fv.Memory(Q, X), r"got foveate.Quantized, wanted an array"),
        (lambda: fv.attention(X, Q, X, score=DOUBLED()), r"^score: got Doubled with .* few bits"),
        (
            lambda: fv.attention(X, Q, X, score=fv.Polynomial(2, c=1.0)),
            r"^key: got few bits with a Polynomial that has a c",
        ),
        (lambda: fv.attention(X.astype(np.float32), Q, X), r"^query, value: got dtypes float32, f"),
    ],
)
def test_where_few_bits_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_the_engine_refuses_what_does_not_fit():
    """What Python hands on is checked once more, below."""
    q = X.astype(np.float32)
    rows = (Q.data, "int8", 8, Q.scale, 0)
    for wrong, kind, message in (
        ((X, *rows[1:]), TypeError, r"^key: got what is no int8 array"),
        ((Q.data, "int4", *rows[2:]), TypeError, r"^key: got what is no uint8 array"),
        ((Q.data, "int8", 8, X, 0), TypeError, r"^key_scale: got float64, wanted float32"),
        ((Q.data, "int8", 8, ONE[:1], 0), ValueError, r"^key_scale: got shape \(1, 1\), wanted"),
        ((Q.data, "int8", 8, ONE, 31), ValueError, r"^key_block: got 31, wanted a multiple of"),
        ((Q.data, "float7", 8, ONE, 0), ValueError, r"^key: got 'float7', wanted int8, int4, "),
        (Q.data, TypeError, r"^key: got dtype int8, wanted"),
    ):
        with pytest.raises(kind, match=message):
            _core.attention(query=q, key=wrong, value=q)
    with pytest.raises(ValueError, match=r"^data: got rows with gaps, wanted contiguous"):
        _core.quantize(q, "int8", np.empty((2, 16), np.int8)[:, ::2], ONE, 0)
    with pytest.raises(TypeError, match=r"^key: got few bits, which have no derivatives"):
        _core.attention_jvp(query=q, key=rows, value=q, t_query=q)
