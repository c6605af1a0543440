"""foveate.torch: layouts and memory of tensors, autocast, modes and the default device of torch."""

from __future__ import annotations

from typing import Any

import foveate as fv
import numpy as np
import pytest
from foveate._reach.reach import Reach
from strategies import DTYPES, normal, problem
from torch_checks import SCORES, array, as_torch, case, ft, leaf, score_named, tensor, torch

# --- layouts and memory ---------------------------------------------------------------------------


def _strided(x: Any) -> Any:
    larger = torch.zeros(*x.shape[:-1], 3 * x.shape[-1] + 1, dtype=x.dtype)
    larger[..., 1::3] = x
    return larger[..., 1::3]


def _negated(x: Any) -> Any:
    """A view with the negative bit set, which NumPy does not take."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.clone()
    y = torch.complex(x, -x).conj().imag
    assert y.is_neg()
    return y


def _unaligned(x: Any) -> Any:
    raw = bytearray(x.nbytes + 1)
    y = torch.frombuffer(raw, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
    return y.copy_(x)


TENSOR_LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "heads inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": _strided,
    "negated": _negated,
    "unaligned": _unaligned,
    "flipped": lambda x: x.flip(-2).flip(-2),
    "a slice": lambda x: torch.cat([x, x], dim=-2)[..., x.shape[-2] :, :],
    "a parameter": lambda x: torch.nn.Parameter(x.clone()),
}


@pytest.mark.parametrize("layout", TENSOR_LAYOUTS)
def test_each_input_in_each_layout(layout, dtype):
    arrays = problem(20, 33, lead=(2, 3), size=12, dtype=dtype)
    inputs, lay = [tensor(x) for x in arrays], TENSOR_LAYOUTS[layout]
    mask = tensor(normal(4, (2, 3, 20, 33), np.float32))
    wanted = fv.attention(*arrays, mask=array(mask))
    d_output = normal(5, wanted.shape, dtype)
    for n in range(5):
        laid = [lay(x) if n in (m, 4) else x for m, x in enumerate((*inputs, mask))]
        np.testing.assert_array_equal(array(ft.attention(*laid[:3], mask=laid[3])), wanted)
        learned = [x.requires_grad_() for x in (lay(x.clone()).detach() for x in inputs)]
        output = ft.attention(*learned, mask=laid[3])
        np.testing.assert_array_equal(array(output), wanted)
        output.backward(lay(tensor(d_output)))
        assert all(x.grad.shape == x.shape for x in learned)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_an_expanded_axis(axis, dtype):
    arrays = problem(20, 33, lead=(2, 3), size=12, dtype=dtype)
    flat = [tensor(np.take(x, [0], axis)).expand(x.shape) for x in arrays]
    wanted = fv.attention(*(array(x) for x in flat))
    np.testing.assert_array_equal(array(ft.attention(*flat)), wanted)
    for n, x in enumerate(flat):
        inputs = [y.clone() for y in flat]
        inputs[n] = x
        np.testing.assert_array_equal(array(ft.attention(*inputs)), wanted)


@pytest.mark.parametrize("learns", [False, True], ids=["alone", "with gradients"])
@pytest.mark.parametrize("value_size", [8, 5])
def test_heads_come_out_as_they_came_in(learns, value_size, dtype):
    """(batch, heads, length, size) that is a view of (batch, length, heads, size)."""
    arrays = [normal(n, (2, 9, 4, size), dtype) for n, size in enumerate((8, 8, value_size))]
    inputs = [tensor(x).requires_grad_(learns).transpose(1, 2) for x in arrays]
    output = ft.attention(*inputs)
    assert output.transpose(1, 2).is_contiguous()
    assert output.transpose(1, 2).flatten(-2).data_ptr() == output.data_ptr()
    assert ft.attention(*(x.contiguous() for x in inputs)).is_contiguous()
    broadcast = ft.attention(inputs[0], inputs[1][:1], inputs[2][:1])
    assert broadcast.transpose(1, 2).is_contiguous()
    whole = ft.attention(inputs[0][:1], *inputs[1:])
    assert whole.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_memory_is_shared(dtype, monkeypatch):
    """The kernel reads the tensors, and writes the output, where they are."""
    seen = []
    attention = fv._core.attention

    def spy(*problem: Any, **keywords: Any) -> Any:
        answer = attention(*problem, **keywords)
        for part in problem:
            keywords |= part._asdict()
        keywords |= (keywords["reach"] or Reach())._asdict()
        keywords["answer"] = answer[0] if isinstance(answer, tuple) else answer
        seen.append({name: x.__array_interface__["data"][0]
                     for name, x in keywords.items() if isinstance(x, np.ndarray)})  # fmt: skip
        return answer

    monkeypatch.setattr(fv._core, "attention", spy)
    inputs = [tensor(x) for x in problem(20, 33, lead=(2,), size=12, dtype=dtype)]
    mask = torch.zeros(20, 33)
    output = ft.attention(*inputs, mask=mask, return_lse=True)[0]
    learned = ft.attention(*(x.detach().requires_grad_() for x in inputs), mask=mask)
    plain = ft.attention(*inputs, return_lse=True)[0]
    pointers = [x.data_ptr() for x in inputs]
    assert [[call[x] for x in ("query", "key", "value")] for call in seen] == [pointers] * 3
    assert seen[0]["mask"] == seen[1]["mask"] == mask.data_ptr()
    assert output.data_ptr() == seen[0]["answer"]
    assert plain.data_ptr() == seen[2]["answer"]
    # of 16 bits the output is kept as it is before it is rounded
    assert (learned.data_ptr() == seen[1]["answer"]) == (dtype.itemsize > 2)


def test_nothing_is_modified(dtype):
    arrays = problem(20, 33, lead=(2,), size=12, dtype=dtype)
    keywords = {
        "mask": normal(3, (20, 33), np.float32), "sink": normal(4, (2,), np.float64),
        "key_lengths": np.array([20, 33]), "offset": np.array([4, 5]), "causal": True,
        "score": score_named("additive tanh", 12, dtype),
    }  # fmt: skip
    others = as_torch(keywords, leaf)
    inputs = [leaf(x) for x in arrays]
    own = [x for x in (*others.values(), *vars(others["score"]).values()) if hasattr(x, "_version")]
    before = [array(x).tobytes() for x in (*inputs, *own)]
    ft.attention(*inputs, **others).square().sum().backward()
    assert before == [array(x).tobytes() for x in (*inputs, *own)]
    assert all(x._version == 0 for x in (*inputs, *own))


# --- modes of torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, dtype):
    arrays = problem(20, 33, lead=(2,), size=12, dtype=dtype)
    with mode():
        output, lse = ft.attention(*map(leaf, arrays), return_lse=True)
    assert not output.requires_grad
    assert not lse.requires_grad
    np.testing.assert_array_equal(array(output), fv.attention(*arrays))


@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SCORES)
def test_autocast(name, to):
    """As of torch's own attention, what is not float64 becomes its dtype."""
    arrays = problem(20, 33, lead=(2,), size=12)
    score = as_torch(score_named(name, 12, np.float32))
    inputs = [leaf(x) for x in arrays]
    with torch.autocast("cpu", dtype=to):
        output = ft.attention(*inputs, score=score)
    assert output.dtype is to
    output.sum().backward()
    assert inputs[1].grad.dtype is torch.float32
    narrow = ft.attention(*(tensor(x).to(to) for x in arrays), score=score)
    # A bias is added in float32 to what was projected in 16 bits, or in 16 bits to what comes in.
    torch.testing.assert_close(output, narrow, rtol=0, atol=8 * torch.finfo(to).eps)
    with torch.autocast("cpu", dtype=to):
        wide = ft.attention(*(tensor(x.astype(np.float64)) for x in arrays))
    assert wide.dtype is torch.float64


