"""What multinoulli draws from: filters of categories and a bias; and draws without replacement."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import foveate as fv
import numpy as np
import pytest
from chances import LARGEST_Z, z_of_chi_square, z_of_draws
from foveate import reference
from strategies import LAYOUTS

pytestmark = pytest.mark.threads

# Both sides of vectors, classes, spans, and blocks.
TAILS = [1, 7, 64, 127, 129, 1000, 4097]
FILTERS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 70},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"top_k": 40, "min_p": 0.3},
    {"temperature": 1.5, "top_k": 50, "top_p": 0.8, "min_p": 0.02},
    {},
]
# Weights of float32 are off by an ulp of exp, 2^-23, and by the rounding of an argument of 30 at
# most, 2^-24 * 30; and their sum by less than 64 * 2^-24.
LOG_PROB = {"float64": 1e-13}
LOG_PROB_FLOAT32 = 100 * 2**-24


def numbers(k: int, lead: tuple[int, ...], dtype, logits: bool, seed: int = 0) -> np.ndarray:
    """Logits, of which some are equal and some -inf, or weights; no row without any."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*lead, k)) * 2
    x[..., 1::7] = -np.inf
    x[..., 2::5] = 1.5
    return (x if logits else np.exp(x)).astype(dtype)


def left_of(x: np.ndarray, **keywords: Any) -> dict[int, float]:
    """The categories that are left of a row, and their probabilities: as many different draws."""
    low, high = 1, x.size
    while low < high:  # the most that are not refused
        count = (low + high + 1) // 2
        try:
            fv.multinoulli(x, count, replace=False, rng=1, **keywords)
            low = count
        except ValueError:
            high = count - 1
    index, log_prob = fv.multinoulli(x, low, replace=False, return_log_prob=True, rng=1, **keywords)
    assert len(set(index.tolist())) == low
    return dict(zip(index.tolist(), np.exp(log_prob.astype(np.float64)), strict=True))


def outcome(module: Any, *args: Any, **keywords: Any) -> Any:
    """The draws and their logarithms, or that they are refused."""
    try:
        return module.multinoulli(*args, return_log_prob=True, **keywords)
    except ValueError as error:
        if str(error).startswith("size: got "):
            return None
        raise


@pytest.mark.parametrize("logits", [False, True], ids=["weights", "logits"])
@pytest.mark.parametrize("keywords", FILTERS, ids=str)
def test_against_the_reference(keywords, logits, dtype):
    """The same draws: edges differ by 2^-18, and of some 10^4 draws one hits an edge with a chance
    of a percent; that of top_p, where a share of the weight ends within 2^-18 of 0.9, likewise."""
    for k in TAILS:
        x = numbers(k, (2,), dtype, logits, seed=k)
        for size, replace in ((None, True), (3, True), (3, False), (40, True)):
            given = {**keywords, "logits": logits, "replace": replace, "rng": k}
            got, wanted = outcome(fv, x, size, **given), outcome(reference, x, size, **given)
            assert (got is None) == (wanted is None)
            if got is not None:
                assert got[0].dtype == np.int64
                assert got[1].dtype == (np.float64 if dtype == np.float64 else np.float32)
                np.testing.assert_array_equal(got[0], wanted[0])
                error = LOG_PROB.get(np.dtype(dtype).name, LOG_PROB_FLOAT32)
                np.testing.assert_allclose(got[1], wanted[1], rtol=error, atol=error)


