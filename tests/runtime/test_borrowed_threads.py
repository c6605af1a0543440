"""Threads that another library lends: here an OpenMP library, as that of torch is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import foveate as fv
import numpy as np
import openmp_runtime
import pytest
from processes import needs_fork, needs_tasks, output_of, wait_for
from strategies import normal, problem

LENT = "GOMP_parallel"


@pytest.fixture
def parallel() -> Iterator[int]:
    """The function that another library would lend."""
    path = openmp_runtime.load()
    found = fv._core.find_function(path, LENT) if path else 0
    if not found:
        pytest.skip("there is no GOMP_parallel")
    yield found
    fv._core.borrow_threads(0, 0)


def test_what_is_no_library_lends_nothing(tmp_path):
    assert fv._core.find_function("", LENT) in (0, fv._core.find_function(fv._core.__file__, LENT))
    assert fv._core.find_function(str(tmp_path / "none.so"), LENT) == 0
    with pytest.raises(TypeError):
        fv._core.find_function(None, LENT)
    for wrong in ((0, 1.5), ("0", 1), (0, 2**40), (-1, 1)):
        with pytest.raises(TypeError):
            fv._core.borrow_threads(*wrong)


def test_the_count_that_is_borrowed_goes_first(parallel):
    before = fv.get_num_threads()
    fv.set_num_threads(5)
    for count in (1, 3, 7):
        fv._core.borrow_threads(parallel, count)
        assert fv.get_num_threads() == count
    fv._core.borrow_threads(0, 2)  # threads of our own, so many
    assert fv.get_num_threads() == 2
    fv._core.borrow_threads(parallel, 0)
    assert fv.get_num_threads() == 5
    fv._core.borrow_threads(parallel, -3)
    assert fv.get_num_threads() == 5
    fv.set_num_threads(0)
    fv._core.borrow_threads(0, 0)
    assert fv.get_num_threads() == before


def test_only_the_thread_that_asked_borrows(parallel):
    fv.set_num_threads(5)
    fv._core.borrow_threads(parallel, 3)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fv.get_num_threads).result() == 5
    assert fv.get_num_threads() == 3


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("lent", [False, True], ids=["a count", "threads"])
def test_borrowed_threads_compute_the_same_bits(lent, count, parallel):
    arrays = problem(150, 300, lead=(6,))
    decode = problem(1, 20_000, lead=(2,))
    x = normal(3, (500,), np.float32)

    def everything() -> list[np.ndarray]:
        output, pullback = fv.attention_vjp(*arrays, causal=True, offset=0)
        drawn, pull_choices = fv.hard_attention_vjp(*arrays, rng=1, size=2)
        return [
            output,
            *pullback(output)[:3],
            *drawn,
            *pull_choices(drawn.output, drawn.log_prob)[:3],
            fv.attention(*decode),
            fv.attention_weights(*arrays[:2]),
            fv.local_attention(*arrays, half_width=5, sigma=2.0),
            fv.kernel_regression(x, x, x, w=3.0),
            fv.multinoulli(np.abs(arrays[0]), 3, rng=2),
        ]

    fv.set_num_threads(1)
    wanted = everything()
    fv._core.borrow_threads(parallel if lent else 0, count)
    for got, expected in zip(everything(), wanted, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_errors_of_borrowed_calls(parallel):
    q, k, v = problem(40, 60, lead=(4,))
    fv._core.borrow_threads(parallel, 3)
    for _ in range(5):
        with pytest.raises(ValueError, match="key_lengths"):
            fv.attention(q, k, v, key_lengths=[1, 2, 3, 61])
        assert fv.attention(q, k, v).shape == q.shape


def test_many_python_threads_borrow_at_once(parallel):
    problems = [problem(20 + n, 150, lead=(3,), seed=n) for n in range(8)]
    expected = [fv.attention(*arrays) for arrays in problems]
    start = threading.Barrier(8)

    def work(n: int) -> bool:
        start.wait()
        for count in (2, 3, 1, 4):
            fv._core.borrow_threads(parallel, count)
            if not np.array_equal(fv.attention(*problems[n]), expected[n]):
                return False
        fv._core.borrow_threads(0, 0)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@needs_tasks
@pytest.mark.usefixtures("parallel")
def test_no_thread_is_started_beside_borrowed_ones():
    code = f"""
        import ctypes
        import os
        import numpy as np
        import foveate as fv

        def tasks():
            return set(os.listdir("/proc/self/task"))

        x = np.ones((8, 300, 32), np.float32)
        ctypes.CDLL({openmp_runtime.load()!r})
        parallel = fv._core.find_function({openmp_runtime.load()!r}, "GOMP_parallel")
        begin = tasks()
        fv._core.borrow_threads(parallel, 1)
        fv.attention(x, x, x)
        assert tasks() == begin
        fv._core.borrow_threads(parallel, 3)
        fv.attention(x, x, x)
        lent = tasks()
        assert len(lent - begin) == 2  # of the OpenMP library
        for _ in range(3):
            fv.attention(x, x, x)
        assert tasks() == lent
        fv._core.borrow_threads(0, 0)
        fv.set_threading("pool")
        fv.set_num_threads(2)
        fv.attention(x, x, x)
        assert len(tasks() - lent) == 1  # a helper of our own
    """
    output_of(code)


@needs_fork
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_child_borrows_nothing(parallel):
    """The threads that were lent stay with the parent."""
    arrays = problem(300, 300, lead=(8,))
    fv._core.borrow_threads(parallel, 4)
    expected = fv.attention(*arrays)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            alone = fv.get_num_threads() == 1
            code = 0 if alone and np.array_equal(fv.attention(*arrays), expected) else 2
        finally:
            os._exit(code)
    assert wait_for(child) == 0
