"""Keys and values of few bits: the bits of a call are those of one over the rows as floats."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import BFLOAT16, REACHES, Site, normal
from tolerances import FLOORS, assert_within, eps, expect

KINDS = ["int8", "int4", "float8_e4m3", "float8_e5m2"]
EACH = [("int8", None), ("int8", 32), ("int4", 32), ("float8_e4m3", None), ("float8_e5m2", 64)]
SHAPES = [(40, 200, 64, 48), (70, 169, 33, 130), (17, 90, 1, 1)]  # Lq, Lk, D, Dv: tiles
FEW = [(1, 300, 64, 40), (3, 130, 97, 33), (4, 5, 1, 1)]  # few queries


def wide(dtype: np.dtype) -> np.dtype:
    return reference.compute_dtype(dtype)


def operands(
    shape: tuple[int, ...], dtype: Any, kind: str, block: int | None, seed: int = 0
) -> tuple[Any, fv.Quantized, fv.Quantized]:
    """A query of this dtype over (2, 3), keys over (2, 1) of a kind, values of another."""
    queries, keys, size, value_size = shape
    other = KINDS[(KINDS.index(kind) + 1) % 4]
    q = normal(seed, (2, 3, queries, size), np.float32).astype(dtype)
    k = fv.quantize(normal(seed + 1, (2, 1, keys, size), np.float32), kind, block=block)
    v = fv.quantize(normal(seed + 2, (2, 1, keys, value_size), np.float32), other, block=block)
    return q, k, v


def as_floats(x: Any, dtype: Any) -> Any:
    return x.dequantize(dtype) if isinstance(x, fv.Quantized) else np.asarray(x).astype(dtype)


def check_same(function: Any, q: Any, *rows: Any, **keywords: Any) -> None:
    """The bits over floats of the dtype of the computation; of bfloat16, those over bfloat16."""
    got = function(q, *rows, **keywords)
    for dtype in {wide(q.dtype), BFLOAT16 if q.dtype == BFLOAT16 else wide(q.dtype)}:
        floats = [as_floats(x, dtype) for x in rows]
        expected = function(q.astype(dtype), *floats, **keywords).astype(q.dtype)
        if np.array_equal(got, expected, equal_nan=True):
            return
    np.testing.assert_array_equal(got, expected)


def check_near(q: Any, k: Any, v: Any, **keywords: Any) -> None:
    """Few queries: within the tolerance of the floats, and the rounding of the answer.

    Products of bfloat16 round the rows, each by half an ulp.
    """
    dtype = wide(q.dtype)
    got = fv.attention(q, k, v, **keywords).astype(dtype)
    floats = q.astype(dtype), as_floats(k, dtype), as_floats(v, dtype)
    expected = expect(*floats, **keywords)
    size = reference.attention(floats[0], floats[1], np.abs(floats[2]), **keywords)
    rounding = FLOORS[q.dtype].output * eps(q.dtype) * (4 if q.dtype == BFLOAT16 else 1)
    assert_within(got, expected.output, expected.output_error + rounding * size, "output")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "block"), EACH)
def test_tiles_have_the_bits_of_floats(shape, kind, block, dtype):
    q, k, v = operands(shape, dtype, kind, block)
    check_same(fv.attention, q, k, v)
    check_same(fv.attention, q, k, v, causal=True, offset="end")
    check_same(fv.attention, q, k, as_floats(v, dtype))
    check_same(fv.attention, q, as_floats(k, dtype), v)


@pytest.mark.parametrize("shape", FEW, ids=str)
@pytest.mark.parametrize(("kind", "block"), EACH)
def test_few_queries(shape, kind, block, dtype):
    q, k, v = operands(shape, dtype, kind, block)
    check_near(q, k, v)
    check_near(q, k, v, key_lengths=3)
    check_near(q, as_floats(k, dtype), v)
    check_near(q, k, as_floats(v, dtype))


@pytest.mark.parametrize("reach", REACHES)
def test_reaches(reach):
    for kind, queries in (("int8", 20), ("int4", 3)):
        q, k, v = operands((queries, 190, 40, 33), np.float32, kind, 32)
        keywords = REACHES[reach](Site(np.random.default_rng(0), (2, 3), queries, 190))
        (check_same if queries > 4 else check_near)(
            *([fv.attention] if queries > 4 else []), q, k, v, **keywords
        )


H = normal(9, (40, 24), np.float32) * np.float32(0.3)
V = normal(8, (24,), np.float32)
SCORES = {
    "dot": fv.ScaledDot(0.3),
    "bilinear": fv.Bilinear(normal(7, (40, 40), np.float32)),
    "polynomial": fv.Polynomial(2),
    "gaussian": fv.Gaussian(0.3),
    "gaussian of dimensions": fv.Gaussian(np.linspace(0.1, 0.4, 40, dtype=np.float32)),
    "additive, projected": fv.Additive(normal(6, (40,), np.float32)),
    "relu, projected": fv.Additive(normal(6, (40,), np.float32), activation="relu"),
}
# Products of keys and their lengths are made before the tiles: another order of the same sums.
PROJECTED = {
    "cosine": fv.Cosine(5.0),
    "additive": fv.Additive(V, H, H, V),
    "additive identity": fv.Additive(V, H, H, activation="identity"),
    "concat": fv.Concat(V, np.concatenate([H, H])),
    "location": fv.Location(H[:, 0], 0.5),
}


@pytest.mark.parametrize("score", SCORES)
def test_scores(score):
    for kind in KINDS:
        q, k, v = operands((20, 190, 40, 33), np.float32, kind, 32)
        check_same(fv.attention, q, k, v, score=SCORES[score], softcap=9.0)
        check_near(q[..., :3, :], k, v, score=SCORES[score])


@pytest.mark.parametrize("score", PROJECTED)
@pytest.mark.parametrize("queries", [2, 20])
def test_scores_that_project_keys(score, queries):
    for kind in KINDS:
        check_near(*operands((queries, 190, 40, 33), np.float32, kind, 32), score=PROJECTED[score])


@pytest.mark.parametrize(("kind", "block"), EACH)
def test_other_functions(kind, block, dtype):
    for queries in (20, 3):
        q, k, v = operands((queries, 190, 40, 33), dtype, kind, block)
        near = {"half_width": 20, "centers": np.linspace(0, 180, queries)}
        check_same(fv.local_attention, q, k, v, **near)
        if queries > 4:
            check_same(fv.local_attention, q, k, v, half_width=3)
        else:
            got = fv.local_attention(q, k, v, half_width=3)
            floats = (
                x.astype(wide(q.dtype)) if x is q else as_floats(x, wide(q.dtype))
                for x in (q, k, v)
            )
            expected = fv.local_attention(*floats, half_width=3)
            np.testing.assert_allclose(
                got.astype(wide(q.dtype)), expected, rtol=4 * eps(q.dtype), atol=4 * eps(q.dtype)
            )
        check_same(fv.attention_weights, q, k)
        for how in ({"select": "argmax"}, {"rng": 0, "size": 3}):
            got = fv.hard_attention(q, k, v, **how)
            values = np.broadcast_to(as_floats(v, wide(q.dtype)), (2, 3, 190, 33))
            index = got.index.reshape(2, 3, -1)
            chosen = np.take_along_axis(values, index[..., None], axis=-2).astype(q.dtype)
            np.testing.assert_array_equal(got.output.reshape(chosen.shape), chosen)
            if q.dtype != BFLOAT16:
                q32, k32 = q.astype(wide(q.dtype)), as_floats(k, wide(q.dtype))
                other = fv.hard_attention(q32, k32, values, **how)
                np.testing.assert_array_equal(got.index, other.index)


def test_far_keys_are_left_out():
    q, k, v = operands((20, 700, 3, 5), np.float32, "int8", None)
    w = np.full(3, 9, np.float32)
    score = fv.Gaussian(w)
    for keywords in ({"score": score}, {"score": score, "mask": np.ones((20, 700), np.float32)}):
        check_same(fv.attention, q, k, v, **keywords)


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize(("kind", "block"), EACH)
def test_layouts(kind, block, queries, dtype):
    """Rows of any strides, backwards, by columns, and broadcast: the same bits as contiguous."""
    q, k, v = operands((queries, 200, 40, 33), dtype, kind, block)
    plain = fv.attention(q, k, v)

    def laid_out(x: fv.Quantized, how: Any) -> fv.Quantized:
        data = how(x.data) if x.dtype != "int4" or how is not by_columns else x.data
        made = fv.Quantized(data, how(x.scale), x.dtype, columns=x.shape[-1], block=x.block)
        assert x.dtype == "int4" or np.shares_memory(made.data, data)
        return made

    def by_columns(x: Any) -> Any:
        return np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2)

    def backwards(x: Any) -> Any:
        return np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :]

    def apart(x: Any) -> Any:
        room = np.zeros((*x.shape[:-1], x.shape[-1] + 3), x.dtype)
        room[..., 2:-1] = x
        return room[..., 2:-1]

    def mirrored(x: Any) -> Any:
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]

    for how in (by_columns, backwards, apart, mirrored):
        np.testing.assert_array_equal(fv.attention(q, laid_out(k, how), laid_out(v, how)), plain)
    spread = [laid_out(x, lambda y: np.broadcast_to(y, (2, 3, *y.shape[2:]))) for x in (k, v)]
    np.testing.assert_array_equal(fv.attention(q, *spread), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [1, 20])
def test_every_code_is_its_number(kind, queries, dtype):
    """A query that sees one key has its value: all codes, NaN and inf of a float8 too."""
    codes = np.arange(256, dtype=np.uint8).reshape(4, 64)
    data = codes.view(np.int8) if kind == "int8" else codes
    scale = np.array([[1.0], [0.37], [1e-30], [1e30]], np.float32)
    value = fv.Quantized(data, scale, kind)
    one = np.arange(queries) % 4
    got = fv.attention(
        np.zeros((queries, 1), dtype),
        np.zeros((4, 1), dtype),
        value,
        mask=fv.Intervals(one, one + 1),
    )
    with np.errstate(all="ignore"):
        exact, rounded = value.dequantize(wide(dtype))[one], value.dequantize("bfloat16")[one]
        exact = exact.astype(dtype)
    if dtype == BFLOAT16 and not np.array_equal(got, exact, equal_nan=True):
        exact = rounded
    np.testing.assert_array_equal(got.astype(np.float64), exact.astype(np.float64))


def test_nan_and_inf_that_are_not_seen_change_nothing(dtype):
    q, k, v = operands((20, 200, 40, 33), dtype, "int8", 32)
    lengths = np.array([150, 177])[:, None]
    plain = fv.attention(q, k, v, key_lengths=lengths)
    for x in (k, v):
        x.scale[0, :, 150:] = np.nan
        x.scale[1, :, 177:] = np.inf
    np.testing.assert_array_equal(fv.attention(q, k, v, key_lengths=lengths), plain)
    v.scale[0, 0, 10, 0] = np.inf
    spoilt = fv.attention(q, k, v, key_lengths=lengths)
    assert not np.isfinite(spoilt[0, :, :, :32]).any()
    np.testing.assert_array_equal(spoilt[0, :, :, 32:], plain[0, :, :, 32:])
    np.testing.assert_array_equal(spoilt[1], plain[1])


def test_nothing():
    """No keys, no columns, no queries, and an empty batch."""
    for shape in ((3, 0, 8, 8), (3, 5, 0, 0), (0, 5, 8, 8)):
        for block in (None, 32):
            q, k, v = operands(shape, np.float32, "int4", block)
            np.testing.assert_array_equal(
                fv.attention(q, k, v), fv.attention(q, k.dequantize(), v.dequantize())
            )
    q, k, v = operands((3, 5, 8, 8), np.float32, "int8", None)
    none = [fv.Quantized(x.data[:0], x.scale[:0], x.dtype) for x in (k, v)]
    assert fv.attention(q[:0], *none).shape == (0, 3, 3, 8)


def test_the_answer_overlaps_the_scales():
    """An `out` in the memory of an operand has the answer as if it were elsewhere."""
    q, k, v = operands((40, 200, 64, 1), np.float32, "int8", None)
    q, out = q[:, :1], v.scale[:, :, :40]
    plain = fv.attention(q, k, v)
    np.testing.assert_array_equal(fv.attention(q, k, v, out=out), plain)


def test_threads():
    q, k, v = operands((3, 9000, 64, 64), np.float32, "int8", None)
    answers = []
    for threads in (1, 2):
        with fv.num_threads(threads):
            answers.append(fv.attention(q, k, v))
    np.testing.assert_array_equal(*answers)
