"""REINFORCE with hard attention: estimates against exact gradients, baselines, the lower bound.

The estimates are means of independent ones, which are held against the exact gradient in units of
their standard error: chances.LARGEST_Z, a normal deviate with a chance of 1e-6. Seeds are fixed.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import foveate as fv
import numpy as np
import pytest
from chances import LARGEST_Z
from foveate import reference
from gradient_checks import differences
from strategies import normal, problem

COPIES = 20_000  # of a problem, each with its own draws


def check_estimates(estimates: np.ndarray, exact: np.ndarray, name: str) -> None:
    """Hold the mean over the first axis against the exact gradient; it has to be sharp enough."""
    error = estimates.std(axis=0) / np.sqrt(len(estimates))
    z = (estimates.mean(axis=0) - exact) / np.where(error == 0, 1, error)
    assert np.abs(z).max() < LARGEST_Z, name
    # a gradient that is wrong by a quarter of the largest would be found out
    assert np.abs(exact).max() / 4 > LARGEST_Z * error.max(), name


# --- the expected reward -------------------------------------------------------------------------

KEYWORDS: dict[str, Any] = {
    "plain": {},
    "reach and softcap": {
        "softcap": 1.5,
        "mask": np.where(np.eye(3, 6, 1), -np.inf, normal(3, (3, 6), np.float32)),
        "key_lengths": 5,
    },
    "cosine": {"score": fv.Cosine(2.0)},
}
REWARD = 5 + normal(7, (6,), np.float64)  # of each key: far from 0, as a log-likelihood is


def estimates_of(
    advantage_of: Callable[[Any], Any], size: int | None, seed: int, **keywords: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Independent estimates of the gradients of the mean reward, and the exact gradients.

    The expected reward is soft attention over the rewards.
    """
    q, k, _ = problem(3, 6, lead=(), size=4, dtype=np.float64)
    copies = [np.broadcast_to(x, (COPIES, *x.shape)).copy() for x in (q, k)]
    values = np.zeros((6, 0))
    drawn, pullback = fv.hard_attention_vjp(*copies, values, size=size, rng=seed, **keywords)
    found = pullback(advantage=advantage_of(REWARD[drawn.index]) / (1 if size is None else size))
    _, exact = reference.attention_vjp(q, k, REWARD[:, None], **keywords)
    soft = exact(np.ones((3, 1)))
    names = ("query", "key")
    return {n: getattr(found, n) for n in names}, {n: getattr(soft, n) for n in names}


@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("size", [None, 3])
def test_the_estimate_is_unbiased(name, size):
    found, exact = estimates_of(lambda reward: reward - 5, size, 11, **KEYWORDS[name])
    for of, estimates in found.items():
        check_estimates(estimates, exact[of], of)


def variance(found: dict[str, np.ndarray]) -> float:
    return float(sum(estimates.var(axis=0).sum() for estimates in found.values()))


def test_baselines_are_unbiased_and_of_less_variance():
    """A baseline near the mean of 5 takes its square, 25, off a second moment of 26 or so."""
    moving = fv.MovingAverageBaseline()
    moving(REWARD)  # from other draws than those that it is held against
    plans: dict[str, Callable[[Any], Any]] = {
        "none": lambda reward: reward,
        "moving": moving,
        "leave-one-out": fv.leave_one_out_advantage,
    }
    variances = {}
    for name, advantage_of in plans.items():
        found, exact = estimates_of(advantage_of, 4, 12)
        variances[name] = variance(found)
        if name == "none":
            continue
        for of, estimates in found.items():
            check_estimates(estimates, exact[of], f"{name}: {of}")
    assert variances["moving"] < variances["none"] / 10
    assert variances["leave-one-out"] < variances["none"] / 10