@pytest.mark.parametrize(
    "keywords",
    [*FILTERS[1:-1], {"top_k": 2000}, {"top_k": 30, "top_p": 1.0}, {"temperature": 1e-3}],
    ids=str,
)
def test_against_transformers(keywords):
    """What its warpers leave, and with which probabilities; of equals at the edge of top_p, which
    it leaves to its sort, as many."""
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    x = numbers(1000, (6,), np.float32, True)
    x[1] *= 10  # peaked
    x[2, 5:] = -100
    x[3, 3:] = -np.inf
    x[4] = np.float32(0.25)
    scores = torch.tensor(x)
    for name, warper in (
        ("temperature", process.TemperatureLogitsWarper),
        ("top_k", process.TopKLogitsWarper),
        ("top_p", process.TopPLogitsWarper),
        ("min_p", process.MinPLogitsWarper),
    ):
        if name in keywords:
            scores = warper(keywords[name])(torch.zeros((6, 1), dtype=torch.long), scores)
    wanted = scores.softmax(-1).numpy()
    for row, theirs, kept in zip(x, wanted, np.isfinite(scores.numpy()), strict=True):
        ours = left_of(row, logits=True, **keywords)
        if row[0] == row[9]:
            assert abs(len(ours) - kept.sum()) <= 1  # their sums of 1000 equals round
            continue
        index = list(ours)
        np.testing.assert_array_equal(np.sort(row[index]), np.sort(row[kept]))
        np.testing.assert_allclose(
            np.sort(list(ours.values())), np.sort(theirs[kept]), rtol=1e-5, atol=1e-30
        )


