"""
Hard attention learns where to look
===================================

There are a query and 16 keys. One of the keys is the query, turned by an unknown matrix, with
noise. The value of each key is a symbol, and the symbol of that one key is the answer y. To find
it, the matrix w of the score `q @ w . k` has to become like that unknown matrix.

Hard attention looks at one key s, and answers with its symbol, with high confidence: p(y | s) is
0.9 for the symbol that it sees, and the others share the rest. It is trained on the lower bound
L = E_s[log p(y | s)] <= log p(y) by REINFORCE, without a baseline and with two (Xu et al., 2015;
Kool et al., 2019). Soft attention is trained on log p(y) itself.

Run it with ``python examples/reinforce.py [PICTURE]``, or ``python -m foveate demo reinforce``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import foveate
import numpy as np
from foveate import reference
from numpy.typing import NDArray

from promise import WIDTH, Promise

SIZE, KEYS = 16, 16
NOISE = 0.5  # deviation of what is added to a turned query, whose numbers have a deviation of 1
EXAMPLES, STEPS, RATE = 8, 300, 0.05  # looks in a step, steps, and how far each goes
UNSEEN = 512  # examples that the curves are of
OFTEN = 5  # steps from one point of a curve to the next
SURE = 0.9
OTHER = (1 - SURE) / (KEYS - 1)  # p(y | s) for each symbol that is not seen
DRAWS = 4  # of each query, for the leave-one-out baseline
CHECKED = 64  # examples that are held against the reference

Floats = NDArray[np.float32]
Ascent = Callable[["Examples", Floats], Floats]  # examples and w to the gradient of w


class Examples(NamedTuple):
    """A query, its keys, their symbols (one-hot), and the key that holds the answer."""

    query: Floats  # (examples, 1, SIZE)
    key: Floats  # (examples, KEYS, SIZE)
    value: Floats  # (examples, KEYS, KEYS)
    home: NDArray[np.int64]  # (examples,)

    def answer_of(self, output: NDArray[Any]) -> NDArray[Any]:
        """How much of the answer is in each output (examples, ..., KEYS): the weight on it."""
        answer = self.value[np.arange(len(self.home)), self.home]
        return np.asarray(np.einsum("e...s,es->e...", output, answer))

    def first(self, count: int) -> Examples:
        """The first few of them."""
        query, key, value, home = self
        return Examples(query[:count], key[:count], value[:count], home[:count])


# %%
# The problem
# -----------
#
# One key is the query, turned. The symbol of that key is the answer.


def make_examples(rng: np.random.Generator, turn: NDArray[Any], count: int) -> Examples:
    """Queries and keys of which one is the query turned; symbols in an order of their own."""
    query = rng.standard_normal((count, 1, SIZE))
    key = rng.standard_normal((count, KEYS, SIZE))
    home = rng.integers(0, KEYS, count)
    key[np.arange(count), home] = query[:, 0] @ turn + rng.normal(0.0, NOISE, (count, SIZE))
    value = np.eye(KEYS)[rng.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)]
    return Examples(query.astype("f4"), key.astype("f4"), value.astype("f4"), home)


# %%
# Two gradients
# -------------
#
# Hard attention draws keys, and learns from what the draws earn: `foveate.hard_attention_vjp`
# takes the advantages of the draws. Soft attention averages over all keys, and has an exact
# gradient.


class Hard:
    """The gradient of w by REINFORCE: from draws, the log-likelihoods that they earn, a baseline.

    Parameters
    ----------
    seed : of the draws
    draws : for each query; as many fewer examples are looked at in a step
    advantage_of : from rewards (examples, 1, draws) to advantages
    """

    def __init__(
        self, seed: int, draws: int, advantage_of: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.draws = draws
        self.advantage_of = advantage_of

    def __call__(self, examples: Examples, w: Floats) -> Floats:
        """Look at `EXAMPLES` keys, and give the mean of the gradients."""
        query, key, value, _ = some = examples.first(EXAMPLES // self.draws)
        drawn, pullback = foveate.hard_attention_vjp(
            query,
            key,
            value,
            wrt="score",
            size=self.draws,
            rng=self.rng,
            score=foveate.Bilinear(w),
        )
        likelihood = np.full(drawn.index.shape, OTHER)
        likelihood[some.answer_of(drawn.output) > 0] = SURE
        gradients = pullback(advantage=self.advantage_of(np.log(likelihood)) / EXAMPLES)
        return np.asarray(gradients.score.w)


def soft(examples: Examples, w: Floats) -> Floats:
    """The gradient of log p(y), from the weights of all keys at once."""
    output, pullback = foveate.attention_vjp(*examples[:3], wrt="score", score=foveate.Bilinear(w))
    likelihood = OTHER + (SURE - OTHER) * examples.answer_of(output)
    of_answer = examples.value[np.arange(EXAMPLES), examples.home][:, None]
    d_output = of_answer * ((SURE - OTHER) / likelihood)[..., None] / EXAMPLES
    return np.asarray(pullback(d_output.astype(np.float32)).score.w)


@dataclass(frozen=True)
class Way:
    """A way to learn, and how it went on the examples that were not seen, step by step."""

    name: str
    at_home: NDArray[np.float64]  # the weight on the key that holds the answer
    objective: NDArray[np.float64]  # L for hard attention, log p(y) for soft, exactly


def learn(name: str, ascent: Ascent, seed: int) -> tuple[Way, Floats]:
    """Climb by plain gradient ascent; the examples are the same for each way. Returns w too."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))
    unseen = make_examples(rng, turn, UNSEEN)
    w = np.zeros((SIZE, SIZE), np.float32)
    at_home, objective = [], []
    for step in range(STEPS + 1):
        if step % OFTEN == 0:
            weights = foveate.attention_weights(*unseen[:2], score=foveate.Bilinear(w))
            home = weights[np.arange(UNSEEN), 0, unseen.home].astype(np.float64)
            at_home.append(home.mean())
            if name.startswith("soft"):
                objective.append(np.log(OTHER + (SURE - OTHER) * home).mean())
            else:
                objective.append((home * np.log(SURE) + (1 - home) * np.log(OTHER)).mean())
        w = w + np.float32(RATE) * ascent(make_examples(rng, turn, EXAMPLES), w)
    return Way(name, np.array(at_home), np.array(objective)), w


