"""Rules in `mask=` of foveate.torch: against the functions of arrays, and formulas of torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import foveate as fv
import numpy as np
import pytest
from strategies import normal
from torch_checks import array, ft, leaf, tensor, torch

HEADS, LENGTH, SIZE = 3, 12, 4
DTYPE = np.float64


# of what torch imports for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No test leaves compiled code to the next."""
    yield
    torch.compiler.reset()


def operands(make: Any = leaf, dtype: Any = DTYPE) -> list[Any]:
    return [make(normal(n, (2, HEADS, LENGTH, SIZE), dtype)) for n in range(3)]


class EverySecond(fv.rules.Rule):
    """Of the user's own: by position, a tile at a time."""

    by_position = True

    def tile(self, first: int, last: int, queries: int, keys: int, offset: Any = 0) -> Any:
        del queries
        behind = np.arange(first, last)[:, None] + offset - np.arange(keys)
        return (behind >= 0) & (behind % 2 == 0)


class Falling(fv.rules.Rule):
    """Of the user's own: a bias."""

    def dense(self, queries: int, keys: int, offset: Any = 0) -> Any:
        del offset
        return np.linspace(0, -3, queries * keys).reshape(queries, keys)


# What a rule learns, and the rule of it; () where it learns nothing.
AT = np.arange(LENGTH)
ENDS = np.stack([np.maximum(AT - 7, 0), AT], -1), np.stack([np.maximum(AT - 5, 0), AT + 1], -1)
BLOCKS = np.tril(np.ones((3, 3), bool))
CAUSAL = fv.Intervals(np.zeros_like(AT), AT + 1)
GRID = (3, 4)
BIASES: dict[str, Any] = {
    "alibi": ((HEADS,), fv.Alibi),
    "clipped": ((HEADS, 7), fv.RelativeBias),
    "t5": ((8,), lambda x: fv.RelativeBias(x, rule="t5", max_distance=9)),
    "grid": ((HEADS, 5, 7), lambda x: fv.RelativeBias2d(x, GRID)),
    "grid and shape": ((2, 1, 5, 7), lambda x: (fv.RelativeBias2d(x, GRID), CAUSAL)),
    "two biases": ((HEADS, 7), lambda x: (fv.RelativeBias(x), fv.Alibi([0.5, 0.25, 0.125]))),
    "edges": ((HEADS, 6), lambda x: fv.Edges(POINTERS, NEIGHBORS, x)),
    "edges and cells": ((6,), lambda x: (fv.Edges(POINTERS, NEIGHBORS, x), fv.Alibi(0.5), CAUSAL)),
    "packed": ((HEADS,), lambda x: (fv.Alibi(x), fv.Packed([0, 5, LENGTH]))),
}  # fmt: skip
POINTERS, NEIGHBORS = np.array([0, 2, 3, 3, *[6] * 9]), np.array([4, 1, 0, 7, 2, 11])
RULES: dict[str, Any] = {
    "intervals": lambda: CAUSAL,
    "several intervals": lambda: fv.Intervals(*ENDS),
    "both": lambda: (fv.Intervals(*ENDS), CAUSAL),
    "blocks": lambda: fv.BlockMask(BLOCKS, (4, 5)),
    "sequence": lambda: fv.Neighborhood(LENGTH, 5),
    "image": lambda: fv.Neighborhood(GRID, 3, causal=(True, False)),
    "image and intervals": lambda: (fv.Neighborhood(GRID, 3), CAUSAL),
    "dilated": lambda: fv.Neighborhood(LENGTH, 3, dilation=2),
    "packed": lambda: fv.Packed([0, 5, LENGTH]),
    "edges": lambda: fv.Edges(POINTERS, NEIGHBORS),
    "edges beside others": lambda: (EverySecond(), fv.Edges(POINTERS, NEIGHBORS), CAUSAL),
    "own": EverySecond,
    "own bias": lambda: (Falling(), EverySecond(), fv.Neighborhood(GRID, 3)),
}


