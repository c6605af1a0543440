"""The API for Cython and C: users in cython_consumer, compiled against the installed package.

They loop over heads without the GIL, and are held against `fv.attention` bit for bit: the kernels
are the same, those of foveate._core.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import foveate as fv
import numpy as np
import pytest
from extension_build import build, load, missing
from foveate import _core, cython_attention, reference
from strategies import normal, problem
from tolerances import check_attention, check_weights, eps

pytestmark = pytest.mark.python

SOURCES = Path(__file__).parent / "cython_consumer"
OK, TYPE_ERROR, VALUE_ERROR, NO_MEMORY, INTERRUPTED = range(5)  # fv_status
KEY = np.array([7, 11], np.uint64)

# Of a log_prob, in ulp of the largest logit: the score is 12 products, each of which and each of
# whose sums is rounded by half an ulp; one for the denominator, its logarithm and the difference.
LOG_PROB_ULP = 15

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def example() -> str:
    """heads.pyx, out of the docstring of the module."""
    text = cython_attention.__doc__
    assert text
    after = text.split("heads.pyx, which")[1].split("\n\n", 1)[1]
    return textwrap.dedent(after.split("\nsetup.py, which")[0])


@pytest.fixture(scope="module")
def consumers(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The compiled modules."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("consumers") / "sources"
    shutil.copytree(SOURCES, folder)
    (folder / "heads.pyx").write_text(example())
    build(folder)
    names = ("consumer", "heads", "c_consumer")
    return SimpleNamespace(**{name: load(folder, name) for name in names})


@pytest.fixture(scope="module")
def user(consumers) -> Any:
    return consumers.consumer


def scale_of(query: np.ndarray) -> float:
    return 1 / np.sqrt(float(query.shape[-1]))


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers, with other strides between heads and rows."""
    wide = np.full((*x.shape[:-1], x.shape[-1] + 3), np.nan, x.dtype)
    wide[..., :-3] = x
    return {
        "C order": x,
        "rows apart": wide[..., :-3],
        "backwards": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    }


# --- matrices -------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, 70), (33, 33), (40, 113)])
def test_attention_has_the_bits_of_the_package(user, dtype, causal, queries, keys):
    q, k, v = problem(queries, keys, lead=(3,), size=20, value_size=17, dtype=dtype)
    keywords = {"causal": True, "offset": "end"} if causal else {}
    expected, expected_lse = fv.attention(q, k, v, return_lse=True, **keywords)
    check_attention(q, k, v, **keywords)  # so that it is the reference's too
    lse = np.empty((3, queries), dtype)
    for layout in layouts(q):
        inputs = [layouts(x)[layout] for x in (q, k, v)]
        out = layouts(np.zeros_like(expected))[layout]
        user.heads_attention(*inputs, scale_of(q), causal, out, lse)
        np.testing.assert_array_equal(out, expected, err_msg=layout)
        np.testing.assert_array_equal(lse, expected_lse, err_msg=layout)
        out[...] = 0
        user.heads_attention(*inputs, scale_of(q), causal, out)
        np.testing.assert_array_equal(out, expected, err_msg=f"{layout}, no lse")


@both_dtypes
@pytest.mark.parametrize("causal", [False, True])
def test_weights_have_the_bits_of_the_package(user, dtype, causal):
    q, k, _ = problem(33, 40, lead=(3,), size=20, dtype=dtype)
    keywords = {"causal": True, "offset": "end"} if causal else {}
    expected = check_weights(q, k, **keywords)
    for layout in layouts(q):
        weights = layouts(np.zeros_like(expected))[layout]
        user.heads_weights(layouts(q)[layout], layouts(k)[layout], scale_of(q), causal, weights)
        np.testing.assert_array_equal(weights, expected, err_msg=layout)


def test_a_row_that_stands_for_all(user):
    """A stride of 0: one key, seen five times."""
    q, k, v = problem(9, 5, lead=(1,), size=8)
    same = np.broadcast_to(k[:, :1], k.shape)
    out = np.zeros((1, 9, 8), np.float32)
    user.heads_attention(q, same, v, 1.0, False, out)
    np.testing.assert_array_equal(out, fv.attention(q, same, v, score=fv.ScaledDot(1.0)))