def test_leave_one_out_of_a_row_that_depends_on_its_own_draw_is_found_biased():
    """The mean of all draws, the draw itself included, shortens the gradient by 1 - 1 / S."""

    def mean_of_all(reward: np.ndarray) -> np.ndarray:
        return reward - reward.mean(axis=-1, keepdims=True)

    found, exact = estimates_of(mean_of_all, 2, 13)
    with pytest.raises(AssertionError):
        check_estimates(found["query"], exact["query"], "biased")
    check_estimates(2 * found["query"], exact["query"], "made long again")


# --- the helpers ---------------------------------------------------------------------------------


def test_moving_average_baseline():
    baseline = fv.MovingAverageBaseline(decay=0.9)
    assert baseline.value is None
    np.testing.assert_array_equal(baseline([1.0, 2.0, 6.0]), [-2, -1, 3])
    assert baseline.value == 3
    np.testing.assert_array_equal(baseline(np.full((2, 1), 13, np.int32)), [[10], [10]])
    np.testing.assert_allclose(baseline.value, 0.9 * 3 + 0.1 * 13, rtol=1e-15)
    before = copy.copy(baseline)
    assert baseline(np.zeros((0, 3))).shape == (0, 3)
    assert baseline == before == pickle.loads(pickle.dumps(baseline))
    baseline(1.0)
    assert baseline != before
    started = fv.MovingAverageBaseline(0.5, value=4.0)
    assert started(6.0) == 2
    assert started.value == 5
    following = fv.MovingAverageBaseline(0)
    assert [float(following(x)) for x in (1.0, 3.0, 7.0)] == [0, 2, 4]


def test_leave_one_out_advantage():
    reward = normal(1, (3, 4, 5), np.float64)
    others = np.stack([np.delete(reward, s, axis=-1).mean(axis=-1) for s in range(5)], axis=-1)
    # a few roundings of numbers near 1
    np.testing.assert_allclose(fv.leave_one_out_advantage(reward), reward - others, atol=1e-14)
    np.testing.assert_array_equal(fv.leave_one_out_advantage([1, 3]), [-2, 2])
    spoilt = fv.leave_one_out_advantage(np.array([[1.0, np.nan], [1.0, 3.0]]))
    np.testing.assert_array_equal(spoilt, [[np.nan] * 2, [-2, 2]])


def test_bad_input():
    for decay in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match=r"^decay: got .*, wanted 0 <= decay < 1"):
            fv.MovingAverageBaseline(decay)
    with pytest.raises(TypeError, match=r"^decay: got str"):
        fv.MovingAverageBaseline("most")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^value: got inf, wanted a finite number"):
        fv.MovingAverageBaseline(value=np.inf)
    baseline = fv.MovingAverageBaseline(value=1.0)
    for bad in (np.nan, [1.0, np.inf]):
        with pytest.raises(ValueError, match=r"^reward: got NaN or inf, wanted finite"):
            baseline(bad)
    assert baseline.value == 1
    with pytest.raises(TypeError, match=r"^reward: got dtype complex128"):
        baseline(np.ones(2, complex))
    for one in (1.0, np.ones((3, 1)), np.ones((3, 0))):
        with pytest.raises(
            ValueError, match=r"^reward: got shape .*, wanted \(..., S\) with S >= 2"
        ):
            fv.leave_one_out_advantage(one)
    with pytest.raises(TypeError, match=r"^reward: got dtype bool"):
        fv.leave_one_out_advantage(np.ones(3, bool))


# --- the variational lower bound -----------------------------------------------------------------


