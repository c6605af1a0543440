"""Hard attention with its gradients: the choices, and a pullback that holds them.

<d_output, output> + sum(advantage * log_prob): d_output goes to the values that were chosen, and
d logits_j = sum_s advantage_s ([index_s = j] - P_j), from tiles of weights P that are recomputed.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from .._inputs.arrays import float_arrays, like, real, reals
from .._inputs.random import key_of
from .._inputs.types import (
    Array,
    ArrayLike,
    Bool,
    Ints,
    Offset,
    Real,
    Reals,
    Seed,
    Segments,
    Selection,
    Size,
    Window,
)
from .._reach.reach import Mask, resolve
from ..scores import reduce
from ..scores._base import ScoreLike
from .backward import Backward
from .gradients import HardGradients, HardInput, Names, names_of
from .hard import HardAttention, choice_of, of_draws
from .problem import Choices, Outputs, Problem
from .pullbacks import HardPullback


def hard_attention_vjp(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    wrt: Names[HardInput] = None,
    select: Selection = "sample",
    size: Size | None = None,
    replace: Bool = True,
    rng: Seed = None,
    score: ScoreLike = "scaled_dot",
    mask: Mask | None = None,
    causal: Bool = False,
    window: Window | None = None,
    offset: Offset | None = None,
    key_lengths: Ints | None = None,
    segments: Segments | None = None,
    softcap: Real | None = None,
) -> tuple[HardAttention, HardPullback]:
    """Compute hard attention, and return the result with a pullback that trains it.

    A choice has no derivative. The pullback returns the gradients of `<d_output, output> +
    sum(advantage * log_prob)` with the choices held fixed: the chosen values learn from the
    gradient of the output, and the scores learn from how good each choice was, by REINFORCE [1]_.

    Parameters
    ----------
    query : array (..., Lq, D)
        As for `hard_attention`. The arrays are kept, not copied: do not change them, or the result,
        before the last pullback.
    key : array (..., Lk, D)
        Of the dtype of `query`.
    value : array (..., Lk, Dv)
        Of the dtype of `query`.
    wrt : str or collection of str, optional
        The gradients to compute: names of fields of `HardGradients`. None means all of them.
    select, size, replace, rng : optional
        As for `hard_attention`.
    score, mask, causal, window, offset, key_lengths, segments, softcap : optional
        As for `attention`.

    Returns
    -------
    result : HardAttention
        What `hard_attention` returns, bit for bit.
    pullback : function
        `pullback(d_output=None, advantage=None)` returns the `HardGradients`. It may be called any
        number of times. `d_output` is the gradient of a loss with respect to the output, in its
        shape and dtype; None means that the output does not count. `advantage` is the reward of
        each choice minus a baseline: real numbers that broadcast to the shape of `log_prob` and are
        rounded to its dtype. None means no REINFORCE term: query, key, mask and score then have
        gradients of 0.

    Raises
    ------
    TypeError, ValueError, MemoryError, KeyboardInterrupt
        As `hard_attention`, and for a `wrt` that names no field.

    See Also
    --------
    hard_attention : the result alone.
    MovingAverageBaseline, leave_one_out_advantage : from rewards to advantages.
    attention_vjp : the gradients of soft attention.

    Notes
    -----
    With the reward as the advantage, the expectation of this gradient is the gradient of the
    expected reward. A baseline changes the variance, not the expectation.

    A query that sees no key has gradients of 0; one that has no distribution, and so a log_prob of
    NaN, has gradients of NaN, as do the keys that it sees, where there is an advantage. A choice
    that is missing, with the index -1, adds nothing. Keys and
    values that are not seen change nothing, whatever they hold. The result has the same bits for
    any number of threads.

    *The variational lower bound* [2]_. A model that answers y with the probability `p(y | s)` after
    it has looked at the keys s is trained on `L = E_s[log p(y | s)] <= log p(y)`, and on the
    entropy `H[s]` of its choices, weighted by some c >= 0, which keeps it exploring. A step of
    ascent on `L + c H` is, with `log_p` and `d_output` from what comes after the attention::

        drawn, pullback = fv.hard_attention_vjp(query, key, value, rng=rng)
        log_p, d_output = ...  # log p(y | drawn.output), and its gradient
        advantage = baseline(log_p - c * drawn.log_prob)
        gradients = pullback(d_output, advantage)

    Here `baseline` is a `MovingAverageBaseline`. Where several queries answer together, each has
    the same log_p, `log_p[..., None]`, and its own log_prob. With `size=S` take the mean over the
    draws: `pullback(d_output / S, leave_one_out_advantage(reward) / S)`.

    The bound is below log p(y) by the divergence of p(s) from p(s | y), and equals it where both
    look at the same key.

    References
    ----------
    .. [1] R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist
       Reinforcement Learning", Machine Learning 8, 1992.
    .. [2] K. Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual
       Attention", ICML 2015, section 4.1.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> query = np.array([[1.0, 0.0]])
    >>> key = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> value = np.array([[10.0], [20.0]])
    >>> best, pullback = fv.hard_attention_vjp(query, key, value, select="argmax")
    >>> gradients = pullback(np.ones_like(best.output), advantage=1.0)
    >>> gradients.value
    array([[1.],
           [0.]])
    >>> gradients.query.round(3)
    array([[ 0.158, -0.158]])

    The gradient of an expected reward, from many draws, and from soft attention:

    >>> reward = np.array([0.0, 1.0])  # of each key
    >>> drawn, pullback = fv.hard_attention_vjp(query, key, value, size=100_000, rng=0)
    >>> advantage = fv.leave_one_out_advantage(reward[drawn.index]) / 100_000
    >>> pullback(advantage=advantage).query.round(2)
    array([[-0.15,  0.15]])
    >>> output, pullback = fv.attention_vjp(query, key, reward[:, None])
    >>> pullback(np.ones_like(output)).query.round(2)
    array([[-0.15,  0.15]])
    """
    wanted = names_of(wrt, HardGradients._fields)
    chosen = choice_of(select, size, replace)
    q, k, v = float_arrays(query=query, key=key, value=value)
    reduced = reduce(score, q, k, learns=True)
    problem = Problem(
        *reduced[:-1],
        v,
        None if softcap is None else real("softcap", softcap),
        resolve(q, k, mask, causal, window, offset, key_lengths, segments),
    )
    random = key_of(rng) if chosen.is_drawn else None
    output, index, log_prob = problem.choose(*chosen, random, q.dtype)
    result = of_draws(size, output, index, log_prob)
    backward = HardBackward(Backward(problem, score, q, k, reduced), index)

    def pullback(
        d_output: ArrayLike | None = None, advantage: Reals | None = None
    ) -> HardGradients:
        """Return the gradients, from that of the output and the advantage of each choice."""
        d_out = signal = None
        if d_output is not None:
            d_out = like("d_output", d_output, result.output.shape, q.dtype).reshape(output.shape)
        if advantage is not None:
            signal = _advantage(advantage, result.log_prob).reshape(log_prob.shape)
        return backward.gradients(wanted, d_out, signal)

    return result, pullback


class HardBackward:
    """A problem, and the keys that were chosen, index (..., Lq, S)."""

    def __init__(self, backward: Backward, index: Array) -> None:
        self.backward = backward
        self.index = index

    @cached_property
    def lse(self) -> Array:
        """The lse with its parts: of soft attention over values without columns, at no cost."""
        problem = self.backward.problem
        return problem._replace(value=problem.value[..., :0]).forward()[1]

    def gradients(
        self, wanted: frozenset[str], d_output: Array | None, advantage: Array | None
    ) -> HardGradients:
        """Call the kernel for what is wanted of what counts, and undo the reduction of the score.

        Parameters
        ----------
        wanted : names of fields of HardGradients
        d_output, advantage : arrays (..., Lq, S, Dv), (..., Lq, S), or None
        """
        outputs = self.backward.outputs(wanted)
        written = outputs
        if advantage is None:  # the scores do not count: the others are made of zeros
            if outputs.d_query is not None:
                outputs.d_query.fill(0)
            written = Outputs(d_value=outputs.d_value)
        if d_output is None:
            written = written._replace(d_value=None)
        if any(x is not None for x in written):
            problem, shape = self.backward.operands(), self.index.shape
            nothing = np.zeros((), problem.wide)
            is_of_scores = any(x is not None for x in written._replace(d_value=None))
            choices = Choices(
                self.index,
                self.lse if is_of_scores else np.broadcast_to(nothing, shape[:-1]),
                np.broadcast_to(nothing, (*shape, problem.value.shape[-1]))
                if d_output is None
                else d_output,
                np.broadcast_to(nothing, shape) if advantage is None else advantage,
            )
            problem.backward_of_choices(choices, written)
        gradients = self.backward.undone(wanted, outputs)
        return HardGradients(*(getattr(gradients, name) for name in HardGradients._fields))


def _advantage(x: object, log_prob: Array) -> Array:
    array = np.asarray(reals("advantage", x))
    try:
        array = np.broadcast_to(array, log_prob.shape)
    except ValueError:
        raise ValueError(
            f"advantage: got shape {array.shape}, wanted one that broadcasts to {log_prob.shape}"
        ) from None
    with np.errstate(over="ignore"):  # what is too large for it is inf
        return array.astype(log_prob.dtype)
