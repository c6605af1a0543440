"""
Handwritten digits, recognized by attention alone
=================================================

Query: an unseen image. Keys: the known images. Values: their labels, one-hot. The output is then,
for each digit, the share of the attention that falls on known images of it, and the answer is the
digit with the largest share. Nothing is trained: this is the kernel regression of Nadaraya and
Watson (1964), with the dot product or the cosine as its kernel.

Run it with ``python examples/digits.py [PICTURE]``, or ``python -m foveate demo digits``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import fill
from time import perf_counter
from typing import Any, NamedTuple

import foveate
import numpy as np
from foveate import reference
from numpy.typing import NDArray

from promise import WIDTH, Promise

UNSEEN = 360  # a fifth of the 1,797 images
# Sharpness is 1 / temperature: the factor on the scores before the softmax. At 1 the attention is
# spread over all the known images; these were chosen on other splits than the default one, where
# soft attention recognized best.
DOT_SHARPNESS, COSINE_SHARPNESS = 32.0, 40.0
ROUNDS = 25  # in which the calls that are timed take turns
PICTURED, NEIGHBORS = 8, 6

Image = NDArray[np.float32]


class Digits(NamedTuple):
    """The images, 64 numbers each around the mean known image, and what they show."""

    query: Image  # (unseen, 64)
    key: Image  # (known, 64)
    value: Image  # (known, 10): the labels, one-hot
    truth: NDArray[np.int64]  # (unseen,)
    label: NDArray[np.int64]  # (known,)
    mean: Image  # (64,)


@dataclass(frozen=True)
class Way:
    """A way to relate images: the score, and the same in plain NumPy."""

    name: str
    score: Callable[[float], Any]
    sharpness: float
    plain_scale: float  # of the sharpness, for plain_attention
    normalized: bool


WAYS = (
    Way(
        "scaled dot product",
        lambda sharpness: foveate.ScaledDot(sharpness / 8.0),
        DOT_SHARPNESS,
        1.0 / 8.0,  # 1 / sqrt(64)
        normalized=False,
    ),
    Way(
        "cosine",
        lambda sharpness: foveate.Cosine(sharpness),
        COSINE_SHARPNESS,
        1.0,
        normalized=True,
    ),
)


# %%
# The answer is an average of labels
# ----------------------------------
#
# Nothing is trained: an image attends to the known images, and their labels are averaged.


def run(seed: int, picture: Path | None) -> bool:
    """Recognize, check, time, draw; says whether the check passed."""
    digits = load_digits(seed)
    known, unseen = len(digits.key), len(digits.query)
    print(f"{unseen} handwritten digits are recognized by looking at {known:,} known ones.\n")
    passed = True
    for way in WAYS:
        passed &= _report(way, digits)
    print(
        fill(
            "How: each unseen image is a query, the known images are the keys, and their labels "
            "(one-hot) the values. Attention averages the labels with its weights, and the digit "
            "with the largest share is the answer. Nothing is trained. The images are from "
            "scikit-learn, 8 x 8 pixels each.",
            WIDTH,
        ),
        end="\n\n",
    )
    print(
        fill(
            "Sharpness multiplies the scores before the softmax (1 / temperature). At 1 every "
            "known image counts, and the most frequent shapes win. The larger it is, the fewer "
            "images decide; in the limit the nearest one decides alone.",
            WIDTH,
        ),
        end="\n\n",
    )
    if picture is not None:
        draw(digits, WAYS[-1], picture)
        print(
            f"Picture: {picture}\n"
            "A row is an unseen image, then the known images with the largest weights (their\n"
            "digit and weight), then the share of each digit. A red frame: read wrongly."
        )
    return passed


def load_digits(seed: int) -> Digits:
    """The digits of scikit-learn, split at random; pixels from 0 to 1, minus the mean known image.

    The mean is what all images have in common: with it, the dot product favors much ink.
    """
    from sklearn.datasets import load_digits as load

    pixels, labels = load(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    unseen, known = order[:UNSEEN], order[UNSEEN:]
    images = (pixels / 16.0).astype(np.float32)
    mean = images[known].mean(axis=0)
    return Digits(
        query=images[unseen] - mean,
        key=images[known] - mean,
        value=np.eye(10, dtype=np.float32)[labels[known]],
        truth=labels[unseen],
        label=labels[known],
        mean=mean,
    )


# %%
# The check, and the times
# ------------------------
#
# The answers are held against `foveate.reference`, and the time against NumPy's.


def _report(way: Way, digits: Digits) -> bool:
    """Print one way's accuracy, check and times; says whether the check passed."""
    query, key, value, truth = digits[:4]
    score = way.score(way.sharpness)
    output = foveate.attention(query, key, value, score=score)
    weights = foveate.attention_weights(query, key, score=score)
    blunt = foveate.attention(query, key, value, score=way.score(1.0))

    def accuracy(answers: NDArray[Any]) -> str:
        return f"{np.mean(answers == truth):.1%}"

    print(f"{way.name[0].upper()}{way.name[1:]}, sharpness {way.sharpness:g}")
    print(
        f"  soft attention recognizes          {accuracy(output.argmax(-1))}"
        f"   (at sharpness 1: {accuracy(blunt.argmax(-1))})"
    )
    nearest = digits.label[weights.argmax(-1)]
    print(f"  the nearest known image alone      {accuracy(nearest)}")

    exact = reference.attention(*(array.astype(np.float64) for array in digits[:3]), score=score)
    plain = _plain(way, digits)
    promise = Promise.of(output, plain=plain(), exact=exact)
    print(f"  against foveate.reference          {promise}")

    def call() -> object:
        return foveate.attention(query, key, value, score=score)

    own, peer = in_turns(call, plain)
    print(
        f"  time for all {len(query)} queries           {own * 1e3:.2f} ms; "
        f"NumPy {peer * 1e3:.2f} ms, {peer / own:.1f} times\n"
    )
    return promise.kept


