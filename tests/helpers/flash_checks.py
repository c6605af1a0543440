"""flash-attention's functions by the formula, one sequence at a time, in its layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from tolerances import RATIO, eps
from torch_checks import array, torch


def formula(q: Any, k: Any, v: Any, slopes: Any = None, **by: Any) -> Any:
    """Output (Lq, H, Dv), lse (H, Lq) and weights (H, Lq, Lk) of one sequence."""
    heads, group = q.shape[1], q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scale = by.get("softmax_scale") or q.shape[-1] ** -0.5
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    cap = by.get("softcap", 0.0)
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    i = torch.arange(len(q))[:, None] + (len(k) - len(q))
    j = torch.arange(len(k))
    if slopes is not None:
        scores = scores - slopes.to(scores.dtype)[:, None, None] * (i - j).abs()
    left, right = by.get("window_size", (-1, -1))
    right = 0 if by.get("causal") else right
    hidden = torch.zeros(len(q), len(k), dtype=torch.bool)
    if left >= 0:
        hidden |= j < i - left
    if right >= 0:
        hidden |= j > i + right
    scores = scores.masked_fill(hidden, -torch.inf)
    lse = torch.logsumexp(scores, -1) if len(k) else scores.new_full((heads, len(q)), -torch.inf)
    weights = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
    return torch.einsum("hij,jhd->ihd", weights.to(v.dtype), v), lse, weights


def tensors(
    dtype: Any, rows: int, keys: int, heads: int = 4, of_keys: int = 4, size: int = 8
) -> Any:
    """q (rows, heads, size), k (keys, of_keys, size), v (keys, of_keys, size + 3)."""
    draw = torch.Generator().manual_seed(rows + keys)
    shapes = (rows, heads, size), (keys, of_keys, size), (keys, of_keys, size + 3)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]


def hold(got: Any, exact: Any, plain: Any, size: Any) -> None:
    """At most twice the error of the plain formula, and a few roundings of the values."""
    assert got.shape == exact.shape
    allowed = 8 * eps(array(got).dtype) * float(size.abs().max()) if size.numel() else 0.0
    allowed += RATIO * float((plain.double() - exact).abs().max()) if exact.numel() else 0.0
    assert float((got.double() - exact).abs().max()) <= allowed if exact.numel() else True


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
OPTIONS: dict[str, Any] = {
    "plain": {},
    "scale": {"softmax_scale": 0.7},
    "causal": {"causal": True},
    "window": {"window_size": (3, 2)},
    "left": {"window_size": (4, -1)},
    "causal window": {"causal": True, "window_size": (2, 9)},
    "softcap": {"softcap": 1.5, "causal": True},
    "alibi": {"alibi_slopes": SLOPES},
    "causal alibi": {"alibi_slopes": SLOPES, "causal": True, "window_size": (5, -1)},
    "alibi of each": {"alibi_slopes": torch.stack([SLOPES * n for n in range(1, 6)])},
}
LENGTHS = [(5, 5), (3, 9), (9, 3), (0, 4), (1, 7)]  # of queries and keys; some see nothing


def slopes_of(by: dict[str, Any], n: int) -> Any:
    found = by.get("alibi_slopes")
    return found if found is None or found.ndim == 1 else found[n]


def exactly(q: Any, k: Any, v: Any, by: dict[str, Any], n: int = 0) -> Any:
    options = {name: x for name, x in by.items() if name != "alibi_slopes"}
    return formula(q, k, v, slopes_of(by, n), **options)


def begins(lengths: Any) -> Any:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
