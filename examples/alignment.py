"""
Soft, hard and local attention
==============================

A sentence is spoken: each letter lasts for a few frames, and each frame is the letter's vector with
noise. Queries: the letters, in order. Keys: the frames. Which frames belong to which letter is the
alignment, and it is known here. A letter that occurs more than once looks alike everywhere: soft
attention (Bahdanau et al., 2015) spreads over all its places, hard attention (Xu et al., 2015)
draws one of them, and local attention (Luong et al., 2015) looks near the place where the letter is
expected.

Run it with ``python examples/alignment.py [PICTURE]``, or ``python -m foveate demo alignment``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import foveate
import numpy as np
from foveate import reference
from numpy.typing import NDArray

from promise import WIDTH, Promise

SENTENCE = "attend to what matters at that place"
SHORTEST, LONGEST = 2, 5  # frames that a letter lasts
SIZE, NOISE = 24, 0.4  # of a letter's vector; deviation of the noise beside vectors of deviation 1
SCORE = foveate.ScaledDot(0.35)
HALF_WIDTH = 14  # frames: four letters to each side
DRAWS = 200  # for each letter, to be counted; one of them is drawn in the picture

Floats = NDArray[np.float32]


class Speech(NamedTuple):
    """Letters (queries), frames (keys), and the letter that each frame belongs to."""

    query: Floats  # (letters, size)
    key: Floats  # (frames, size)
    owner: NDArray[np.int64]  # (frames,)
    place: Floats  # (letters, 1): how far on in the sentence, as a logit


@dataclass(frozen=True)
class Way:
    """A way to attend: how much of each letter's attention goes where."""

    name: str
    weights: Floats  # (letters, frames)


# %%
# The problem
# -----------
#
# Each letter has a vector of its own. A frame is the vector of the letter that is spoken, with
# noise.


def make_speech(seed: int) -> Speech:
    """The sentence as spoken: durations, vectors and noise are drawn from the seed."""
    rng = np.random.default_rng(seed)
    alphabet = {letter: rng.standard_normal(SIZE) for letter in sorted(set(SENTENCE))}
    letters = np.array([alphabet[letter] for letter in SENTENCE])
    owner = np.repeat(np.arange(len(SENTENCE)), rng.integers(SHORTEST, LONGEST + 1, len(SENTENCE)))
    frames = letters[owner] + rng.normal(0.0, NOISE, (len(owner), SIZE))
    along = (np.arange(len(SENTENCE)) + 0.5) / len(SENTENCE)
    place = np.log(along / (1.0 - along))[:, None]
    return Speech(letters.astype(np.float32), frames.astype(np.float32), owner, place.astype("f4"))


# %%
# Three ways to attend
# --------------------
#
# Soft attention gives its weights, hard attention draws keys by them, and local attention sees a
# window around a center that is predicted for each query.


def centers_of(speech: Speech) -> Floats:
    """Where each letter is expected, by the formula of local-p, here from its position alone.

    A network would learn w and v. Here they are set so that tanh is nearly linear: the center is as
    far along the frames as the letter is along the sentence.
    """
    w, v = np.full((1, 1), 0.05, np.float32), np.full(1, 20.0, np.float32)
    return np.asarray(foveate.predict_centers(speech.place, w, v, len(speech.owner) - 1))


def hard(speech: Speech, seed: int) -> foveate.HardAttention:
    """Frames drawn for each letter; the values are the frames' numbers of their letters."""
    value = speech.owner.astype(np.float32)[:, None]
    return foveate.hard_attention(
        speech.query, speech.key, value, size=DRAWS, rng=seed, score=SCORE
    )


def ways(speech: Speech, drawn: foveate.HardAttention) -> list[Way]:
    """Soft, hard and local attention on the same letters and frames."""
    query, key, owner, _ = speech
    soft = foveate.attention_weights(query, key, score=SCORE)
    frames = np.eye(len(owner), dtype=np.float32)
    counts = frames[drawn.index].mean(axis=1)
    local = foveate.local_attention(
        query, key, frames, half_width=HALF_WIDTH, centers=centers_of(speech), score=SCORE
    )
    return [Way("soft", soft), Way("hard, drawn", counts), Way("local (local-p)", local)]


# %%
# The check, and what is printed
# ------------------------------
#
# `foveate.reference` is the definition, in plain NumPy. In float64 it is the exact answer, in
# float32 the plain formula: no answer may be more than twice as far off as that.


def share_at_home(way: Way, speech: Speech) -> float:
    """The share of the attention that goes to frames of the letter itself."""
    own = speech.owner == np.arange(len(SENTENCE))[:, None]
    return float((way.weights * own).sum() / way.weights.sum())