def in_turns(*calls: Callable[[], object]) -> list[float]:
    """The median time of each call, in seconds: they take turns, so that none has a quiet hour."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            begin = perf_counter()
            call()
            taken.append(perf_counter() - begin)
    return [median(taken) for taken in times]


def plain_attention(query: Image, key: Image, value: Image, scale: float) -> Image:
    """Softmax(scale * query @ key^T) @ value, as one writes it in NumPy, reusing temporaries."""
    scores = query @ key.T
    scores *= np.float32(scale)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return np.asarray(scores @ value)


def _plain(way: Way, digits: Digits) -> Callable[[], NDArray[Any]]:
    """The same in plain NumPy, as one would write it."""
    scale = way.sharpness * way.plain_scale

    def unit(rows: Image) -> Image:
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)

    def call() -> NDArray[Any]:
        query, key, value = digits[:3]
        if way.normalized:
            query, key = unit(query), unit(key)
        return plain_attention(query, key, value, scale)

    return call


# %%
# The picture
# -----------


def draw(digits: Digits, way: Way, path: Path) -> None:
    """Save a picture of some queries, the images they attend to, and the shares of the digits."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    score = way.score(way.sharpness)
    weights = foveate.attention_weights(digits.query, digits.key, score=score)
    shares = foveate.attention(digits.query, digits.key, digits.value, score=score)
    answers = shares.argmax(-1)
    chosen = _choose(answers, digits.truth)

    columns = 1 + NEIGHBORS
    figure, axes = pyplot.subplots(
        PICTURED,
        columns + 1,
        figsize=(1.25 * (columns + 2), 1.45 * PICTURED + 0.7),
        gridspec_kw={"width_ratios": [1.0] * columns + [2.0]},
        layout="constrained",
    )
    figure.suptitle(
        f"Digits recognized by attention alone ({way.name}, sharpness {way.sharpness:g})"
    )
    for row, index in zip(axes, chosen, strict=True):
        right = answers[index] == digits.truth[index]
        _show(row[0], digits.query[index] + digits.mean, "tab:green" if right else "tab:red")
        row[0].set_title(f"query: {digits.truth[index]}, read: {answers[index]}", fontsize=8)
        nearest = np.argsort(-weights[index], kind="stable")[:NEIGHBORS]
        for axis, neighbor in zip(row[1:columns], nearest, strict=True):
            _show(axis, digits.key[neighbor] + digits.mean, "lightgray")
            axis.set_title(f"{digits.label[neighbor]}: {weights[index, neighbor]:.1%}", fontsize=8)
        row[-1].bar(np.arange(10), shares[index], color="tab:blue")
        row[-1].set_ylim(0.0, 1.0)
        row[-1].set_xticks(np.arange(10))
        row[-1].tick_params(labelsize=7)
    axes[0, -1].set_title("share of each digit", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _choose(answers: NDArray[Any], truth: NDArray[np.int64]) -> list[int]:
    """Queries to draw: the first that was read right of some digits, and up to two misread."""
    wrong = [int(index) for index in np.flatnonzero(answers != truth)[:2]]
    right = answers == truth
    first = [np.flatnonzero(right & (truth == digit))[:1] for digit in range(10)]
    return [int(index) for index in np.concatenate(first)][: PICTURED - len(wrong)] + wrong


def _show(axis: Any, image: Image, frame: str) -> None:
    axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0.0, vmax=1.0)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(frame)
        spine.set_linewidth(2.0)


# %%
# Run it
# ------

if __name__ == "__main__":
    picture = Path(sys.argv[1]) if sys.argv[1:] else None
    if not run(0, picture):
        raise SystemExit("an answer is further from that of the reference than is promised")
