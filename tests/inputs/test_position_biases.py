"""Biases by position, rules in `mask=`: what they mean, their gradients, and what is refused."""

from __future__ import annotations

import math

import foveate as fv
import numpy as np
import pytest
from foveate import _core, reference
from gradient_checks import check
from processes import needs_peak_memory
from strategies import normal, problem
from tolerances import check_attention

pytestmark = pytest.mark.threads

LEAD = (2, 3)


def alibi(of_distance: float = 0.0, lead=(3,)) -> fv.Alibi:
    return fv.Alibi(of_distance + np.abs(normal(7, lead, np.float64)))


def relative(size: int = 9, lead=(3,), dtype=np.float64, **rule) -> fv.RelativeBias:
    return fv.RelativeBias(normal(8, (*lead, size), dtype), **rule)


def grid(height: int, width: int, lead=(3,), dtype=np.float64) -> fv.RelativeBias2d:
    table = normal(9, (*lead, 2 * height - 1, 2 * width - 1), dtype)
    return fv.RelativeBias2d(table, (height, width))


T5 = {"rule": "t5", "max_distance": 40}
RULES = {
    "alibi": alibi(),
    "alibi of one slope": fv.Alibi(0.25),
    "alibi of batches": alibi(lead=(2, 1)),
    "clip": relative(),
    "clip far": relative(2 * 500 + 1, lead=(2, 3)),
    "clip one": relative(1, lead=()),
    "t5": relative(16, **T5),
    "t5 before": relative(10, lead=(), **T5, bidirectional=False),
    "2d": grid(12, 35),
    "2d of columns": grid(1, 420, lead=()),
}


# --- what they mean -------------------------------------------------------------------------------


def cells(function, queries, keys, start=0) -> list[list[float]]:
    return [[function(i + start, j) for j in range(keys)] for i in range(queries)]


def test_alibi():
    want = cells(lambda i, j: -0.3 * abs(i - j), 7, 9, 2)
    np.testing.assert_array_equal(fv.Alibi(0.3).dense(7, 9, 2), want)
    np.testing.assert_array_equal(fv.Alibi([0.3, 0.0]).dense(7, 9, [[2], [4]])[0, 0], want)
    assert fv.Alibi(np.float32([0.3])).dense(1, 1).dtype == np.float32
    assert np.isfinite(fv.Alibi(np.float32([1e38])).dense(1, 9)).all()


def test_clip():
    table = np.arange(7.0)
    want = cells(lambda i, j: table[min(max(j - i, -3), 3) + 3], 12, 20, -5)
    np.testing.assert_array_equal(fv.RelativeBias(table).dense(12, 20, -5), want)


def bucket_of_t5(distance: int, buckets: int, both: bool, farthest: int) -> int:
    """Written as its authors describe it."""
    first = 0
    if both:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    ratio = math.log(distance / exact) / math.log(farthest / exact)
    return first + min(buckets - 1, exact + math.floor(ratio * (buckets - exact) + 1e-9))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (12, 50), (4, 3), (64, 1000)])
def test_t5(buckets, farthest, both):
    table = np.arange(float(buckets))
    rule = fv.RelativeBias(table, rule="t5", bidirectional=both, max_distance=farthest)
    want = [bucket_of_t5(j - 1500, buckets, both, farthest) for j in range(3000)]
    np.testing.assert_array_equal(rule.dense(1, 3000, 1500)[0], want)


def test_grid():
    height, width = 3, 5
    table = normal(0, (2 * height - 1, 2 * width - 1), np.float32)

    def of(i: int, j: int) -> float:
        (row, column), (of_row, of_column) = divmod(i, width), divmod(j, width)
        return table[row - of_row + height - 1, column - of_column + width - 1]

    rule = fv.RelativeBias2d(table, (height, width))
    np.testing.assert_array_equal(rule.dense(15, 15), cells(of, 15, 15))
    np.testing.assert_array_equal(rule.dense(4, 14, 7), cells(of, 4, 14, 7))
    outside = rule.dense(20, 15, -2)
    np.testing.assert_array_equal(outside[:2], rule.dense(1, 15).repeat(2, 0))
    np.testing.assert_array_equal(outside[16:], rule.dense(1, 15, 14).repeat(4, 0))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("offset", [0, 7, [[3], [-40]], [1, -9, 30]])