@both_dtypes
@pytest.mark.parametrize("causal", [False, True])
def test_hard_attention_samples_keys_that_are_seen(user, dtype, causal):
    q, k, v = problem(30, 41, lead=(3,), size=12, value_size=5, dtype=dtype)
    keywords = {"causal": True, "offset": "end"} if causal else {}
    out, index, log_prob = hard(user, q, k, v, causal, KEY, draws=50)
    np.testing.assert_array_equal(out, v[np.arange(3)[:, None, None], index])
    assert index.min() >= 0
    # Query i stands at key i + 11, so that it sees up to there.
    assert (index <= (np.arange(30)[:, None] + 11 if causal else 40)).all()
    assert len(np.unique(index)) > 20  # of 41 that 4500 draws can reach
    weights = reference.attention_weights(*(x.astype(np.float64) for x in (q, k)), **keywords)
    wanted = np.log(np.take_along_axis(weights, index, -1))
    np.testing.assert_allclose(log_prob, wanted, rtol=0, atol=log_prob_error(q, k))

    again = hard(user, q, k, v, causal, KEY, draws=50)
    np.testing.assert_array_equal(again[1], index)
    other = hard(user, q, k, v, causal, KEY + np.uint64(100), draws=50)
    assert (other[1] != index).any()


@both_dtypes
def test_hard_attention_takes_the_most_probable(user, dtype):
    q, k, v = problem(30, 41, lead=(3,), size=12, value_size=5, dtype=dtype)
    out, index, log_prob = hard(user, q, k, v, False, None, draws=1)
    weights = reference.attention_weights(*(x.astype(np.float64) for x in (q, k)))
    np.testing.assert_array_equal(index[..., 0], weights.argmax(-1))
    np.testing.assert_array_equal(out, v[np.arange(3)[:, None, None], index])
    error = log_prob_error(q, k)
    np.testing.assert_allclose(log_prob[..., 0], np.log(weights.max(-1)), rtol=0, atol=error)


def log_prob_error(q, k):
    largest = (np.abs(q) @ np.abs(k).swapaxes(-1, -2)).max() * scale_of(q)
    return LOG_PROB_ULP * eps(q.dtype) * largest


def hard(user, q, k, v, causal, random_key, draws):
    out = np.full((*q.shape[:2], draws, v.shape[2]), np.nan, q.dtype)
    index = np.full(out.shape[:3], -7, np.int64)
    log_prob = np.full(out.shape[:3], np.nan, q.dtype)
    user.heads_hard_attention(q, k, v, scale_of(q), causal, random_key, out, index, log_prob)
    return out, index, log_prob


@both_dtypes
@pytest.mark.parametrize("logits", [False, True])
def test_multinoulli_draws_as_often_as_p_says(user, dtype, logits):
    p = np.array([[1, 0, 3, 0, 4], [0, 0, 0, 0.5, 0]], dtype)
    wide = np.full((2, 9), 100, dtype)  # the row's stride is more than its length
    with np.errstate(divide="ignore"):
        wide[:, :5] = np.log(p) if logits else p
    draws = 40_000
    index = np.full((2, draws), -7, np.int64)
    user.draw(wide[:, :5], logits, KEY, index)
    counts = np.stack([np.bincount(row, minlength=5) for row in index])
    assert counts.shape == (2, 5)
    assert (counts[p == 0] == 0).all()
    expected = draws * p / p.sum(1, keepdims=True)
    # Six standard deviations of the binomial: one run in 10^8 goes beyond; the key is fixed.
    assert (np.abs(counts - expected) <= 6 * np.sqrt(draws) / 2).all()
    again = np.zeros_like(index)
    user.draw(wide[:, :5], logits, KEY, again)
    np.testing.assert_array_equal(again, index)


# --- the C ABI ------------------------------------------------------------------------------------


@both_dtypes
def test_the_c_abi_draws_from_what_filters_leave(user, dtype):
    p = np.random.default_rng(3).standard_normal((2, 3, 50)).astype(dtype)
    index, log_prob = np.full((2, 3, 4), -7, np.int64), np.full((2, 3, 4), np.nan, dtype)
    user.draw_filtered(p, 6, KEY, index, log_prob)
    found, logs = np.zeros_like(index), np.zeros_like(log_prob)
    fv._core.filtered_multinoulli(
        p, True, 1.0, 6, 1.0, 0.0, None, True, int(KEY[0]), int(KEY[1]), found, logs
    )
    np.testing.assert_array_equal(index, found)
    np.testing.assert_array_equal(log_prob, logs)
    assert (np.argsort(-p, -1)[..., :6, None] == index[..., None, :]).any(-2).all()


@both_dtypes
def test_the_c_abi_takes_leading_axes_a_window_and_a_length(user, dtype):
    q, k, v = problem(20, 20, lead=(4,), size=8, value_size=6, dtype=dtype)
    k, v = k[:1], v[:1]  # broadcast
    expected = fv.attention(q, k, v, window=(5, 2), key_lengths=17)
    out = np.zeros((4, 20, 6), dtype)
    assert user.window_attention(q, k, v, scale_of(q), 5, 2, 17, out) == (4, 20, 6)
    np.testing.assert_array_equal(out, expected)


@both_dtypes
def test_the_c_abi_gives_weights(user, dtype):
    q, k, _ = problem(20, 23, lead=(4,), size=8, dtype=dtype)
    weights = np.zeros((4, 20, 23), dtype)
    user.general_weights(q, k, scale_of(q), weights)
    np.testing.assert_array_equal(weights, fv.attention_weights(q, k))


