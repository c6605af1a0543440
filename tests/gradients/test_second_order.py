"""How gradients move, the second order, which torch's double backward and hessians are made of.

It has no name of its own in NumPy: these tests call what the bindings call.
"""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from foveate._attention.backward import Backward
from foveate._attention.problem import Answers, Moved, Problem, Tangents
from foveate._inputs.random import dropout_of
from foveate._reach.reach import resolve
from foveate.scores import reduce
from gradient_checks import FLOATS, LEADS, REACHES, reach_of
from strategies import LAYOUTS, normal, problem
from tangent_checks import tangents_of
from tolerances import eps

pytestmark = pytest.mark.threads

OPERANDS = ("query", "key", "value")


def moving_gradients(
    arrays: Any, tangents: Any, cotangents: Any, moved: Any = (None, None), **keywords: Any
) -> dict[str, np.ndarray]:
    """What fv_attention_backward_jvp writes, summed as gradients are; of scores without parameters.

    cotangents: those of output and lse; moved: how they move, or None.
    """
    q, k, v = arrays
    names = ("mask", "causal", "window", "offset", "key_lengths", "segments")
    reach = {x: keywords[x] for x in names if x in keywords}
    score = keywords.get("score", "scaled_dot")
    reduced = reduce(score, q, k, learns=True)
    of_problem = Problem(
        *reduced[:-1], v, keywords.get("softcap"), resolve(q, k, **reach),
        keywords.get("sink"), dropout_of(keywords.get("dropout", 0.0), keywords.get("rng")),
    )  # fmt: skip
    backward = Backward(of_problem, score, q, k, reduced)
    if isinstance(score, fv.Polynomial):  # its constant is a column, which does not move
        beside = [(0, 0)] * (q.ndim - 1) + [(0, 1)]
        rows = [None if x is None else np.pad(x, beside) for x in tangents[:2]]
        tangents = (*rows, *tangents[2:])
    along = Tangents(*tangents)
    output, lse = of_problem.forward()
    t_output, t_lse = of_problem.tangent(along, output, of_problem.wide)
    if q.shape[-2] > 4:
        same_tangents(of_problem.jvp(along, of_problem.wide), output, lse, t_output, t_lse)
    answers = Answers(output, lse, *cotangents)
    mask = keywords.get("mask")
    wanted = {*OPERANDS} | ({"mask"} if along.t_mask is not None else set())
    wanted |= {"sink"} if along.t_sink is not None else set()
    assert mask is None or isinstance(mask, np.ndarray | fv.rules.Rule | tuple)
    outputs = backward.outputs(wanted)
    moved = Moved(t_output, t_lse, *moved)
    backward.operands().backward_jvp(answers, along, moved, outputs)
    found = backward.undone(wanted, outputs)
    return {name: x for name, x in found._asdict().items() if x is not None and name in wanted}


def same_tangents(found: Any, output: Any, lse: Any, t_output: Any, t_lse: Any) -> None:
    """Those of `jvp`, to the rounding of the output that they are made of."""
    np.testing.assert_array_equal(found[0], output)
    np.testing.assert_array_equal(found[1][..., 0], lse[..., 0])
    np.testing.assert_array_equal(found[3], t_lse)
    size = np.max(np.abs(t_lse[..., None] * output), initial=1, where=np.isfinite(t_output))
    np.testing.assert_allclose(
        t_output, found[2], rtol=64 * eps(output.dtype), atol=8 * eps(output.dtype) * size
    )


def check(
    *arrays: np.ndarray,
    still: str = "",
    seed: int = 40,
    wants_mask: bool = False,
    **keywords: Any,
) -> dict[str, np.ndarray]:
    """Hold it against differences of the reference's gradients in long double."""
    dtype = arrays[0].dtype
    wide = reference.compute_dtype(dtype)
    tangents: list[Any] = [
        None if name in still else x for name, x in zip("qkv", tangents_of(arrays), strict=True)
    ]
    shape = fv.attention(*arrays, **keywords).shape
    cotangents = [normal(seed, shape, dtype), normal(seed + 1, shape[:-1], wide)]
    moved: list[Any] = [normal(seed + 2, shape, dtype), normal(seed + 3, shape[:-1], wide)]
    if "o" in still:
        moved = [None, None]
    mask, sink = keywords.get("mask"), keywords.get("sink")
    t_mask = t_sink = None
    if wants_mask and mask is not None:
        t_mask = normal(seed + 4, mask.shape, np.float32)
    if wants_mask and sink is not None:
        t_sink = normal(seed + 5, np.shape(sink), np.float64)
    found = moving_gradients(arrays, (*tangents, t_mask, t_sink), cotangents, moved, **keywords)

    long = np.longdouble
    step = long(2) ** -16

    def at(h: Any) -> Any:
        given = [
            x.astype(long) + h * (0 if t is None else t.astype(long))
            for x, t in zip((*arrays, *cotangents), (*tangents, *moved), strict=True)
        ]
        own = dict(keywords)
        if t_mask is not None:
            own["mask"] = mask.astype(long) + h * t_mask.astype(long)
        if t_sink is not None:
            own["sink"] = np.asarray(sink, long) + h * t_sink.astype(long)
        return reference.attention_vjp(*given[:3], **own)[1](*given[3:])

    steps = [at(n * step) for n in (1, -1, 2, -2)]
    for name, x in found.items():  # off by step^4, and by the rounding over the step
        up, down, far_up, far_down = (getattr(x, name) for x in steps)
        want = (8 * (up - down) - (far_up - far_down)) / (12 * step)
        assert x.shape == want.shape, name
        size = np.max(np.abs(want), initial=1)
        # sums of products of six numbers of size one, each rounded a few times
        off = np.max(np.abs(x.astype(long) - want), initial=0)
        assert off <= 200 * eps(wide) * size + 2 * eps(x.dtype) * size + 1e-11 * size, (
            name,
            off,
            size,
        )
    return found


