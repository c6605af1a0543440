"""A score of the user's own: every forward works, and every pullback refuses it by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate.scores import NAMED, Reduced, Score
from strategies import normal
from tolerances import check_attention, check_weights


@dataclasses.dataclass(frozen=True)
class Doubled(Score):
    """2 q . k."""

    def reduce(self, query: Any, key: Any) -> Reduced:
        return Reduced(2 * query, key, 1.0)


@dataclasses.dataclass(frozen=True)
class Quadratic(Score):
    """(q . k)^2, by features of another size."""

    def reduce(self, query: Any, key: Any) -> Reduced:
        def features(x: Any) -> Any:
            return (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], x.shape[-1] ** 2)

        return Reduced(features(query), features(key), 1.0)


@dataclasses.dataclass(frozen=True)
class Near(Score):
    """-1/2 |q - k|^2 in some of the columns."""

    columns: int

    def reduce(self, query: Any, key: Any) -> Reduced:
        weights = (np.arange(query.shape[-1]) < self.columns).astype(np.result_type(query, "f4"))
        return Reduced(query, key, 1.0, "distance", weights)


@dataclasses.dataclass(frozen=True)
class Hidden(Score):
    """The sum of tanh(q + k)."""

    def reduce(self, query: Any, key: Any) -> Reduced:
        ones = np.ones(query.shape[-1], np.result_type(query, "f4"))
        return Reduced(query, key, 1.0, "tanh", ones)


@dataclasses.dataclass(frozen=True)
class Sharper(fv.ScaledDot):
    """A subclass of a score of the library, which reduces in a way of its own."""

    def reduce(self, query: Any, key: Any) -> Reduced:
        return Reduced(3 * query, key, self.scale)


OWN = [Doubled(), Quadratic(), Near(3), Hidden(), Sharper()]
Q, K, V = (normal(n, shape, np.float64) for n, shape in enumerate([(2, 5, 4), (7, 4), (7, 3)]))


def formula(score: Any, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    difference = q[..., :, None, :] - k[..., None, :, :]
    products = q @ np.swapaxes(k, -1, -2)
    if isinstance(score, Near):
        return -0.5 * (difference[..., : score.columns] ** 2).sum(axis=-1)
    if isinstance(score, Hidden):
        return np.tanh(q[..., :, None, :] + k[..., None, :, :]).sum(axis=-1)
    if isinstance(score, Quadratic):
        return products**2
    return products * (2 if isinstance(score, Doubled) else 3 / q.shape[-1] ** 0.5)


@pytest.mark.parametrize("score", OWN, ids=lambda x: type(x).__name__)
def test_the_reference_is_the_formula(score):
    np.testing.assert_allclose(
        reference.scores(Q, K, score), formula(score, Q, K), rtol=1e-13, atol=1e-13
    )  # four products and their sum: some ulp of numbers of size 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
@pytest.mark.parametrize("score", [Doubled(), Sharper()], ids=lambda x: type(x).__name__)
def test_attention_and_weights(score, dtype):
    arrays = [x.astype(dtype) for x in (Q, K, V)]
    alike = fv.ScaledDot(2.0 if isinstance(score, Doubled) else 1.5)
    check_attention(*arrays, score=alike)
    check_weights(*arrays[:2], score=alike)
    # 2 q and 3 q are exact, or rounded once: the bits of a product may be others by that much
    near = {"rtol": 8 * np.finfo(dtype).eps, "atol": 8 * np.finfo(dtype).eps}
    got = fv.attention(*arrays, score=score)
    np.testing.assert_allclose(got, fv.attention(*arrays, score=alike), **near)


@pytest.mark.parametrize("score", OWN, ids=lambda x: type(x).__name__)
def test_every_forward(score):
    """Held against the reference; exp and sums of 7 terms, a few ulp of numbers of size 1."""
    near = {"rtol": 1e-13, "atol": 1e-13}
    operands = {"query": Q, "key": K, "value": V}
    weights = {f"w{at}": normal(n, (4, 4), np.float64) for n, at in enumerate("qkvo")}
    qkv = {at: weights[at] for at in ("wq", "wk", "wv")}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("attention", {**operands, "causal": True, "offset": 2, "sink": 0.3}),
        ("attention_weights", {"query": Q, "key": K, "mask": np.eye(5, 7)}),
        ("hard_attention", {**operands, "select": "argmax"}),
        ("hard_attention", {**operands, "size": 4, "rng": 3}),
        ("local_attention", {**operands, "half_width": 2, "centers": np.arange(5.0)}),
        ("self_attention", {"x": Q, **qkv}),
        ("multi_head_attention", {"x": Q, "memory": K, **weights, "num_heads": 2}),
        ("hierarchical_attention", {**operands, "segments": np.array([0, 0, 1, 1, 1, 2, 2])}),
    ]
    for name, given in calls:
        got = getattr(fv, name)(**given, score=score)
        want = getattr(reference, name)(**given, score=score)
        for x, y in (
            zip(np.atleast_1d(got), np.atleast_1d(want), strict=True)
            if (not isinstance(got, tuple))
            else zip(got, want, strict=True)
        ):
            np.testing.assert_allclose(x, y, **near, err_msg=name)
    read = fv.Memory(K, V).read(Q, score=score)
    np.testing.assert_allclose(read, reference.Memory(K, V).read(Q, score=score), **near)


@pytest.mark.parametrize("module", [fv, reference], ids=["fast", "reference"])
@pytest.mark.parametrize("score", OWN, ids=lambda x: type(x).__name__)
def test_every_pullback_refuses(score, module):
    operands = {"query": Q, "key": K, "value": V}
    weights = {f"w{at}": normal(n, (4, 4), np.float64) for n, at in enumerate("qkvo")}
    qkv = {at: weights[at] for at in ("wq", "wk", "wv")}
    segments = {"segments": np.array([0, 0, 1, 1, 1, 2, 2])}
    calls: list[tuple[Any, dict[str, Any], str]] = [
        (module.attention_vjp, operands, "score"),
        (module.attention_vjp, {**operands, "wrt": "value"}, "score"),
        (module.hard_attention_vjp, operands, "score"),
        (module.local_attention_vjp, {**operands, "half_width": 2}, "score"),
        (module.self_attention_vjp, {"x": Q, **qkv}, "score"),
        (module.multi_head_attention_vjp, {"x": Q, **weights, "num_heads": 2}, "score"),
        (module.hierarchical_attention_vjp, {**operands, **segments}, "score"),
        (module.hierarchical_attention_vjp, {**operands, **segments}, "upper_score"),
        (module.Memory(K, V).read_vjp, {"query": Q}, "score"),
    ]
    name = type(score).__name__
    for function, given, argument in calls:
        with pytest.raises(TypeError, match=rf"^{argument}: got {name}, .*\bundo\b"):
            function(**given, **{argument: score})


def test_a_subclass_that_reduces_as_its_parent_has_gradients():
    class Named(fv.Cosine):
        """A cosine by another name."""

    output, pullback = fv.attention_vjp(Q, K, V, score=Named(2.0))
    want, pull = fv.attention_vjp(Q, K, V, score=fv.Cosine(2.0))
    d = normal(5, output.shape, np.float64)
    np.testing.assert_array_equal(output, want)
    np.testing.assert_array_equal(pullback(d).query, pull(d).query)


def test_what_reduces_to_something_else_is_refused():
    class Wrong(Score):
        def reduce(self, query: Any, key: Any) -> Any:
            return query, key

    with pytest.raises(TypeError, match=r"^score: got tuple of Wrong\.reduce, wanted a Reduced"):
        fv.attention(Q, K, V, score=Wrong())


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "cosine", "gaussian"])
def test_a_name_is_a_score_without_parameters(name):
    """Of every score whose parameters all have defaults."""
    score = {
        "dot": fv.Dot(),
        "scaled_dot": fv.ScaledDot(),
        "cosine": fv.Cosine(),
        "gaussian": fv.Gaussian(),
    }[name]
    check_attention(Q, K, V, score=name)
    np.testing.assert_array_equal(fv.attention(Q, K, V, score=name),
                                  fv.attention(Q, K, V, score=score))  # fmt: skip
    drawn, again = (fv.hard_attention(Q, K, V, score=x, rng=1) for x in (name, score))
    np.testing.assert_array_equal(drawn.index, again.index)
    output, pullback = fv.attention_vjp(Q, K, V, score=name)
    d = normal(6, output.shape, np.float64)
    found, want = pullback(d), reference.attention_vjp(Q, K, V, score=name)[1](d)
    assert found.score is None
    assert want.score is None
    # sums of 7 or 10 terms of size 10 at most: some ulp each
    np.testing.assert_allclose(found.query, want.query, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.key, want.key, rtol=0, atol=1e-13)


def test_names_are_all_those_scores():
    kinds = (fv.Dot, fv.ScaledDot, fv.Cosine, fv.Gaussian, fv.Bilinear, fv.Additive, fv.Concat,
             fv.Location)  # fmt: skip
    free = {
        kind
        for kind in kinds
        if all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))
    }
    assert free == {type(score) for score in NAMED.values()}
