"""The extension's own entries, which the package calls: arrays of no axis in place of each."""

from __future__ import annotations

import numpy as np
import pytest
from foveate import _core
from strategies import normal

Q, K = normal(0, (2, 3, 4), np.float64), normal(1, (2, 5, 4), np.float64)
ROWS, DRAWS = np.zeros((2, 3)), np.zeros((2, 3, 1))
REACH = (None, None, np.zeros((2, 3, 5)), 1, 1, np.zeros(2, int), np.full(2, 5))
SEGMENTS = (np.zeros((2, 3), int), np.zeros((2, 5), int))
REST, SINK = (*REACH, *SEGMENTS), np.zeros(2)
PLACES = (np.zeros_like(Q), np.zeros_like(K), np.zeros_like(K), np.zeros((2, 3, 5)))
# Each entry with arguments that it takes, and the places of those that may be of no axis, since
# they broadcast into the leading ones: the mask, the offset, the lengths, the sink, the trials.
ENTRIES = {
    "attention": ((Q, K, K, *REST, SINK, None, True, None, None), {5, 8, 9, 12}),
    "attention_weights": ((Q, K, *REST, SINK, None, None, None), {4, 7, 8, 11}),
    "attention_backward": (
        (Q, K, K, *REST, SINK, Q, ROWS, Q, ROWS, *PLACES, SINK.copy(), *[None] * 6),
        {5, 8, 9, 12},
    ),
    "hard_attention": ((Q, K, K, *REST, None, 2, (1, 2), Q.dtype, None), {5, 8, 9}),
    "hard_attention_backward": (
        (Q, K, K, *REST, None, DRAWS.astype(int), ROWS, Q[:, :, None], DRAWS, *PLACES, None, None),
        {5, 8, 9},
    ),
    "multinoulli": ((abs(Q), False, 1, 2, np.zeros((2, 3, 7), int)), set()),
    "multinomial": ((np.zeros((2, 3), int), abs(Q), 1, 2, np.zeros((2, 3, 1, 4), int)), {0}),
}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (name, place)
        for name, (arguments, _) in ENTRIES.items()
        for place, argument in enumerate(arguments)
        if isinstance(argument, np.ndarray)
    ],
)
def test_arrays_of_no_axis(name, place):
    entry, (arguments, may_be) = getattr(_core, name), ENTRIES[name]
    entry(*arguments)
    changed = list(arguments)
    changed[place] = np.zeros((), arguments[place].dtype)
    of_gradient = place == 5 and name.endswith("backward")  # of the mask, which has its shape
    if place in may_be and not of_gradient:
        entry(*changed)
    else:
        with pytest.raises(ValueError, match="got"):
            entry(*changed)
