"""Normalizers beside the softmax, of tensors: autograd, compile, vmap; what has no derivative."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import normal
from torch_checks import ft, torch

pytestmark = [
    pytest.mark.any_isa,
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
]


def tensors(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [
        torch.tensor(normal(n, (2, rows, 4), np.float64), dtype=dtype, requires_grad=True)
        for n, rows in enumerate((5, 7, 7))
    ]


def by_torch(q, k, v, normalizer, mask=0.0):
    """The formulas, in operations of torch."""
    logits = q @ k.transpose(-1, -2) / 2 + mask
    if normalizer == "sigmoid":
        return torch.sigmoid(logits) @ v
    if normalizer == "relu":
        return torch.relu(logits) @ v
    if normalizer == "softmax_plus_one":
        column = torch.zeros_like(logits[..., :1])
        return torch.softmax(torch.cat([logits, column], -1), -1)[..., :-1] @ v
    count = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype)
    falling = torch.sort(logits, dim=-1, descending=True)[0]
    if normalizer == "sparsemax":
        tau = (falling.cumsum(-1) - 1) / count
    else:
        falling = falling / 2
        mean = falling.cumsum(-1) / count
        spread = (falling**2).cumsum(-1) / count - mean**2
        tau = mean - torch.sqrt((1 / count - spread).clamp(min=0))
    support = (tau < falling).sum(-1, keepdim=True)
    tau = torch.gather(tau, -1, support - 1)
    if normalizer == "sparsemax":
        return torch.relu(logits - tau) @ v
    return torch.relu(logits / 2 - tau) ** 2 @ v


ERRORS = (RuntimeError, TypeError, ValueError)
NORMALIZERS = ["softmax_plus_one", "sigmoid", "relu", "sparsemax", "entmax15"]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_autograd(normalizer):
    """Its own derivative of the formulas, to rounding: float64."""
    q, k, v = tensors()
    mask = torch.tensor(normal(5, (5, 7), np.float64), requires_grad=True)
    output = ft.attention(q, k, v, mask=mask, normalizer=normalizer)
    wanted = by_torch(q, k, v, normalizer, mask)
    torch.testing.assert_close(output, wanted, rtol=1e-12, atol=1e-13)
    d_output = torch.tensor(normal(6, tuple(output.shape), np.float64))
    found = torch.autograd.grad(output, (q, k, v, mask), d_output)
    want = torch.autograd.grad(wanted, (q, k, v, mask), d_output)
    for one, two in zip(found, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("normalizer", ["sigmoid", "entmax15"])
def test_transforms(normalizer):
    """vmap and compiled graphs: the same numbers."""
    q, k, v = tensors(torch.float32)

    def attend(q, k, v):
        return ft.attention(q, k, v, causal=True, offset="end", normalizer=normalizer)

    output = attend(q, k, v)
    assert torch.equal(torch.func.vmap(attend)(q, k, v), output)
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    again = compiled(q, k, v)
    assert torch.equal(again, output)
    gradients = torch.autograd.grad(output.sum(), (q, k, v))
    for one, two in zip(torch.autograd.grad(again.sum(), (q, k, v)), gradients, strict=True):
        assert torch.equal(one, two)
    with torch.no_grad():
        assert torch.equal(attend(q, k, v), output)


def test_what_has_no_derivative():
    q, k, v = tensors()

    def attend(q):
        return ft.attention(q, k.detach(), v.detach(), normalizer="sigmoid")

    with pytest.raises(ERRORS, match="weighing: got one that has no"):
        torch.func.jvp(attend, (q.detach(),), (torch.ones_like(q),))
    (gradient,) = torch.autograd.grad(attend(q).sum(), q, create_graph=True)
    with pytest.raises(ERRORS, match="weighing: got one that has no"):
        gradient.sum().backward()


def test_what_is_refused():
    q, k, v = tensors()
    with pytest.raises(ValueError, match=r"^return_lse: got one with normalizer='relu'"):
        ft.attention(q, k, v, normalizer="relu", return_lse=True)
    with pytest.raises(ValueError, match=r"^normalizer: got 'max', wanted one of"):
        ft.attention(q, k, v, normalizer="max")
