"""What the ranks of a ring check: each function runs on all of them, in one group.

    python ring_checks.py RANKS

prints what went wrong by the name of the check, as JSON.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import sys
import time
import traceback
from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate import reference
from gradient_checks import hold, sizes
from strategies import BFLOAT16, normal
from tolerances import assert_within, expect, wider
from torch_checks import array, as_torch, ft, tensor, torch

dist = torch.distributed
QUERIES = 37


class Case:
    """A problem, how it is laid out, and the lengths of its parts where the layout leaves them."""

    def __init__(
        self,
        dtype: Any,
        layout: str = "contiguous",
        keys: int = QUERIES,
        cuts: Any = None,
        **keywords: Any,
    ) -> None:
        self.dtype, self.layout, self.keys, self.cuts = np.dtype(dtype), layout, keys, cuts
        self.keywords = keywords


CASES = {
    "all keys": Case(np.float32),
    "all keys, zigzag": Case(BFLOAT16, "zigzag"),
    "causal": Case(BFLOAT16, causal=True),
    "causal, zigzag": Case(np.float32, "zigzag", causal=True),
    "causal, sinks, softcap": Case(
        np.float64, "zigzag", causal=True, softcap=2.0, sink=np.array([[0.5], [-1.0]])
    ),
    "window": Case(np.float32, "zigzag", window=5),
    "window to the left": Case(np.float16, window=(6, 0)),
    "window to the right, more keys": Case(np.float64, keys=50, window=(None, 3), offset="end"),
    "causal, fewer keys": Case(np.float32, keys=20, causal=True, offset=-3),
    "parts of any length": Case(np.float64, cuts=(0, 30, 7, 0, 0), causal=True),
    "cosine": Case(BFLOAT16, score="cosine", causal=True),
    "bilinear": Case(np.float64, score=fv.Bilinear(normal(5, (8, 8), np.float64) / 4)),
    "polynomial": Case(np.float32, "zigzag", score=fv.Polynomial(2, 0.5), sink=0.25),
    "segments": Case(np.float32, causal=True, segments=np.arange(QUERIES) // 8),
    "segments of a pair": Case(
        BFLOAT16,
        keys=50,
        segments=(normal(6, (2, 1, QUERIES), np.float64) > 0, normal(7, (50,), np.float64) > 0),
    ),
    "location": Case(np.float64, score=fv.Location(normal(4, (8,), np.float64)), causal=True),
}


def cut(x: Any, case: Case, dim: int = -2) -> Any:
    """The part of a whole tensor that this rank holds."""
    if case.cuts is None:
        return ft.split_sequence(x, layout=case.layout, dim=dim)
    lengths = case.cuts[: dist.get_world_size() - 1]
    ends = np.cumsum([*lengths, x.shape[dim] - sum(lengths)])
    begin = 0 if dist.get_rank() == 0 else int(ends[dist.get_rank() - 1])
    return x.narrow(dim, begin, int(ends[dist.get_rank()]) - begin)


def joined(x: Any, case: Case, dim: int = -2) -> np.ndarray:
    """The whole, of the parts of all ranks."""
    return array(ft.join_sequence(x.detach(), layout=case.layout, dim=dim))


def check_case(case: Case) -> None:
    """The answers, the lse and all gradients, held against the reference one precision wider."""
    q = normal(0, (2, 3, QUERIES, 8), case.dtype)
    k = normal(1, (2, 1, case.keys, 8), case.dtype)
    v = normal(2, (2, 1, case.keys, 6), case.dtype)
    keywords = case.keywords
    parts = [cut(tensor(x), case).clone().requires_grad_() for x in (q, k, v)]
    others = as_torch({n: x for n, x in keywords.items() if n != "sink"})
    sink = None
    if "sink" in keywords:
        sink = torch.tensor(keywords["sink"], dtype=torch.float64, requires_grad=True)
    if "segments" in keywords:
        ids = keywords["segments"]
        pair = ids if isinstance(ids, tuple) else (ids, ids)
        keywords = keywords | {"segments": tuple(x.astype(np.int64) for x in pair)}
        others["segments"] = tuple(cut(tensor(x), case, -1) for x in keywords["segments"])
    output, lse = ft.ring_attention(
        *parts, layout=case.layout, sink=sink, return_lse=True, **others
    )
    assert output.dtype == parts[0].dtype
    expected = expect(q, k, v, **keywords)
    assert_within(joined(output, case), expected.output, expected.output_error, "output")
    assert_within(joined(lse, case, -1), expected.lse, expected.lse_error, "lse")

    d_output = normal(9, expected.output.shape, case.dtype)
    d_lse = normal(10, expected.lse.shape, array(lse).dtype)
    signals = cut(tensor(d_output), case), cut(tensor(d_lse), case, -1)
    torch.autograd.backward((output, lse), signals)
    gradients = [None if x.grad is None else joined(x.grad, case) for x in parts]
    if sink is not None:
        dist.all_reduce(sink.grad)
    _, pullback = reference.attention_vjp(*map(wider, (q, k, v)), **keywords)
    exact = pullback(wider(d_output), wider(d_lse))
    plain = reference.attention_vjp(q, k, v, **keywords)[1](d_output, d_lse)
    own = {
        "query": gradients[0],
        "key": gradients[1],
        "value": gradients[2],
        "sink": None if sink is None else array(sink.grad),
    }
    size = sizes((q, k, v), d_output, d_lse, **keywords)
    nothing = {name: None for name, x in own.items() if x is None}
    found = fv.Gradients(**own, mask=None, score=None)
    exact, plain = (x._replace(mask=None, score=None, **nothing) for x in (exact, plain))
    hold(found, exact, plain, size, case.dtype)


def check_bits() -> None:
    """Each run has the same bits, whatever the layout in memory; also in half the heads alone."""
    whole = [tensor(normal(n, (2, 4, 50, 8), np.float32)) for n in range(4)]
    made = []
    for copy in range(3):
        *parts, d_output = (ft.split_sequence(x) for x in whole)
        if copy == 1:  # rows of heads, as a projection gives them
            parts = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in parts]
        if copy == 2:
            parts, d_output = [x[:, 1:3] for x in parts], d_output[:, 1:3]
        parts = [x.detach().requires_grad_() for x in parts]
        output = ft.ring_attention(*parts, causal=True)
        made.append([output, *torch.autograd.grad(output, parts, d_output)])
    for one, strided, of_half in zip(*made, strict=True):
        assert torch.equal(one, strided)
        assert torch.equal(one[:, 1:3], of_half)


def check_unseen() -> None:
    """What nothing sees may hold anything."""
    q, k, v, d_output = (tensor(normal(n, (2, 40, 8), np.float32)) for n in range(4))
    made = []
    for hidden in (0.0, np.nan, np.inf):
        k[:, 20:], v[:, 20:] = hidden, hidden
        parts = [ft.split_sequence(x).clone().requires_grad_() for x in (q, k, v)]
        output = ft.ring_attention(*parts, causal=True, offset=-20)
        gradients = torch.autograd.grad(output, parts, ft.split_sequence(d_output))
        made.append([joined(x, Case(np.float32)) for x in (output, *gradients)])
    for found in zip(*made, strict=True):
        for x in found[1:]:
            np.testing.assert_array_equal(found[0], x)
    output, *gradients = made[0]
    assert not output[:, :20].any()
    assert not any(x[:, 20:].any() for x in gradients[1:])


def check_no_weight() -> None:
    """Scores of -inf: keys of a part without weight, and rows of NaN where there are no others."""
    q, k, v = (tensor(np.abs(normal(n, (40, 8), np.float32))) for n in range(3))
    for hidden in (slice(0, 20), slice(20, 40), slice(0, 40)):
        keys = k.clone()
        keys[hidden] = -np.inf
        output = ft.ring_attention(*(ft.split_sequence(x) for x in (q, keys, v)))
        wanted = ft.split_sequence(ft.attention(q, keys, v))
        assert wanted.isnan().all() == (hidden == slice(0, 40))
        torch.testing.assert_close(output, wanted, equal_nan=True)


def check_some_learn() -> None:
    """Only the gradients that are wanted, and none."""
    whole = [tensor(normal(n, (30, 4), np.float64)) for n in range(3)]
    for learns in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        leaves = [x.clone().requires_grad_(bool(n)) for x, n in zip(whole, learns, strict=True)]
        ft.attention(*leaves, causal=True).sum().backward()
        parts = [ft.split_sequence(x).detach().requires_grad_(x.requires_grad) for x in leaves]
        ft.ring_attention(*parts, causal=True).sum().backward()
        for x, part in zip(leaves, parts, strict=True):
            assert (x.grad is None) == (part.grad is None)
            if x.grad is not None:
                torch.testing.assert_close(part.grad, ft.split_sequence(x.grad))
    with torch.no_grad():
        assert not ft.ring_attention(*parts).requires_grad


def check_sequences() -> None:
    """Splitting and joining are each other's inverse, and so are their gradients."""
    for layout in ("contiguous", "zigzag"):
        x = torch.arange(2 * 23.0).view(2, 23).requires_grad_()
        part = ft.split_sequence(x, layout=layout, dim=1)
        whole = ft.join_sequence(part, layout=layout, dim=-1)
        assert torch.equal(whole, x)
        (whole * torch.arange(23.0)).sum().backward()
        own = ft.split_sequence(torch.arange(23.0), layout=layout, dim=0)
        wanted = own.expand(2, -1) * dist.get_world_size()
        assert torch.equal(ft.split_sequence(x.grad, layout=layout, dim=1), wanted)


