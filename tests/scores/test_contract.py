"""What every score keeps: forward as the reference, gradients as differences, arrays and tensors.

It runs over every subclass of `Score` that there is: one without a row in the table fails by name.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate.scores import NAMED, Reduced, Score
from gradient_checks import differences
from score_samples import SAMPLES, SIZE, numbers
from strategies import normal


@dataclasses.dataclass(frozen=True)
class Quadratic(Score):
    """(q . k)^2, the inner product of features of another size."""

    needs_one_size = True

    def reduce(self, query: Any, key: Any) -> Reduced:
        def features(x: Any) -> Any:
            return (x[..., :, None] * x[..., None, :]).reshape(*x.shape[:-1], -1)

        def back(x: Any, d: Any) -> Any:
            d = d.reshape(*x.shape, x.shape[-1])
            return ((d + np.swapaxes(d, -1, -2)) @ x[..., None])[..., 0]

        def undo(d_query: Any, d_key: Any) -> Any:
            return back(query, d_query), back(key, d_key), None

        return Reduced(features(query), features(key), 1.0, undo=undo)


@dataclasses.dataclass(frozen=True)
class Columns(Score):
    """A scale for each column, which is learned."""

    scales: Any

    def reduce(self, query: Any, key: Any) -> Reduced:
        scales = np.asarray(self.scales, query.dtype)

        def undo(d_query: Any, d_key: Any) -> Any:
            d_scales = (query * d_query).sum(axis=tuple(range(query.ndim - 1)))
            return scales * d_query, d_key, Columns(d_scales)

        return Reduced(scales * query, key, 0.7, undo=undo)


@dataclasses.dataclass(frozen=True)
class Band(Score):
    """A distance with a width for each column, which is learned by the gradient of the factors."""

    widths: Any

    def reduce(self, query: Any, key: Any) -> Reduced:
        widths = np.ascontiguousarray(self.widths, np.result_type(query, np.float32))

        def undo(d_query: Any, d_key: Any, d_factors: Any) -> Any:
            return d_query, d_key, lambda: Band(d_factors)

        return Reduced(query, key, 1.5, "distance", widths, undo=undo)


# Those of the package, and of a user.
TABLE: dict[type[Score], list[Score]] = {
    **SAMPLES,
    Quadratic: [Quadratic()],
    Columns: [Columns(numbers(11, SIZE))],
    Band: [Band(numbers(12, SIZE))],
}
OWN = [Quadratic, Columns, Band]


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_score_has_a_row():
    of_the_package = {
        each
        for each in subclasses(Score)
        if each.__module__.partition(".")[0] == "foveate"
        and not inspect.isabstract(each)
        and not each.__name__.startswith("_")  # a public one in another form
    }
    missing = of_the_package - TABLE.keys()
    assert not missing, f"no row of TABLE has {sorted(each.__name__ for each in missing)}"


def test_names_are_all_scores_without_parameters_of_their_own():
    free = {
        each
        for each in TABLE
        if each not in OWN
        and all(x.default is not x.empty for x in inspect.signature(each).parameters.values())
    }
    assert free == {type(score) for score in NAMED.values()}


def name_of(score: Score) -> str:
    kinds = [str(x) for x in vars(score).values() if isinstance(x, str | float)]
    return " ".join([type(score).__name__, *kinds])


def cases(kinds: Any = TABLE) -> Any:
    every = [score for kind in kinds for score in TABLE[kind]]
    return pytest.mark.parametrize("score", every, ids=name_of)


Q, K, V = (normal(n, (2, length, width), np.float64)
           for n, (length, width) in enumerate([(5, SIZE), (7, SIZE), (7, 3)]))  # fmt: skip
REACH: dict[str, Any] = {"mask": np.tril(normal(13, (5, 7), np.float64)), "softcap": 3.0}
# Sums of 3 to 7 terms of size 1, exp and tanh: some ulp. Differences of step 1e-6: the step squared
# times a third derivative, and the rounding over the step.
NEAR: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
DIFFERENCE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}


@cases()
def test_forward(score):
    for name, given in (
        ("attention", {"value": V, **REACH}),
        ("attention_weights", REACH),
        ("hard_attention", {"value": V, "select": "argmax", **REACH}),
        ("hard_attention", {"value": V, "size": 3, "rng": 2}),
        ("local_attention", {"value": V, "half_width": 2.0, "centers": np.arange(5.0)}),
    ):
        got, want = (getattr(x, name)(Q, K, score=score, **given) for x in (fv, reference))
        pairs = zip(got, want, strict=True) if isinstance(got, tuple) else [(got, want)]
        for x, y in pairs:
            np.testing.assert_allclose(x, y, err_msg=name, **NEAR)


def parameters(score: Any) -> dict[str, np.ndarray]:
    """Those of which there are gradients."""
    fields = {x.name: getattr(score, x.name) for x in dataclasses.fields(score)}
    learned = {at: x for at, x in fields.items() if at not in score.constants}
    return {at: np.asarray(x) for at, x in learned.items() if isinstance(x, np.ndarray | float)}


def with_parameter(score: Any, name: str, x: np.ndarray) -> Any:
    given = float(x) if isinstance(getattr(score, name), float) else x
    return dataclasses.replace(score, **{name: given})


@cases()
def test_gradients(score):
    d_output = normal(14, (2, 5, 3), np.float64)

    def loss(query: Any = Q, key: Any = K, own: Any = score) -> float:
        return float((fv.attention(query, key, V, score=own, **REACH) * d_output).sum())

    found = fv.attention_vjp(Q, K, V, score=score, **REACH)[1](d_output)
    np.testing.assert_allclose(found.query, differences(lambda x: loss(query=x), Q), **DIFFERENCE)
    np.testing.assert_allclose(found.key, differences(lambda x: loss(key=x), K), **DIFFERENCE)
    given = parameters(score)
    assert (found.score is not None) == bool(given)
    if given:
        assert type(found.score) is type(score)
    for name, x in given.items():
        want = differences(lambda x, name=name: loss(own=with_parameter(score, name, x)), x)
        np.testing.assert_allclose(getattr(found.score, name), want, err_msg=name, **DIFFERENCE)
    for wanted in ("query", "key", "score"):  # alone they are the same
        alone = fv.attention_vjp(Q, K, V, score=score, wrt=wanted, **REACH)[1](d_output)
        if getattr(found, wanted) is not None:
            assert_same(getattr(alone, wanted), getattr(found, wanted))


def assert_same(one: Any, other: Any, **near: Any) -> None:
    if not isinstance(one, Score):
        return np.testing.assert_allclose(one, other, **(near or {"rtol": 0, "atol": 0}))
    assert type(one) is type(other)
    for name, x in parameters(one).items():
        assert_same(x, getattr(other, name), **near)
    return None


WEIGHTS = {f"w{at}": numbers(n, SIZE, SIZE) for n, at in enumerate("qkvo", 20)}
SEGMENTS = {"segments": np.array([0, 0, 1, 1, 1, 2, 2])}
# A call for each function that has gradients: its name, what it is given, and the output's shape.
CALLS: dict[str, Any] = {
    "attention_vjp": (lambda x: x.attention_vjp, {"query": Q, "key": K, "value": V, **REACH}),
    "local_attention_vjp": (
        lambda x: x.local_attention_vjp,
        {"query": Q, "key": K, "value": V, "half_width": 2.0, "centers": np.arange(5.0)},
    ),
    "self_attention_vjp": (
        lambda x: x.self_attention_vjp, {"x": Q, **{f"w{at}": WEIGHTS[f"w{at}"] for at in "qkv"}},
    ),
    "hierarchical_attention_vjp": (
        lambda x: x.hierarchical_attention_vjp, {"query": Q, "key": K, "value": V, **SEGMENTS},
    ),
    "Memory.read_vjp": (lambda x: x.Memory(K[0], V[0]).read_vjp, {"query": Q}),
}  # fmt: skip


@cases()
@pytest.mark.parametrize("call", CALLS)
def test_every_pullback(call, score):
    """Held against the reference, which differences hold above."""
    function_of, given = CALLS[call]
    found = []
    for module in (fv, reference):
        output, pullback = function_of(module)(**given, score=score)
        found.append((output, pullback(normal(15, output.shape, np.float64))))
    (output, got), (expected, want) = found
    np.testing.assert_allclose(output, expected, **NEAR)
    for name in got._fields:
        x, y = getattr(got, name), getattr(want, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert_same(x, y, rtol=1e-9, atol=1e-11)  # sums of products of some ten roundings


@cases()
def test_hard_choices(score):
    given = {"query": Q, "key": K, "value": V, "size": 3, "rng": 4, "score": score}
    advantage = normal(16, (2, 5, 3), np.float64)
    drawn, pullback = fv.hard_attention_vjp(**given)
    expected, pull = reference.hard_attention_vjp(**given)
    np.testing.assert_array_equal(drawn.index, expected.index)
    for x, y in zip(pullback(None, advantage), pull(None, advantage), strict=True):
        if x is not None and not isinstance(y, np.ndarray | None):
            assert_same(x, y, rtol=1e-9, atol=1e-11)
        elif x is not None:
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)


@cases([kind for kind in TABLE if kind is not Columns and kind is not Band])
def test_many_heads(score):
    if any(isinstance(x, np.ndarray) for x in vars(score).values()):
        pytest.skip("parameters of as many columns as a head has are those of other tests")
    given = {"x": Q, "memory": K, **WEIGHTS, "num_heads": 2, "score": score}
    output, pullback = fv.multi_head_attention_vjp(**given)
    expected, pull = reference.multi_head_attention_vjp(**given)
    np.testing.assert_allclose(output, expected, **NEAR)
    d = normal(17, output.shape, np.float64)
    for x, y in zip(pullback(d)[:6], pull(d)[:6], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)


# --- tensors --------------------------------------------------------------------------------------


@cases()
def test_tensors(score):
    """The same output and gradients; parameters that are tensors learn, but those of one's own."""
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("foveate.torch")
    d_output = normal(14, (2, 5, 3), np.float64)
    output, pullback = fv.attention_vjp(Q, K, V, score=score, **REACH)
    want = pullback(d_output)

    def leaf(x: Any) -> Any:
        return torch.from_numpy(np.array(x)).requires_grad_()

    own, learned = score, {}
    if type(score) not in OWN and not isinstance(score, fv.ScaledDot):
        learned = {name: leaf(x) for name, x in parameters(score).items()}
        own = dataclasses.replace(score, **learned)
    operands = [leaf(x) for x in (Q, K, V)]
    reach = {**REACH, "mask": torch.from_numpy(REACH["mask"])}
    for one in (score, own):
        got = ft.attention(*operands, score=one, **reach)
        np.testing.assert_allclose(got.detach().numpy(), output, **NEAR)
    got.backward(torch.from_numpy(d_output))
    # an operand of which nothing depends has no gradient
    pairs = [(x.grad, y) for x, y in zip(operands, want, strict=False)]
    pairs += [(x.grad, getattr(want.score, name)) for name, x in learned.items()]
    for x, y in pairs:
        given = np.zeros_like(y) if x is None else x.numpy()
        np.testing.assert_allclose(given, y, rtol=1e-9, atol=1e-11)
    drawn = ft.hard_attention(*operands, score=own, select="argmax")
    index = fv.hard_attention(Q, K, V, score=score, select="argmax").index
    np.testing.assert_array_equal(drawn.index.numpy(), index)
    near = ft.local_attention(*operands, score=own, half_width=2.0).detach().numpy()
    np.testing.assert_allclose(near, fv.local_attention(Q, K, V, score=score, half_width=2.0),
                               **NEAR)  # fmt: skip


