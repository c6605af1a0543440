"""Ring attention: ranks that share a sequence, forked in one process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import PATIENCE
from torch_checks import ft, torch

if not (torch.distributed.is_available() and hasattr(os, "fork")):
    pytest.skip("torch without its distributed, or no fork", allow_module_level=True)

import ring_checks
from foveate.torch._ring_layout import (
    Ids,
    Piece,
    Sight,
    calls_of,
    halves,
    last_of,
    legs_of,
    parts_of,
    sent_of,
)


def ranks_say(*arguments: Any) -> Any:
    """What ring_checks prints."""
    path = [str(Path(ring_checks.__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ring_checks.__file__, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def of_two_ranks() -> Any:
    return ranks_say(2)


@pytest.mark.parametrize("name", ring_checks.CHECKS)
def test_two_ranks(of_two_ranks, name):
    assert "all ranks" not in of_two_ranks
    assert name not in of_two_ranks, of_two_ranks[name]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_ranks(ranks):
    assert ranks_say(ranks) == {}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "away"])
def test_lost_rank(how):
    """The others say so: at once where its connections are gone, else after 3 seconds."""
    found = ranks_say(3, how)
    assert len(found) == 2
    for seconds, words in found:
        assert seconds < 7
        assert words.startswith("foveate.torch.ring_attention: ")


# --- what goes where ------------------------------------------------------------------------------

SIDES = [(None, None), (None, 0), (4, 0), (3, 2), (0, 0), (None, 5), (60, 1)]
LAYOUTS = [
    ((9, 4, 0, 11), "contiguous"),
    ((6,), "contiguous"),
    ((39,), "zigzag"),
    ((13, 13, 13), "zigzag"),
]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(("lengths", "layout"), LAYOUTS)
@pytest.mark.parametrize(
    ("offset", "cut"), [(0, list), (-7, list), (0, lambda x: [z for y in x for z in halves(y)])]
)
def test_calls(sides, lengths, layout, offset, cut):
    """Each query meets each key that it sees once, and no other."""
    parts = parts_of(lengths, layout)
    queries = tuple(tuple(x._replace(position=x.position + offset) for x in y) for y in parts)
    left, right = sides
    far = sum(lengths) + abs(offset)
    for of_queries in queries:
        for of_keys in parts:
            rows = sum(x.length for x in of_queries), sum(x.length for x in of_keys)
            met = np.zeros(rows, int)
            for call in cut(calls_of(of_queries, of_keys, left, right)):
                a, b, at = call.sides or (None, None, 0)
                i, j = np.indices((met[call.queries].shape[0], met[:, call.keys].shape[1]))
                p = i + at
                a, b = (far if x is None else x for x in (a, b))
                met[call.queries, call.keys] += (p - a <= j) & (j <= p + b)
            p, j = positions(of_queries)[:, None], positions(of_keys)
            a, b = (far if x is None else x for x in sides)
            np.testing.assert_array_equal(met, (p - a <= j) & (j <= p + b))


def positions(part: tuple[Piece, ...]) -> np.ndarray:
    return np.concatenate([np.arange(x.position, x.position + x.length) for x in part])


RANKS = 5
RISING = tuple(Ids(r // 2, r // 2, r // 2, r // 2) for r in range(RANKS))


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(
    ("layout", "ids"), [("contiguous", None), ("zigzag", None), ("contiguous", RISING)]
)
def test_routes(sides, layout, ids):
    """A part comes to each rank that sees it, once and from the one before, and to no other."""
    parts = parts_of((8,) * RANKS, layout)
    sight = Sight(parts, parts, *sides, ids)
    legs = {r: {x.owner: x for x in legs_of(r, sight)} for r in range(RANKS)}
    for owner in range(RANKS):
        seen_by = {r for r in range(RANKS) if sight.calls(r, owner)}
        if ids is not None:
            assert all(ids[r] == ids[owner] for r in seen_by)
        route, at = [owner], legs[owner][owner]
        assert at.before is None
        while at.after is not None:
            before, at = route[-1], legs[at.after][owner]
            assert at.before == before
            route.append(legs[before][owner].after)
        assert route[-1] == last_of(owner, sight)
        assert set(route) == seen_by | {owner}
        assert len(set(route)) == len(route)
        assert {r for r in range(RANKS) if owner in legs[r]} == set(route)
        seen = [x.keys for r in seen_by - {owner} for x in sight.calls(r, owner)]
        sent = sent_of(owner, sight)
        assert all(sent.start <= x.start and x.stop <= sent.stop for x in seen)
        if sides == (4, 0) and ids is None and layout == "contiguous":
            assert sent == (slice(4, 8) if seen else slice(0, 8))


def test_no_group():
    """Without other processes it says how to have them."""
    x = torch.ones(3, 2)
    for call in (lambda: ft.ring_attention(x, x, x), lambda: ft.split_sequence(x)):
        with pytest.raises(RuntimeError, match="init_process_group"):
            call()