def long_rows() -> dict[str, np.ndarray]:
    """Rows of which a sample says little, and others."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(40_000)
    place = np.arange(40_000) % 128
    rows = {
        "normal": x,
        "wide": 4 * x,
        "peaked": 60 * x,
        "sorted": np.sort(x),
        "masked": np.where(rng.random(40_000) < 0.9, np.finfo(np.float32).min, x),
        "few": np.where(rng.random(40_000) < 0.999, -np.inf, x),
        "the sample is heavy": np.where(place < 16, x + 5, x),
        "the sample is light": np.where(place < 16, x - 5, x),
        "two values": np.where(x > 1, 1.0, 0.0),
        "zeros of both signs": np.where(x > 0, 0.0, -0.0),
        "from a large one": np.where(np.arange(40_000) == 33_333, 12.0, x),
    }
    return {name: row.astype(np.float32) for name, row in rows.items()}


@pytest.mark.parametrize("name", long_rows())
def test_long_rows(name):
    """As many categories are left as the reference leaves, up to what rounding moves: 2^-18 of the
    weight of all, in units of that at the edge."""
    x = long_rows()[name]
    weights = reference._filters.weights_of(x, True)
    for share in (0.001, 0.5, 0.9, 0.9999):
        left = reference._filters.left_of(x, True, top_p=share)
        index, log_prob = fv.multinoulli(
            x, 3, logits=True, top_p=share, return_log_prob=True, rng=1
        )
        total = weights[left].sum()
        moved = 2**-18 * weights.sum()
        assert (weights[index] >= weights[left].min() * (1 - 1e-6)).all()
        np.testing.assert_allclose(
            log_prob, np.log(weights[index] / total), rtol=1e-5, atol=moved / total + 1e-5
        )
        slack = int(moved / weights[left].min()) + 1
        for count, refused in ((left.sum() - slack, False), (left.sum() + slack, True)):
            if count > 0:
                given: Any = {"logits": True, "top_p": share, "replace": False, "rng": 1}
                assert (outcome(fv, x, int(min(count, x.size)), **given) is None) == refused


# --- ties -----------------------------------------------------------------------------------------


def test_equals_at_the_edge_of_top_k_stay():
    x = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    assert sorted(left_of(x, logits=True, top_k=2)) == [1, 2, 3, 4]
    assert sorted(left_of(x, logits=True, top_k=1)) == [1]
    assert sorted(left_of(x, logits=True, top_k=5)) == [0, 1, 2, 3, 4]
    zeros = np.array([-0.0, 0.0, -1.0], np.float32)
    assert sorted(left_of(zeros, logits=True, top_k=1)) == [0, 1]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", [0.0, -0.0, 1.5, -3.0, 1e-42])
def test_of_equals_at_the_edge_of_top_p_the_lowest_stay(number, threads):
    """Within vectors, spans and blocks, and in a row that is shared among threads."""
    with fv.num_threads(threads):
        for k in (10, 130, 5000, 150_000):
            x = np.full(k, number, np.float32)
            x[::3] = -np.inf
            places = np.flatnonzero(x == number)
            for share in (0.25, 0.5, 0.75):
                count = int(np.ceil(share * len(places)))
                given: Any = {"logits": True, "top_p": share, "replace": False, "rng": 1}
                index = fv.multinoulli(x, count, **given)
                np.testing.assert_array_equal(np.sort(index), places[:count])
                with pytest.raises(ValueError, match=rf"wanted at most the {count} categories"):
                    fv.multinoulli(x, count + 1, **given)


def test_top_p_before_min_p_and_after_top_k():
    p = np.array([0.4, 0.3, 0.2, 0.05, 0.05])
    assert sorted(left_of(p, top_k=2, top_p=0.5)) == [0]  # 4/7 is more than half
    assert sorted(left_of(p, top_p=0.5)) == [0, 1]
    assert sorted(left_of(p, top_p=0.95, min_p=0.6)) == [0, 1]
    assert sorted(left_of(p, temperature=0.5, min_p=0.5)) == [0, 1]  # 9/16
    assert sorted(left_of(p, temperature=0.5, min_p=0.6)) == [0]


# --- probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize("logits", [False, True], ids=["weights", "logits"])
def test_probabilities(logits):
    """2^17 draws, from as many rows and from one; another temperature is noticed."""
    x = numbers(300, (), np.float32, logits, seed=4)
    keywords: Any = {"temperature": 1.2, "top_k": 40, "top_p": 0.9, "logits": logits}
    filters = reference._filters
    left = filters.left_of(x, logits, temperature=1.2, top_k=40, top_p=0.9)
    exact = np.where(left, filters.weights_of(x, logits, 1.2), 0)
    rows = np.broadcast_to(x, (2**17, 300))
    for draws in (
        fv.multinoulli(rows, rng=11, **keywords),
        fv.multinoulli(x, 2**17, rng=12, **keywords),
        fv.multinoulli(rows, 1, replace=False, rng=13, **keywords),
    ):
        assert z_of_draws(draws, exact) < LARGEST_Z
    less = np.where(left, filters.weights_of(x, logits, 1.25), 0)
    assert z_of_draws(draws, less) > LARGEST_Z


def test_without_replacement():
    """Pairs come as drawn one after the other: p_i p_j / (1 - p_i)."""
    p = np.array([0.4, 0.05, 0.25, 0.1, 0.2])
    pairs = fv.multinoulli(np.broadcast_to(p, (2**17, 5)), 2, replace=False, rng=3)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    wanted = np.outer(p, p) / (1 - p)[:, None]
    off = ~np.eye(5, dtype=bool)
    counted = np.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25).reshape(5, 5)
    assert z_of_chi_square(counted[off], wanted[off] * len(pairs)) < LARGEST_Z
    assert z_of_chi_square(counted.T[off], wanted[off] * len(pairs)) > LARGEST_Z
    everything = fv.multinoulli(np.log(p), 5, logits=True, replace=False, rng=1)
    assert sorted(everything) == [0, 1, 2, 3, 4]
    far = fv.multinoulli(np.array([0.0, -1e4, -1e3]), 3, logits=True, replace=False, rng=1)
    np.testing.assert_array_equal(far, [0, 2, 1])  # though their weights are 0 in float64


def test_draws_without_replacement_are_independent_of_each_other_row():
    x = np.zeros((2, 4000))
    first, second = fv.multinoulli(x, 2000, logits=True, replace=False, rng=1)
    assert abs(len(np.intersect1d(first, second)) - 1000) < 100  # 6 standard deviations
    assert (first != fv.multinoulli(x[0], 2000, logits=True, replace=False, rng=2)).any()


SUBNORMAL = """
import foveate as fv, numpy as np
fv.set_num_threads(2)
fv.multinoulli(np.zeros(300_000, np.float32), logits=True, top_p=0.5, rng=1)
fv.multinoulli(np.full((400, 4000), 5e-324), rng=1)
"""


def test_threads_that_draw_first_from_logits_keep_subnormal_numbers():
    """Threads inherit the mode of floating point of the one that makes them."""
    subprocess.run([sys.executable, "-c", SUBNORMAL], check=True)


# --- promises -------------------------------------------------------------------------------------

SOME: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "return_log_prob": True}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("shape", [(300, 900), (5, 9000), (1, 300_000)], ids=str)
def test_any_number_of_threads(shape, replace):
    x = numbers(shape[1], shape[:1], np.float32, True)
    given = {**SOME, "logits": True, "replace": replace, "rng": 4}
    with fv.num_threads(1):
        one = fv.multinoulli(x, 3, **given)
    for threads in (2, 3):
        with fv.num_threads(threads):
            np.testing.assert_array_equal(fv.multinoulli(x, 3, **given), one)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    x, bias = numbers(4500, (2, 3), dtype, True), numbers(4500, (2, 3), dtype, True, seed=1)
    for replace in (False, True):
        given = {**SOME, "logits": True, "replace": replace, "rng": 4}
        wanted = fv.multinoulli(x, 3, bias=bias, **given)
        got = fv.multinoulli(LAYOUTS[layout](x), 3, bias=LAYOUTS[layout](bias), **given)
        np.testing.assert_array_equal(got, wanted)
        got = fv.multinoulli(LAYOUTS[layout](x), 3, **given)
        np.testing.assert_array_equal(got, fv.multinoulli(x, 3, **given))


@pytest.mark.parametrize("keywords", FILTERS, ids=str)
def test_every_instruction_set_draws_the_same(keywords, dtype):
    """Of weights; of logits where there are fused multiply-adds, whose exp is the same."""
    chosen = fv._core.isa_selected()
    drawn: dict[bool, list[Any]] = {False: [], True: []}
    try:
        for isa in fv._core.isa_names():
            fv._core.isa_select(isa)
            for logits in (False, True):
                fused = isa not in ("baseline", "avx", "generic")
                if fused or not (logits or "temperature" in keywords):
                    x = numbers(5000, (8,), dtype, logits)
                    given = {**keywords, "logits": logits, "rng": 5}
                    index, log_prob = fv.multinoulli(x, 3, return_log_prob=True, **given)
                    different = fv.multinoulli(x, 1, replace=False, **given)
                    drawn[logits].append([index, different, log_prob if fused else None])
    finally:
        fv._core.isa_select(chosen)
    for of_kind in drawn.values():
        for other in of_kind[1:]:
            for x, first in zip(other, of_kind[0], strict=True):
                if x is not None:
                    np.testing.assert_array_equal(x, first)


@pytest.mark.parametrize("replace", [False, True])
def test_a_row_does_not_depend_on_the_others(replace):
    x = numbers(700, (6,), np.float32, True)
    given = {**SOME, "logits": True, "replace": replace, "rng": 4}
    index, log_prob = fv.multinoulli(x, 3, **given)
    for some in (x[0], x[:4], x.reshape(2, 3, 700)):
        got = fv.multinoulli(some, 3, **given)
        count = some.size // 700
        np.testing.assert_array_equal(np.reshape(got[0], (-1, 3)), index[:count])
        np.testing.assert_array_equal(np.reshape(got[1], (-1, 3)), log_prob[:count])


@pytest.mark.parametrize("size", [None, 3, 300])
def test_what_filters_nothing_changes_no_draw(size, dtype):
    x = numbers(700, (6,), dtype, True)
    plain = fv.multinoulli(x, size, logits=True, rng=2)
    for given in (
        {"temperature": 1, "top_k": 0, "top_p": 1.0, "min_p": 0},
        {"top_k": 700},
        {"top_k": 10**30, "replace": True},
        {"temperature": np.float32(1), "top_k": None, "top_p": None, "min_p": None, "bias": None},
    ):
        np.testing.assert_array_equal(fv.multinoulli(x, size, logits=True, rng=2, **given), plain)
    index, log_prob = fv.multinoulli(x, size, logits=True, rng=2, return_log_prob=True)
    np.testing.assert_array_equal(index, plain)
    logs = x.astype(np.float64) - np.log(np.exp(x.astype(np.float64)).sum(-1, keepdims=True))
    wanted = np.take_along_axis(logs, index.reshape(6, -1), -1).reshape(index.shape)
    np.testing.assert_allclose(log_prob, wanted, rtol=1e-6, atol=1e-5)


def test_the_bias_is_added_first(dtype):
    """In the accumulator's dtype, whatever it is of."""
    x = numbers(300, (4,), dtype, True)
    bias = np.random.default_rng(1).standard_normal((3, 1, 300)).astype(np.float16)
    bias[..., ::3] = -np.inf
    given: Any = {"logits": True, "top_k": 20, "rng": 3}
    wide = np.float64 if dtype == np.float64 else np.float32
    wanted = fv.multinoulli(x.astype(wide) + bias.astype(wide), 5, **given)
    assert wanted.shape == (3, 4, 5)
    for added in (bias, bias.astype(np.float64), bias.tolist()):
        np.testing.assert_array_equal(fv.multinoulli(x, 5, bias=added, **given), wanted)
    assert (wanted % 3 != 0).all()
    plain = fv.multinoulli(x, 5, **given)
    for same in (2, 2.5, [1.0], np.zeros((4, 1)), np.zeros(300, int)):
        np.testing.assert_array_equal(fv.multinoulli(x, 5, bias=same, **given), plain)


