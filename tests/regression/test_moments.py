"""The engine's moments, which local linear regression is made of, against the sums themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from foveate import _core
from foveate._attention.problem import Answers, Outputs, Problem
from foveate._reach.reach import Reach
from strategies import normal
from tolerances import eps

pytestmark = pytest.mark.threads


def values_of(y: np.ndarray, sample: np.ndarray, d: int) -> np.ndarray:
    k = y.shape[1]
    values = np.zeros((len(y), (1 + k) * (1 + d) + d * (d + 1) // 2), y.dtype)
    values[:, 0], values[:, 1 : 1 + k] = sample, y
    return values


def plain(
    query: np.ndarray, key: np.ndarray, y: np.ndarray, sample: np.ndarray, weighing: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """The means, and those of their terms' absolute values."""
    z = key[None] - query[:, None]
    squares = (z**2).sum(axis=2)
    weights = np.maximum(1 - squares, 0) if weighing else np.exp(-squares / 2)
    np.fill_diagonal(weights, 0)  # one out
    weights = weights / weights.sum(axis=1, keepdims=True) * sample
    d = key.shape[1]
    terms = [np.ones_like(z[..., 0]), *np.broadcast_to(y.T[:, None], (y.shape[1], *z.shape[:2]))]
    terms += [z[..., a] for a in range(d)]
    terms += [z[..., a] * z[..., b] for a in range(d) for b in range(a, d)]
    terms += [z[..., a] * y[:, o] for a in range(d) for o in range(y.shape[1])]
    means = [np.sum(weights * term, axis=1) for term in terms]
    sizes = [np.sum(weights * np.abs(term), axis=1) for term in terms]
    return np.stack(means, axis=1), np.stack(sizes, axis=1)


@pytest.mark.parametrize("weighing", [None, "epanechnikov"])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments(weighing, axes, dtype):
    """At lengths on both sides of vectors, panels and tiles; one query is no case of its own."""
    for n, m, k in [(1, 3, 1), (17, 300, 2), (70, 169, 1), (33, 168, 3)]:
        query = (normal(n, (n, axes), dtype) / 2).astype(dtype)
        key = (normal(m, (m, axes), dtype) / 2).astype(dtype)
        y, sample = normal(5, (m, k), dtype), np.linspace(0, 1, m).astype(dtype)
        problem = Problem(
            query, key, 1.0, "distance", value=values_of(y, sample, axes), moments=1,
            weighing=weighing, reach=Reach(None, leave_one_out=True),
        )  # fmt: skip
        got = _core.attention(problem)
        exact = [a.astype(np.longdouble) for a in (query, key, y, sample)]
        with np.errstate(all="ignore"):
            want, size = plain(*exact, weighing)
        there = np.isfinite(want).all(axis=1)
        # Weights of rounded distances, relative to a mean of 1, and sums of up to 300 terms.
        near = 1 / want[there, :1].astype(float) if weighing else 1
        allowed = 40 * eps(dtype) * np.maximum(size[there], 1e-3) * np.maximum(near, 4)
        assert (np.abs(got[there] - want[there]) <= allowed).all()


def test_what_is_not_in_the_sums_may_be_any_finite_number():
    key, y = normal(0, (90, 2), np.float32), normal(1, (90, 1), np.float32)
    values = values_of(y, np.ones(90, np.float32), 2)
    want = _core.attention(Problem(key, key, 1.0, "distance", value=values, moments=1))
    values[:, 2:] = 7
    got = _core.attention(Problem(key, key, 1.0, "distance", value=values, moments=1))
    np.testing.assert_array_equal(got, want)


@pytest.mark.any_isa
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"moments": 2}, r"^moments: got 2, wanted 0 or 1"),
        ({"family": "inner"}, r"^moments: got 1, .* no score but a distance"),
        ({"query": np.ones((3, 4)), "key": np.ones((5, 4))}, r"^moments: got 1 with 4 axes"),
        ({"value": np.ones((5, 7))}, r"^value: got 7 columns for moments of 2 axes"),
        ({"value": np.ones((5, 6))}, r"^value: got 6 columns for moments of 2 axes"),
        ({"dropout": (0.5, (1, 2))}, r"^moments: got 1, .* no dropout"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str):
    given = {"query": np.ones((3, 2)), "key": np.ones((5, 2)), "value": np.ones((5, 9))}
    problem = Problem(**{**given, "scale": 1.0, "family": "distance", "moments": 1, **changed})
    with pytest.raises(ValueError, match=message):
        _core.attention(problem)


@pytest.mark.any_isa
def test_there_are_no_gradients_and_no_weights():
    given = {"query": np.ones((3, 2)), "key": np.ones((5, 2)), "value": np.ones((5, 9))}
    problem = Problem(**given, scale=1.0, family="distance", moments=1)
    output, lse = problem.forward()
    with pytest.raises(ValueError, match=r"^moments: got some, which have no derivatives"):
        problem.backward(Answers(output, lse, output), Outputs(np.zeros((3, 2))))
    with pytest.raises(ValueError, match=r"^moments: got 1, .* no call without a value"):
        problem._replace(value=None).weights()
