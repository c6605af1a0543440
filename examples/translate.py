"""
An encoder-decoder learns to translate dates
============================================

An encoder-decoder (`encoder_decoder`) learns to write spoken dates (`spoken_dates`) in digits:
without attention, with the two kinds of local attention, and with global attention (Luong et al.,
2015). What each of them writes, and where it looks, is shown on dates that it never saw.

Run it with ``python examples/translate.py [PICTURE]``, or ``python -m foveate demo translate``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import Any, cast

import foveate
import numpy as np
from foveate import reference
from numpy.typing import NDArray

from encoder_decoder import HALF_WIDTH, WAYS, Adam, EncoderDecoder, attend_vjp
from promise import WIDTH, Promise
from spoken_dates import Dates, make_dates, text_of, words_of

KNOWN, UNSEEN = 8000, 1000  # dates
BATCH, RATE = 64, 0.004
MARKS = (100, 200, 400)  # steps of descent after which the dates that were not seen are read
SHOWN = 10  # steps from one line of progress to the next
CHECKED = 64  # dates whose contexts are held against the reference
PICTURED = ("global", "local-p")


@dataclass
class Lesson:
    """A way to attend, and how it was learned."""

    model: EncoderDecoder
    losses: list[float] = field(default_factory=list)  # of each step
    right: list[float] = field(default_factory=list)  # at the marks: the share of dates, whole
    at_home: float = 0.0  # at the end: the attention on the words that the digits come from


# %%
# Learn, and read dates that were never seen
# ------------------------------------------
#
# The nets and their gradients are in ``encoder_decoder.py``, the sentences in ``spoken_dates.py``,
# beside this file. :doc:`/encoder_decoder` explains them, equation by equation.


def learn(way: str, known: Dates, unseen: Dates, seed: int) -> Lesson:
    """Descend on the loss; every way sees the same dates in the same order."""
    rng = np.random.default_rng(seed)
    lesson, adam = Lesson(EncoderDecoder.initial(way, seed)), Adam(RATE)
    for step in range(1, MARKS[-1] + 1):
        if step % SHOWN == 0:
            show_progress(f"{way}: step {step} of {MARKS[-1]}")
        batch = known.part(rng.integers(0, len(known.source), BATCH))
        loss, gradients = lesson.model.loss_and_gradients(batch)
        adam.step(lesson.model.parameters, gradients)
        lesson.losses.append(loss)
        if step in MARKS:
            translation = lesson.model.translate(unseen)
            lesson.right.append(float((translation.symbols == unseen.target).all(axis=1).mean()))
    show_progress("")
    lesson.at_home = share_at_home(lesson.model.alignment(translation, unseen.lengths), unseen)
    return lesson


def show_progress(text: str) -> None:
    """Write over the last line of a terminal, and nothing where the output goes elsewhere."""
    if sys.stdout.isatty():
        print(f"\r{text:<60}\r", end="", flush=True)


def share_at_home(weights: NDArray[Any], dates: Dates) -> float:
    """Of the attention of all digits, the share on the words that they come from."""
    of_digits = weights[dates.home.any(axis=-1)].sum()
    return float((weights * dates.home).sum() / of_digits) if of_digits else 0.0


def run(seed: int, picture: Path | None) -> bool:
    """Learn in each way, check, draw; says whether the check passed."""
    known, unseen = make_dates(seed, KNOWN, UNSEEN)
    print(
        "An encoder-decoder learns to write spoken dates in digits:\n\n"
        f"{'':24}of {UNSEEN:,} new dates, read right     weight on the words\n"
        f"{'  after steps':<24}" + "".join(f"{mark:>9}" for mark in MARKS) + "     of each digit"
    )
    lessons = {}
    with one_blas_thread():
        for way in WAYS:
            lesson = lessons[way] = learn(way, known, unseen, seed)
            home = f"{lesson.at_home:>14.0%}" if lesson.at_home else ""
            rights = "".join(f"{right:>9.1%}" for right in lesson.right)
            print(f"  {way:<22}{rights}{home}", flush=True)
    promises = [check(lesson.model, unseen) for way, lesson in lessons.items() if way != WAYS[0]]
    worst = max(promises, key=lambda promise: (not promise.kept, promise.error / promise.bound))
    print(f"\n  against foveate.reference          {worst}")
    print()
    print(f"How: it learns from {KNOWN:,} dates, in {MARKS[-1]} steps of {BATCH}, such as\n")
    print("\n".join(f"  {line}" for line in examples(unseen)), end="\n\n")
    print(
        fill(
            "The year is mostly said last and written first, so that it has to look elsewhere for "
            "each digit. Without attention the whole sentence has to fit into the one state that "
            f"the decoder begins with. Local attention sees {2 * HALF_WIDTH + 1} words at most: "
            "with local-m those around the place that the digit has in the date, where its word "
            "often is not; with local-p those around a place that it predicts.",
            WIDTH,
        ),
        end="\n\n",
    )
    if picture is not None:
        draw([lessons[way] for way in PICTURED], unseen, picture)
        print(
            f"Picture: {picture}\n"
            "A row is a symbol that is written, a column a word; white is a weight of 1. The\n"
            "green boxes are the words that a digit comes from."
        )
    return worst.kept


def examples(dates: Dates, count: int = 3) -> Iterator[str]:
    """The first of these dates, in words and in digits."""
    for row in range(count):
        yield f"{text_of(dates.target[row])}  {' '.join(words_of(dates.source[row]))}"


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep NumPy's products on one thread, where threadpoolctl is there to do it.

    They are so small that a second thread gains nothing, and where another process wants its core
    they wait for it ten times as long as they take.
    """
    try:
        limits = import_module("threadpoolctl").threadpool_limits
    except ImportError:
        return nullcontext()
    return cast(AbstractContextManager[object], limits(1, user_api="blas"))


