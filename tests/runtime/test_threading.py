"""Whose threads run a call, the pool's or those of OpenMP, and how many there are by default."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import foveate as fv
import numpy as np
import openmp_runtime
import pytest
from processes import needs_fork, needs_tasks, output_of, python, wait_for
from strategies import normal, problem

pytestmark = [pytest.mark.python, pytest.mark.threads, pytest.mark.any_isa]

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's"
)
BOTH = ("pool", "openmp")


def tasks() -> int:
    """How many threads this process has."""
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.fixture
def openmp() -> str:
    """The path of a runtime, which is loaded."""
    path = openmp_runtime.load()
    if not path:
        pytest.skip("there is no OpenMP runtime")
    return path


@pytest.fixture(params=BOTH)
def executor(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    if request.param == "openmp":
        request.getfixturevalue("openmp")
    fv.set_threading(request.param)
    return request.param


# --- which ----------------------------------------------------------------------------------------


def test_set_and_get(openmp):
    for name in (*BOTH, *BOTH):
        fv.set_threading(name)
        assert fv.get_threading() == name
        facts = fv.show_config("dicts")["threads"]
        assert facts["threading"] == name
        assert any(path.endswith(openmp) for path in facts["OpenMP"])


@pytest.mark.parametrize("wrong", ["omp", "", "OpenMP", "pool ", "openmp\0"])
def test_an_unknown_name_is_refused(wrong):
    before = fv.get_threading()
    with pytest.raises(ValueError, match=r'^threading: got .*, wanted "pool" or "openmp"$'):
        fv.set_threading(wrong)
    assert fv.get_threading() == before


@pytest.mark.parametrize("wrong", [None, 2, b"pool", np.array(["pool", "openmp"])])
def test_what_is_no_name_is_refused(wrong):
    with pytest.raises(TypeError, match=r"^threading: got \w+, wanted a str"):
        fv.set_threading(wrong)


def test_the_environment_says_which_at_first():
    code = "import foveate as fv; print(fv.get_threading())"
    assert output_of(code, FOVEATE_THREADING="pool") == "pool"
    assert output_of(code, FOVEATE_THREADING="") == "pool"
    if openmp_runtime.is_linked():
        assert output_of(code, FOVEATE_THREADING="openmp") == "openmp"
    told = python("import foveate", FOVEATE_THREADING="omp")  # a warning is an error there
    assert "RuntimeWarning: FOVEATE_THREADING: got 'omp', wanted \"pool\"" in told.stderr
    quiet = """
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import foveate as fv
        print(len(caught), fv.get_threading())
    """
    assert output_of(quiet, FOVEATE_THREADING="omp") == "1 pool"


def test_a_runtime_that_comes_later_is_found(openmp):
    """Until then the pool serves, and who asks for the runtime is refused by name."""
    code = f"""
        import ctypes
        import foveate as fv, numpy as np
        x = np.ones((8, 300, 32), np.float32)
        fv.attention(x, x, x)
        if not fv._core.openmp_names():
            assert fv.get_threading() == "pool"
            try:
                fv.set_threading("openmp")
            except ValueError as error:
                assert str(error).startswith('threading: got "openmp" where '), error
                assert "no OpenMP runtime" in str(error), error
            else:
                raise AssertionError("no runtime")
        ctypes.CDLL({openmp!r})
        print(fv.get_threading())
        fv.set_num_threads(2)
        assert (fv.attention(x, x, x) == 1).all()
    """
    assert output_of(code, FOVEATE_THREADING="openmp") == "openmp"


def test_several_runtimes_are_heeded(openmp):
    """A limit of one that the library is not linked with holds too."""
    pytest.importorskip("sklearn")
    pytest.importorskip("threadpoolctl")
    code = f"""
        import ctypes
        import foveate as fv
        from sklearn.utils import _openmp_helpers
        import threadpoolctl
        ctypes.CDLL({openmp!r})
        names = fv._core.openmp_names()
        assert len(names) == len(set(names)), names
        fv.set_num_threads(4)
        before = fv.get_num_threads()
        control = threadpoolctl.ThreadpoolController()
        paths = {{one["filepath"] for one in control.info() if one["user_api"] == "openmp"}}
        for path in paths:
            with control.select(filepath=path).limit(limits=1):
                print(fv.get_num_threads())
            assert fv.get_num_threads() == before == 4
        assert len(paths) == len(names), (paths, names)
    """
    assert set(output_of(code, OMP_NUM_THREADS="4").split()) == {"1"}


# --- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 16])
def test_the_bits_are_those_of_one_thread(executor, count):
    arrays = problem(150, 300, lead=(6,))
    decode = problem(1, 20_000, lead=(2,))
    x = normal(3, (500,), np.float32)

    def everything() -> list[np.ndarray]:
        output, pullback = fv.attention_vjp(*arrays, causal=True, offset=0)
        return [
            output,
            *pullback(output)[:3],
            fv.attention(*decode),
            *fv.hard_attention(*arrays, rng=1, size=2),
            fv.kernel_regression(x, x, x, w=3.0),
            fv.multinoulli(np.abs(arrays[0]), 3, rng=2),
        ]

    fv.set_num_threads(1)
    wanted = everything()
    fv.set_num_threads(count)
    assert fv.get_threading() == executor
    for got, expected in zip(everything(), wanted, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("openmp")
def test_many_python_threads_while_it_changes():
    problems = [problem(20 + n, 150, lead=(5,), seed=n) for n in range(8)]
    expected = [fv.attention(*arrays) for arrays in problems]
    done = threading.Event()

    def change() -> None:
        for name, count in itertools.cycle(itertools.product(BOTH, (1, 2, 4))):
            if done.is_set():
                return
            fv.set_threading(name)
            fv.set_num_threads(count)

    def work(n: int) -> bool:
        return all(np.array_equal(fv.attention(*problems[n]), expected[n]) for _ in range(40))

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
    finally:
        done.set()
        changer.join()


# --- beside a parallel region ---------------------------------------------------------------------

# Calls a Python function on two threads of a runtime at once.
REGION = """
import ctypes, os
import foveate as fv, numpy as np
library = ctypes.CDLL({openmp!r})
WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def region(function, threads=2):
    work = WORK(lambda _: function())
    library.GOMP_parallel(work, None, threads, 0)