def test_undo_is_the_adjoint(rule, offset):
    """A bias is linear in the parameters: <gradient, dense> = <undo(gradient), parameters>."""
    offset = np.asarray(offset)
    gradient = normal(1, (*LEAD, 20, 30), np.float64)
    got = rule.undo_dense(gradient, 20, 30, offset)
    assert type(got) is type(rule)
    name = "slopes" if isinstance(rule, fv.Alibi) else "table"
    parameters, undone = getattr(rule, name), getattr(got, name)
    assert undone.shape == parameters.shape
    assert undone.dtype == parameters.dtype
    product = (gradient * rule.dense(20, 30, offset)).sum()
    np.testing.assert_allclose((undone * parameters).sum(), product, rtol=1e-12)


# --- in attention ---------------------------------------------------------------------------------

BESIDE = {
    "alone": {},
    "causal": {"causal": True, "offset": "end"},
    "window": {"window": (20, 3), "offset": np.array([[3], [-40]])},
    "lengths": {"key_lengths": [[90], [200]], "offset": "end"},
    "softcap, sink": {"softcap": 5.0, "sink": 0.5, "offset": 200},
    "far": {"offset": np.array([0, 2**40, -(2**60)])},
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_against_the_reference(rule, beside):
    for queries in (3, 70):
        arrays = problem(queries, 210, lead=LEAD, size=8)
        keywords = {"mask": rule, "offset": 0, **beside}
        check_attention(*arrays, **keywords)


@pytest.mark.parametrize("rule", ["alibi", "t5", "2d"])
def test_dtypes(rule, dtype):
    arrays = problem(40, 210, lead=LEAD, size=8, dtype=dtype)
    keywords = {"mask": RULES[rule], "causal": True, "offset": "end"}
    check_attention(*arrays, **keywords)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_gradients(rule):
    arrays = problem(33, 150, lead=LEAD, size=8, dtype=np.float64)
    for keywords in (BESIDE["causal"], BESIDE["window"]):
        check(*arrays, mask=rule, **keywords)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_heads_that_share_their_keys(rule):
    """Their queries are rows of one batch, side by side on the lanes."""
    q = problem(45, 190, lead=LEAD, size=8, dtype=np.float64)[0]
    k, v = problem(45, 190, lead=(2, 1), size=8, dtype=np.float64)[1:]
    for keywords in (BESIDE["causal"], {"offset": [3, -9, 60], "window": (40, 9)}):
        check(q, k, v, mask=rule, **keywords)
    check_attention(q[..., :2, :], k, v, mask=rule, offset="end")


@pytest.mark.parametrize("rule", ["alibi", "clip", "2d"])
def test_gradients_of_dtypes(rule, dtype):
    check(*problem(40, 90, lead=LEAD, size=8, dtype=dtype), mask=RULES[rule], offset="end")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_everything_else(rule):
    """Weights and draws are those of the mask that it stands for."""
    q, k, v = problem(20, 100, lead=LEAD, size=8, dtype=np.float64)
    mask = rule.dense(20, 100, 80)
    keywords = {"causal": True, "offset": "end"}
    weights = [fv.attention_weights(q, k, mask=x, **keywords) for x in (rule, mask)]
    np.testing.assert_allclose(*weights, atol=1e-13)
    draws = [fv.hard_attention(q, k, v, rng=0, mask=x, **keywords) for x in (rule, mask)]
    np.testing.assert_array_equal(draws[0].index, draws[1].index)
    moved = [fv.attention_jvp(q, k, v, q, k, v, mask=x, **keywords) for x in (rule, mask)]
    np.testing.assert_allclose(*(x[1] for x in moved), atol=1e-12)


def test_in_tuples():
    """Biases add, of one kind too, and each has its gradient."""
    arrays = problem(30, 30, lead=LEAD, size=8, dtype=np.float64)
    bias = normal(3, (30, 30), np.float64)
    seen = fv.Intervals(0, np.arange(30) // 4 * 4 + 4)
    mask = (alibi(), bias, relative(), seen, grid(5, 6), alibi(1.0))
    check(*arrays, mask=mask)
    _, pullback = fv.attention_vjp(*arrays, mask=mask)
    found = pullback(arrays[0]).mask
    assert [type(x) for x in found] == [
        type(None) if isinstance(x, fv.Intervals) else type(x) for x in mask
    ]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rule", [alibi(), relative(13), relative(16, **T5), grid(8, 9)])
def test_packed(rule, causal):
    """Positions begin anew in each sequence: as calls for each, with the last query at the end."""
    of_queries, of_keys = np.array([1, 1, 21, 60, 64]), np.array([0, 5, 45, 110, 114])
    q, k, v = problem(66, 115, lead=LEAD, size=8, dtype=np.float64)
    d_output = normal(5, q.shape, np.float64)
    keywords = {"mask": (fv.Packed(of_queries, of_keys), rule), "causal": causal}
    for module in (fv, reference):
        output, pullback = module.attention_vjp(q, k, v, **keywords)
        found = pullback(d_output)
        want, d_rule = np.zeros_like(q), 0.0
        for rows, columns in zip(
            map(slice, of_queries, of_queries[1:]), map(slice, of_keys, of_keys[1:]), strict=False
        ):
            given = q[..., rows, :], k[..., columns, :], v[..., columns, :]
            one, pull = fv.attention_vjp(*given, mask=rule, causal=causal, offset="end")
            want[..., rows, :] = one
            gradient = pull(d_output[..., rows, :]).mask
            d_rule = d_rule + (gradient.slopes if isinstance(rule, fv.Alibi) else gradient.table)
        np.testing.assert_allclose(output, want, atol=1e-13)
        assert found.mask[0] is None
        got = found.mask[1].slopes if isinstance(rule, fv.Alibi) else found.mask[1].table
        np.testing.assert_allclose(got, d_rule, atol=1e-11)


@pytest.mark.parametrize("rule", [alibi(lead=(4,)), relative(21, (2, 4)), grid(5, 6, (4,))])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_heads_of_a_block(rule, kv_heads):
    """The last leading axis is the heads."""
    x = normal(0, (2, 30, 8), np.float64)
    weights = {name: normal(n, (8, 8), np.float64) for n, name in enumerate(["wq", "wo"])}
    weights |= {name: normal(5, (8, 2 * kv_heads), np.float64) for name in ("wk", "wv")}
    heads = {"num_heads": 4, "num_kv_heads": kv_heads, "causal": True}
    for mask in (rule, (fv.Packed([0, 10, 30]), rule)):
        found = []
        for module in (fv, reference):
            output, pull = module.multi_head_attention_vjp(x, **weights, **heads, mask=mask)
            gradient = pull(output).mask
            gradient = gradient[1] if mask is not rule else gradient
            is_alibi = isinstance(rule, fv.Alibi)
            found.append((output, gradient.slopes if is_alibi else gradient.table))
        np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-11)
        np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-10)