# %%
# The check
# ---------
#
# The contexts are held against `foveate.reference`, the definition in plain NumPy.


def check(model: EncoderDecoder, dates: Dates) -> Promise:
    """The contexts of what was learned, against the definition.

    For a tenth of the matrix of the score, so that the weights are spread: logits of dozens leave
    few weights that are neither 0 nor 1, and the largest error, of any formula, is luck.
    """
    some = dates.part(slice(CHECKED))
    _, h, hbar = model.translate(some)

    def contexts(library: Any, dtype: Any) -> NDArray[Any]:
        p = {name: array.astype(dtype) for name, array in model.parameters.items()}
        p["w_a"] /= 10
        states = h.astype(dtype), hbar.astype(dtype), hbar.astype(dtype)
        return attend_vjp(model.way, p, *states, some.lengths, library=library)[0]

    exact, plain = contexts(reference, np.float64), contexts(reference, np.float32)
    return Promise.of(contexts(foveate, np.float32), plain=plain, exact=exact)


# %%
# The picture
# -----------


def draw(lessons: list[Lesson], dates: Dates, path: Path) -> None:
    """Save a picture: the alignments of the longest sentence, side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from foveate import plot
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    longest = int(dates.lengths.argmax())
    date = dates.part(slice(longest, longest + 1))
    words = words_of(date.source[0])
    figure, axes = pyplot.subplots(1, len(lessons), figsize=(12, 6), layout="constrained")
    figure.suptitle("What an encoder-decoder learned to look at, for each symbol that it writes")
    for axis, lesson in zip(axes, lessons, strict=True):
        translation = lesson.model.translate(date)
        weights = lesson.model.alignment(translation, date.lengths)[0, :, : len(words)]
        plot.alignment(weights, words, list(text_of(translation.symbols[0])), axes=axis)
        for row, column in np.argwhere(date.home[0]):
            box = (column - 0.5, row - 0.5)
            frame = Rectangle(box, 1, 1, fill=False, edgecolor="tab:green", linewidth=1.5)
            axis.add_patch(frame).set_clip_on(False)
        if lesson.model.way == "local-p":
            p, rows = lesson.model.parameters, np.arange(len(weights))
            centers = foveate.predict_centers(translation.h, p["w_p"], p["v_p"], date.lengths)[0]
            axis.plot(
                centers, rows, "o", color="tab:orange", markersize=4, label="predicted centers"
            )
            for side in (-HALF_WIDTH, HALF_WIDTH):
                axis.plot(centers + side, rows, ":", color="tab:orange", linewidth=1)
            axis.set_xlim(-0.5, len(words) - 0.5)
            axis.legend(loc="lower right", fontsize=8)
        axis.set_xlabel("")
        axis.set_ylabel("")
        axis.set_title(f"{lesson.model.way}: {lesson.right[-1]:.1%} of unseen dates read right")
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
