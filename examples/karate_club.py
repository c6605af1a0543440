"""
A graph attention network
=========================

A karate club of 34 members fell apart in a quarrel between its instructor (member 1) and its
president (member 34). Zachary (1977) had recorded who met whom outside the club, 78 pairs, and to
whom each member went. A graph attention network, GATv2 (Brody et al., 2022), learns from the two
labels of the quarrel's parties alone where all the others went: each member looks at the members
that it met, and at itself.

A layer is `foveate.attention` with an additive score, a leaky relu, and the edges of the graph as
`mask=`:

    output_i = sum_j softmax_j(a . leaky_relu(W_l h_i + W_r h_j)) W_r h_j,  j among the edges of i

Run it with ``python examples/karate_club.py [PICTURE]``.

W. W. Zachary, "An Information Flow Model for Conflict and Fission in Small Groups", Journal of
Anthropological Research 33, 1977. S. Brody, U. Alon and E. Yahav, "How Attentive are Graph
Attention Networks?", ICLR 2022.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import foveate
import numpy as np
from numpy.typing import NDArray

from promise import WIDTH, Promise

Floats = NDArray[Any]

# Whom each member met among those with a higher number, counted from 1.
MET: dict[int, tuple[int, ...]] = {
    1: (2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 18, 20, 22, 32),
    2: (3, 4, 8, 14, 18, 20, 22, 31),
    3: (4, 8, 9, 10, 14, 28, 29, 33),
    4: (8, 13, 14),
    5: (7, 11),
    6: (7, 11, 17),
    7: (17,),
    9: (31, 33, 34),
    10: (34,),
    14: (34,),
    15: (33, 34),
    16: (33, 34),
    19: (33, 34),
    20: (34,),
    21: (33, 34),
    23: (33, 34),
    24: (26, 28, 30, 33, 34),
    25: (26, 28, 32),
    26: (32,),
    27: (30, 34),
    28: (34,),
    29: (32, 34),
    30: (33, 34),
    31: (33, 34),
    32: (33, 34),
    33: (34,),
}
MEMBERS = 34
# Who went with the instructor; the others went with the president.
INSTRUCTORS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 17, 18, 20, 22)
LABELLED = (1, 34)

HEADS, HIDDEN, SLOPE = 2, 8, 0.2
STEPS, RATE = 100, 0.02

# %%
# The graph
# ---------
#
# Each member sees those that it met, and itself: the rows of a sparse matrix.


def club() -> foveate.Edges:
    """Give the edges in both directions, and from each member to itself."""
    pairs = np.array([(i, j) for i, met in MET.items() for j in met]) - 1
    itself = np.arange(MEMBERS)
    of = np.concatenate([pairs[:, 0], pairs[:, 1], itself])
    to = np.concatenate([pairs[:, 1], pairs[:, 0], itself])
    order = np.lexsort((to, of))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=MEMBERS))])
    return foveate.Edges(indptr, to[order])


# %%
# A layer, and its gradients
# --------------------------
#
# The keys' projection makes the values too. `attention_vjp` gives the gradients of the rows and of
# the score's parameters.


@dataclass
class Head:
    """The parameters of one head: W_l, W_r (in, out) and a (out,); or their gradients."""

    left: Floats
    right: Floats
    a: Floats

    @classmethod
    def drawn(cls, rng: np.random.Generator, size: int, out: int, dtype: Any) -> Head:
        """Draw them as Glorot and Bengio do."""
        limits = ((size, out), (6 / (size + out)) ** 0.5), ((out,), (6 / (out + 1)) ** 0.5)
        (matrix, wide), (vector, narrow) = limits
        draws = [rng.uniform(-wide, wide, matrix) for _ in range(2)]
        return cls(*(x.astype(dtype) for x in (*draws, rng.uniform(-narrow, narrow, vector))))

    @property
    def parts(self) -> tuple[Floats, ...]:
        """All of them."""
        return self.left, self.right, self.a


Pullback = Callable[[Floats], tuple[Floats, Head]]


def attend(h: Floats, head: Head, graph: foveate.Edges) -> tuple[Floats, Pullback]:
    """Apply a head of a GATv2 layer: (members, out), and its pullback."""
    score = foveate.Additive(head.a, head.left, head.right, activation="leaky_relu", slope=SLOPE)
    output, pull = foveate.attention_vjp(h, h, h @ head.right, score=score, mask=graph)

    def pullback(d_output: Floats) -> tuple[Floats, Head]:
        """Return the gradients of the rows and of the parameters."""
        found = pull(d_output)
        assert isinstance(found.score, foveate.Additive)
        d_rows = found.query + found.key + found.value @ head.right.T
        d_right = found.score.wk + h.T @ found.value
        return d_rows, Head(np.asarray(found.score.wq), d_right, np.asarray(found.score.v))

    return output, pullback


def plain_attend(h: Floats, head: Head, graph: foveate.Edges) -> Floats:
    """Do the same by the formula, member by member."""
    left, right = h @ head.left, h @ head.right
    rows = []
    for i in range(len(h)):
        near = right[graph.indices[graph.indptr[i] : graph.indptr[i + 1]]]
        hidden = left[i] + near
        score = np.where(hidden > 0, hidden, h.dtype.type(SLOPE) * hidden) @ head.a
        weights = np.exp(score - score.max())
        rows.append(weights / weights.sum() @ near)
    return np.stack(rows)


# %%
# The network
# -----------
#
# Two heads, side by side, and a layer of two numbers for each member: the logits of the parties.


@dataclass
class Network:
    """A layer of some heads, a tanh, and a layer of one head."""

    first: list[Head]
    last: Head

    @classmethod
    def drawn(cls, seed: int, dtype: Any = np.float32) -> Network:
        """Draw the parameters from a seed."""
        rng = np.random.default_rng(seed)
        heads = [Head.drawn(rng, MEMBERS, HIDDEN, dtype) for _ in range(HEADS)]
        return cls(heads, Head.drawn(rng, HEADS * HIDDEN, 2, dtype))

    @property
    def parts(self) -> list[Floats]:
        """All parameters."""
        return [x for head in (*self.first, self.last) for x in head.parts]

    def forward(self, graph: foveate.Edges) -> tuple[Floats, Callable[[Floats], list[Floats]]]:
        """Return the logits (members, 2), and a pullback to the gradients of all parameters."""
        rows = np.eye(MEMBERS, dtype=self.last.a.dtype)  # a member is its own number
        heads = [attend(rows, head, graph) for head in self.first]
        hidden = np.tanh(np.concatenate([output for output, _ in heads], axis=1))
        logits, pull_last = attend(hidden, self.last, graph)

        def pullback(d_logits: Floats) -> list[Floats]:
            d_hidden, d_last = pull_last(d_logits)
            d_heads = np.split(d_hidden * (1 - hidden**2), HEADS, axis=1)
            found = [pull(d)[1] for (_, pull), d in zip(heads, d_heads, strict=True)]
            return [x for head in (*found, d_last) for x in head.parts]

        return logits, pullback

    def plain(self, graph: foveate.Edges) -> Floats:
        """Do the same by the formula."""
        rows = np.eye(MEMBERS, dtype=self.last.a.dtype)
        outputs = [plain_attend(rows, head, graph) for head in self.first]
        return plain_attend(np.tanh(np.concatenate(outputs, axis=1)), self.last, graph)


def softmax(logits: Floats) -> Floats:
    """Give the probabilities of the parties."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def train(network: Network, graph: foveate.Edges) -> list[float]:
    """Learn from the two labels alone, by Adam; gives the cross-entropy after each step."""
    known = np.array(LABELLED) - 1
    wanted = np.eye(2)[[0, 1]]
    moments = [(np.zeros_like(x), np.zeros_like(x)) for x in network.parts]
    losses = []
    for step in range(1, STEPS + 1):
        logits, pullback = network.forward(graph)
        probability = softmax(logits)[known]
        losses.append(float(-np.log((probability * wanted).sum(1)).mean()))
        d_logits = np.zeros_like(logits)
        d_logits[known] = (probability - wanted) / len(known)
        for x, d, (mean, square) in zip(network.parts, pullback(d_logits), moments, strict=True):
            mean += 0.1 * (d - mean)
            square += 0.001 * (d * d - square)
            x -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return losses