def run(seed: int, picture: Path | None) -> bool:
    """Align, check, draw; says whether the check passed."""
    speech = make_speech(seed)
    drawn = hard(speech, seed)
    found = ways(speech, drawn)
    print("Which frames of a spoken sentence belong to which letter?\n")
    print(f"{'':37}weight on the letter's own frames")
    for way in found:
        print(f"  {way.name:<35}{share_at_home(way, speech):>11.1%}")
    promises = list(_promises(speech, found))
    worst = max(promises, key=lambda promise: (not promise.kept, promise.error / promise.bound))
    print(f"\n  against foveate.reference          {worst}")
    query, key, owner = (x.astype(np.float64) for x in (speech.query, speech.key, speech.owner))
    plain = reference.hard_attention(query, key, owner[:, None], size=DRAWS, rng=seed, score=SCORE)
    other = int((plain.index != drawn.index).sum())
    print(f"{'':37}{drawn.index.size - other} of {drawn.index.size} draws are the reference's")
    print()
    print(
        fill(
            f'How: "{SENTENCE}" is spoken, each letter for {SHORTEST} to '
            f"{LONGEST} frames, {len(speech.owner)} in all. A frame is the vector of its letter "
            f"with noise (standard deviation {NOISE:g}). The letters are the queries, the frames "
            "the keys. Repeated letters look alike.",
            WIDTH,
        ),
        end="\n\n",
    )
    print(
        fill(
            "Soft attention spreads over all frames that look alike. Hard attention draws one "
            f"frame for each letter from the same weights, here {DRAWS} times to count them. Local "
            f"attention sees {2 * HALF_WIDTH + 1} frames around a predicted center, and weighs "
            "them by a Gaussian.",
            WIDTH,
        ),
        end="\n\n",
    )
    if picture is not None:
        draw(speech, found, drawn, picture)
        print(
            f"Picture: {picture}\n"
            "Soft, hard and local attention: a row is a letter, a column a frame. The green\n"
            "boxes are the letter's own frames."
        )
    # A draw differs from that of the reference where it is decided by less than the rounding: with
    # a probability of about 1e-6 each.
    return worst.kept and other <= 2


def _promises(speech: Speech, found: list[Way]) -> Iterator[Promise]:
    """The weights of soft and local attention, against the definition."""
    query, key, owner, _ = speech
    centers = centers_of(speech)

    def soft(dtype: Any) -> NDArray[Any]:
        return reference.attention_weights(query.astype(dtype), key.astype(dtype), score=SCORE)

    def local(dtype: Any) -> NDArray[Any]:
        frames = np.eye(len(owner), dtype=dtype)
        return np.asarray(
            reference.local_attention(
                query.astype(dtype),
                key.astype(dtype),
                frames,
                half_width=HALF_WIDTH,
                centers=centers,
                score=SCORE,
            )
        )

    for way, formula in ((found[0], soft), (found[2], local)):
        yield Promise.of(way.weights, plain=formula(np.float32), exact=formula(np.float64))


# %%
# The picture
# -----------


def draw(speech: Speech, found: list[Way], drawn: foveate.HardAttention, path: Path) -> None:
    """Save a picture: three maps of the same letters and frames, side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    figure, axes = pyplot.subplots(
        1, len(found), figsize=(15, 6.2), sharey=True, layout="constrained"
    )
    figure.suptitle("Which frames belong to which letter: soft, hard and local attention")
    letters = np.arange(len(SENTENCE))
    for axis, way in zip(axes, found, strict=True):
        axis.imshow(
            np.sqrt(way.weights), cmap="Blues", aspect="auto", interpolation="nearest", vmin=0.0
        )
        for letter in letters:
            own = np.flatnonzero(speech.owner == letter)
            axis.add_patch(
                Rectangle(
                    (own[0] - 0.5, letter - 0.5), len(own), 1, fill=False, edgecolor="tab:green"
                )
            )
        axis.set_title(f"{way.name}: {share_at_home(way, speech):.0%} on its own frames")
        axis.set_xlabel("frames (keys)")
    axes[0].set_yticks(letters, ["␣" if letter == " " else letter for letter in SENTENCE])
    axes[0].set_ylabel("letters (queries)")
    axes[1].plot(drawn.index[:, 0], letters, "x", color="tab:red", label="first draw")
    axes[1].legend(loc="lower left", fontsize=8)
    centers = centers_of(speech)
    axes[2].plot(centers, letters, "-", color="tab:orange", label="predicted centers")
    for side in (-HALF_WIDTH, HALF_WIDTH):
        axes[2].plot(centers + side, letters, ":", color="tab:orange")
    axes[2].set_xlim(-0.5, len(speech.owner) - 0.5)
    axes[2].legend(loc="lower left", fontsize=8)
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