@pytest.mark.parametrize("rule", ["alibi", "clip far", "2d"])
@pytest.mark.parametrize("lead", [(2, 3), (2, 1)])
def test_the_same_bits_for_any_number_of_threads(rule, lead):
    """With heads of keys, and with one for all, whose queries are rows of one batch."""
    q = problem(300, 400, lead=LEAD, size=8)[0]
    k, v = problem(300, 400, lead=lead, size=8)[1:]
    found = []
    for threads in (1, 2, 3):
        with fv.num_threads(threads):
            output, pullback = fv.attention_vjp(q, k, v, mask=RULES[rule], offset="end")
            gradients = pullback(output)
        d_rule = gradients.mask.slopes if rule == "alibi" else gradients.mask.table
        found.append([x.tobytes() for x in (output, gradients.query, gradients.key, d_rule)])
    assert found[0] == found[1] == found[2]


def test_what_is_not_finite():
    """-inf in a table is not seen; NaN reaches the queries that see it, and no others."""
    q, k, v = problem(30, 30, lead=(), size=8)
    rule = fv.RelativeBias([-np.inf, 0.0, -np.inf])
    np.testing.assert_allclose(fv.attention(q, k, v, mask=rule), v, atol=1e-6)
    hidden = fv.RelativeBias([-np.inf] * 3)
    np.testing.assert_array_equal(fv.attention(q, k, v, mask=hidden), 0)
    nan = fv.RelativeBias([0.0, 0.0, np.nan])
    output = fv.attention(q, k, v, mask=nan, causal=True)
    np.testing.assert_allclose(output, fv.attention(q, k, v, causal=True), atol=1e-6)
    k[20:], v[20:] = np.nan, np.inf
    output = fv.attention(q, k, v, mask=alibi(lead=()), causal=True)
    assert np.isfinite(output[:20]).all()
    assert np.isnan(output[20:]).all()


