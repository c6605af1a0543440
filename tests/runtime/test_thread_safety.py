"""Many threads of Python at once, with the GIL and without it; and interpreters that are refused.

Every answer has the bits of the same call on one thread alone. What is shared is what may be:
inputs, scores, pullbacks, a memory that is read, a Generator; what is written has a thread each.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import foveate as fv
import numpy as np
import pytest
from foveate._runtime import main_interpreter
from processes import needs_fork, output_of, wait_for
from strategies import DTYPES, normal, problem

pytestmark = [pytest.mark.python, pytest.mark.any_isa]

THREADS = 8
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

Arrays = list[np.ndarray]


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Run work(0), work(1) ... on a thread each, at once; raise what one of them does."""
    start = threading.Barrier(threads)
    errors = []

    def begin(n: int) -> None:
        start.wait()
        try:
            work(n)
        except BaseException as error:
            errors.append(error)

    all_of_them = [threading.Thread(target=begin, args=(n,)) for n in range(threads)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()
    for error in errors:
        raise error


# --- everything at once ---------------------------------------------------------------------------


class ByDLPack:
    """An array of another library."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[Any, int]:
        return self.array.__dlpack_device__()


def soft(dtype: Any) -> Callable[[], Arrays]:
    q, k, v = problem(70, 90, lead=(3,), dtype=dtype)
    mask = np.random.default_rng(0).random((70, 90)) < 0.8

    def call() -> Arrays:
        return [
            *fv.attention(q, k, v, mask=mask, return_lse=True),
            fv.attention(q, k, v, causal=True, offset="end", window=(20, 3)),
            fv.attention(q, k, v, score="gaussian", key_lengths=[90, 0, 7]),
            fv.attention(q, k, v, out=np.empty_like(q)),
            fv.attention_weights(q, k, softcap=3.0),
            *fv.attention_statistics(q, k, softcap=3.0),
            *fv.attention_statistics(q[:, :1], k),
            fv.local_attention(q, k, v, half_width=5, sigma=2.0),
        ]

    return call


def gradients() -> Callable[[], Arrays]:
    """Pullbacks of each call, and of a call that all threads share."""
    arrays = problem(60, 80, lead=(2,))
    score = fv.Additive(*(normal(n, s, np.float32) for n, s in enumerate(((8,), (16, 8), (16, 8)))))
    shared, pull = fv.attention_vjp(*arrays, score=score)
    drawn, pull_choices = fv.hard_attention_vjp(*arrays, rng=3, size=2)

    def call() -> Arrays:
        output, own = fv.attention_vjp(*arrays, causal=True, offset=0)
        _, own_choices = fv.hard_attention_vjp(*arrays, select="argmax")
        d = pull(shared)
        return [
            *own(output)[:3],
            *d[:3],
            d.score.wq,
            *pull_choices(drawn.output, drawn.log_prob)[:3],
            *own_choices(advantage=1.0)[:2],
        ]

    return call


def choices() -> Callable[[], Arrays]:
    q, k, v = problem(50, 300, lead=(2,))
    p = np.abs(normal(0, (6, 500), np.float64))

    def call() -> Arrays:
        rng = np.random.default_rng(5)  # this thread's own
        return [
            *fv.hard_attention(q, k, v, rng=rng, size=3),
            *fv.hard_attention(q, k, v, select="argmax"),
            fv.multinoulli(p, 4, rng=rng),
            fv.multinomial(1000, p, rng=rng),
            fv.attention(q, k, v, dropout=0.3, rng=rng),
        ]

    return call


def blocks() -> Callable[[], Arrays]:
    """A memory that all threads read, and one of each thread, which it writes."""
    keys, values = normal(0, (30, 8), np.float64), normal(1, (30, 8), np.float64)
    query = normal(2, (5, 8), np.float64)
    shared = fv.Memory(keys, values)
    x, w = normal(3, (2, 40, 8), np.float32), normal(4, (8, 8), np.float32)
    segments = np.arange(40) // 7

    def call() -> Arrays:
        own = fv.Memory(keys, values)
        own.write(query, erase=0.5, add=1.0)
        return [
            own.values,
            own.read(query, hops=2),
            shared.read(query, sharpness=3.0),
            fv.self_attention(x, w, w, w),
            fv.multi_head_attention(x, wq=w, wk=w, wv=w, wo=w, num_heads=2),
            fv.hierarchical_attention(x, x, x, segments=segments),
        ]

    return call


def regression() -> Callable[[], Arrays]:
    """Enough points that they are ordered along a curve, by tables that are made once."""
    x, y = normal(0, (2100,), np.float32), normal(1, (2100,), np.float32)
    plane = normal(2, (300, 2), np.float32)

    def call() -> Arrays:
        return [
            fv.kernel_regression(x, x, y, w=30.0, leave_one_out=True),
            fv.kernel_regression(plane, plane, plane, kernel="epanechnikov"),
        ]

    return call


def exchange() -> Callable[[], Arrays]:
    """Arrays by DLPack, by buffers, and keywords in named tuples of a new class."""
    arrays = problem(20, 30, lead=(2,), dtype=np.float64)

    def call() -> Arrays:
        class Operands(NamedTuple):
            key: Any
            query: Any
            value: Any

        q, k, v = arrays
        return [
            fv.attention(*map(ByDLPack, arrays)),
            fv.attention(*map(memoryview, arrays)),
            *(fv._core.attention(Operands(k, q, v)) for _ in range(3)),
        ]

    return call


def facts() -> Callable[[], Arrays]:
    """What is asked of the process while others change it; nothing of it is compared."""

    def call() -> Arrays:
        assert fv.get_num_threads() >= 1
        assert fv.show_config("dicts")["foveate"]["version"] == fv.__version__
        with pytest.raises(ValueError, match=r"^key_lengths: got 9, wanted"):
            fv.attention(*problem(2, 8, lead=()), key_lengths=9)
        assert copy.deepcopy(fv.Gaussian(2.0)) == fv.Gaussian(2.0)
        return []

    return call


def test_everything_at_once():
    """While one more thread changes how many threads a call uses."""
    calls = [soft(dtype) for dtype in DTYPES]
    calls += [gradients(), choices(), blocks(), regression(), exchange(), facts()]
    wanted = [call() for call in calls]
    done = threading.Event()

    def change() -> None:
        n = 0
        while not done.wait(1e-4):
            n += 1
            fv.set_num_threads(n % 5)

    def work(thread: int) -> None:
        for n in range(2 * len(calls)):
            which = (thread + n) % len(calls)
            for got, expected in zip(calls[which](), wanted[which], strict=True):
                np.testing.assert_array_equal(got, expected)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        together(work)
    finally:
        done.set()
        changer.join()


def test_the_first_calls_of_a_process():
    """What is made once is made while eight threads want it."""
    code = """
        import threading
        import numpy as np
        start = threading.Barrier(8)
        answers = []

        def work(n):
            start.wait()
            import foveate as fv
            x = np.ones((4, 300, 32), np.float32)
            points = np.linspace(0, 1, 4200, dtype=np.float32).reshape(2, -1).T
            points = np.repeat(points, 2, axis=0)
            first = [
                lambda: fv.attention(x, x, x),
                lambda: fv.kernel_regression(points, points, points[:, 0], w=300.0),
                lambda: fv.multinoulli(x[0], 3, rng=1),
                lambda: fv.attention(*([list(map(list, x[0, :3]))] * 3)),
            ]
            for i in range(4):
                place = (n + i) % 4
                answers.append((place, first[place]().tobytes()))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 32 and len(set(answers)) == 4
    """
    output_of(code)


def test_the_instruction_set_of_a_call_is_one():
    """A change in the middle of a call is for the next one: each has the answer of one of them."""
    arrays = problem(100, 200, lead=(4,), dtype=np.float16)
    names, in_use = fv._core.isa_names(), fv._core.isa_selected()
    features = fv._core.isa_features()
    some = {}
    try:
        for name in names:
            fv._core.isa_select(name)
            output, pull = fv.attention_vjp(*arrays)
            some[name] = [output, *pull(output)[:3]]
        done = threading.Event()

        def change() -> None:
            n = 0
            while not done.is_set():
                n += 1
                fv._core.isa_select(names[n % len(names)])

        changer = threading.Thread(target=change)
        changer.start()
        try:

            def work(_: int) -> None:
                output = np.empty_like(arrays[0])
                for _ in range(30):
                    fv.attention(*arrays, out=output)
                    assert any(np.array_equal(output, one[0]) for one in some.values())

            together(work)
        finally:
            done.set()
            changer.join()
    finally:
        fv._core.isa_select(in_use)
        if fv._core.isa_features() != features:  # a variant goes by its features
            fv._core.isa_select(features)


# --- what is written by several -------------------------------------------------------------------


def test_a_generator_that_threads_share():
    """Each call takes words of its own, though nobody knows which."""
    p = np.ones((3, 1000))
    alone = np.random.default_rng(7)
    wanted = sorted(fv.multinoulli(p, 5, rng=alone).tobytes() for _ in range(THREADS * 10))
    shared = np.random.default_rng(7)
    drawn = []

    def work(_: int) -> None:
        for _ in range(10):
            drawn.append(fv.multinoulli(p, 5, rng=shared).tobytes())

    together(work)
    assert sorted(drawn) == wanted


def test_a_memory_is_read_while_it_is_written():
    """One thread writes: the others read what stood before a write or what stands after it."""
    keys = np.eye(4)
    memory = fv.Memory(keys, np.zeros((4, 3)))
    steps = 200

    def work(n: int) -> None:
        if n == 0:
            for step in range(steps):  # all values are the same number, at every time
                memory.write(np.ones((1, 4)), erase=1.0, add=4.0 * (step + 1), score="dot")
            return
        last = 0.0
        for _ in range(steps):
            values = memory.values
            read = memory.read(keys, sharpness=50.0)
            assert np.ptp(values, axis=None) < 1e-9 * (1 + values.max())
            assert np.ptp(read, axis=None) < 1e-9 * (1 + read.max())
            assert read.max() >= last - 1e-9 * (1 + last)
            last = read.max()

    together(work, 4)


def test_many_classes_of_named_tuples():
    """More than the extension remembers, with the fields of each in an order of its own."""
    arrays = dict(zip(("query", "key", "value"), problem(2, 3, lead=(), size=2), strict=True))
    wanted = fv.attention(*arrays.values()).tobytes()
    orders = list(itertools.permutations(arrays))
    given = [
        NamedTuple(f"Given{n}", [(name, Any) for name in order])(*map(arrays.get, order))
        for n, order in enumerate(4 * orders)
    ]
    unknown = NamedTuple("Unknown", [("query", Any), ("qeury", Any)])(1, 2)

    def work(n: int) -> None:
        for i in range(1000):
            one = given[(n + i * (2 * n + 1)) % len(given)]
            assert fv._core.attention(one).tobytes() == wanted
        with pytest.raises(TypeError, match=r"^qeury: got a keyword that attention does not"):
            fv._core.attention(unknown)

    together(work)


# --- fork -----------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_child_is_forked_in_the_middle_of_calls():
    """Of other threads, which it does not have; it computes with a pool of its own."""
    arrays = problem(100, 100, lead=(8,))
    wanted = fv.attention(*arrays).tobytes()
    done = threading.Event()

    def work(n: int) -> None:
        if n > 0:
            while not done.is_set():
                assert fv.attention(*arrays).tobytes() == wanted
            return
        try:
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    os._exit(0 if fv.attention(*arrays).tobytes() == wanted else 2)
                assert wait_for(child) == 0
        finally:
            done.set()

    with fv.num_threads(2):
        together(work, 4)


# --- interpreters ---------------------------------------------------------------------------------


@pytest.mark.skipif(not WITHOUT_GIL, reason="this Python has a GIL")
def test_the_gil_stays_off():
    """Neither extension module asks for it: an import that did would warn, which is an error."""
    code = """
        import sys
        import foveate
        import foveate.cython_attention
        print(sys._is_gil_enabled())
    """
    assert output_of(code) == "False"


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="they are CPython's")
@pytest.mark.parametrize("before", ["", "import foveate"], ids=["alone", "beside the main one"])
def test_subinterpreters_are_refused(before):
    """By name, in whichever kind; its loading hung where it came before, under Python 3.11."""
    code = f"""
        {before}
        try:
            import _interpreters as interpreters
            kinds = [interpreters.create(kind) for kind in ("isolated", "legacy")]
        except ImportError:
            import _xxsubinterpreters as interpreters
            kinds = [interpreters.create(isolated=x) for x in (True, False)]
        for one in kinds:
            failed = interpreters.run_string(one, '''if True:
                try:
                    import foveate
                except ImportError as error:
                    print(error, flush=True)
            ''')
            assert not failed, failed
            interpreters.destroy(one)
    """
    lines = output_of(code).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("foveate: got a subinterpreter, wanted the main interpreter")


def test_a_python_that_has_no_subinterpreters_is_the_main_one(monkeypatch):
    def none(name: str) -> None:
        raise ImportError(name)

    assert main_interpreter._is_main()
    monkeypatch.setattr(main_interpreter, "import_module", none)
    assert main_interpreter._is_main()
