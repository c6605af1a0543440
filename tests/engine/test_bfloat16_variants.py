"""The ways to multiply bfloat16 that are not the best: pairs beside AMX, float32 beside both.

Each runs on CPUs that have nothing better; here the tests of bfloat16 run under it once more.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import _core
from strategies import BFLOAT16, normal, problem
from tolerances import check_attention

from tests.attention import test_attention_against_reference as forward
from tests.attention import test_same_bits as same_bits
from tests.gradients import test_gradients as backward

VARIANTS = ["avx512 bf16", "avx512 float32"]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    features, before = request.param, _core.isa_features()
    if _core.isa_selected() != "avx512" or features == before:
        pytest.skip(f"{before} is in use")
    try:
        _core.isa_select(features)
    except ValueError:
        pytest.skip(f"this CPU has no variant {features}")
    assert _core.isa_features() == features
    assert _core.isa_selected() == "avx512"
    yield features
    _core.isa_select("avx512")
    if _core.isa_features() != before:  # a variant was forced
        _core.isa_select(before)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("length", [1, 15, 17, 33, 113, 225, 700])
def test_lengths(length):
    forward.test_tails_of_queries_and_keys(length, BFLOAT16)
    forward.test_tails_of_a_square(length, BFLOAT16)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("size", [0, 1, 3, 16, 31, 33, 64, 65, 80, 128])
def test_sizes(size):
    forward.test_tails_of_sizes(size, BFLOAT16)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("reach", backward.REACHES)
def test_gradients_of_reaches(reach):
    for queries, keys in ((33, 65), (150, 400)):
        backward.test_reaches(reach, queries, keys, BFLOAT16)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("shape", backward.SHAPES, ids=str)
def test_gradients_of_shapes(shape):
    backward.test_shapes(shape, BFLOAT16)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("name", ["square", "window", "sink and softcap", "segments"])
def test_the_same_bits(name):
    for lead in ((), (3, 5)):
        same_bits.test_over_threads(*same_bits.CASES[name], lead, BFLOAT16)
    backward.test_the_same_bits_for_any_number_of_threads("window", BFLOAT16)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_seen(bad):
    backward.test_what_is_not_seen_changes_nothing(bad, None, BFLOAT16)
    backward.test_nan_that_is_seen_spoils_what_it_meets_and_nothing_else(BFLOAT16)


def _with_the_best(function: Any, features: str) -> tuple[Any, Any]:
    """What a function gives under the best variant, and under another."""
    _core.isa_select("avx512")
    best = function()
    _core.isa_select(features)
    return best, function()


def test_draws_are_those_of_the_best(variant):
    """Scores differ by rounding in float32, which changes a draw in a million or so."""
    q, k, v = problem(200, 700, size=64, dtype=BFLOAT16)

    def draw() -> Any:
        return fv.hard_attention(q, k, v, size=20, rng=5).index

    best, other = _with_the_best(draw, variant)
    assert np.mean(best != other) < 1e-3


# Also of the best one, with what its tiles of 16 rows and 32 columns leave over.


@pytest.mark.parametrize("keys", [1, 9, 16, 17, 31, 32, 33, 48, 95, 96, 97, 113, 192, 193])
@pytest.mark.parametrize("size", [32, 64, 96, 7, 40])
def test_what_tiles_leave_over(keys, size):
    """Keys in place and laid out, at every end of a tile; values of a size of their own."""
    for queries in (5, 32, 70):
        arrays = problem(queries, keys, size=size, value_size=keys % 50 + 1, dtype=BFLOAT16)
        check_attention(*arrays)
        backward.check(*arrays)


@pytest.mark.parametrize("window", [(3, 2), (20, 0), (90, 40), (150, 150)])
def test_stretches_of_keys_in_any_company(window):
    """Groups that stand elsewhere share the panels of a query, and so begin its stretch."""
    q = normal(0, (3, 130, 32), BFLOAT16)
    k, v = normal(1, (900, 32), BFLOAT16), normal(2, (900, 32), BFLOAT16)
    offset = np.array([0, 77, 501])
    d_output = normal(3, q.shape, BFLOAT16)
    together, pullback = fv.attention_vjp(q, k, v, window=window, offset=offset)
    d_query = pullback(d_output).query
    for n in range(3):
        alone, pullback = fv.attention_vjp(q[n], k, v, window=window, offset=int(offset[n]))
        np.testing.assert_array_equal(together[n], alone)
        np.testing.assert_array_equal(d_query[n], pullback(d_output[n]).query)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keys_beyond_a_short_reach_are_not_read(bad):
    """Fewer keys than a tile has rows are seen; the ones after them hold NaN."""
    for seen in (1, 5, 17, 40):
        q, k, v = problem(40, 150, size=64, dtype=BFLOAT16)
        clean = fv.attention(q, k[:, :seen], v[:, :seen])
        k[:, seen:], v[:, seen:] = bad, bad
        lengths = np.array([seen, seen])
        np.testing.assert_array_equal(fv.attention(q, k, v, key_lengths=lengths), clean)
        assert np.isfinite(clean.astype(np.float32)).all()


BEFORE_A_WALL = """
import ctypes, itertools, mmap
import foveate as fv
import numpy as np
from foveate import _core
from strategies import BFLOAT16, normal

libc, page, walls = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, []

def before_a_wall(x):
    end = -(-x.nbytes // page) * page
    memory = mmap.mmap(-1, end + page)
    walls.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + end), page, 0) == 0
    moved = np.frombuffer(memory, np.uint8, x.nbytes, end - x.nbytes).view(x.dtype).reshape(x.shape)
    moved[...] = x
    return moved

for features in ("avx512", "avx512 bf16"):
    try:
        _core.isa_select(features)
    except ValueError:
        continue
    for keys, size, queries in itertools.product(
        (1, 5, 16, 17, 40, 97, 193), (1, 7, 16, 32, 40, 64), (5, 20, 70)
    ):
        shapes = (queries, size), (keys, size), (keys, size)
        given = [normal(n, shape, BFLOAT16) for n, shape in enumerate(shapes)]
        output, pullback = fv.attention_vjp(*(before_a_wall(x) for x in given))
        gradients = pullback(before_a_wall(output))
        plain, pullback = fv.attention_vjp(*given)
        assert output.tobytes() == plain.tobytes()
        for x, y in zip(gradients[:3], pullback(plain)[:3], strict=True):
            assert x.tobytes() == y.tobytes()
        walls.clear()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by the libc of Linux")
def test_nothing_is_read_beyond_the_arrays():
    """A page that nobody may read stands behind each array; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_A_WALL],
        cwd=Path(__file__).parents[1] / "helpers",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", f"{done.returncode}: {done.stderr}"