@cases([kind for kind in TABLE if kind not in OWN])
def test_tensors_as_parameters_of_arrays(score):
    """NumPy's functions take them as the arrays that they are."""
    torch = pytest.importorskip("torch")
    if isinstance(score, fv.ScaledDot):
        return
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in parameters(score).items()}
    other = dataclasses.replace(score, **tensors)
    (output, pull), (again, pull_again) = (
        fv.attention_vjp(Q, K, V, score=x, **REACH) for x in (score, other)
    )
    np.testing.assert_array_equal(output, again)
    np.testing.assert_array_equal(reference.scores(Q, K, score), reference.scores(Q, K, other))
    d_output = normal(14, output.shape, np.float64)
    for x, y in zip(pull(d_output), pull_again(d_output), strict=True):
        if x is not None:
            assert_same(x, y)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of torch.compile's own
def test_what_is_own_under_torch_func():
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("foveate.torch")
    q, k, v = map(torch.from_numpy, (Q, K, V))

    def answer(query: Any, score: Any = Quadratic()) -> Any:
        return ft.attention(query, k[0], v[0], score=score).sum(dim=0)

    each = torch.func.vmap(torch.func.grad(lambda x: answer(x).sum()))(q)
    for n in range(2):
        want = fv.attention_vjp(Q[n], K[0], V[0], score=Quadratic())[1](np.ones((5, 3)))
        np.testing.assert_allclose(each[n].numpy(), want.query, **NEAR)
    rows = torch.func.jacrev(answer)(q[0])
    np.testing.assert_allclose(rows.sum(dim=0).numpy(), each[0].numpy(), **NEAR)
    compiled = torch.compile(answer, backend="eager")
    np.testing.assert_array_equal(compiled(q[0]).numpy(), answer(q[0]).numpy())
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(answer, (q[0],), (q[0],))
    learning = q.clone().requires_grad_()
    (first,) = torch.autograd.grad(answer(learning[0]).sum(), learning, create_graph=True)
    with pytest.raises(NotImplementedError, match="second order"):
        first.sum().backward()


