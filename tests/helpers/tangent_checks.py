"""Tangents held against the formulas one precision wider."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._attention import weights_of
from foveate.reference._reach import lead_of
from foveate.reference._tangents import scores_tangent
from foveate.scores import score_object
from strategies import normal
from tolerances import FLOORS, RATIO, TANGENT_ULP, assert_within, eps, magnitude_of, wider


def tangents_of(arrays: Any, seed: int = 30) -> tuple[np.ndarray, ...]:
    return tuple(normal(seed + n, x.shape, x.dtype) for n, x in enumerate(arrays))


def check_tangent(
    *arrays: np.ndarray, moving: str = "qkv", tangents: Any = None, **keywords: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Hold attention_jvp against the formulas one precision wider. Return output and tangent."""
    dtype = arrays[0].dtype.newbyteorder("=")
    wide = reference.compute_dtype(dtype)
    whole = tangents_of(arrays) if tangents is None else tangents
    given = [x if name in moving else None for name, x in zip("qkv", whole, strict=True)]
    before = [x.tobytes() for x in (*arrays, *whole)]
    found = fv.attention_jvp(*arrays, *given, return_lse=True, **keywords)
    assert before == [x.tobytes() for x in (*arrays, *whole)], "an input was modified"
    (output, lse), (tangent, d_lse) = found
    assert output.dtype == tangent.dtype == dtype
    assert lse.dtype == d_lse.dtype == wide
    few = arrays[0].shape[-2] <= 4 or isinstance(keywords.get("score"), fv.Location)
    if not few:  # whose forward goes another way
        plain, plain_lse = fv.attention(*arrays, return_lse=True, **keywords)
        np.testing.assert_array_equal(output, plain)
        np.testing.assert_array_equal(lse, plain_lse)

    def of(as_type: Any) -> Any:
        operands = [None if x is None else as_type(x) for x in (*arrays, *given)]
        return reference.attention_jvp(*operands, return_lse=True, **keywords)[1]

    exact, usual = of(wider), of(lambda x: x)
    floor = FLOORS[dtype]
    size, lse_size = sizes(arrays, given, **keywords)
    for name, got, want, plain, rounded, ulps in (
        ("tangent", tangent, exact[0], usual[0], floor.rounded_weights, size),
        ("tangent of lse", d_lse, exact[1], usual[1], floor.exponentials, lse_size),
    ):
        off = np.abs(plain.astype(want.dtype) - want)
        worst = np.max(off, initial=0, where=np.isfinite(off))
        allowed = (TANGENT_ULP * eps(wide) + rounded) * ulps + RATIO * worst
        allowed = allowed + float(np.finfo(wide).tiny)
        assert_within(got, want, allowed + eps(got.dtype) * np.abs(want), name)
    return output, tangent


def sizes(arrays: Any, given: Any, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
    """How large the sums of both tangents are before terms cancel: of absolute values."""
    with np.errstate(all="ignore"):
        return _sizes(arrays, given, **keywords)


def _sizes(arrays: Any, given: Any, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
    others = {"score", "softcap", "sink", "dropout", "rng"}
    reach = {name: x for name, x in keywords.items() if name not in others}
    score, sink = keywords.get("score", "scaled_dot"), keywords.get("sink")
    q, k, v = map(wider, arrays)
    dq, dk, dv = (
        0 * x if d is None else np.abs(wider(d)) for x, d in zip((q, k, v), given, strict=True)
    )
    lead = lead_of(q, k, v, sink=sink, **reach)
    weights, _, seen = weights_of(q, k, lead, score, keywords.get("softcap"), sink, **reach)
    moved = _moved(score_object(score), q, k, dq, dk)
    logit = 0.0 if isinstance(score, fv.Polynomial) else magnitude_of(q, k, score)
    cells = np.where(seen, weights * moved * (1 + logit), 0)
    of_lse = cells.sum(axis=-1)
    cells = cells + of_lse[..., None] * weights
    rows = np.where(np.isfinite(v), np.abs(v), 0), np.where(np.isfinite(dv), dv, 0)
    size = cells @ rows[0] + np.where(seen, weights * (1 + logit), 0) @ rows[1]
    return size / (1 - keywords.get("dropout", 0.0)), of_lse


def _moved(score: Any, q: Any, k: Any, dq: Any, dk: Any) -> np.ndarray:
    """How far each score moves, terms of one sign."""
    if isinstance(score, fv.Gaussian):
        w = np.asarray(score.w).astype(q.dtype)
        apart = np.abs(q[..., :, None, :] - k[..., None, :, :])
        return np.sum(w * w * apart * (dq[..., :, None, :] + dk[..., None, :, :]), axis=-1)
    q, k = np.abs(q), np.abs(k)
    if isinstance(score, fv.Cosine):
        rows = []
        for x, d in ((q, dq), (k, dk)):
            length = np.linalg.norm(x, axis=-1, keepdims=True)
            length = np.where(length == 0, np.inf, length)
            u = x / length
            rows += [u, (d + u * np.sum(u * d, axis=-1, keepdims=True)) / length]
        score, q, dq, k, dk = fv.ScaledDot(score.scale), *rows
    if isinstance(score, fv.Additive | fv.Concat | fv.Location):
        score = dataclasses.replace(score, activation="identity")
    fields = {x.name: getattr(score, x.name) for x in dataclasses.fields(score)}
    kept = {"degree", "activation"}
    positive = {
        name: x if x is None or name in kept else np.abs(x) if np.ndim(x) else abs(float(x))
        for name, x in fields.items()
    }
    return np.abs(scores_tangent(dataclasses.replace(score, **positive), q, k, dq, dk))