@pytest.mark.parametrize("reach", REACHES)
def test_reaches(reach):
    for dtype in FLOATS:
        arrays = problem(37, 200, lead=(2, 2), size=8, value_size=5, dtype=dtype)
        check(*arrays, **reach_of(reach, (2, 2), 37, 200))


@pytest.mark.parametrize("still", ["q", "k", "v", "qkv", "kvo", "qvo", "qko", "o"])
def test_some_operands_move(still, dtype):
    check(*problem(20, 180, size=8, value_size=5, dtype=dtype), still=still)


@pytest.mark.parametrize(
    "score",
    ["dot", "gaussian", fv.ScaledDot(-0.4), fv.Polynomial(1), fv.Polynomial(2), fv.Polynomial(3),
     fv.Gaussian(0.5), fv.Gaussian(np.linspace(0.2, 0.9, 8, dtype=np.float32))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("softcap", [None, 1.0])
def test_scores(score, softcap):
    for dtype in FLOATS:
        arrays = problem(20, 60, size=8, value_size=5, dtype=dtype)
        for still in ("", "q", "k"):
            check(*arrays, score=score, softcap=softcap, still=still)


@pytest.mark.parametrize(
    "reach", ["float mask", "mask of heads", "mask of keys", "sink", "all of it"]
)
def test_masks_and_sinks_move(reach):
    for dtype in FLOATS:
        keywords = reach_of(reach, (2, 2), 20, 60)
        found = check(
            *problem(20, 60, lead=(2, 2), size=8, dtype=dtype), wants_mask=True, **keywords
        )
        assert ("mask" in found) == ("mask" in keywords)
        assert ("sink" in found) == ("sink" in keywords)


@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_broadcasting(leads):
    arrays = tuple(
        normal(n, (*lead, length, 8), np.float64)
        for n, (lead, length) in enumerate(zip(leads, (20, 180, 180), strict=True))
    )
    for reach in ("all", "mask of heads"):
        check(*arrays, **reach_of(reach, np.broadcast_shapes(*leads), 20, 180))


SHAPES = [(0, 5, 4, 3), (5, 0, 4, 3), (5, 6, 0, 3), (5, 6, 4, 0), (1, 1, 1, 1), (40, 3, 65, 33),
          (300, 700, 20, 7)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape):
    queries, keys, size, value_size = shape
    check(*problem(queries, keys, lead=(1,), size=size, value_size=value_size, dtype=np.float64))


def given_of(arrays: Any, seed: int = 40) -> tuple[Any, Any, Any, Any]:
    dtype, wide = arrays[0].dtype, reference.compute_dtype(arrays[0].dtype)
    shape = (*arrays[0].shape[:-1], arrays[2].shape[-1])
    pair = [(normal(n, shape, dtype), normal(n + 1, shape[:-1], wide)) for n in (seed, seed + 2)]
    return arrays, tangents_of(arrays), *pair


@pytest.mark.parametrize("layout", ["backwards", "fortran", "heads inside", "spread", "unaligned"])
def test_layouts(layout, dtype):
    given = given_of(problem(40, 200, lead=(2, 2), size=16, dtype=dtype))
    laid = [[np.copy(x) if x.ndim < 4 else LAYOUTS[layout](x) for x in part] for part in given]
    one, other = moving_gradients(*given), moving_gradients(*laid)
    for name, x in one.items():
        np.testing.assert_array_equal(other[name], x, err_msg=name)


@pytest.mark.parametrize("reach", ["all", "all of it", "window", "dropout"])
def test_the_same_bits_for_any_number_of_threads(reach, dtype):
    given = given_of(problem(300, 700, lead=(2,), size=16, dtype=dtype))
    keywords = reach_of(reach, (2,), 300, 700)
    with fv.num_threads(1):
        one = moving_gradients(*given, **keywords)
    with fv.num_threads(3):
        other = moving_gradients(*given, **keywords)
    for name, x in one.items():
        assert other[name].tobytes() == x.tobytes(), name


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("score", ["scaled_dot", "gaussian", fv.Polynomial(2)], ids=str)
def test_what_is_not_seen_changes_nothing(bad, score, dtype):
    (q, k, v), (dq, dk, dv), (d_output, d_lse), (t_d_output, t_d_lse) = given_of(
        problem(40, 300, size=16, dtype=dtype)
    )
    mask = np.random.default_rng(0).random((40, 300)) < 0.7
    mask[7] = False
    mask[:, 200:] = False

    def found() -> Any:
        return moving_gradients(
            (q, k, v), (dq, dk, dv), (d_output, d_lse), (t_d_output, t_d_lse), mask=mask,
            score=score, softcap=1.0,
        )  # fmt: skip

    clean = found()
    for x in (k, v, dk, dv):
        x[:, 200:, 3] = bad
    for x in (q, dq, d_output, t_d_output):
        x[:, 7, 2] = bad
    spoilt = found()
    for name in OPERANDS:
        np.testing.assert_array_equal(spoilt[name], clean[name], err_msg=name)
    assert not clean["query"][:, 7].any()
    assert not clean["key"][:, 200:].any()
    assert not clean["value"][:, 200:].any()


@pytest.mark.parametrize("operand", ["q", "k", "v", "dq", "dk", "dv", "do"])
def test_nan_that_is_seen_spoils_what_it_meets_and_nothing_else(operand):
    """As in the differences: NaN where they have it, and the bits of before elsewhere."""
    arrays, tangents, cotangents, moved = given_of(problem(40, 40, size=16, dtype=np.float64))
    names = dict(zip(("q", "k", "v", "dq", "dk", "dv", "do"),
                     (*arrays, *tangents, cotangents[0]), strict=True))  # fmt: skip
    clean = moving_gradients(arrays, tangents, cotangents, moved, window=5)
    names[operand][0, 20, 3] = np.nan
    found = moving_gradients(arrays, tangents, cotangents, moved, window=5)
    for name, x in found.items():
        spoilt = np.isnan(x)
        assert not spoilt[1].any(), name
        assert not spoilt[0, :10].any(), name
        assert not spoilt[0, 31:].any(), name
        np.testing.assert_array_equal(x[~spoilt], clean[name][~spoilt], err_msg=name)
    assert any(np.isnan(x).any() for x in found.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"t_key": np.ones((2, 5, 3))},
            r"^t_key: got shape \(2, 5, 3\), wanted last axes of 5 and 4",
        ),
        (
            {"t_value": np.ones((3, 5, 4))},
            r"^t_value: got shape .*, wanted leading axes that broad",
        ),
        (
            {"t_query": np.ones((2, 3, 4), np.float32)},
            r"^t_query: got float32 with a query of float",
        ),
        ({"t_mask": np.ones((3, 5))}, r"^t_mask: got an array without a float mask"),
        ({"t_sink": np.ones(2)}, r"^t_sink: got an array without a sink"),
        (
            {"family": "tanh", "factors": np.ones(4)},
            r"^family: got an additive score, which has no",
        ),
        (
            {"family": "distance", "weighing": "boxcar", "scale": 1.0},
            r"^weighing: got one that has no tangent",
        ),
    ],
    ids=str,
)
def test_what_is_refused(changed, message):
    q, k = normal(0, (2, 3, 4), np.float64), normal(1, (2, 5, 4), np.float64)
    with pytest.raises((TypeError, ValueError), match=message):
        fv._core.attention_jvp(query=q, key=k, value=k, **changed)


def test_a_shared_key_has_one_tangent():
    """Its gradient is a sum over the batch."""
    q, k = normal(0, (2, 3, 4), np.float64), normal(1, (1, 5, 4), np.float64)
    rows = {"output": q, "lse": q[..., 0], "d_output": q, "t_output": q, "t_lse": q[..., 0]}
    with pytest.raises(ValueError, match=r"^t_key: got leading axes beyond those of key and value"):
        fv._core.attention_backward_jvp(query=q, key=k, value=k, t_key=np.ones((2, 5, 4)), **rows)


def test_it_is_symmetric():
    """A hessian is: along one direction, and its gradient along another, and the other way."""
    arrays, one, cotangents, _ = given_of(problem(20, 60, size=8, dtype=np.float64))
    other = tangents_of(arrays, seed=70)
    zero = [None, None]

    def along(a: Any, b: Any) -> float:
        found = moving_gradients(arrays, a, cotangents, zero, softcap=2.0)
        return float(sum(np.sum(found[name] * x) for name, x in zip(OPERANDS, b, strict=True)))

    np.testing.assert_allclose(along(one, other), along(other, one), rtol=1e-11)
