"""A few queries against keys and values of few bits: exactness, and what changes no bits."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import normal

KINDS = ["int8", "int4", "float8_e4m3", "float8_e5m2"]
EACH = [("int8", None), ("int8", 32), ("int8", 64), ("int4", None), ("int4", 32), ("int4", 128)]
EACH += [("float8_e4m3", None), ("float8_e5m2", 64)]
SIZES = [(128, 128), (33, 97), (200, 64), (576, 512)]


def quantized(
    kind: str, block: int | None, keys: int, size: int, value_size: int
) -> tuple[fv.Quantized, fv.Quantized]:
    key = fv.quantize(normal(1, (2, keys, size), np.float32), kind, block=block)
    value = fv.quantize(normal(2, (2, keys, value_size), np.float32), kind, block=block)
    return key, value


def made(x: fv.Quantized, change: Any) -> fv.Quantized:
    """The same numbers in other arrays."""
    data, scale = change(x.data), change(x.scale)
    return fv.Quantized(data, scale, x.dtype, columns=x.shape[-1], block=x.block)


def fold(x: fv.Quantized) -> fv.Quantized:
    """With an axis that heads of queries share."""
    return made(x, lambda array: array[:, None])


def plain(q: Any, k: Any, v: Any) -> Any:
    """The formula in the dtype of its operands."""
    scores = q @ np.swapaxes(k, -1, -2) / q.dtype.type(np.sqrt(q.shape[-1]))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights @ v / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("kind", "block"), EACH)
def test_as_exact_as_the_plain_formula(kind, block, size):
    """Twice its error, at most: of float32 queries, over the numbers that are stored."""
    k, v = quantized(kind, block, 1100, *size)
    wide = k.dequantize("float64"), v.dequantize("float64")
    floats = k.dequantize("float32"), v.dequantize("float32")
    for queries, scale in ((1, 1), (2, 4), (3, 1), (9, 4)):
        q = normal(3, (2, queries, size[0]), np.float32) * np.float32(scale)
        exact = plain(q.astype(np.float64), *wide)
        error = np.abs(plain(q, *floats) - exact).max()
        got = fv.attention(q[:, :, None], fold(k), fold(v))[:, :, 0]
        assert np.abs(got - exact).max() <= 2 * error + 2**-23 * np.abs(exact).max()


def in_pages(x: fv.Quantized, rows: int) -> fv.Paged:
    pages = x.shape[0] * x.shape[1] // rows
    table = np.random.default_rng(4).permutation(pages).reshape(x.shape[0], -1)

    def spread(array: Any) -> Any:
        cut = array.reshape(pages, 1, rows, array.shape[-1])
        apart = np.empty_like(cut)
        apart[table.reshape(-1)] = cut
        return apart

    return fv.Paged(made(x, spread), table)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(("kind", "block"), EACH)
def test_company_changes_no_bits(kind, block, dtype):
    """Heads that share keys, a window of another query, and pages of any size."""
    k, v = quantized(kind, block, 1152, 80, 130)
    q = normal(3, (2, 7, 80), np.float32).astype(dtype)
    for keywords in ({}, {"window": (150, 0), "offset": np.arange(7) * 160}):
        together = fv.attention(q[:, :, None], fold(k), fold(v), **keywords)
        for head in range(7):
            own = {"offset": np.array([160 * head])} | {"window": (150, 0)} if keywords else {}
            alone = fv.attention(q[:, head : head + 1, None], fold(k), fold(v), **own)
            np.testing.assert_array_equal(together[:, head : head + 1], alone)
    together = fv.attention(q[:, :, None], fold(k), fold(v))
    for rows in (1, 3, 16, 48, 64):
        paged = fv.attention(q[:, :, None], in_pages(k, rows), in_pages(v, rows))
        np.testing.assert_array_equal(paged, together)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_with_its_own(kind):
    k, v = quantized(kind, None, 300, 64, 64)
    q = normal(3, (2, 4, 1, 64), np.float32)
    clean = fv.attention(q, fold(k), fold(v), key_lengths=250)
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = q.copy()
        spoiled[0, 2, 0, 5] = bad
        got = fv.attention(spoiled, fold(k), fold(v), key_lengths=250)
        assert np.isnan(got[0, 2]).all()
        got[0, 2] = clean[0, 2]
        np.testing.assert_array_equal(got, clean)
        scales = [x.scale.copy() for x in (k, v)]
        for scale in scales:
            scale[:, 250:] = bad  # of keys that no query sees
        hidden = (fv.Quantized(x.data, s, kind) for x, s in zip((k, v), scales, strict=True))
        got = fv.attention(q, *map(fold, hidden), key_lengths=250)
        np.testing.assert_array_equal(got, clean)
        scales[1][1, 7] = bad
        seen = fv.Quantized(v.data, scales[1], kind)
        got = fv.attention(q, fold(k), fold(seen), key_lengths=250)
        assert not np.isfinite(got[1]).any()
        np.testing.assert_array_equal(got[0], clean[0])


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_scales_of_any_sign_and_size(kind):
    k, v = quantized(kind, None, 200, 64, 64)
    q = normal(3, (2, 3, 64), np.float32)
    mixed = np.where(np.arange(200) % 2, 1, -(2.0**-20))[:, None]
    for factor in (-1, 0, 2.0**-130, 2.0**100, mixed):
        keys = fv.Quantized(k.data, (k.scale * np.sign(factor)).astype(np.float32), kind)
        values = fv.Quantized(v.data, (v.scale * factor).astype(np.float32), kind)
        wide = keys.dequantize("float64"), values.dequantize("float64")
        exact = plain(q.astype(np.float64), *wide)
        got = fv.attention(q[:, :, None], fold(keys), fold(values))[:, :, 0]
        tolerance = 2**-20 * np.abs(exact).max() + 2.0**-126
        np.testing.assert_allclose(got, exact, rtol=0, atol=tolerance)


def test_values_that_are_a_view_of_the_keys():
    """The bits of a copy, with few bits and floats alike."""
    k = normal(1, (2, 1, 700, 576), np.float32)
    q = normal(2, (2, 16, 1, 576), np.float32)
    copy = k[..., :512].copy()
    np.testing.assert_array_equal(fv.attention(q, k, k[..., :512]), fv.attention(q, k, copy))
    few = fv.quantize(k, "int8")
    view = fv.Quantized(few.data[..., :512], few.scale, "int8")
    copy = made(view, np.copy)
    np.testing.assert_array_equal(fv.attention(q, few, view), fv.attention(q, few, copy))