@pytest.mark.parametrize("queries", [3, 50])
@pytest.mark.parametrize("lead", [(3,), (1,)])
def test_places_of_the_extension(queries, lead):
    """In any order, clipped to the table where they are beyond, by one line and by many."""
    rng = np.random.default_rng(0)
    q = problem(queries, 200, lead=(3,), size=8, dtype=np.float64)[0]
    k, v = problem(queries, 200, lead=lead, size=8, dtype=np.float64)[1:]
    table = rng.standard_normal((3, 40))
    of_queries, of_keys = rng.integers(-60, 90, (3, queries)), rng.integers(-30, 30, 200)
    of_queries[0, :2], of_keys[:2] = [2**62, -(2**62)], [2**45, -(2**63)]
    apart = np.clip(of_queries, -(2**40), 2**40)[..., None] - np.clip(of_keys, -(2**40), 2**40)
    mask = np.take_along_axis(table[:, None], np.clip(apart, 0, 39), -1)
    reach = {"table": table, "query_places": of_queries, "key_places": of_keys}
    output, lse = _core.attention(query=q, key=k, value=v, **reach, return_lse=True)
    want, pullback = fv.attention_vjp(q, k, v, mask=mask)
    np.testing.assert_allclose(output, want, atol=1e-13)
    d_mask, d_query = pullback(want).mask, np.zeros_like(q)
    d_table, d_want = np.zeros_like(table), np.zeros_like(table)
    _core.attention_backward(
        query=q, key=k, value=v, **reach, output=output, lse=lse, d_output=want, d_query=d_query,
        d_table=d_table,
    )  # fmt: skip
    for head in range(3):
        np.add.at(d_want[head], np.clip(apart[head], 0, 39), d_mask[head])
    np.testing.assert_allclose(d_table, d_want, atol=1e-12)
    np.testing.assert_allclose(d_query, pullback(want).query, atol=1e-13)


REFUSED_PLACES = {
    "no places": ({"query_places": None}, "query_places: got none"),
    "no table": ({"table": None}, "table: got none, wanted one with the places"),
    "empty": ({"table": np.zeros((2, 0))}, r"table: got shape \(2, 0\), wanted"),
    "ints": ({"table": np.zeros(3, int)}, "table: got int64, wanted"),
    "length": ({"key_places": np.zeros(5, int)}, r"key_places: got shape \(5,\), wanted"),
    "heads": ({"key_places": np.zeros((2, 7), int)}, r"key_places: got shape \(2, 7\), wanted \(7"),
    "floats": ({"query_places": np.zeros(5)}, "query_places: got float64, wanted int64"),
    "leading axes": ({"table": np.zeros((3, 2))}, r"table: got shape \(3, 2\), wanted leading"),
}


@pytest.mark.parametrize(("changed", "message"), REFUSED_PLACES.values(), ids=REFUSED_PLACES)
def test_refused_places(changed, message):
    q, k, v = problem(5, 7, lead=(2,))
    places = {"query_places": np.zeros(5, int), "key_places": np.zeros(7, int)}
    given = {"table": np.zeros(4), **places, **changed}
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        _core.attention(query=q, key=k, value=v, **given)