def values_of(shape: Any, dtype: Any = DTYPE) -> Any:
    return np.abs(normal(7, shape, dtype))


def held(x: Any, **reach: Any) -> None:
    """Hold outputs and gradients against those of arrays, for a rule of tensors or of arrays."""
    shape, make = x
    inputs = operands()
    given = [] if shape is None else [leaf(values_of(shape))]
    output = ft.attention(*inputs, mask=make(*given), **reach)
    rule = make(*map(array, given))
    reach = {name: array(y) if isinstance(y, torch.Tensor) else y for name, y in reach.items()}
    wanted, pullback = fv.attention_vjp(*map(array, inputs), mask=rule, **reach)
    np.testing.assert_array_equal(array(output), wanted)
    d_output = normal(9, wanted.shape, DTYPE)
    found = torch.autograd.grad(output, [*inputs, *given], tensor(d_output))
    gradients = pullback(d_output)
    of_rule = gradients.mask[0] if isinstance(gradients.mask, tuple) else gradients.mask
    wanted_of_rule = [getattr(of_rule, PARAMETERS.get(type(of_rule), "table"))] if given else []
    for one, other in zip(found, [*gradients[:3], *wanted_of_rule], strict=True):
        # the sum over a table is made in another order: roundings of numbers of about 1
        np.testing.assert_allclose(array(one), other, rtol=1e-12, atol=1e-13)


PARAMETERS: dict[type, str] = {fv.Alibi: "slopes", fv.Edges: "bias"}


@pytest.mark.parametrize("name", BIASES)
def test_biases_are_those_of_arrays(name):
    held(BIASES[name], causal=name != "two biases")


@pytest.mark.parametrize("name", RULES)
def test_rules_are_those_of_arrays(name):
    held((None, RULES[name]))


@pytest.mark.parametrize("offset", [3, torch.tensor([[1], [4]]), "end"], ids=str)
def test_positions(offset):
    rule = fv.Alibi(leaf(values_of((HEADS,))))
    q, k, v = operands()
    output = ft.attention(q[..., :5, :], k, v, mask=rule, offset=offset, causal=True)
    arrays = [array(x) for x in (q[..., :5, :], k, v)]
    at = array(offset) if isinstance(offset, torch.Tensor) else offset
    wanted = fv.attention(*arrays, mask=fv.Alibi(array(rule.slopes)), offset=at, causal=True)
    np.testing.assert_array_equal(array(output), wanted)
    held(BIASES["clipped"], offset=0, key_lengths=torch.tensor([[4], [9]]))


def dense_bias(name: str, x: Any) -> Any:
    """The mask of a rule by operations of torch, (heads, Lq, Lk)."""
    i = torch.arange(LENGTH)
    behind = i[:, None] - i
    if name == "alibi":
        return -x[..., None, None] * behind.abs()
    if name == "clipped":
        return x[..., (-behind).clamp(-3, 3) + 3]
    row, column = i // GRID[1], i % GRID[1]
    return x[..., row[:, None] - row + 2, column[:, None] - column + 3]