def check_groups() -> None:
    """A mesh of one axis, a group of some ranks, and what is neither."""
    x = tensor(normal(0, (20, 4), np.float32))
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    part = ft.split_sequence(x, group=mesh)
    whole = ft.join_sequence(ft.ring_attention(part, part, part, group=mesh), group=mesh)
    torch.testing.assert_close(whole, ft.attention(x, x, x))
    of_first = dist.new_group([0])
    if dist.get_rank() == 0:
        output = ft.ring_attention(x, x, x, group=of_first)
        torch.testing.assert_close(output, ft.attention(x, x, x))
    else:
        refused(ValueError, "not in", x, x, x, group=of_first)
    refused(TypeError, "group: got str, wanted", x, x, x, group="gloo")


def refused(kind: Any, words: str, *arguments: Any, **keywords: Any) -> None:
    """All ranks say so."""
    with pytest.raises(kind, match=re.escape(words)):
        ft.ring_attention(*arguments, **keywords)


def check_differences() -> None:
    """What differs between the ranks is refused on all, and the group goes on."""
    x = torch.ones(2, 8, 4)
    refused(ValueError, "score: got 'gaussian', wanted one that", x, x, x, score="gaussian")
    if dist.get_world_size() == 1:
        return
    last = dist.get_rank() == dist.get_world_size() - 1
    refused(ValueError, "query: got", *[x.double() if last else x] * 3)
    refused(ValueError, "key: got", x, *[x[:1] if last else x] * 2)
    refused(ValueError, "causal: got False on rank 0 and True", x, x, x, causal=last)
    refused(ValueError, "window: got", x, x, x, window=2 if last else None)
    refused(ValueError, "layout: got", x, x, x, layout="zigzag" if last else "contiguous")
    refused(ValueError, "score: got", x, x, x, score=fv.ScaledDot(0.5 if last else 0.25))
    refused(ValueError, "requires_grad", x.clone().requires_grad_(last), x, x)
    y = x[:, :-1] if last else x
    refused(ValueError, "query: got [8,", y, y, y, layout="zigzag")
    refused(ValueError, "offset: got none with", x, y, y, causal=True)
    kind, words = (TypeError, "query: got list") if last else (RuntimeError, "query: got list")
    refused(kind, words, [1.0] if last else x, x, x)
    refused(
        ValueError, "score: got 'gaussian', wanted one that is an inner", x, x, x, score="gaussian"
    )
    assert torch.equal(ft.ring_attention(x, x, x), x)