def test_weights_of_any_size(dtype):
    """As large, and as small, as the dtype has them."""
    base = np.array([[1.0, 3.0, 0.0, 2.0] * 40] * 100)
    wanted = fv.multinoulli(base, 2, top_k=100, rng=6)
    tiny = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149}
    large = {"float16": 2.0**14, "bfloat16": 2.0**126, "float32": 2.0**126}
    name = np.dtype(dtype).name
    for factor in (tiny.get(name, 2.0**-1074), large.get(name, 2.0**1022)):
        p = (base * factor).astype(dtype)
        np.testing.assert_array_equal(fv.multinoulli(p, 2, top_k=100, rng=6), wanted)
    huge = np.array([-3e38, 3e38, 0.0], np.float32)
    index, log_prob = fv.multinoulli(huge, logits=True, top_p=0.9, return_log_prob=True, rng=1)
    assert (index, log_prob) == (1, 0)


def test_cold_and_hot():
    x = np.array([1.0, 2.0, 1.9999999], np.float64)
    for temperature in (1e-12, 1e-300, 5e-324):
        assert (fv.multinoulli(x, 50, logits=True, temperature=temperature, rng=1) == 1).all()
    hot = fv.multinoulli([0.0, -np.inf, 500.0], 3000, logits=True, temperature=1e300, rng=1)
    assert abs((hot == 0).mean() - 0.5) < 0.05
    assert (hot != 1).all()


