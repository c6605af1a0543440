"""Baselines of REINFORCE, subtracted from rewards: the gradient varies less and stays unbiased.

    gradient of E[reward] = E[(reward - b) gradient of log_prob]

for any b that does not depend on the draw itself: what is left of the reward is the advantage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._inputs.arrays import once, real, reals, room
from .._inputs.types import Array, ArrayLike, Reals


@dataclass
class MovingAverageBaseline:
    """A baseline that follows the mean of the rewards, `b <- decay b + (1 - decay) mean` [1]_.

    A call with rewards returns the rewards minus the baseline, and then updates the baseline.

    Parameters
    ----------
    decay : float, default 0.9
        0 <= decay < 1: how much of the baseline stays at each call.
    value : float, optional
        The current baseline. None means that there is none yet: the mean of the first rewards is
        subtracted from them, and becomes the baseline. With n independent rewards that first
        gradient is too small by the factor 1 - 1 / n (0 for one reward); all later ones are
        unbiased.

    Raises
    ------
    TypeError, ValueError
        For a `decay` or a `value` that is outside of this.

    See Also
    --------
    leave_one_out_advantage : a baseline for each draw, where each query has several.
    hard_attention_vjp : takes the advantage.

    Notes
    -----
    `decay` and `value` are all of the state: they can be read, set, copied and pickled.

    References
    ----------
    .. [1] K. Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual
       Attention", ICML 2015, section 4.1.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> baseline = fv.MovingAverageBaseline(decay=0.5)
    >>> baseline(np.array([1.0, 3.0]))
    array([-1.,  1.])
    >>> baseline(np.array([4.0, 4.0])), baseline.value
    (array([2., 2.]), 3.0)
    """

    decay: float = 0.9
    value: float | None = None

    def __post_init__(self) -> None:
        """Check what was given."""
        self.decay = real("decay", self.decay)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: got {self.decay}, wanted 0 <= decay < 1")
        if self.value is not None:
            self.value = real("value", self.value)
            if not np.isfinite(self.value):
                raise ValueError(f"value: got {self.value}, wanted a finite number")

    def __call__(self, reward: Reals) -> Array:
        """Return the advantages, and update the baseline with the rewards.

        Parameters
        ----------
        reward : number or array
            Of any shape and real dtype. An empty array changes nothing.

        Returns
        -------
        numpy.ndarray
            `reward` minus the baseline, float64.

        Raises
        ------
        TypeError, ValueError
            For numbers that are not real, and for NaN and inf, which would stay in the baseline.
        """
        rewards = np.asarray(reals("reward", reward))
        if not np.isfinite(once(rewards)).all():
            raise ValueError("reward: got NaN or inf, wanted finite numbers")
        if rewards.size == 0:
            return rewards
        advantage = room("reward", rewards.shape, np.float64)
        with np.errstate(all="ignore"):
            mean = float(rewards.mean())
            before = mean if self.value is None else self.value
            self.value = self.decay * before + (1 - self.decay) * mean
            np.subtract(rewards, before, out=advantage)
        return advantage


def leave_one_out_advantage(reward: ArrayLike) -> Array:
    """Subtract from the reward of each draw the mean reward of the other draws [1]_.

    Parameters
    ----------
    reward : array (..., S)
        The rewards of S >= 2 independent draws, of any real dtype: as `hard_attention` with
        `size=S` makes them, (..., Lq, S).

    Returns
    -------
    numpy.ndarray (..., S)
        `reward[..., s]` minus the mean over the other draws, float64. This equals S / (S - 1) times
        the difference of `reward[..., s]` and the mean over all draws.

    Raises
    ------
    TypeError, ValueError
        For another dtype, and for fewer than two draws.

    See Also
    --------
    MovingAverageBaseline : for one draw of each query.
    hard_attention_vjp : takes the advantage.

    Notes
    -----
    The baseline of a draw does not depend on that draw, so the gradient is unbiased. For the mean
    over S draws, pass `advantage / S` to the pullback. NaN and inf spoil the advantages of their
    own row.

    References
    ----------
    .. [1] W. Kool, H. van Hoof and M. Welling, "Buy 4 REINFORCE Samples, Get a Baseline for Free!",
       ICLR 2019 workshop on deep reinforcement learning meets structured prediction.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> fv.leave_one_out_advantage(np.array([1.0, 2.0, 6.0]))
    array([-3. , -1.5,  4.5])
    """
    rewards = np.asarray(reals("reward", reward))
    draws = rewards.shape[-1] if rewards.ndim else 1
    if draws < 2:
        raise ValueError(f"reward: got shape {rewards.shape}, wanted (..., S) with S >= 2 draws")
    advantage = room("reward", rewards.shape, np.float64)
    with np.errstate(all="ignore"):
        np.subtract(rewards, rewards.mean(axis=-1, keepdims=True), out=advantage)
        advantage *= draws / (draws - 1)
    return advantage
