"""The examples, by `python -m foveate demo` and as scripts: what they print, draw and return."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import alignment
import foveate as fv
import numpy as np
import pytest
import regression
import reinforce
from foveate import reference
from foveate._cli import main
from foveate._runtime.paths import EXAMPLES

from promise import FLOOR_ULP, Promise

SOURCES = Path(__file__).resolve().parents[2] / "examples"

# --- as scripts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "regression", "alignment", "reinforce", "karate_club"])
def test_a_script_runs(name, tmp_path):
    pytest.importorskip("sklearn" if name == "digits" else "numpy")
    command = [sys.executable, "-W", "error", str(SOURCES / f"{name}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "agrees" in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_is_installed_are_the_sources():
    sources = {path.name: path.read_text() for path in SOURCES.glob("*.py")}
    assert sources
    assert {path.name: path.read_text() for path in EXAMPLES.glob("*.py")} == sources


@pytest.mark.parametrize("name", ["digits", "regression", "alignment", "reinforce"])
def test_what_is_found_comes_first_in_80_columns(capsys, name):
    pytest.importorskip("sklearn" if name == "digits" else "numpy")
    assert main(["demo", name, "--no-picture"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "\r" not in printed
    found, how, explained = printed.partition("\nHow: ")
    assert how
    assert "agrees" in found
    assert explained.count("\n") >= 3


# --- the regression demo --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_regression_demo(capsys, seed):
    assert main(["demo", "regression", "--no-picture", "--seed", str(seed)]) == 0
    printed = capsys.readouterr().out
    assert "agrees" in printed
    assert "digits" not in printed
    errors = [float(line.split()[-2]) for line in printed.splitlines() if _is_of_a_pooling(line)]
    average, by_one, learned = errors
    (told,) = (line for line in printed.splitlines() if line.startswith("  w learned in"))
    assert "from 1 to " in told
    # The curve spans more than three times its noise, and w = 1 blurs it over 2 of 5 units.
    assert learned < by_one < average


def _is_of_a_pooling(line: str) -> bool:
    return line.startswith(("  average pooling", "  Gaussian kernel"))


def test_regression_demo_is_the_textbook_problem():
    points = regression.make_points(3)
    assert all(array.shape == (50,) and array.dtype == np.float32 for array in points)
    assert (np.diff(points.key) >= 0).all()
    np.testing.assert_allclose(points.query, np.arange(50) / 10, rtol=1e-6)  # rounding to float32
    noise = points.value - (2 * np.sin(points.key) + points.key**0.8)
    # The deviation of 50 normal deviates of 0.5: within 5 of its own deviations, 0.5 / sqrt(100).
    assert 0.25 < noise.std() < 0.75


@pytest.mark.parametrize("seed", range(4))
def test_learned_w_has_the_least_left_out_error(seed):
    """By the definition, in float64, over a grid."""
    points = regression.make_points(seed)
    key, value, _ = (array.astype(np.float64) for array in points)

    def error(w: float) -> float:
        predicted = reference.kernel_regression(key, key, value, w=w, leave_one_out=True)
        return float(np.mean((predicted - value) ** 2))

    least = min(error(w) for w in np.geomspace(0.1, 100, 500))
    descent = regression.learn(points)
    assert descent.w[0] == 1
    assert error(descent.w[-1]) <= least * 1.001  # what the descent says of itself
    # Errors of float32 predictions of up to 5, a few ulp each.
    np.testing.assert_allclose(descent.errors, [error(w) for w in descent.w], rtol=1e-5)


def test_slope_of_the_left_out_error():
    """Central differences in float64, whose error is (1e-4)^2, against float32."""
    points = regression.make_points(1)
    exact = regression.Points(*(array.astype(np.float64) for array in points))
    for w in (0.3, 1.0, 4.0, 30.0):
        up, down = (regression.left_out_error(exact, w + step) for step in (1e-4, -1e-4))
        _, slope = regression.error_and_slope(points, w)
        assert abs(slope - (up - down) / 2e-4) < 1e-5


def test_weights_of_the_poolings_give_their_curves():
    points = regression.make_points(0)
    for pooling in regression.poolings(points, 5.0):
        assert pooling.weights.shape == (50, 50)
        # Weights that sum to 1, rounded to float32, times values below 8: 50 * 8 * 2^-24.
        np.testing.assert_allclose(pooling.weights @ points.value, pooling.curve, atol=2.4e-5)


def test_demo_draws_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["demo", "regression", "--output", str(tmp_path / "new" / "pictures")]) == 0
    (picture,) = (tmp_path / "new" / "pictures").iterdir()
    assert picture.name == "regression.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert str(picture) in printed
    assert printed.splitlines()[-1].endswith(f"in {picture.parent.resolve()}")


def test_pictures_have_the_format_that_is_asked_for(tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["demo", "regression", "--output", str(tmp_path), "--format", "svg"]) == 0
    assert (tmp_path / "regression.svg").read_text().startswith("<?xml")


def test_demo_fails_where_an_answer_is_wrong(capsys, monkeypatch):
    right = fv.kernel_regression

    def wrong(*args, **keywords):
        return right(*args, **keywords) * np.float32(1.00001)

    monkeypatch.setattr(fv, "kernel_regression", wrong)
    assert main(["demo", "regression", "--no-picture"]) == 1
    assert "DIFFERS" in capsys.readouterr().out


# --- the alignment demo ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_alignment_demo(capsys, seed):
    assert main(["demo", "alignment", "--no-picture", "--seed", str(seed)]) == 0
    printed = capsys.readouterr().out
    assert "agrees" in printed
    lines = [
        line for line in printed.splitlines() if line.startswith(("  soft", "  hard", "  loc"))
    ]
    soft, hard, local = (float(line.split()[-1].rstrip("%")) / 100 for line in lines)
    # 7,200 draws of one distribution: their share is within 5 deviations, 5 * 0.5 / sqrt(7200).
    assert abs(hard - soft) < 0.03
    # The sentence has 9 t and 6 a: what looks alike is mostly elsewhere, and seldom in a window.
    assert soft < 0.6 < local


def test_alignment_demo_draws_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["demo", "alignment", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_alignment_demo_fails_where_draws_are_not_those_of_the_reference(monkeypatch):
    right = fv.hard_attention

    def wrong(*args, **keywords):
        return right(*args, **{**keywords, "rng": 99})

    monkeypatch.setattr(fv, "hard_attention", wrong)
    assert main(["demo", "alignment", "--no-picture"]) == 1


def test_centers_of_the_alignment_run_from_end_to_end():
    speech = alignment.make_speech(3)
    centers = alignment.centers_of(speech)
    letters, frames = len(alignment.SENTENCE), len(speech.owner)
    even = (np.arange(letters) + 0.5) / letters * (frames - 1)
    # tanh of up to 0.05 * 4.3 in place of its argument: 1.5% of a logit that moves a quarter of it.
    np.testing.assert_allclose(centers, even, atol=0.015 * 4.3 * 0.25 * frames)


# --- the demo of REINFORCE ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_reinforce_demo(capsys, seed):
    assert main(["demo", "reinforce", "--no-picture", "--seed", str(seed)]) == 0
    printed = capsys.readouterr().out
    assert "agrees" in printed
    lines = [x for x in printed.splitlines() if x.startswith(("  hard, ", "  soft "))]
    shares = np.array([[float(x.rstrip("%")) for x in line.split()[-4:]] for line in lines])
    no_baseline, moving, leave_one_out, soft = shares
    # One of 16 keys by chance, and then most of the weight on the right one.
    np.testing.assert_array_equal(shares[:, 0], 6.2)
    assert (shares[1:, -1] > 85).all()
    # After 50 of 300 steps a baseline shows most.
    assert no_baseline[1] + 15 < min(moving[1], leave_one_out[1])
    assert no_baseline[1] < soft[1]


def test_reinforce_demo_draws_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["demo", "reinforce", "--output", str(tmp_path)]) == 0
    assert (tmp_path / "reinforce.png").read_bytes().startswith(b"\x89PNG")


def test_reinforce_demo_fails_where_the_draws_are_not_those_of_the_reference(monkeypatch):
    right = fv.hard_attention_vjp

    def wrong(*args, **keywords):
        return right(*args, **{**keywords, "rng": 99})

    monkeypatch.setattr(fv, "hard_attention_vjp", wrong)
    assert main(["demo", "reinforce", "--no-picture"]) == 1


def test_reinforce_demo_counts_what_it_climbs_exactly():
    """The bound of a w of 0 is that of a look by chance; log p(y) that of an even mixture."""
    flat = np.zeros((reinforce.SIZE, reinforce.SIZE), np.float32)
    hard, _ = reinforce.learn("hard", lambda *_: flat, 3)
    soft, _ = reinforce.learn("soft", lambda *_: flat, 3)
    keys, other = reinforce.KEYS, reinforce.OTHER
    bound = np.log(reinforce.SURE) / keys + np.log(other) * (keys - 1) / keys
    # Weights of float32 that are exactly 1 / 16.
    np.testing.assert_allclose(hard.objective, bound, rtol=1e-12)
    np.testing.assert_allclose(soft.objective, np.log(1 / keys), rtol=1e-12)


# --- the demo of generation -----------------------------------------------------------------------


def test_generate_demo(capsys, monkeypatch, transformers):
    del transformers  # that fixture imports it, or skips
    chat = importlib.import_module("generate")
    monkeypatch.setattr(chat, "TURNS", 2)
    monkeypatch.setattr(chat, "ASKED", 200)  # together more than the window
    monkeypatch.setattr(chat, "ANSWERED", 3)
    assert main(["demo", "generate", "--no-picture"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "agrees" in printed
    lines = [x for x in printed.splitlines() if x.startswith(("  foveate", "  transformers"))]
    first, last = np.array([[float(x) for x in line.split()[-2:]] for line in lines]).T
    window, int8, int4, dynamic = range(4)
    assert last[window] < 2 * first[window]
    # a row of 32 numbers in float32 has 128 bytes, in int8 36 and in int4 20; a page is 64 rows
    assert 36 / 128 <= last[int8] / last[dynamic] < 36 / 128 * (406 + 63) / 406 * 1.01
    assert last[int4] / last[int8] == pytest.approx(20 / 36, rel=0.01)


def test_generate_demo_fails_where_an_answer_is_wrong(monkeypatch):
    chat = importlib.import_module("generate")
    right = fv.quantize
    monkeypatch.setattr(fv, "quantize", lambda x: right(x * np.float32(1.001)))
    assert not chat.check(0).kept


# --- the promise ----------------------------------------------------------------------------------


def test_promise():
    exact = np.array([1.0, 2.0])
    answer = np.array([1.0, 2.0], np.float32)
    floor = FLOOR_ULP * 2 * 2.0**-23  # of the largest number, 2
    assert Promise.of(answer, plain=answer, exact=exact) == (0.0, 0.0, floor)
    off = answer + np.float32(3e-4)
    assert Promise.of(off, plain=answer + np.float32(2e-4), exact=exact).kept
    assert not Promise.of(off, plain=answer + np.float32(1e-4), exact=exact).kept
    assert not Promise.of(answer * np.float32("nan"), plain=answer, exact=exact).kept
