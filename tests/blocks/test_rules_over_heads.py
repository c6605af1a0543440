"""Rules in the mask of multi-head attention: of the batch, of the heads, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from strategies import normal

pytestmark = pytest.mark.any_isa

BATCH, ROWS, HEADS = 2, 30, 4
RNG = np.random.default_rng(0)


def ends(*lead: int, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    low = RNG.integers(-2, ROWS, (*lead, ROWS, count))
    return low, low + RNG.integers(0, ROWS // 2, low.shape)


class EverySecond(fv.rules.Rule):
    """Of each head every second key, or every third."""

    by_position = True

    def tile(self, first, last, queries, keys, offset=0):
        assert last <= queries
        at = np.arange(first, last)[:, None] + np.asarray(offset)[..., None, None]
        return (at - np.arange(keys)) % np.array([2, 3, 2, 3])[None, :, None, None] == 0


def graph(bias: Any) -> fv.Edges:
    neighbors = [np.unique(RNG.integers(0, ROWS, 5)) for _ in range(ROWS)]
    begins = np.cumsum([0, *map(len, neighbors)])
    return fv.Edges(begins, np.concatenate(neighbors), None if bias is None else bias(begins[-1]))


LAST = {"offset": "end"}
AT = {"offset": np.array([1, 5])}
MASKS: dict[str, Callable[[], Any]] = {
    "intervals": lambda: fv.Intervals(*ends()),
    "intervals of the batch": lambda: fv.Intervals(*ends(BATCH)),
    "intervals of heads": lambda: fv.Intervals(*ends(1, HEADS)),
    "intervals of all": lambda: fv.Intervals(*ends(BATCH, HEADS)),
    "blocks of heads": lambda: fv.BlockMask(RNG.random((1, HEADS, 3, 4)) < 0.5, (10, 8)),
    "alibi": lambda: fv.Alibi(0.5 ** np.arange(1, HEADS + 1)),
    "table": lambda: fv.RelativeBias(RNG.normal(size=(HEADS, 11))),
    "table for all": lambda: fv.RelativeBias(RNG.normal(size=11)),
    "image": lambda: fv.RelativeBias2d(RNG.normal(size=(HEADS, 9, 11)), (5, 6)),
    "neighborhood": lambda: fv.Neighborhood((5, 6), 3),
    "edges": lambda: graph(None),
    "edges of heads": lambda: graph(lambda count: RNG.normal(size=(HEADS, count))),
    "tiles": EverySecond,
    "packed": lambda: (fv.Packed([0, 12, 30]), fv.Alibi(np.full(HEADS, 0.1))),
    "all of it": lambda: (
        fv.Alibi(0.5 ** np.arange(1, HEADS + 1)),
        RNG.normal(size=(ROWS, ROWS)),
        fv.Intervals(*ends(BATCH)),
        RNG.normal(size=(HEADS, 1, ROWS)) [None],
        EverySecond(),
        fv.RelativeBias(RNG.normal(size=(1, 7))),
    ),
}  # fmt: skip


def parameters(gradient: Any) -> list[np.ndarray]:
    """The arrays of a gradient of a mask."""
    if gradient is None:
        return []
    if isinstance(gradient, tuple):
        return [x for part in gradient for x in parameters(part)]
    if isinstance(gradient, fv.rules.Rule):
        names = ("slopes", "table", "bias")
        return [np.asarray(getattr(gradient, x)) for x in names if hasattr(gradient, x)]
    return [gradient]


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", MASKS)
def test_against_the_reference(name, kv_heads):
    mask = MASKS[name]()
    x = normal(0, (BATCH, ROWS, 8), np.float64)
    weights = {
        "wq": normal(1, (8, 4 * HEADS), np.float64),
        "wk": normal(2, (8, 4 * kv_heads), np.float64),
        "wv": normal(3, (8, 4 * kv_heads), np.float64),
        "wo": normal(4, (4 * HEADS, 8), np.float64),
    }
    for rest in ({}, AT) if name not in ("packed", "image", "neighborhood") else ({},):
        keywords = {**weights, "num_heads": HEADS, "num_kv_heads": kv_heads, "mask": mask, **rest}
        output, pull = fv.multi_head_attention_vjp(x, **keywords)
        want, pull_want = reference.multi_head_attention_vjp(x, **keywords)
        # sums of 30 products of numbers of size 10
        np.testing.assert_allclose(output, want, atol=1e-11)
        np.testing.assert_array_equal(fv.multi_head_attention(x, **keywords), output)
        found, exact = pull(want), pull_want(want)
        np.testing.assert_allclose(found.x, exact.x, atol=1e-9)
        of_mask, wanted = parameters(found.mask), parameters(exact.mask)
        assert [x.shape for x in of_mask] == [x.shape for x in wanted]
        for got, right in zip(of_mask, wanted, strict=True):
            np.testing.assert_allclose(got, right, atol=1e-9)


def test_a_rule_may_add_leading_axes():
    """Those of the batch, of which x has none."""
    x = normal(0, (ROWS, 8), np.float64)
    weights = dict.fromkeys(("wq", "wk", "wv", "wo"), np.eye(8))
    rule = fv.Intervals(*ends(3, HEADS))
    output = fv.multi_head_attention(x, **weights, num_heads=HEADS, mask=rule)
    assert output.shape == (3, ROWS, 8)
    for n in range(3):
        one = fv.Intervals(rule.low[n], rule.high[n])
        want = fv.multi_head_attention(x, **weights, num_heads=HEADS, mask=one)
        np.testing.assert_allclose(output[n], want, atol=1e-14)


def test_other_numbers_of_heads_are_refused():
    x = normal(0, (ROWS, 8), np.float64)
    weights = dict.fromkeys(("wq", "wk", "wv", "wo"), np.eye(8))
    with pytest.raises(ValueError, match=r"^mask: got leading axes \(3,\) of a Alibi, wanted 4"):
        fv.multi_head_attention(x, **weights, num_heads=4, mask=fv.Alibi(np.ones(3)))