def test_empty():
    assert fv.multinoulli(np.ones((0, 5)), top_k=2, rng=1).shape == (0,)
    assert fv.multinoulli(np.ones((2, 5)), 0, top_p=0.5, replace=False, rng=1).shape == (2, 0)
    index, log_prob = fv.multinoulli(np.ones((0, 0)), 2, return_log_prob=True, rng=1)
    assert index.shape == log_prob.shape == (0, 2)
    index, log_prob = fv.multinoulli(np.ones(3), return_log_prob=True, rng=1)
    assert index.shape == log_prob.shape == ()


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", x) for x in (0, 0.0, -1.0, np.nan, np.inf)),
        *(("top_k", x) for x in (-1, -(10**30))),
        *(("top_p", x) for x in (0.0, -0.5, 1.5, np.nan)),
        *(("min_p", x) for x in (-0.1, 1.0, np.nan)),
        *(("bias", x) for x in ([1.0, 2.0], np.zeros((3, 2)))),
    ],
)
def test_wrong_values_are_refused(name, value):
    for size in (None, 0):
        with pytest.raises(ValueError, match=rf"^{name}: got "):
            fv.multinoulli(np.zeros((4, 3)), size, logits=True, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", x) for x in ("1", True, None, [1.0])),
        *(("top_k", x) for x in (1.0, "1", True)),
        *(("top_p", x) for x in ("1", True, [0.5])),
        *(("min_p", x) for x in ("1", False)),
        *(("bias", x) for x in ("1", np.ones(3, bool), 1j)),
        *(("replace", x) for x in (1, None)),
        *(("return_log_prob", x) for x in (1, None)),
    ],
)
def test_wrong_types_are_refused(name, value):
    with pytest.raises(TypeError, match=rf"^{name}: got "):
        fv.multinoulli(np.zeros((4, 3)), logits=True, **{name: value})


