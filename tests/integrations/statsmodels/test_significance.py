"""KernelReg's bootstrap tests: the statistics by plain loops, verdicts, draws, bad input."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("scipy")

from foveate.statsmodels import KernelReg, _significance
from foveate.statsmodels._sample import Kernels, Sample, of_sample
from foveate.statsmodels._slopes import estimates

pytestmark = [pytest.mark.any_isa, pytest.mark.python]


def data(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """The first variable decides, the second does not, the third, of 3 categories, does."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=n), rng.normal(size=n), rng.integers(0, 3, n)])
    return np.sin(x[:, 0]) + 0.5 * x[:, 2] + 0.2 * rng.normal(size=n), x


# The last: what our statistic is of theirs, whose effects of "lc" are 2 / n of the derivatives.
CASES = [
    ("ll", "cc", [0, 1], [0], False, 1),
    ("ll", "cc", [0, 1], [1, 0], True, 1),
    ("lc", "c", [0], [0], False, 20**2),
    ("ll", "cco", [0, 1, 2], [2], False, 1),
    ("lc", "ccu", [0, 1, 2], [2], False, 1),
    ("lc", "co", [0, 2], [-1], False, 1),
]


@pytest.mark.parametrize(("reg_type", "types", "columns", "tested", "pivot", "factor"), CASES)
def test_statistics_and_draws_are_theirs(
    reg_type, types, columns, tested, pivot, factor, monkeypatch
):
    theirs = pytest.importorskip("statsmodels.nonparametric.kernel_regression")
    seen = []

    def keep(statistic, distribution):
        seen.append((statistic, distribution))
        return ""

    monkeypatch.setattr(_significance, "significance", keep)
    y, x = data(40)
    bw = np.array([{"c": 0.5 + k, "o": 0.3, "u": 0.3}[c] for k, c in enumerate(types)])
    KernelReg(y, x[:, columns], types, reg_type, bw, rng=3).sig_test(tested, 6, 4, pivot)
    ((statistic, distribution),) = seen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an rng in models that draw nothing
        model = theirs.KernelReg(y, x[:, columns], types, reg_type, bw, rng=3)
        if types[tested[0]] == "c":
            other = theirs.TestRegCoefC(model, sorted(tested), 6, 4, pivot, rng=3)
            assert_allclose(distribution, np.squeeze(other.t_dist) * factor, rtol=1e-9)
        else:
            other = theirs.TestRegCoefD(model, tested, 6, rng=3)
    assert_allclose(statistic, np.squeeze(other.test_stat) * factor, rtol=1e-9)


@pytest.mark.parametrize("letter", ["o", "u"])
def test_verdicts(letter):
    y, x = data()
    model = KernelReg(y, x, "cc" + letter, "lc", [0.5, 2.0, 0.2], rng=0)
    assert model.sig_test(2) == "***"
    assert model.sig_test(2) == model.sig_test([2])
    alone = KernelReg(np.sin(x[:, 0]), x[:, :2], "cc", "ll", [0.5, 2.0], rng=0)
    assert alone.sig_test(0) == "***"


@pytest.mark.parametrize("reg_type", ["lc", "ll"])
@pytest.mark.parametrize("types", ["ccc", "cco", "ccu"])
def test_many_targets_at_once_are_each_by_itself(types, reg_type):
    y, x = data()
    targets = np.stack([y, y**2, np.ones_like(y)], axis=1)
    bw = np.array([0.7, 1.5, 0.3])
    sample = Sample(x, y, Kernels(types, "wangryzin", "aitchisonaitken"))
    query = of_sample(sample, leave_one_out=False)
    degree = {"lc": 0, "ll": 1}[reg_type]
    means, slopes = estimates(sample, degree, query, sample.parameters(bw), targets)
    for i, target in enumerate(targets.T):
        mean, effects = KernelReg(target, x, types, reg_type, bw).fit()
        assert_allclose(means[:, i], mean, rtol=0, atol=1e-10)
        assert_allclose(slopes[:, :, i].T / sample.scale, effects, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reg_type", ["lc", "ll"])
def test_counts_are_repeated_observations(reg_type):
    y, x = data()
    counts = np.random.default_rng(2).integers(0, 4, len(y)).astype(float)
    bw, degree = np.array([0.7, 1.5]), {"lc": 0, "ll": 1}[reg_type]
    sample = Sample(x[:, :2], y, Kernels("cc", "wangryzin", "aitchisonaitken"))
    query = of_sample(sample, leave_one_out=False)
    parameters = sample.parameters(bw)
    means, slopes = estimates(sample, degree, query, parameters, y[:, None], counts)
    again = np.repeat(np.arange(len(y)), counts.astype(int))
    mean, effects = KernelReg(y[again], x[again, :2], "cc", reg_type, bw).fit(x[:, :2])
    assert_allclose(means[:, 0], mean, rtol=0, atol=1e-9)
    assert_allclose(slopes[:, :, 0].T / sample.scale, effects, rtol=0, atol=1e-8)


def test_draws_are_in_the_order_of_statsmodels():
    for kind in (np.random.default_rng, np.random.RandomState):
        draws, wanted = _significance.Draws(kind(7)), kind(7)
        draw = getattr(wanted, "integers", None) or wanted.randint
        np.testing.assert_array_equal(draws.rows(5), draw(0, 5, size=(5, 1))[:, 0])
        np.testing.assert_array_equal(draws.uniform(3), wanted.uniform(0, 1, size=(3, 1))[:, 0])


def test_stars():
    distribution = np.arange(1000.0)
    verdicts = [_significance.significance(s, distribution) for s in (500, 920, 970, 999)]
    assert verdicts == ["Not Significant", "*", "**", "***"]


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"var_pos": [0, 2]}, ValueError, "var_pos: got [0, 2] of 'cco', wanted continuous"),
        ({"var_pos": 3}, ValueError, "var_pos: got 3, wanted positions of 3 variables"),
        ({"var_pos": 0.5}, TypeError, "var_pos: got 0.5, wanted an int"),
        ({"var_pos": []}, TypeError, "var_pos: got []"),
        ({"var_pos": 0, "nboot": 0}, ValueError, "nboot: got 0, wanted 1 or more"),
        ({"var_pos": 0, "nested_res": 2.5}, TypeError, "nested_res: got 2.5, wanted an int"),
    ],
)
def test_bad_input_is_named(arguments, kind, words):
    y, x = data(30)
    model = KernelReg(y, x, "cco", "lc", [1.0, 1.0, 0.5])
    with pytest.raises(kind, match=re.escape(words)):
        model.sig_test(**arguments)