CHECKS: dict[str, Any] = {
    **{name: lambda case=case: check_case(case) for name, case in CASES.items()},
    "bits": check_bits,
    "unseen": check_unseen,
    "no weight": check_no_weight,
    "some learn": check_some_learn,
    "sequences": check_sequences,
    "groups": check_groups,
    "differences": check_differences,
}


def join_group(rank: int, ranks: int, port: int, timeout: float) -> None:
    """Be one process of several."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=timeout),
    )


def run_checks(rank: int, ranks: int, port: int, found: Any) -> None:
    """All checks, and what went wrong with them on this rank."""
    join_group(rank, ranks, port, timeout=20)
    wrong = {}
    for name, check in CHECKS.items():
        try:
            check()
        except Exception:
            wrong[name] = traceback.format_exc()
    found.put(wrong)
    dist.destroy_process_group()


def lose_a_rank(rank: int, ranks: int, port: int, found: Any, is_killed: bool) -> None:
    """The last rank goes, or stays away, between the passes: what the others say, and when."""
    join_group(rank, ranks, port, timeout=3)
    x = torch.ones(2, 64, 8, requires_grad=True)
    output = ft.ring_attention(x, x, x)
    if rank == ranks - 1:
        if is_killed:
            os.kill(os.getpid(), 9)
        time.sleep(8)
        return
    begin = time.monotonic()
    try:
        output.sum().backward()
    except RuntimeError as error:
        found.put((time.monotonic() - begin, str(error)))


def start(function: Any, ranks: int, *arguments: Any) -> list[Any]:
    """Run a function on so many ranks; return what they put into a queue."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    processes = [
        context.Process(target=function, args=(rank, ranks, port, found, *arguments))
        for rank in range(ranks)
    ]
    for x in processes:
        x.start()
    for x in processes:
        x.join()
    made = []
    while not found.empty():
        made.append(found.get())
    return made


def main() -> None:
    """Print what the ranks found."""
    ranks = int(sys.argv[1])
    if len(sys.argv) > 2:
        print(json.dumps(start(lose_a_rank, ranks, sys.argv[2] == "killed")))
        return
    every = start(run_checks, ranks)
    wrong: dict[str, str] = {} if len(every) == ranks else {"all ranks": "one is lost"}
    for one in every:
        wrong |= one
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
