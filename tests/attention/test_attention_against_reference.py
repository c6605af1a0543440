"""`attention` against the reference in higher precision: dtypes, tails, sizes, scores, options."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from hypothesis import given
from strategies import SIZES, TAILS, normal, problem, problems
from tolerances import assert_within, check_attention, expect

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("length", TAILS)
def test_tails_of_queries_and_keys(length, dtype):
    """Each length against a few others, on both sides."""
    for other in (1, 17, 113):
        check_attention(*problem(length, other, dtype=dtype))
        check_attention(*problem(other, length, dtype=dtype))


@pytest.mark.parametrize("length", TAILS)
def test_tails_of_a_square(length, dtype):
    check_attention(*problem(length, length, size=64, dtype=dtype))
    check_attention(*problem(length, length, size=64, dtype=dtype), causal=True)


@pytest.mark.parametrize("size", SIZES)
def test_tails_of_sizes(size, dtype):
    """D and Dv each against the other."""
    for other in (0, 1, 16, 65):
        check_attention(*problem(33, 41, size=size, value_size=other, dtype=dtype))
        check_attention(*problem(33, 41, size=other, value_size=size, dtype=dtype))


SCORES = {
    "dot": "dot",
    "scaled_dot": "scaled_dot",
    "cosine": "cosine",
    "Dot": fv.Dot(),
    "ScaledDot": fv.ScaledDot(),
    "ScaledDot 0.3": fv.ScaledDot(0.3),
    "ScaledDot -2": fv.ScaledDot(scale=-2.0),
    "ScaledDot 0": fv.ScaledDot(scale=0.0),
    "Cosine": fv.Cosine(),
    "Cosine 7": fv.Cosine(scale=7.0),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores(score, dtype):
    check_attention(*problem(40, 70, size=24, dtype=dtype), score=score)


@pytest.mark.parametrize("weight", ["own", "float32"])
def test_bilinear(weight, dtype):
    """Query and key of different sizes; w of the dtype of the query, or one that casts safely."""
    q, k, v = problem(40, 70, size=24, dtype=dtype)
    weight_dtype = dtype if weight == "own" else np.dtype(weight)
    w = normal(9, (24, 13), weight_dtype) * weight_dtype.type(0.2)
    check_attention(q, k[..., :13], v, score=fv.Bilinear(w))


def test_cosine_of_zero_vectors(dtype):
    """A zero vector is related to nothing: its cosine is 0, not NaN."""
    q, k, v = problem(9, 20, dtype=dtype)
    q[:, 3] = 0
    k[:, 5:9] = 0
    check_attention(q, k, v, score="cosine")


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_cosine_is_of_directions_alone(scale, dtype):
    q, k, v = problem(9, 20, dtype=dtype)
    check_attention((q * scale).astype(dtype), k, v, score="cosine")


@pytest.mark.parametrize("softcap", [None, 0, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_softcap(softcap, score, dtype):
    check_attention(*problem(33, 65, dtype=dtype), score=score, softcap=softcap)


def test_mask_is_added_after_softcap(dtype):
    """Scores, scale, softcap, mask, softmax: a bias of 40 lives beyond a cap of 1."""
    q, k, v = problem(20, 30, dtype=dtype)
    mask = np.zeros((20, 30), np.float32)
    mask[:, ::3] = 40
    check_attention(q, k, v, softcap=1.0, mask=mask)


@pytest.mark.parametrize(
    "sink", [0.0, 3, -5.0, 50.0, -np.inf, np.float32(1.5), "heads", "batch", "float32", "int"]
)
def test_sink(sink, dtype):
    q, k, v = problem(17, 40, lead=(2, 3), dtype=dtype)
    arrays = {
        "heads": normal(5, (3,), np.float64),
        "batch": normal(5, (2, 1), np.float64),
        "float32": normal(5, (2, 3), np.float32),
        "int": np.arange(3),
    }
    check_attention(q, k, v, sink=arrays.get(sink, sink) if isinstance(sink, str) else sink)


def test_without_lse_the_output_is_the_same(dtype):
    q, k, v = problem(33, 65, dtype=dtype)
    output, _ = fv.attention(q, k, v, return_lse=True)
    np.testing.assert_array_equal(fv.attention(q, k, v), output)


def test_out_is_written_and_returned(dtype):
    q, k, v = problem(33, 65, value_size=9, dtype=dtype)
    out = np.full((2, 33, 9), np.nan, dtype)
    returned = fv.attention(q, k, v, out=out)
    assert returned is out
    np.testing.assert_array_equal(out, fv.attention(q, k, v))
    output, lse = fv.attention(q, k, v, out=out, return_lse=True)
    assert output is out
    assert lse.shape == (2, 33)


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (1, 2, 1, 2), (1,) * 30])
def test_number_of_leading_axes(lead, dtype):
    check_attention(*problem(5, 7, lead=lead, dtype=dtype))


def test_many_heads_and_a_long_row():
    """More tasks than threads, and more keys than one tile holds."""
    check_attention(*problem(50, 700, lead=(3, 7), size=32))


@given(problems())
def test_any_problem(drawn):
    (q, k, v), keywords = drawn
    output, lse = fv.attention(q, k, v, return_lse=True, **keywords)
    expected = expect(q, k, v, **keywords)
    assert_within(output, expected.output, expected.output_error, "output")
    assert_within(lse, expected.lse, expected.lse_error, "lse")