x = np.random.default_rng(0).standard_normal((8, 300, 32))
"""


@needs_tasks
@pytest.mark.parametrize("name", BOTH)
def test_a_parallel_region_is_left_to_its_threads(openmp, name):
    """A call in it starts no thread, and gives the same answer."""
    code = (
        REGION.format(openmp=openmp)
        + f"""
fv.set_threading({name!r})
fv.set_num_threads(4)
region(lambda: None)
before, answers = len(os.listdir("/proc/self/task")), []
region(lambda: answers.append(fv.attention(x, x, x)))
assert len(os.listdir("/proc/self/task")) == before
fv.attention(x, x, x)
assert len(os.listdir("/proc/self/task")) > before
assert len(answers) == 2 and all(np.array_equal(a, fv.attention(x, x, x)) for a in answers)
"""
    )
    output_of(code)


# --- fork -----------------------------------------------------------------------------------------


@needs_tasks
@needs_fork
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own(executor):
    """And a child of that too. It is right also where others call while it is forked."""
    arrays = problem(300, 300, lead=(8,))
    fv.set_num_threads(3)
    expected = fv.attention(*arrays)
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            fv.attention(*arrays)

    def child(depth: int) -> int:
        if fv.get_threading() != "pool" or fv.get_num_threads() != 3:
            return 3
        for _ in range(3):
            if not np.array_equal(fv.attention(*arrays), expected):
                return 4
        if tasks() < 2:
            return 5
        return forked(depth - 1) if depth else 0

    def forked(depth: int) -> int:
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                code = child(depth)
            finally:
                os._exit(code)
        return wait_for(pid)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for one in callers:
        one.start()
    try:
        assert [forked(depth) for depth in (0, 1, 2, 0, 1)] == [0] * 5
    finally:
        done.set()
        for one in callers:
            one.join()
    assert fv.get_threading() == executor
    np.testing.assert_array_equal(fv.attention(*arrays), expected)


@needs_fork
def test_a_fork_in_the_middle_of_a_call():
    """By a signal handler: the child has lost what helpers had taken, and its call is stopped."""
    code = """
        import os, signal, warnings
        import foveate as fv, numpy as np
        warnings.simplefilter("ignore")  # of the fork: there are threads
        children = []
        def fork(number, frame):
            child = os.fork()
            if child:
                children.append(child)
        signal.signal(signal.SIGVTALRM, fork)
        fv.set_threading("pool")
        fv.set_num_threads(2)
        x = np.broadcast_to(np.ones(1, np.float32), (8, 20_000, 64))
        k = x[:, :2000]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)  # of processor time: others may be busy
        try:
            y = fv.attention(x, k, k)
            assert children
            assert (y == 1).all()
        except KeyboardInterrupt:
            assert not children
            assert (fv.attention(k, k, k) == 1).all()
            os._exit(7)
        _, status = os.waitpid(children[0], 0)
        print(os.waitstatus_to_exitcode(status))
    """
    assert output_of(code) == "7"


# --- limits ---------------------------------------------------------------------------------------


def test_a_number_that_was_lowered_before_is_a_default_and_no_limit(openmp):
    """As torch lowers it to the number of cores: who asks for more afterwards has it."""
    code = f"""
        import ctypes, os
        library = ctypes.CDLL({openmp!r})
        library.omp_set_num_threads(2)
        import foveate as fv
        print(fv.get_num_threads())
        fv.set_num_threads(4)
        print(fv.get_num_threads())
        library.omp_set_num_threads(1)
        print(fv.get_num_threads())
    """
    assert output_of(code, OMP_NUM_THREADS="3").split() == ["2", "4", "1"]


# --- how many by default --------------------------------------------------------------------------

COUNT = "import foveate as fv; print(fv.get_num_threads())"


@pytest.mark.parametrize(("text", "count"), [("4,2", 4), ("3 , 2", 3), ("5", 5)])
def test_the_first_number_of_omp_num_threads_counts(text, count):
    assert output_of(COUNT, OMP_NUM_THREADS=text) == str(count)


@needs_affinity
def test_affinity_bounds_the_default():
    code = """
        import os
        (one, *_) = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [one])
        import foveate as fv
        print(fv.get_num_threads())
        fv.set_num_threads(3)
        print(fv.get_num_threads())
    """
    assert output_of(code).split() == ["1", "3"]
    assert output_of(code, OMP_NUM_THREADS="2").split() == ["2", "3"]


# --- what is linked -------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf")
def test_a_build_without_openmp_names_none():
    """No second runtime comes into anybody's process by a wheel."""
    libraries = sorted(Path(fv._core.__file__).parent.glob("*.so"))
    assert len(libraries) >= 2
    needed = {
        name
        for library in libraries
        for name in re.findall(
            r"\(NEEDED\).*\[(.+)\]",
            subprocess.run(
                ["readelf", "-d", library], capture_output=True, text=True, check=True
            ).stdout,
        )
    }
    named = {name for name in needed if re.match(r"lib(gomp|omp|iomp)", name)}
    assert bool(named) == openmp_runtime.is_linked(), needed
