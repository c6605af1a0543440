"""exp2, log and tanh of the ISA in use against NumPy one precision wider, in ulp of the result.

By default a sweep over the bit patterns of float32: every 997th (a prime, so that all exponents and
low bits take part), and all patterns around each power of two. `--exhaustive` takes all 2^32.
Results below the smallest normal number may be flushed to zero, where the weights that they are
for do not count.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from foveate import _core
from tolerances import ELEMENTARY_ULP, ELEMENTARY_ULP_FLOAT64

NAMES = ["exp2", "log", "tanh"]
CHUNK = 2**22
LARGEST_EXPONENT = {np.dtype(np.float32): 128, np.dtype(np.float64): 1024}


def exact(name: str, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return getattr(np, name)(x.astype(np.float64 if x.dtype == np.float32 else np.longdouble))


def check(name: str, x: np.ndarray, budget: float) -> None:
    """Within `budget` ulp; NaN, inf and zero as they should be."""
    got = _core.elementary(name, x)
    assert got.dtype == x.dtype
    want = exact(name, x)
    kind = np.finfo(x.dtype)
    with np.errstate(all="ignore"):
        rounded = want.astype(x.dtype)
        ulp = np.spacing(np.maximum(np.abs(rounded), kind.tiny)).astype(want.dtype)
        error = np.abs(got.astype(want.dtype) - want)
        allowed = np.where(np.abs(want) < kind.tiny, float(kind.tiny), budget * ulp)
        # The last few steps below the largest number may round to inf, and back.
        near_top = np.abs(want) > (1 - budget * float(kind.eps)) * float(kind.max)
    special = ~np.isfinite(rounded)
    right = np.where(
        special,
        (got == rounded) | (np.isnan(got) & np.isnan(rounded)) | near_top,
        (error <= allowed) | (near_top & np.isinf(got)),
    )
    if not right.all():
        worst = np.argmax(np.where(right, 0, np.nan_to_num(error / ulp, nan=np.inf)))
        raise AssertionError(
            f"{name}: {(~right).sum()} of {x.size} are wrong, for example {name}({x[worst]!r}) "
            f"gave {got[worst]!r}, wanted {want[worst]!r}, {error[worst] / ulp[worst]:.2f} ulp"
        )


def patterns(exhaustive: bool) -> Iterator[np.ndarray]:
    """Bit patterns of float32, in chunks."""
    if exhaustive:
        for start in range(0, 2**32, CHUNK):
            yield np.arange(start, start + CHUNK, dtype=np.uint64).astype(np.uint32)
        return
    yield np.arange(0, 2**32, 997, dtype=np.uint64).astype(np.uint32)
    powers = np.arange(512, dtype=np.int64)[:, None] << 23
    yield ((powers + np.arange(-64, 64)) % 2**32).ravel().astype(np.uint32)


@pytest.mark.parametrize("name", NAMES)
def test_float32(name, request):
    for bits in patterns(request.config.getoption("exhaustive")):
        check(name, bits.view(np.float32), ELEMENTARY_ULP[name])


@pytest.mark.parametrize("name", NAMES)
def test_float32_where_it_is_used(name):
    """Densely: exp2 of scores below the maximum, log of sums of weights, tanh about its bend."""
    low, high = {"exp2": (-130, 2), "log": (0.25, 4096), "tanh": (-12, 12)}[name]
    check(name, np.linspace(low, high, 3_000_001, dtype=np.float32), ELEMENTARY_ULP[name])


@pytest.mark.parametrize("name", NAMES)
def test_float64(name):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**64, 400_000, dtype=np.uint64)
    powers = np.arange(4096, dtype=np.uint64)[:, None] << np.uint64(52)
    around = (powers + np.arange(-32, 32).astype(np.uint64)).ravel()
    low, high = {"exp2": (-1080, 30), "log": (0.25, 1e6), "tanh": (-25, 25)}[name]
    used = rng.uniform(low, high, 400_000)
    for x in (bits.view(np.float64), around.view(np.float64), used, used / 1e3):
        check(name, x, ELEMENTARY_ULP_FLOAT64[name])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_exact_points(kind):
    def value(name: str, x: float) -> float:
        return float(_core.elementary(name, np.array([x], kind))[0])

    assert value("exp2", 0.0) == 1
    assert value("exp2", -0.0) == 1
    assert [value("exp2", n) for n in range(-100, 101, 10)] == [
        2.0**n for n in range(-100, 101, 10)
    ]
    assert value("exp2", -np.inf) == 0
    assert value("exp2", np.inf) == np.inf
    assert value("log", 1.0) == 0
    assert value("log", 0.0) == -np.inf
    assert value("log", np.inf) == np.inf
    assert np.isnan(value("log", -1.0))
    assert value("tanh", 0.0) == 0
    assert np.signbit(value("tanh", -0.0))
    assert value("tanh", 100.0) == 1
    assert value("tanh", -np.inf) == -1
    for name in NAMES:
        assert np.isnan(value(name, np.nan))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_never_beyond_the_limit(kind):
    """tanh stays within 1, exp2 of a negative number within 1, and both rise."""
    x = np.linspace(-40, 40, 200_001, dtype=kind)
    assert np.abs(_core.elementary("tanh", x)).max() <= 1
    assert _core.elementary("exp2", x[x <= 0]).max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_lengths_that_are_no_multiple_of_a_vector(name, kind):
    x = np.linspace(0.1, 9, 70, dtype=kind)
    whole = _core.elementary(name, x)
    for length in range(71):
        np.testing.assert_array_equal(
            _core.elementary(name, x[:length].copy()), whole[:length], strict=True
        )


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="sinh"):
        _core.elementary("sinh", np.zeros(3, np.float32))