@both_dtypes
def test_the_c_abi_gives_statistics(user, dtype):
    q, k, _ = problem(20, 23, lead=(4,), size=8, dtype=dtype)
    key_sum, entropy = np.zeros((4, 23, 1), dtype), np.zeros((4, 20, 1), dtype)
    user.general_statistics(q, k, scale_of(q), 3, 9, key_sum, entropy)
    expected = fv.attention_statistics(q, k, queries=slice(3, 9))
    np.testing.assert_array_equal(key_sum[..., 0], expected.key_sum)
    np.testing.assert_array_equal(entropy[..., 0], expected.entropy)
    with pytest.raises(ValueError, match=r"queries: got 3\.\.21, wanted a part of 0\.\.20"):
        user.general_statistics(q, k, scale_of(q), 3, 21, key_sum, entropy)


@both_dtypes
def test_the_c_abi_gives_gradients(user, dtype):
    q, k, v = problem(20, 23, lead=(4,), size=8, dtype=dtype)
    output, pullback = fv.attention_vjp(q, k, v)
    d_out = normal(5, output.shape, dtype)
    expected = pullback(d_out)
    out, lse = np.zeros_like(output), np.zeros((4, 20, 3))
    d_query, d_key, d_value = (np.zeros_like(x) for x in (q, k, v))
    user.general_gradients(q, k, v, scale_of(q), d_out, d_query, d_key, d_value, out, lse)
    np.testing.assert_array_equal(out, output)
    for name, got in (("query", d_query), ("key", d_key), ("value", d_value)):
        np.testing.assert_array_equal(got, getattr(expected, name), name)


def test_the_c_abi_takes_few_bits(user):
    q, k, v = problem(20, 23, lead=(4,), size=9, value_size=6)
    key, value = fv.quantize(k), fv.quantize(v, "int4")
    out = np.zeros((4, 20, 6), np.float32)
    rows = [np.zeros_like(x) for x in (key.data, key.scale, value.data, value.scale)]
    user.few_bits_attention(q, k, v, scale_of(q), *rows, out)
    for got, wanted in zip(rows, (key.data, key.scale, value.data, value.scale), strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(out, fv.attention(q, key, value))


def test_the_runtime(user):
    assert user.runtime(2) == (_core.isa_selected(), _core.isa_features(), 2, 2)
    assert fv.get_num_threads() == 2  # one and the same, whoever sets it
    user.runtime(0)


# --- errors ---------------------------------------------------------------------------------------


def test_a_refusal_is_a_status_and_a_message(user):
    assert user.refused(4, with_out=True)[0] == OK
    assert user.refused(-1, with_out=True) == (
        VALUE_ERROR,
        "query: got shape (-1, 4), wanted no negative extent",
    )
    status, message = user.refused(4, with_out=False)
    assert status == VALUE_ERROR
    assert message.startswith("out: got no data")
    assert user.refused(-1, with_out=True, with_error=False) == (VALUE_ERROR, "")


def test_a_refusal_is_raised_with_its_message(user):
    q, k, v = problem(4, 5, lead=(2,), size=8)
    out = np.zeros((2, 4, 8), np.float32)
    with pytest.raises(ValueError, match=r"^key: got "):
        user.window_attention(q, k[..., :7], v, 1.0, -1, -1, 5, out)
    with pytest.raises(ValueError, match=r"^out: got "):
        user.window_attention(q, k, v, 1.0, -1, -1, 5, out[:, :3])
    with pytest.raises(ValueError, match=r"^key_lengths: got "):
        user.window_attention(q, k, v, 1.0, -1, -1, 6, out)
    assert not out.any()


def test_hard_attention_and_draws_refuse_by_name(user):
    problem_missing, p_missing, filtered, of_gradients = user.none_given()
    assert problem_missing == of_gradients == "problem: got none, wanted a problem"
    assert p_missing == filtered == "p: got none, wanted an array"
    index = np.zeros((1, 3), np.int64)
    for bad in ([[0.0, 0.0]], [[1.0, -1.0]], [[np.nan, 1.0]], [[np.inf, 1.0]]):
        with pytest.raises(ValueError, match=r"^p: got "):
            user.draw(np.array(bad), False, KEY, index)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (TYPE_ERROR, TypeError),
        (VALUE_ERROR, ValueError),
        (NO_MEMORY, MemoryError),
        (INTERRUPTED, KeyboardInterrupt),
        (99, SystemError),
    ],
)
def test_each_status_has_its_exception(user, status, kind):
    with pytest.raises(kind) as caught:
        user.raise_for(status, b"query: got this, wanted that")
    if kind in (TypeError, ValueError, MemoryError):
        assert str(caught.value) == "query: got this, wanted that"
    with pytest.raises(kind):
        user.raise_for(status)
    assert user.raise_for(OK) == 0


