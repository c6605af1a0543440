"""The polynomial score: every dtype and driver, with a softcap behind its link; what is refused."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from score_checks import QUERIES
from strategies import problem
from tolerances import check_attention

SCORES = [fv.Polynomial(1), fv.Polynomial(2), fv.Polynomial(2, 0.5), fv.Polynomial(3, 0.25, 0.2)]


@pytest.mark.parametrize("score", SCORES, ids=str)
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"window": 7, "offset": 3}], ids=str)
@pytest.mark.parametrize("queries", QUERIES)
def test_dtypes_and_drivers(queries, options, score, dtype):
    check_attention(*problem(queries, 60, size=16, dtype=dtype), score=score, **options)


def test_gradients_have_the_bits_of_the_answer(dtype):
    """With and without the column of the constant: the sum of one more zero."""
    q, k, v = problem(40, 60, size=16, dtype=dtype)
    output, _ = fv.attention_vjp(q, k, v, score=fv.Polynomial(2))
    np.testing.assert_array_equal(output, fv.attention(q, k, v, score=fv.Polynomial(2)))


@pytest.mark.parametrize("degree", [0, -1, 2**53 + 1])
def test_degrees_are_positive(degree):
    with pytest.raises(ValueError, match=r"degree: got .*, wanted"):
        fv.Polynomial(degree)


@pytest.mark.parametrize(
    ("link", "error", "message"),
    [
        (("cube", 1.0), ValueError, 'link: got "cube", wanted "power"'),
        (("power", 1.5), ValueError, "link_parameter: got 1.5"),
        (("power", 0.0), ValueError, "link_parameter: got 0"),
        (("power", float("nan")), ValueError, "link_parameter: got nan"),
        ("power", TypeError, "link: got str, wanted"),
    ],
)
def test_links_are_refused_by_name(link, error, message):
    q = np.ones((2, 3))
    with pytest.raises(error, match=message):
        fv._core.attention(query=q, key=q, value=q, link=link)


def test_links_are_for_inner_products():
    q = np.ones((2, 3))
    with pytest.raises(ValueError, match="link: got power, which is of FV_INNER alone"):
        fv._core.attention(query=q, key=q, value=q, family="distance", link=("power", 2.0))
