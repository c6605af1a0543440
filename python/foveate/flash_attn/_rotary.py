"""Rotary position embeddings: pairs of columns are turned by angles of the position.

The pairs are columns 2 n and 2 n + 1 (interleaved), or n and n + R / 2; R columns are turned. Sums
are float32 for 16-bit tensors, rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._operands import floats, integers
from ._sequences import Lengths


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Turn x as `flash_attn.layers.rotary.apply_rotary_emb`, with gradients by autograd.

    x (B, L, H, D), or (total, H, D) with `cu_seqlens`; cos, sin (positions, R / 2).
    `seqlen_offsets`, an int or (B,), is the position of the first row of each sequence.
    """
    axes = "B, L, H, D" if cu_seqlens is None else "total, H, D"
    (x,) = floats(("x", x, axes))
    check_angles("cos", cos, "sin", sin, x.shape[-1])
    index = torch.arange(x.shape[-3], device="cpu")
    if cu_seqlens is None:
        batch = x.shape[0]
        offsets: Any = seqlen_offsets
        if isinstance(seqlen_offsets, Tensor):
            offsets = integers("seqlen_offsets", seqlen_offsets, (batch,), f"({batch},)")[:, None]
        positions = index + offsets
    else:
        longest = x.shape[0] if max_seqlen is None else max_seqlen
        of_x = Lengths.of("cu_seqlens", cu_seqlens, "max_seqlen", longest, x)
        positions = of_x.within(x.shape[0])
        if isinstance(seqlen_offsets, Tensor):
            shape = (of_x.number,)
            offsets = integers("seqlen_offsets", seqlen_offsets, shape, f"({of_x.number},)")
            offsets = torch.nn.functional.pad(offsets, (0, 1))  # behind the last sequence
            positions = positions + offsets[of_x.sequence(x.shape[0])]
        else:
            positions = positions + seqlen_offsets
    check_positions("seqlen_offsets", positions, cos)
    turned = turn(x, cos, sin, positions, interleaved)
    return x.copy_(turned) if inplace else turned


def check_angles(of_cos: str, cos: Any, of_sin: str, sin: Any, size: int) -> None:
    """Check the tables of cosines and sines."""
    floats((of_cos, cos, "positions, R / 2"), (of_sin, sin, "positions, R / 2"))
    if sin.shape != cos.shape:
        raise ValueError(
            f"{of_sin}: got shape {tuple(sin.shape)}, wanted {tuple(cos.shape)}, as of {of_cos}"
        )
    if 2 * cos.shape[1] > size:
        raise ValueError(
            f"{of_cos}: got shape {tuple(cos.shape)}, wanted at most {size // 2} columns, half of "
            "those of a head"
        )


def check_positions(name: str, positions: Tensor, cos: Tensor) -> None:
    """Check that the tables have these positions."""
    if torch.compiler.is_compiling() or positions.numel() == 0:
        return
    low, high = (int(n) for n in positions.aminmax())
    if low < 0 or high >= cos.shape[0]:
        raise ValueError(
            f"{name}: got position {low if low < 0 else high}, wanted 0 to {cos.shape[0] - 1}, "
            "those of the tables"
        )


def turn(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, interleaved: bool) -> Tensor:
    """Turn x (..., L, H, D) by the angles of positions that broadcast with (..., L)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    c, s = (table[positions].unsqueeze(-2).to(wide) for table in (cos, sin))
    count = 2 * cos.shape[1]
    turning = x[..., :count].to(wide)
    if interleaved:
        a, b = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack((a * c - b * s, a * s + b * c), dim=-1).flatten(-2)
    else:
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat((a * c - b * s, a * s + b * c), dim=-1)
    return torch.cat((turned.to(x.dtype), x[..., count:]), dim=-1)