# --- without the GIL ------------------------------------------------------------------------------


def test_many_python_threads_at_once(user):
    problems = [problem(65, 129, lead=(4,), size=32, seed=10 * n) for n in range(8)]

    def answer(inputs):
        out = np.zeros((4, 65, 32), np.float32)
        for _ in range(20):
            out[...] = 0
            user.heads_attention(*inputs, scale_of(inputs[0]), False, out)
        return out

    with ThreadPoolExecutor(8) as pool:
        for inputs, out in zip(problems, pool.map(answer, problems), strict=True):
            np.testing.assert_array_equal(out, fv.attention(*inputs))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers that signal are POSIX's")
def test_a_signal_stops_a_long_call(user):
    """With what its handler raised. The call would take half a second or more on one thread."""
    q, k, v = problem(16384, 16384, lead=(1,), size=64)
    out = np.zeros_like(v)

    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with fv.num_threads(1):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Alarm):
                user.heads_attention(q, k, v, 0.125, False, out)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (out[0] == 0).all(axis=-1).any()  # rows that were not reached: it did not run to its end


# --- one copy of the kernels ----------------------------------------------------------------------


@pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("nm")), reason="no binutils that read ELF"
)
def test_no_second_copy_of_the_kernels(consumers):
    """No function of the engine is in these modules, nor asked of the linker."""
    paths = [cython_attention.__file__, consumers.consumer.__file__, consumers.c_consumer.__file__]
    for path in paths:
        for options in ([], ["--dynamic"]):
            done = subprocess.run(
                ["nm", *options, path], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            names = [line.split()[-1] for line in done.stdout.splitlines()]
            found = [x for x in names if re.match(r"fv_(?!import_api$)|_ZN7foveate|GOMP_", x)]
            assert not found, f"{path}: {found}"
    # Where symbols are stripped, the size tells: the kernels alone are over a megabyte.
    assert Path(paths[0]).stat().st_size < Path(_core.__file__).stat().st_size / 3


def test_the_example_of_the_docstring(consumers):
    q, k, v = problem(30, 30, lead=(3,), size=16)
    out = np.zeros_like(v)
    consumers.heads.causal_heads(q, k, v, out)
    np.testing.assert_array_equal(out, fv.attention(q, k, v, causal=True))


def test_a_module_in_c(consumers):
    q, k, v = (normal(seed, (n, 16), np.float32) for seed, n in enumerate((9, 20, 20)))
    out = np.zeros((9, 16), np.float32)
    consumers.c_consumer.attention(q, k, v, out)
    np.testing.assert_array_equal(out, fv.attention(q, k, v, score="dot"))
    with pytest.raises(ValueError, match=r"^out: got "):
        consumers.c_consumer.attention(q, k, v, out[:8])


# --- versions -------------------------------------------------------------------------------------

# Replaces the capsule by one whose head is changed, then imports what takes it.
FORGE = """
import ctypes, importlib, sys
import foveate._core as core
name = b"foveate._core._C_API"
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
class Head(ctypes.Structure):
    _fields_ = [("major", ctypes.c_int32), ("minor", ctypes.c_int32), ("size", ctypes.c_int64),
                ("functions", ctypes.c_void_p * 10)]
head = Head.from_buffer_copy(ctypes.string_at(pointer(core._C_API, name), ctypes.sizeof(Head)))
head.{field} += {by}
core._C_API = new(ctypes.addressof(head), name, None)
sys.path.insert(0, {folder!r})
for module in {modules}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(error)
    else:
        print("imported")
"""


@pytest.mark.parametrize(
    ("field", "by", "answer"),
    [
        ("minor", 1, r"imported$"),  # functions were added at the end
        ("major", 1, r"foveate: got version 5\.\d+ of its C API, wanted 4\.\d+ or a later 4;"),
        ("minor", -1, r"foveate: got version 4\.-?\d+ of its C API, wanted 4\.\d+ or a later 4;"),
        ("size", 8, r"foveate: got an fv_problem of \d+ bytes, wanted one of \d+;"),
    ],
)
def test_another_version_is_refused(consumers, field, by, answer):
    modules = ["foveate.cython_attention", "c_consumer", "consumer"]
    folder = str(Path(consumers.consumer.__file__).parent)
    code = FORGE.format(field=field, by=by, modules=modules, folder=folder)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    assert len(answers) == len(modules)
    assert all(re.match(answer, said) for said in answers), done.stdout


def test_the_capsule_bears_its_full_name():
    """PyCapsule_Import asks for it."""
    valid = ctypes.pythonapi.PyCapsule_IsValid
    valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
    assert valid(_core._C_API, b"foveate._core._C_API") == 1