# %%
# The check, and what is printed
# ------------------------------


def run(seed: int, picture: Path | None) -> bool:
    """Learn in each way, check, draw; says whether the check passed."""
    print(f"Which of {KEYS} keys holds the answer? Attention learns it, from rewards alone.\n")
    plans: dict[str, Ascent] = {
        "hard, no baseline": Hard(seed, 1, lambda reward: reward),
        "hard, moving average baseline": Hard(seed, 1, foveate.MovingAverageBaseline()),
        f"hard, leave-one-out of {DRAWS} draws": Hard(seed, DRAWS, foveate.leave_one_out_advantage),
        "soft": soft,
    }
    learned = {name: learn(name, ascent, seed) for name, ascent in plans.items()}
    ways = [way for way, _ in learned.values()]
    steps = (0, 50, 100, STEPS)
    print(f"{'':37}weight on the right key, new queries")
    print(f"{'  after steps':<35}" + "".join(f"{step:>8}" for step in steps))
    for way in ways:
        shares = "".join(f"{way.at_home[step // OFTEN]:>8.1%}" for step in steps)
        print(f"  {way.name:<33}{shares}")
    promise, same = check(learned["hard, moving average baseline"][1], seed)
    print(f"\n  against foveate.reference          {promise}")
    print(f"{'':37}{same} of {CHECKED} draws are the reference's")
    print()
    print(
        fill(
            "How: one key is the query, turned by a matrix that is not told, with noise of "
            f"standard deviation {NOISE:g}; its value is the answer. The matrix w of the score "
            f"q @ w . k is learned from 0, in {STEPS} steps of {EXAMPLES} looks each. Hard "
            "attention draws the key that it looks at, and learns by REINFORCE from the "
            "log-likelihood of the answer. Soft attention averages over all keys.",
            WIDTH,
        ),
        end="\n\n",
    )
    print(
        fill(
            "A baseline tells a good look from a usual one. Without it every reward, a "
            "log-likelihood, is negative, and pushes away from the key that was looked at. The "
            f"leave-one-out baseline looks {DRAWS} times for each query, so it sees fewer queries.",
            WIDTH,
        ),
        end="\n\n",
    )
    if picture is not None:
        draw(ways, picture)
        print(
            f"Picture: {picture}\n"
            "Left: the weight on the right key. Right: the log-likelihood of the answer for\n"
            "soft attention, and the lower bound of it that hard attention maximizes."
        )
    # a draw that is decided by less than the rounding differs: a chance of about 1e-6 each
    return promise.kept and same == CHECKED


def check(w: Floats, seed: int) -> tuple[Promise, int]:
    """The gradient of the queries, and the draws, against the definition.

    For a tenth of what was learned, so that the looks are spread: where logits are large, the
    rounding of the lse counts, of which the bound knows nothing.
    """
    rng = np.random.default_rng(seed + 1)
    examples = make_examples(rng, np.eye(SIZE), CHECKED)
    advantage = rng.standard_normal((CHECKED, 1))

    def of(function: Any, dtype: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
        arrays = (array.astype(dtype) for array in examples[:3])
        score = foveate.Bilinear((w / 10).astype(dtype))
        drawn, pullback = function(*arrays, wrt="query", rng=seed, score=score)
        return pullback(advantage=advantage).query, drawn.index

    answer, index = of(foveate.hard_attention_vjp, np.float32)
    exact, of_reference = of(reference.hard_attention_vjp, np.float64)
    plain, _ = of(reference.hard_attention_vjp, np.float32)
    return Promise.of(answer, plain=plain, exact=exact), int((index == of_reference).sum())


# %%
# The picture
# -----------


def draw(ways: list[Way], path: Path) -> None:
    """Save a picture: the curves of all ways, of where they look and of what they climb."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    figure.suptitle("Learning where to look: hard attention by REINFORCE, and soft attention")
    steps = np.arange(0, STEPS + 1, OFTEN)
    colors = ("tab:red", "tab:blue", "tab:green", "tab:gray")
    for way, color in zip(ways, colors, strict=True):
        style = "--" if way.name == "soft" else "-"
        left.plot(steps, way.at_home, style, color=color, label=way.name)
        right.plot(steps, way.objective, style, color=color)
    left.set(xlabel="steps", ylabel="mean weight on the right key", ylim=(0, 1))
    left.legend(loc="lower right", fontsize=8)
    right.axhline(np.log(SURE), color="black", linestyle=":", linewidth=1)
    right.set(xlabel="steps", ylabel="log-likelihood (hard: its lower bound)")
    right.set_title("dotted: the largest possible", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# %%
# Run it
# ------

if __name__ == "__main__":
    picture = Path(sys.argv[1]) if sys.argv[1:] else None
    if not run(0, picture):
        raise SystemExit("an answer is further from that of the reference than is promised")