@pytest.mark.parametrize("name", ["alibi", "clipped", "grid"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_those_of_a_formula(name, dtype):
    shape, make = BIASES[name]
    inputs = [*operands(dtype=dtype), leaf(values_of(shape, dtype))]
    q, k, v, x = inputs
    output = ft.attention(q, k, v, mask=make(x))
    scores = q @ k.mT / SIZE**0.5 + dense_bias(name, x)
    wanted = scores.softmax(-1) @ v
    # roundings of sums of some dozens of numbers of about 1
    near = {"rtol": 3e-5, "atol": 3e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(output, wanted, **near)
    d = tensor(normal(9, output.shape, dtype))
    found = (torch.autograd.grad(y, inputs, d) for y in (output, wanted))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **near)


@pytest.mark.parametrize("name", ["alibi", "t5", "grid and shape", "edges and cells"])
def test_gradcheck(name):
    shape, make = BIASES[name]
    q, k, v = (x[:1, :, :, :2] for x in operands(tensor))
    x = leaf(values_of(shape[1:] if len(shape) > 3 else shape))
    fast = {"fast_mode": True, "check_batched_grad": True}

    def function(q: Any, x: Any) -> Any:
        return ft.attention(q, k, v, mask=make(x), softcap=3.0)

    assert torch.autograd.gradcheck(function, (q.requires_grad_(), x), **fast)


def test_vmap_over_heads():
    q, k, v = (x[0] for x in operands(tensor))
    slopes = tensor(values_of((HEADS,)))

    def head(q: Any, k: Any, v: Any, slope: Any) -> Any:
        return ft.attention(q, k, v, mask=(fv.Alibi(slope), fv.Intervals(*ENDS)))

    wanted = head(q, k, v, slopes)
    np.testing.assert_array_equal(array(torch.vmap(head)(q, k, v, slopes)), array(wanted))
    each = torch.vmap(torch.func.grad(lambda *x: head(*x).sum(), argnums=3))(q, k, v, slopes)
    whole = torch.func.grad(lambda x: head(q, k, v, x).sum())(slopes)
    torch.testing.assert_close(each, whole)


def test_forward_mode():
    q, k, v = operands(tensor)
    x, t = (tensor(normal(n, (HEADS, 7), DTYPE)) for n in (4, 5))
    t_q = tensor(normal(6, q.shape, DTYPE))

    def ours(q: Any, x: Any) -> Any:
        return ft.attention(q, k, v, mask=fv.RelativeBias(x))

    def formula(q: Any, x: Any) -> Any:
        return (q @ k.mT / SIZE**0.5 + dense_bias("clipped", x)).softmax(-1) @ v

    found = torch.func.jvp(ours, (q, x), (t_q, t))
    for one, other in zip(found, torch.func.jvp(formula, (q, x), (t_q, t)), strict=True):
        torch.testing.assert_close(one, other)


def test_hard_attention():
    q, k, v = operands()
    x = leaf(values_of((HEADS, 7)))
    rule = (fv.RelativeBias(x), fv.BlockMask(BLOCKS, (4, 5)))
    best = ft.hard_attention(q, k, v, mask=rule, select="argmax")
    arrays = [array(y) for y in (q, k, v)]
    rule = (fv.RelativeBias(array(x)), rule[1])
    wanted, pullback = fv.hard_attention_vjp(*arrays, mask=rule, select="argmax")
    np.testing.assert_array_equal(array(best.index), wanted.index)
    (found,) = torch.autograd.grad(best.log_prob.sum(), x)
    gradient = pullback(advantage=np.ones_like(wanted.log_prob)).mask[0].table
    np.testing.assert_allclose(array(found), gradient, rtol=1e-12, atol=1e-13)


def test_statistics():
    q, k, _ = operands(tensor)
    slopes = leaf(values_of((HEADS,)))
    with pytest.raises(TypeError, match=r"^mask: got a tensor of which derivatives"):
        ft.attention_statistics(q, k, mask=fv.Alibi(slopes))
    inside = fv.Neighborhood(GRID, 3)
    found = ft.attention_statistics(q, k, mask=(fv.Alibi(slopes.detach()), inside))
    rule = fv.Alibi(array(slopes)), inside
    wanted = fv.attention_statistics(array(q), array(k), mask=rule)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array(one), other)


class Learns(torch.nn.Module):
    """Attention whose heads learn a bias for each distance."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(HEADS, 7))
        self.inside = fv.Neighborhood(LENGTH, 9)

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return ft.attention(q, k, v, mask=(fv.RelativeBias(self.table), self.inside))


def test_a_module_learns():
    """A table is found again from what it gives."""
    module, teacher = Learns(), Learns()
    torch.nn.init.normal_(teacher.table, generator=torch.Generator().manual_seed(3))
    inputs = operands(tensor, np.float32)
    with torch.no_grad():
        wanted = teacher(*inputs)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.3)
    losses = []
    for _ in range(20):
        loss = (module(*inputs) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20
    copied = Learns()
    copied.load_state_dict(module.state_dict())
    assert torch.equal(copied(*inputs), module(*inputs))


IMAGE, BLOCKS_OF_4 = fv.Neighborhood(GRID, 3), fv.BlockMask(BLOCKS, (4, 5))
GRAPH, FALLS = fv.Edges(POINTERS, NEIGHBORS), fv.Alibi([0.5, 0.25, 0.125])
COMPILED: dict[str, Any] = {
    "alibi": ((HEADS,), lambda x: (fv.Alibi(x), CAUSAL)),
    "t5": BIASES["t5"],
    "grid": ((HEADS, 5, 7), lambda x: (fv.RelativeBias2d(x, GRID), IMAGE)),
    "blocks": ((HEADS, 1, LENGTH), lambda x: (x, BLOCKS_OF_4, FALLS)),
    "edges": ((HEADS, LENGTH, LENGTH), lambda x: (GRAPH, x)),
}


# torch's own
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")
class TestCompile:
    @pytest.mark.parametrize("name", COMPILED)
    def test_whole(self, name):
        shape, make = COMPILED[name]
        inputs = [*operands(dtype=np.float32), leaf(values_of(shape, np.float32))]

        def function(q: Any, k: Any, v: Any, x: Any) -> Any:
            return ft.attention(q, k, v, mask=make(x))

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        output, wanted = compiled(*inputs), function(*inputs)
        assert torch.equal(output, wanted)
        d = tensor(normal(9, output.shape, np.float32))
        found = (torch.autograd.grad(y, inputs, d) for y in (output, wanted))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)

    def test_other_rules(self):
        """A rule is a constant of the graph, which is made anew for another one."""
        module, inputs = Learns(), operands(tensor, np.float32)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for size in (9, 3):
            module.inside = fv.Neighborhood(LENGTH, size)
            assert torch.equal(compiled(*inputs), module(*inputs))


class TestRefused:
    def test_positions(self):
        q, k, v = operands(tensor)
        with pytest.raises(ValueError, match=r"^offset: got none with 5 queries and 12 keys"):
            ft.attention(q[..., :5, :], k, v, mask=fv.Alibi(1.0))
        with pytest.raises(ValueError, match=r"^shape: got \(3, 5\), wanted as many places as"):
            ft.attention(q, k, v, mask=fv.Neighborhood((3, 5), 1))

    def test_parameters(self):
        q, k, v = operands(tensor)
        with pytest.raises(TypeError, match=r"^slopes: got dtype torch.int64"):
            ft.attention(q, k, v, mask=fv.Alibi(torch.ones(3, dtype=torch.int64)))
        with pytest.raises(ValueError, match=r"^table: got shape torch.Size\(\[4\]\), wanted"):
            fv.RelativeBias(torch.ones(4))
        with pytest.raises(TypeError, match=r"^mask: got str, wanted a tensor of bool"):
            ft.attention(q, k, v, mask=(fv.Alibi(1.0), "causal"))
        with pytest.raises(TypeError, match=r"^slopes: got torch.Tensor, wanted an array"):
            fv.attention(*map(array, (q, k, v)), mask=fv.Alibi(leaf(np.ones(3))))

    def test_second_order(self):
        q, k, v = operands()
        x = leaf(values_of((HEADS, 7)))
        output = ft.attention(q, k, v, mask=fv.RelativeBias(x))
        (d_q,) = torch.autograd.grad(output.sum(), q, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"order with respect to a bias by position"):
            torch.autograd.grad(d_q.sum(), k)