# --- what is wrong --------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "a shape": (lambda q, k: (q[..., :1], k, None), ValueError,
                r"score: got shape \(2, 5, 1\) of Wrong.undo for the query, wanted \(2, 5, 4\)"),
    "a shape of keys": (lambda q, k: (q, k[0], None), ValueError,
                        r"score: got shape \(7, 4\) of Wrong.undo for the key, wanted \(2, 7, 4\)"),
    "None": (lambda _, k: (None, k, None), TypeError, "got NoneType of Wrong.undo for the query"),
    "integers": (lambda q, k: (q.astype(int), k, None), TypeError, "got int64 of Wrong.undo"),
    "two things": (lambda q, k: (q, k), TypeError, "score: got 2 things of Wrong.undo, wanted"),
    "one thing": (lambda q, _: q, TypeError, "score: got ndarray of Wrong.undo, wanted"),
    "another score": (lambda q, k: (q, k, fv.Dot()), TypeError,
                      "score: got Dot of Wrong.undo for the parameters, wanted a Wrong"),
    "numbers": (lambda q, k: (q, k, q), TypeError, "score: got ndarray of Wrong.undo"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_undo_is_refused(name):
    undo, error, match = WRONG[name]

    @dataclasses.dataclass(frozen=True)
    class Wrong(Score):
        scale: float = 2.0

        def reduce(self, query: Any, key: Any) -> Reduced:
            return Reduced(query, key, self.scale, undo=undo)

    for module in (fv, reference):
        _, pullback = module.attention_vjp(Q, K, V, score=Wrong())
        with pytest.raises(error, match=match):
            pullback(np.ones((2, 5, 3)))