@pytest.mark.parametrize("keywords", FILTERS, ids=str)
def test_wrong_numbers_are_refused(keywords, dtype):
    for k in (3, 200, 70_000):
        for logits, values in ((True, (np.nan, np.inf)), (False, (np.nan, np.inf, -1.0))):
            for value in values:
                x = numbers(k, (3,), dtype, logits)
                x[1, k // 2] = value
                with pytest.raises(ValueError, match=rf"^p: got -?{value:g} for category {k // 2}"):
                    fv.multinoulli(x, logits=logits, return_log_prob=True, **keywords)
    with pytest.raises(ValueError, match=r"^p: got only logits of -inf in row 0"):
        fv.multinoulli(np.full((2, 5), -np.inf, dtype), logits=True, top_k=2)
    with pytest.raises(ValueError, match=r"^p: got only weights of 0 in row 0"):
        fv.multinoulli(np.zeros((2, 5), dtype), 2, top_k=2, replace=False)


def test_a_wrong_bias_is_refused():
    x = np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=r"^bias: got one beside weights, wanted logits=True"):
        fv.multinoulli(x + 1, bias=x)
    for value in (np.nan, np.inf):
        bias = np.zeros((2, 5))
        bias[1, 3] = value
        with pytest.raises(ValueError, match=rf"^bias: got {value} for category 3 of row 1"):
            fv.multinoulli(x, logits=True, bias=bias)
    with pytest.raises(ValueError, match=r"^p \+ bias: got inf for category 0 of row 0"):
        fv.multinoulli(np.full((2, 5), 3e38, np.float32), logits=True, bias=3e38)
    with pytest.raises(ValueError, match=r"^p \+ bias: got only logits of -inf in row 0"):
        fv.multinoulli(x, logits=True, bias=-np.inf)
    with pytest.raises(ValueError, match=r"^p: got nan for category 0 of row 0"):
        fv.multinoulli(x + np.nan, logits=True, bias=1.0)


def test_too_many_different_draws_are_refused():
    p = np.array([[1.0, 2.0, 0.0, 3.0], [0.0, 1.0, 0.0, 1.0]])
    wanted = "^size: got 3 different draws, wanted at most the 2 categories that are left of row "
    with pytest.raises(ValueError, match=wanted + "1"):
        fv.multinoulli(p, 3, replace=False)
    with pytest.raises(ValueError, match=wanted + "0"):
        fv.multinoulli(p, 3, replace=False, top_k=2)
    with pytest.raises(MemoryError):
        fv.multinoulli(np.broadcast_to(np.float32(1), (2**50,)), top_k=5)
