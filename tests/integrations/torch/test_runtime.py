"""foveate.torch in a process: the generators and the threads of torch, fork, Ctrl-C, memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import foveate as fv
import numpy as np
import pytest
from processes import needs_fork, needs_peak_memory, needs_tasks, stop_by_ctrl_c, wait_for
from strategies import problem
from torch_checks import array, ft, leaf, output_of, tensor, torch


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """No test leaves its number of threads to the next."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- random numbers -------------------------------------------------------------------------------

INPUTS = [tensor(x) for x in problem(40, 60, lead=(2, 3), size=8)]
RANDOM: dict[str, Any] = {
    "dropout": lambda **more: ft.attention(*INPUTS, dropout=0.4, **more),
    "dropout with gradients": lambda **more: ft.attention(
        *(x.detach().requires_grad_() for x in INPUTS), dropout=0.4, **more
    ),
    "draw": lambda **more: ft.hard_attention(*INPUTS, **more).output,
    "draws": lambda **more: ft.hard_attention(*INPUTS, size=7, **more).index,
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_of_torch_reproduces(name):
    call = RANDOM[name]
    torch.manual_seed(3)
    first, second = call(), call()
    torch.manual_seed(3)
    assert torch.equal(call(), first)
    assert torch.equal(call(), second)
    torch.manual_seed(4)
    other = call()
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", RANDOM)
def test_a_generator_of_ones_own(name):
    call = RANDOM[name]
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    first, second = call(generator=generator), call(generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(call(generator=torch.Generator().manual_seed(3)), first)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator advanced"
    torch.manual_seed(3)
    assert torch.equal(call(), first)


def test_what_is_not_random_draws_nothing():
    state = torch.get_rng_state()
    ft.attention(*INPUTS)
    ft.attention(*INPUTS, dropout=0)
    ft.scaled_dot_product_attention(*INPUTS)
    ft.hard_attention(*INPUTS, select="argmax")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_draws_for_any_number_of_threads(name):
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        torch.manual_seed(6)
        found.append(RANDOM[name]())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_same_draws_with_gradients_and_without():
    torch.manual_seed(6)
    alone = RANDOM["dropout"]()
    torch.manual_seed(6)
    assert torch.equal(RANDOM["dropout with gradients"](), alone)


def test_the_rate_of_dropout():
    """Of equal weights the mean stays, within 5 deviations: one that is kept counts for more."""
    torch.manual_seed(0)
    rate, keys = 0.3, 20_000
    zeros = torch.zeros(4, 1)
    kept = ft.attention(zeros, torch.zeros(keys, 1), torch.ones(keys, 1), dropout=rate)
    assert (kept - 1).abs().max() < 5 * (rate / (1 - rate) / keys) ** 0.5
    assert len(set(kept.ravel().tolist())) > 1


# --- threads --------------------------------------------------------------------------------------


@pytest.fixture
def counts(monkeypatch):
    """How many threads each call of the extension may use."""
    seen = []
    for name in ("attention", "attention_backward", "hard_attention", "hard_attention_backward"):
        function = getattr(fv._core, name)

        def spy(*spread: Any, _function: Any = function, **options: Any) -> Any:
            seen.append(fv._core.get_num_threads())
            return _function(*spread, **options)

        monkeypatch.setattr(fv._core, name, spy)
    return seen


def uses() -> list[Any]:
    """Every operator that calls the extension from Python, and its gradients."""
    inputs = [x.detach().requires_grad_() for x in INPUTS]
    ft.attention(*INPUTS, softcap=9.0)
    ft.attention(*INPUTS, causal=True, offset=0, return_lse=True)
    ft.attention(*inputs, softcap=9.0).sum().backward()
    drawn = ft.hard_attention(*inputs)
    (drawn.output.sum() + drawn.log_prob.sum()).backward()
    ft.local_attention(*inputs, half_width=2, sigma=1.0).sum().backward()
    x = leaf(np.linspace(0, 1, 30))
    ft.kernel_regression(x, x, x, w=3.0).sum().backward()
    return inputs


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_threads_as_torch_has(threads, counts):
    torch.set_num_threads(threads)
    fv.set_num_threads(5)
    before = fv.get_num_threads()  # fewer where torch has limited an OpenMP library of both
    uses()
    assert len(counts) >= 10
    assert set(counts) == {threads}
    assert fv.get_num_threads() == before
    assert torch.get_num_threads() == threads


def test_threads_are_given_back_after_an_error(counts):
    torch.set_num_threads(2)
    fv.set_num_threads(5)
    before = fv.get_num_threads()
    query, key, value = INPUTS
    with pytest.raises(ValueError, match="key_lengths"):
        ft.attention(query, key, value, key_lengths=1000)
    with pytest.raises(ValueError, match="key_lengths"):
        ft.attention(query.detach().requires_grad_(), key, value, key_lengths=1000)
    with pytest.raises(ValueError, match="key_lengths"):
        ft.hard_attention(query, key, value, key_lengths=1000)
    assert counts == [2, 2, 2]
    assert fv.get_num_threads() == before


def test_the_same_bits_for_any_number_of_threads():
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        found.append([x.grad for x in uses()])
    for x, y, z in zip(*found, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)


@needs_tasks
def test_the_threads_are_those_of_torch():
    """None is started beside them, with one thread the others are idle, and with two one works."""
    code = """
        import os
        import torch
        import foveate as fv, foveate.torch as ft
        from foveate.torch._tensors import _PARALLEL

        def times():
            found = {}
            for task in os.listdir("/proc/self/task"):
                fields = open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()
                found[int(task)] = int(fields[11]) + int(fields[12])
            return found

        def work():
            before = times()
            for _ in range(20):
                ft.attention(x, x, x)
            y = x.clone().requires_grad_()
            for _ in range(4):
                ft.attention(y, y, y).sum().backward()
            after = times()
            spent = {task: after[task] - before.get(task, 0) for task in after}
            return set(after) - set(before), spent.pop(os.getpid()), sum(spent.values())

        x = torch.randn(8, 700, 64)
        torch.set_num_threads(1)
        new, own, others = work()
        assert not new and others <= own / 10 + 1, (new, own, others)
        if _PARALLEL:
            torch.set_num_threads(2)
            for _ in range(3):
                x @ x.mT  # starts what torch has
            new, own, others = work()
            assert not new and others > own / 10, (new, own, others)
        before = set(times())
        fv.set_num_threads(2)
        fv.attention(*[x.numpy()] * 3)  # has a thread of its own
        assert len(set(times()) - before) == 1
        print("as many")
    """
    assert output_of(code) == "as many"


def test_many_python_threads_at_once():
    torch.set_num_threads(2)
    problems = [list(map(leaf, problem(20 + n, 150, lead=(3,), seed=n))) for n in range(16)]

    def gradients(inputs: Any) -> list[np.ndarray]:
        output = ft.attention(*inputs, score="cosine" if len(inputs[0]) % 2 else "dot")
        return [array(x) for x in (output, *torch.autograd.grad(output.sum(), inputs))]

    expected = [gradients(inputs) for inputs in problems]
    start = threading.Barrier(8)

    def work(first: int) -> bool:
        start.wait()
        return all(
            np.array_equal(x, y)
            for _ in range(4)
            for n in range(first, 16, 8)
            for x, y in zip(gradients(problems[n]), expected[n], strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
@needs_fork
def test_a_forked_child_computes():
    """After parallel calls of the parent, whose threads the child does not have."""
    torch.set_num_threads(4)
    inputs = [tensor(x) for x in problem(300, 300, lead=(8,))]
    expected = array(ft.attention(*inputs))
    drawn = array(ft.hard_attention(*inputs, select="argmax").index)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            again = array(ft.attention(*inputs))
            index = array(ft.hard_attention(*inputs, select="argmax").index)
            code = 0 if np.array_equal(again, expected) and np.array_equal(index, drawn) else 2
        finally:
            os._exit(code)
    assert wait_for(child) == 0
    np.testing.assert_array_equal(array(ft.attention(*inputs)), expected)


def test_ctrl_c_stops_a_long_call():
    """About a tenth of a second after SIGINT, whoever lent the threads; 2 seconds if busy."""
    code = """
        import signal, sys
        import torch
        import foveate as fv, foveate.torch as ft
        # a shell's background job starts with SIGINT ignored, and its children too
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(2)
        x = torch.ones(1, 1, 1).expand(8, 200_000, 64)
        print("ready", flush=True)
        try:
            ft.attention(x, x, x)
        except KeyboardInterrupt:
            print("stopped", flush=True)
            y = torch.ones(2, 40, 8)
            assert (ft.attention(y, y, y) == 1).all()
            assert fv._core.get_num_threads() == fv.get_num_threads()
            sys.exit(7)
    """
    stop_by_ctrl_c(code, "-W", "ignore")  # torch warns of what is not ours


# --- memory ---------------------------------------------------------------------------------------


@needs_peak_memory
def test_nothing_is_copied():
    """Keys of half a gigabyte, which are one row in memory, and heads that share them."""
    code = """
        import resource
        import torch
        import foveate.torch as ft

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def calls(keys):
            for dtype in (torch.float32, torch.bfloat16):
                key = torch.ones(1, 1, 1, 1, dtype=dtype).expand(1, 2, keys, 64)
                query = torch.ones(1, 4, 1, 64, dtype=dtype, requires_grad=True)
                mask = torch.ones(1, 1, dtype=torch.bool).expand(1, keys)
                ft.scaled_dot_product_attention(query, key, key, mask, enable_gqa=True)
                with torch.no_grad():
                    ft.scaled_dot_product_attention(query, key, key, enable_gqa=True)
                    ft.hard_attention(query[:, :2], key, key)

        calls(1000)
        before = peak()
        calls(2**20)
        print(peak() - before)
    """
    assert int(output_of(code)) < 16 * 1024  # KiB; bfloat16 alone would be 256 MiB


@needs_peak_memory
def test_no_memory_is_lost():
    """Outputs, graphs and gradients that come and go, refused calls too."""
    code = """
        import resource
        import torch
        import foveate.torch as ft
        torch.set_num_threads(1)
        x = torch.ones(2, 100, 64, requires_grad=True)
        w = torch.eye(64, requires_grad=True)

        def some(count):
            for _ in range(count):
                output, lse = ft.attention(x, x, x, score=ft.Bilinear(w), return_lse=True)
                (output.sum() + lse.sum()).backward()
                ft.hard_attention(x, x, x).log_prob.sum().backward()
                ft.attention(x.bfloat16(), x.bfloat16(), x.bfloat16()).sum().backward()
                try:
                    ft.attention(x, x, x, key_lengths=torch.tensor([1, 101]))
                except ValueError:
                    pass

        some(100)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        some(300)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    # 300 outputs that were kept would be 15 MB.
    assert int(output_of(code)) < 4 * 1024