@pytest.mark.parametrize("name", ["location tanh", "additive identity"])
def test_what_autocast_does_not_round(name):
    """Scores that are numbers of the keys stay as precise as they are without it."""
    q, k, _ = (tensor(x) for x in problem(5, 33, lead=(), size=12))
    score = as_torch(score_named(name, 12, np.float32))
    if name == "additive identity":
        score = ft.Additive(score.v[:12], activation="identity")
    q, k = q.bfloat16(), k.bfloat16()
    value = torch.eye(33, dtype=torch.bfloat16)
    wanted = ft.attention(q, k, value, score=score, return_lse=True)
    with torch.autocast("cpu"):
        found = ft.attention(q, k, value, score=score, return_lse=True)
    for x, y in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(array(x), array(y))


@pytest.mark.parametrize("reach", ["all", "all of it"])
@pytest.mark.parametrize("name", ["scaled", "gaussian", "location tanh"])
def test_the_default_device_does_not_matter(name, reach):
    arrays, keywords = case(reach, np.dtype(np.float32))
    inputs, others = [tensor(x) for x in arrays], as_torch(keywords)
    score = score_named(name, 16, np.float32)
    wanted = ft.attention(*inputs, score=score, **{**others, "sink": 0.5})
    with torch.device("meta"):
        found = ft.attention(*inputs, score=score, **{**others, "sink": 0.5})
        drawn = ft.hard_attention(*inputs, causal=True, offset=1)
        local = ft.local_attention(*inputs, half_width=2, sigma=1.0)
        x = inputs[0][0, 0, :, 0]
        estimate = ft.kernel_regression(x, x, x, w=2.0)
    np.testing.assert_array_equal(array(found), array(wanted))
    assert all(x.is_cpu for x in (*drawn, local, estimate))
    np.testing.assert_array_equal(
        array(local), fv.local_attention(*arrays, half_width=2, sigma=1.0)
    )
