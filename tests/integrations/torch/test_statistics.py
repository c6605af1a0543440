"""foveate.torch.attention_statistics: the operator, and the arrays' answers."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from strategies import problem
from torch_checks import array, ft, tensor, torch

CASES = {
    "plain": {},
    "causal, sink": {"causal": True, "offset": "end", "sink": 0.5, "queries": slice(-3, None)},
    "window, softcap": {"window": (4, 1), "offset": 2, "softcap": 3.0},
    "gaussian": {"score": fv.Gaussian(0.5), "queries": slice(2, 4)},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "bfloat16"])
def test_answers_are_those_of_arrays(name, dtype):
    dtype = fv._inputs.arrays.bfloat16("") if dtype == "bfloat16" else dtype
    q, k, _ = problem(7, 11, lead=(2, 3), dtype=dtype)
    found = ft.attention_statistics(tensor(q), tensor(k[:, :1]), **CASES[name])
    wanted = fv.attention_statistics(q, k[:, :1], **CASES[name])
    for got, x in zip(found, wanted, strict=True):
        assert array(got).dtype == x.dtype
        np.testing.assert_array_equal(array(got), x)


def test_arrays_of_a_reach_are_tensors():
    q, k, _ = problem(7, 11, lead=(2,))
    mask, lengths, sink = np.tri(7, 11) > 0, np.array([11, 3]), np.array([0.1, 2.0])
    found = ft.attention_statistics(
        *map(tensor, (q, k)), mask=tensor(mask), key_lengths=tensor(lengths), sink=tensor(sink)
    )
    wanted = fv.attention_statistics(q, k, mask=mask, key_lengths=lengths, sink=sink)
    for got, x in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array(got), x)


RULES = {
    "edges": fv.Edges([0, 1, 3, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]),
    "blocks": fv.BlockMask(np.eye(3, dtype=bool), 2),
    "alibi": fv.Alibi([0.1, 0.2]),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(name):
    q, k, _ = problem(6, 6, lead=(2,))
    found = ft.attention_statistics(tensor(q), tensor(k), mask=RULES[name])
    wanted = fv.attention_statistics(q, k, mask=RULES[name])
    for got, x in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(array(got), x)


def test_opcheck():
    q, k, _ = (tensor(x) for x in problem(3, 5))
    operator = torch.ops.foveate.attention_statistics.default
    found = torch.library.opcheck(operator, (q, k, k))
    assert set(found.values()) == {"SUCCESS"}


def test_compiled_and_mapped():
    q, k, _ = (tensor(x) for x in problem(6, 9, lead=(4,)))

    def last(q, k):
        return ft.attention_statistics(q, k, causal=True, offset=3, queries=slice(-2, None))

    wanted = last(q, k)
    for call in (torch.compile(last, fullgraph=True, backend="aot_eager"), torch.vmap(last)):
        for x, y in zip(call(q, k), wanted, strict=True):
            assert torch.equal(x, y)


def test_what_learns_is_refused():
    q, k, _ = (tensor(x) for x in problem(6, 9))
    refused = r"key: got a tensor of which derivatives may be wanted, of which attention_statistics"
    with pytest.raises(TypeError, match=refused):
        ft.attention_statistics(q, k.clone().requires_grad_())
    with torch.no_grad():
        ft.attention_statistics(q, k.clone().requires_grad_())
    with pytest.raises(TypeError, match="may be wanted"):
        torch.func.grad(lambda q: ft.attention_statistics(q, k).entropy.sum())(q)
    with pytest.raises(TypeError, match="queries: got int, wanted a slice or None"):
        ft.attention_statistics(q, k, queries=3)
    with pytest.raises(TypeError, match="key: got Quantized"):
        ft.attention_statistics(q, ft.quantize(k))
