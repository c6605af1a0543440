"""Living in a process: threads, fork, environment, memory, subnormals."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import foveate as fv
import numpy as np
import openmp_runtime
import pytest
from processes import (
    needs_fork,
    needs_peak_memory,
    needs_tasks,
    output_of,
    python,
    wait_for,
)
from strategies import normal, problem

OPENMP = openmp_runtime.load()
pytestmark = [pytest.mark.python, pytest.mark.threads, pytest.mark.any_isa]

# --- fork -----------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
@pytest.mark.parametrize("in_a_thread", [False, True], ids=["at once", "from a fresh thread"])
def test_a_forked_child_computes(in_a_thread):
    """After a parallel call of the parent, which leaves threads that the child does not have."""
    arrays = problem(300, 300, lead=(8,))
    with fv.num_threads(4):
        expected = fv.attention(*arrays)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                answers = []
                if in_a_thread:
                    thread = threading.Thread(target=lambda: answers.append(fv.attention(*arrays)))
                    thread.start()
                    thread.join()
                else:
                    answers.append(fv.attention(*arrays))
                code = 0 if np.array_equal(answers[0], expected) else 2
            finally:
                os._exit(code)
        assert wait_for(child) == 0
        np.testing.assert_array_equal(fv.attention(*arrays), expected)


# --- threads --------------------------------------------------------------------------------------


def test_many_python_threads_at_once():
    problems = [problem(20 + n, 150, lead=(3,), seed=n) for n in range(24)]
    expected = [fv.attention(*arrays) for arrays in problems]
    start = threading.Barrier(8)

    def work(first: int) -> bool:
        start.wait()
        return all(
            np.array_equal(fv.attention(*problems[n]), expected[n])
            for _ in range(5)
            for n in range(first, 24, 8)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def longest_pause(q, k, v) -> float:
    """Return how long another thread stood still while a call computed, as a share of the call."""
    ticks = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        begin = time.monotonic()
        with fv.num_threads(1):
            fv.attention(q, k, v)
        end = time.monotonic()
    finally:
        done.set()
        thread.join()
    within = [begin, *(t for t in ticks if begin < t < end), end]
    return max(np.diff(within)) / (end - begin)


def test_the_gil_is_released():
    """Another thread goes on while a call of about a tenth of a second computes.

    With the GIL kept there would be one pause, of the whole call, each time; released, the longest
    is 0.03 of a call. A busy machine may make a pause too, so the best of a few calls counts.
    """
    arrays = problem(2048, 2048, lead=(8,), size=64)
    assert min(longest_pause(*arrays) for _ in range(5)) < 0.25


def test_set_and_get():
    default = fv.get_num_threads()
    assert default >= 1
    fv.set_num_threads(3)
    assert fv.get_num_threads() == 3
    with fv.num_threads(1):
        assert fv.get_num_threads() == 1
        with fv.num_threads(2):
            assert fv.get_num_threads() == 2
        assert fv.get_num_threads() == 1
    assert fv.get_num_threads() == 3
    with pytest.raises(KeyError), fv.num_threads(7):
        raise KeyError
    assert fv.get_num_threads() == 3
    fv.set_num_threads(0)
    assert fv.get_num_threads() == default


COUNT = "import foveate as fv; print(fv.get_num_threads())"


def test_environment_of_threads():
    assert output_of(COUNT, FOVEATE_NUM_THREADS="3") == "3"
    assert output_of(COUNT, OMP_NUM_THREADS="1") == "1"
    assert output_of(COUNT, OMP_NUM_THREADS="5") == "5"
    assert output_of(COUNT, OMP_NUM_THREADS="5", FOVEATE_NUM_THREADS="2") == "2"
    set_them = "import foveate as fv; fv.set_num_threads(4); print(fv.get_num_threads())"
    assert output_of(set_them, OMP_NUM_THREADS="1", FOVEATE_NUM_THREADS="2") == "4"


MOST_THREADS = 1024


def test_threads_are_bounded():
    """A number that nobody means is refused by name, and starts nothing."""
    for n in (MOST_THREADS + 1, 2**31 - 1, 2**31, 10**30):
        with pytest.raises(ValueError, match=rf"^n: got {n}, wanted .* up to {MOST_THREADS}"):
            fv.set_num_threads(n)
        with pytest.raises(ValueError, match=rf"^n: got {n}, wanted .* up to {MOST_THREADS}"):
            fv.num_threads(n)
    assert fv.show_config("dicts")["threads"]["at most"] == MOST_THREADS
    try:
        fv._core.set_num_threads(2**31 - 1)  # the C interface takes what it can
        assert fv.get_num_threads() == MOST_THREADS
    finally:
        fv.set_num_threads(0)


@needs_tasks
def test_a_call_starts_no_more_threads_than_it_has_tasks_for():
    code = """
        import os
        import foveate as fv, numpy as np
        fv._core.set_num_threads(2**31 - 1)
        x = np.ones((2000, 64, 8), np.float32)
        alone = fv.attention(x[:1], x[:1], x[:1])
        assert np.array_equal(fv.attention(x, x, x)[7:8], alone)
        assert len(os.listdir("/proc/self/task")) < 1500
    """
    output_of(code)


@pytest.mark.parametrize(
    "text", ["1e3", "two", "3 threads", "-2", "0x4", "2.0", "99999999999999999999"]
)
def test_an_environment_that_is_no_number_is_told_once(text):
    code = """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import foveate as fv
            count = fv.get_num_threads()
            import foveate.reference
        print(len(caught), caught[0].category.__name__, str(caught[0].message).split(":")[0], count)
    """
    count = MOST_THREADS if text.startswith("9") else 5
    wanted = f"1 RuntimeWarning FOVEATE_NUM_THREADS {count}"
    assert output_of(code, FOVEATE_NUM_THREADS=text, OMP_NUM_THREADS="5") == wanted


@pytest.mark.parametrize("text", ["", "0", "3", " 3", "3 ", "+3"])
def test_an_environment_that_is_a_number_is_no_warning(text):
    wanted = "3" if "3" in text else "5"
    assert output_of(COUNT, FOVEATE_NUM_THREADS=text, OMP_NUM_THREADS="5") == wanted


def test_the_thread_limit_of_openmp_is_heeded():
    for set_it in ("", "fv.set_num_threads(6); "):
        code = f"import foveate as fv; {set_it}print(fv.get_num_threads())"
        assert output_of(code, OMP_THREAD_LIMIT="2", OMP_NUM_THREADS="4") == "2"
        assert output_of(code, OMP_THREAD_LIMIT="2", FOVEATE_NUM_THREADS="4") == "2"


def test_threadpoolctl_is_honored():
    """By the limits of the process's runtime of OpenMP, which is all that it knows."""
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    if not OPENMP:
        pytest.skip("no runtime of OpenMP is installed")
    code = f"""
        import ctypes
        ctypes.CDLL({OPENMP!r})
        import foveate as fv, threadpoolctl
        before = fv.get_num_threads()
        with threadpoolctl.threadpool_limits(1):
            print(fv.get_num_threads())
        with threadpoolctl.threadpool_limits(3, user_api="openmp"):
            print(fv.get_num_threads())
        print(fv.get_num_threads() == before)
    """
    assert output_of(code).split() == ["1", "3", "True"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_helpers_keep_to_the_cpus_of_the_caller():
    """Threads stay where the caller may run, off its own CPU; the caller's choice is its own."""
    code = """
        import os
        import foveate as fv, numpy as np

        def others():
            tasks = {int(task) for task in os.listdir("/proc/self/task")}
            return tasks - before

        allowed = sorted(os.sched_getaffinity(0))[:2]
        os.sched_setaffinity(0, allowed)
        x = np.random.default_rng(0).standard_normal((8, 256, 64))
        fv.set_threading("pool")
        fv.set_num_threads(1)
        before = {int(task) for task in os.listdir("/proc/self/task")}
        alone = fv.attention(x, x, x)
        fv.set_num_threads(2)
        assert np.array_equal(fv.attention(x, x, x), alone)
        assert os.sched_getaffinity(0) == set(allowed)
        (helper,) = others()
        seen = os.sched_getaffinity(helper)
        assert seen and seen <= set(allowed) and len(seen) == max(1, len(allowed) - 1), seen
        os.sched_setaffinity(0, allowed[:1])  # one CPU for all: no thread can keep off it
        for task in others():
            os.sched_setaffinity(task, allowed[:1])
        assert np.array_equal(fv.attention(x, x, x), alone)
    """
    output_of(code)


def test_the_threads_of_others_are_not_touched():
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    code = """
        import numpy as np, threadpoolctl
        def counts():
            return {p["filepath"]: p["num_threads"] for p in threadpoolctl.threadpool_info()}
        before = counts()
        import foveate as fv
        x = np.ones((8, 300, 32), np.float32)
        fv.set_num_threads(3)
        fv.attention(x, x, x)
        with fv.num_threads(1):
            fv.attention(x, x, x)
        after = counts()
        import os
        own = {path: n for path, n in after.items() if path not in before}
        assert {path: after[path] for path in before} == before
        assert all(n != 3 or os.cpu_count() == 3 for n in own.values()), own
    """
    output_of(code)


# --- the process as it was ------------------------------------------------------------------------


def test_subnormals_survive_the_import():
    """-ffast-math, even at link time only, would set flush-to-zero for the whole process."""
    code = """
        import numpy as np
        import foveate as fv
        x = np.ones((8, 300, 32), np.float32)
        fv.attention(x, x, x)
        for kind in (np.float32, np.float64):
            tiny = np.array([np.finfo(kind).smallest_subnormal])
            assert (tiny * np.array([4], kind) / np.array([4], kind) == tiny).all()
            assert (np.array([np.finfo(kind).tiny]) / np.array([2], kind)).all()
        import threading
        seen = []
        thread = threading.Thread(target=lambda: seen.append(float(np.float32(1e-40) * 1)))
        thread.start(); thread.join()
        assert seen[0] != 0
    """
    output_of(code)


def test_import_is_quiet_and_light():
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import foveate
        heavy = {"scipy", "torch", "matplotlib", "sklearn", "rich", "jax", "onnx", "onnxruntime"}
        heavy |= {"transformers"}
        print(sorted(heavy & (set(sys.modules) - before)))
    """
    assert output_of(code) == "[]"


@needs_peak_memory
@pytest.mark.parametrize("threads", ["1", "2"])
def test_extra_memory_of_a_long_call(threads):
    """O(tile x threads): the scores alone would be 16 GB. Windowed, so that it is quick."""
    code = """
        import resource
        import numpy as np
        import foveate as fv
        x = np.ones((1, 1, 65536, 64), np.float32)
        out = np.ones_like(x)
        small = x[:, :, :512]
        for _ in range(2):  # code, threads and their stacks
            fv.attention(small, small, small, window=128)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fv.attention(x, x, x, window=128, out=out)
        fv.attention(x[:, :, -1:], x, x, out=out[:, :, :1])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    assert int(output_of(code, FOVEATE_NUM_THREADS=threads)) < 16 * 1024  # KiB


@needs_peak_memory
def test_no_memory_is_lost():
    """Many calls, refused ones too, and objects that come and go."""
    code = """
        import resource
        import numpy as np
        import foveate as fv
        x = np.ones((2, 100, 64), np.float32)
        def some(count):
            for _ in range(count):
                fv.attention(x, x, x, return_lse=True, mask=np.ones((100, 100), bool))
                fv.attention_weights(x, x, key_lengths=np.array([3, 4]))
                try:
                    fv.attention(x, x, x, key_lengths=[1, 101])
                except ValueError:
                    pass
        some(100)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some(1000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    # 1000 outputs that were kept would be 50 MB.
    assert int(output_of(code)) < 4 * 1024


def test_references_are_counted():
    x = normal(0, (3, 40, 8), np.float32)
    mask, lengths = np.ones((40, 40), bool), np.array([3, 40, 2])
    everything = [x, mask, lengths, np.float32, x.dtype]
    before = [sys.getrefcount(y) for y in everything]
    for _ in range(20):
        fv.attention(x, x, x, mask=mask, key_lengths=lengths, return_lse=True)
        fv.attention_weights(x, x, mask=mask)
        with pytest.raises(ValueError):
            fv.attention(x, x, x, mask=mask[:3])
    after = [sys.getrefcount(y) for y in everything]
    # Others in the process may take or drop a reference to a dtype; a leak is of 20 or more.
    assert max(b - a for a, b in zip(before, after, strict=True)) < 20


# --- ISA ------------------------------------------------------------------------------------------


def test_the_forced_isa_is_active():
    forced = os.environ.get("FOVEATE_ISA")
    names = fv._core.isa_names()
    # a variant of an instruction set goes by its features
    assert forced in (None, "", fv._core.isa_selected(), fv._core.isa_features())
    assert forced or fv._core.isa_selected() == names[0]
    assert fv.show_config("dicts")["instruction set"]["in use"] == fv._core.isa_selected()


def test_each_isa_can_be_forced():
    for isa in fv._core.isa_names():
        code = "from foveate import _core; print(_core.isa_selected())"
        assert output_of(code, FOVEATE_ISA=isa) == isa


@pytest.mark.parametrize("name", ["avx3", "AVX2 ", "none", "sse"])
def test_an_unknown_isa_is_refused_at_import(name):
    done = python("import foveate", FOVEATE_ISA=name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "FOVEATE_ISA" in last
    assert repr(name) in last
    assert all(isa in last for isa in fv._core.isa_names())


def test_an_empty_isa_is_none():
    assert (
        output_of("from foveate import _core; print(_core.isa_selected())", FOVEATE_ISA="")
        == (fv._core.isa_names()[0])
    )


def test_show_config(capsys):
    assert fv.show_config() is None
    text = capsys.readouterr().out
    assert fv.__version__ in text
    assert fv._core.isa_selected() in text
    facts = fv.show_config("dicts")
    assert facts["instruction set"]["available"] == fv._core.isa_names()
    assert facts["threads"]["in use"] == fv.get_num_threads()
    with pytest.raises(ValueError, match="mode"):
        fv.show_config("json")