# %%
# The check, and what is printed
# ------------------------------


def sides() -> NDArray[np.int64]:
    """Where each member went: 0 with the instructor, 1 with the president."""
    return 1 - np.isin(np.arange(1, MEMBERS + 1), INSTRUCTORS).astype(np.int64)


def run(seed: int, picture: Path | None) -> bool:
    """Train, check, draw; says whether the check passed."""
    graph, network = club(), Network.drawn(seed)
    losses = train(network, graph)
    logits, _ = network.forward(graph)
    right = logits.argmax(axis=1) == sides()
    others = np.delete(right, np.array(LABELLED) - 1)
    print("Where did the members of a karate club go, when it fell apart?\n")
    print(f"  {'cross-entropy of the two labels':<35}{losses[0]:.3f} to {losses[-1]:.3f}")
    print(f"  {'the other members, told right':<35}{others.sum()} of {len(others)}")
    wide = Network.drawn(seed, np.float64)
    for to, x in zip(wide.parts, network.parts, strict=True):
        to[...] = x
    promise = Promise.of(logits, plain=network.plain(graph), exact=wide.plain(graph))
    print(f"\n  {'against GATv2 in plain NumPy':<35}{promise}\n")
    print(
        fill(
            f"How: a member looks at those that it met and at itself, {len(graph.indices)} edges, "
            f"in {HEADS} heads of {HIDDEN} numbers and a last one of 2. Its own number is all that "
            f"is known of a member. {STEPS} steps of Adam learn the labels of the instructor and "
            "the president; the labels of the others follow from the graph.",
            WIDTH,
        )
    )
    if picture is not None:
        draw(graph, network, picture)
        print(f"\nPicture: {picture}\nWhat each member looks at, in the order of the parties.")
    return promise.kept


# %%
# The picture
# -----------


def draw(graph: foveate.Edges, network: Network, path: Path) -> None:
    """Save a picture: the weights of the heads, members in the order of the parties."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    order = np.argsort(sides(), kind="stable")
    rows = np.eye(MEMBERS, dtype=np.float32)
    figure, axes = pyplot.subplots(1, HEADS, figsize=(11, 5.5), layout="constrained")
    figure.suptitle("What each member of the karate club looks at")
    for number, (axis, head) in enumerate(zip(axes, network.first, strict=True), 1):
        score = foveate.Additive(
            head.a, head.left, head.right, activation="leaky_relu", slope=SLOPE
        )
        weights = foveate.attention_weights(rows, rows, score=score, mask=graph)
        axis.imshow(np.sqrt(weights[np.ix_(order, order)]), cmap="Blues", interpolation="nearest")
        axis.set_title(f"head {number}")
        axis.set_xticks(range(MEMBERS), order + 1, fontsize=6, rotation=90)
        axis.set_yticks(range(MEMBERS), order + 1, fontsize=6)
        for line in (axis.axvline, axis.axhline):
            line(len(INSTRUCTORS) - 0.5, color="tab:orange", linewidth=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# %%
# Run it
# ------

if __name__ == "__main__":
    picture = Path(sys.argv[1]) if sys.argv[1:] else None
    if not run(0, picture):
        raise SystemExit("an answer is further from that of the formula than is promised")