class Model:
    """Two queries look at one of four keys each; the mean of what they see tells one of three y.

    p(y | s) = softmax(mean of value[s])[y], and s has 16 states, which can be enumerated.
    """

    STATES = np.stack(np.meshgrid(np.arange(4), np.arange(4), indexing="ij"), -1).reshape(16, 2)

    def __init__(self) -> None:
        self.query, self.key, self.value = problem(
            2, 4, lead=(5,), size=3, value_size=3, dtype=np.float64
        )
        self.w = normal(8, (3, 3), np.float64) / 3
        self.y = np.array([0, 2, 1, 1, 2])

    def log_likelihood(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log p(y | s) (5, S) and its gradient, from outputs (5, 2, S, 3)."""
        z = output.mean(axis=1)
        log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        of_y = np.eye(3)[self.y][:, None]
        d_z = (of_y - np.exp(log_p))[:, None]
        return (log_p * of_y).sum(axis=-1), np.broadcast_to(d_z / 2, output.shape)

    def exact(self, c: float, w: Any = None, value: Any = None) -> tuple[float, float]:
        """L + c H[s], and log p(y), over the five examples."""
        w, value = self.w if w is None else w, self.value if value is None else value
        p = reference.attention_weights(self.query, self.key, score=fv.Bilinear(w))
        of_state = p[:, 0, self.STATES[:, 0]] * p[:, 1, self.STATES[:, 1]]
        rows = np.swapaxes(value[:, self.STATES], 1, 2)  # (5, 2, 16, 3)
        log_p, _ = self.log_likelihood(rows)
        bound = np.sum(of_state * log_p)
        entropy = -np.sum(p * np.log(p))
        return float(bound + c * entropy), float(np.log(np.sum(of_state * np.exp(log_p), -1)).sum())

    def step(self, rng: np.random.Generator, size: int, c: float, advantage_of: Any) -> Any:
        """The recipe of hard_attention_vjp: an estimate of the gradient of L + c H[s]."""
        drawn, pullback = fv.hard_attention_vjp(
            self.query, self.key, self.value, size=size, rng=rng, score=fv.Bilinear(self.w)
        )
        log_p, d_output = self.log_likelihood(drawn.output)
        reward = log_p[:, None] - c * drawn.log_prob
        gradients = pullback(d_output / size, advantage_of(reward) / size)
        return gradients.score.w, gradients.value


@pytest.mark.parametrize("c", [0.0, 0.7])
@pytest.mark.parametrize("baseline", ["moving", "leave-one-out"])
def test_the_recipe_of_the_lower_bound_is_unbiased(c, baseline):
    model = Model()
    of_w = differences(lambda w: model.exact(c, w=w)[0], model.w)
    of_value = differences(lambda value: model.exact(c, value=value)[0], model.value)
    advantage_of: Any = fv.leave_one_out_advantage
    if baseline == "moving":
        advantage_of = fv.MovingAverageBaseline()
        model.step(np.random.default_rng(1), 4, c, advantage_of)  # the first has no baseline
    rng = np.random.default_rng(2)
    steps = [model.step(rng, 16, c, advantage_of) for _ in range(2000)]
    check_estimates(np.stack([w for w, _ in steps]), of_w, "w")
    check_estimates(np.stack([value for _, value in steps]), of_value, "value")


def test_the_entropy_counts():
    """Or else the test above would pass without it: c moves the gradient by far more than z."""
    model = Model()
    without, with_it = (
        differences(lambda w, c=c: model.exact(c, w=w)[0], model.w) for c in (0.0, 0.7)
    )
    assert np.abs(with_it - without).max() > np.abs(with_it).max() / 4


@pytest.mark.parametrize("size", [1, 4])
def test_training_raises_the_bound_and_keeps_below_the_likelihood(size):
    model = Model()
    baseline = fv.MovingAverageBaseline() if size == 1 else fv.leave_one_out_advantage
    rng = np.random.default_rng(3)
    bounds = []
    for _ in range(300):
        bound, log_likelihood = model.exact(0.0)
        assert bound < log_likelihood
        bounds.append(bound)
        of_w, of_value = model.step(rng, size, 0.01, baseline)
        model.w = model.w + 0.1 * of_w
        model.value = model.value + 0.1 * of_value
    # an example: from below a guess among three to nearly sure
    assert bounds[0] < 5 * np.log(1 / 3)
    assert np.mean(bounds[-20:]) > 5 * np.log(0.9)
    assert np.all(np.diff([np.mean(bounds[n : n + 60]) for n in range(0, 300, 60)]) > 0)