@needs_peak_memory
def test_memory_is_not_quadratic():
    """Of 2^15 queries and keys a float mask would be 4 GiB."""
    import resource

    n = 2**15
    q, k, v = problem(n, n, lead=(), size=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keywords = {"mask": fv.Alibi(0.5), "window": (64, 0)}
    output, pull = fv.attention_vjp(q, k, v, **keywords)
    pull(output)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB
    near = slice(-65, None)
    last = fv.attention(q[-1:], k[near], v[near], mask=fv.Alibi(0.5), offset="end")
    np.testing.assert_allclose(output[-1:], last, rtol=1e-5, atol=1e-6)


def test_layouts():
    arrays = problem(50, 50, lead=LEAD, size=8)
    table = normal(0, (3, 41), np.float32)
    want = fv.attention(*arrays, mask=fv.RelativeBias(table))
    spread = np.zeros((3, 82), np.float32)[:, ::-2]
    spread[...] = table
    for x in (np.asfortranarray(table), spread, table[::-1].copy()[::-1], table.astype(">f4")):
        got = fv.attention(*arrays, mask=fv.RelativeBias(x))
        assert got.tobytes() == want.tobytes()
    same = fv.RelativeBias(np.broadcast_to(table[0], (3, 41)))
    np.testing.assert_array_equal(
        fv.attention(*arrays, mask=same), fv.attention(*arrays, mask=fv.RelativeBias(table[0]))
    )


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "even": (lambda: fv.RelativeBias(np.zeros((2, 4))), r"table: got shape \(2, 4\), wanted"),
    "empty": (lambda: fv.RelativeBias(np.zeros(0)), r"table: got shape \(0,\), wanted"),
    "odd": (lambda: fv.RelativeBias(np.zeros(7), rule="t5"), "table: got 7 buckets, wanted an"),
    "few": (
        lambda: fv.RelativeBias(np.zeros(1), rule="t5", bidirectional=False),
        "table: got 1 buckets, wanted 2 or more",
    ),
    "near": (
        lambda: fv.RelativeBias(np.zeros(32), rule="t5", max_distance=8),
        "max_distance: got 8, wanted more than 8",
    ),
    "rule": (lambda: fv.RelativeBias(np.zeros(3), rule="T5"), "rule: got 'T5', wanted"),
    "slopes": (lambda: fv.Alibi([0.5, np.inf]), "slopes: got NaN or inf"),
    "shape": (lambda: fv.RelativeBias2d(np.zeros((3, 5)), (3, 2)), r"table: got shape \(3, 5\)"),
    "sizes": (lambda: fv.RelativeBias2d(np.zeros((3, 5)), (0, 2)), r"shape: got \(0, 2\)"),
    "one size": (lambda: fv.RelativeBias2d(np.zeros((3, 5)), 3), r"shape: got 3, wanted a pair"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_refused_types():
    for make, message in (
        (lambda: fv.Alibi("steep"), "slopes: got"),
        (lambda: fv.Alibi(True), "slopes: got"),
        (lambda: fv.Alibi(np.array([1j])), "slopes: got dtype complex128"),
        (lambda: fv.RelativeBias(np.ones(3, bool)), "table: got dtype bool"),
        (lambda: fv.RelativeBias(np.ones(4), rule="t5", bidirectional=1), "bidirectional: got 1"),
        (lambda: fv.RelativeBias2d(np.ones((1, 1)), (1.0, 1)), "shape: got float"),
    ):
        with pytest.raises(TypeError, match=f"^{message}"):
            make()


def test_refused_where_it_is_used():
    q, k, v = problem(5, 7, lead=(2,))
    for module in (fv, reference):
        with pytest.raises(ValueError, match=r"^offset: got none with"):
            module.attention(q, k, v, mask=fv.Alibi(0.5))
        with pytest.raises(ValueError, match=r"^mask: got a RelativeBias2d of shape .* with 7 key"):
            module.attention(q, k, v, mask=grid(2, 3, ()), offset=0)
    with pytest.raises(ValueError, match=r"\(3,\)|broadcast"):
        fv.attention(q, k, v, mask=alibi(), offset=0)
