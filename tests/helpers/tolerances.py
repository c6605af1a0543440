"""The one table of tolerances, and the checks that use it.

The principle: against the formula computed one precision wider (float64; long double for float64),
the error is at most twice that of the plain formula in the same dtype, plus a floor. The floor is
there because the plain formula is exact by luck on some small problems. It is counted in ulp of

- for an output: sum_j weight_j |value_j|, the size that the sum has before terms cancel;
- for a logit: its size before terms cancel, likewise, which is the score of the absolute values of
  query, key and parameters (sum_d |query_d key_d|; sum_h |v_h| tanh(...)); of a distance, which is
  a sum of squares, the score itself. And |lse|, which is taken from it: a difference that is wrong
  by e makes its weight wrong by the factor 1 + e.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from foveate.reference._reach import bias_of
from strategies import BFLOAT16

# The error of the plain formula, times this, is what is allowed (the yardstick of flash-attention:
# another order of the same sums can be unlucky by so much, and a wrong formula is worse by far).
RATIO = 2


@dataclass(frozen=True)
class Floor:
    """How far an answer may be off where the plain formula happens to be exact."""

    output: float  # in ulp of the dtype of the output
    logit: float  # in ulp of the dtype of accumulation
    lse: float  # in ulp of the dtype of accumulation
    exponentials: float = 0.0  # absolute, of lse
    rounded_weights: float = 0.0  # in gradients, of the sums they are made of


FLOORS = {
    # Half an ulp to round the output, and as much again for the sum that is rounded.
    np.dtype(np.float16): Floor(output=1, logit=1, lse=2),
    # As float16, and half an ulp for the weights, which are rounded to bfloat16 for the product,
    # 2^-8 of them in gradients. The lse sums them as they were before, with the error of
    # exponentials that are meant for 8 bits: 3e-6.
    BFLOAT16: Floor(output=1.5, logit=1, lse=2, exponentials=3e-6, rounded_weights=2.0**-8),
    # One ulp for each of: exp, the sum of the weights, the sum of the products, the division.
    # A logit is rounded when it is scaled and when log2 e is folded in: half an ulp each.
    np.dtype(np.float32): Floor(output=4, logit=1, lse=2),
    np.dtype(np.float64): Floor(output=4, logit=1, lse=2),
}

# The Gaussian of local attention, exp(-e): its exponent is off by 4 ulp of itself (a rounding each
# of the difference, its square, the rate and the fraction of the center), and e exp(-e) <= 0.37;
# one ulp for exp2, half a one for the product: relative to the weight before.
GAUSSIAN_ULP = 4

# Weights that sum to 1: each is rounded to the dtype, by half an ulp of itself, so their sum is off
# by half an ulp at most; one more for the errors of exp and of the denominator, times their number.
SUM_OF_WEIGHTS_ULP = 8

# Tangents, in ulp of the size of the sums before terms cancel: the tangent of a score is two sums,
# rounded with its slope, a weight is off by exp and the denominator, and there are three sums over
# keys, whose chains of 4 to 168 terms grow as the root of that: as gradients are.
TANGENT_ULP = 20

# Parts of the keys merged against the whole: the parts' errors, and the merge's own of a few
# operations: three times the floor of one call.
MERGE_FLOORS = 3

# Elementary functions, in ulp of the result. exp2 and log reach under 1 with a polynomial of the
# degree in use; the argument's reduction is exact. tanh is made of both and a division.
ELEMENTARY_ULP = {"exp2": 2.0, "log": 2.0, "tanh": 4.0}
ELEMENTARY_ULP_FLOAT64 = {"exp2": 4.0, "log": 4.0, "tanh": 4.0}


def eps(dtype: Any) -> float:
    """The step from 1 to the next number: one ulp of 1."""
    return 2.0**-7 if dtype == BFLOAT16 else float(np.finfo(dtype).eps)


def wider(x: Any) -> np.ndarray:
    """A copy one precision wider."""
    x = np.asarray(x)
    return x.astype(np.longdouble if reference.compute_dtype(x.dtype) == np.float64 else np.float64)


@dataclass(frozen=True)
class Expected:
    """The answer in high precision, and how far from it another may be."""

    output: np.ndarray
    lse: np.ndarray
    output_error: np.ndarray
    lse_error: np.ndarray


def expect(query: Any, key: Any, value: Any, **keywords: Any) -> Expected:
    """The answer of the reference, one precision wider, with the tolerance of each element."""
    q, k, v = (np.asarray(x) for x in (query, key, value))
    dtype = q.dtype.newbyteorder("=")
    accumulated = reference.compute_dtype(dtype)
    floor = FLOORS[dtype]
    q2, k2, v2 = wider(q), wider(k), wider(v)

    exact, exact_lse = reference.attention(q2, k2, v2, return_lse=True, **keywords)
    plain, plain_lse = reference.attention(q, k, v, return_lse=True, **keywords)
    with np.errstate(all="ignore"):
        size = reference.attention(q2, k2, np.abs(v2), **keywords)
        magnitude = _logit_size(q2, k2, exact.shape[:-2], **keywords)
        magnitude = magnitude + np.where(np.isfinite(exact_lse), np.abs(exact_lse), 0)
        logit_error = floor.logit * eps(accumulated) * (1 + magnitude)
        ulps = floor.output * eps(dtype) + logit_error[..., None]
        output_error = RATIO * _worst(plain, exact) + ulps * size
        lse_error = (
            RATIO * _worst(plain_lse, exact_lse)
            + logit_error
            + floor.lse * eps(accumulated) * (1 + np.abs(exact_lse))
            + floor.exponentials
        )
    return Expected(exact, exact_lse, output_error, lse_error)


def _worst(plain: np.ndarray, exact: np.ndarray) -> float:
    error = np.abs(plain.astype(exact.dtype) - exact)
    return float(np.max(error, initial=0, where=np.isfinite(error)))


def _logit_size(q: np.ndarray, k: np.ndarray, lead: tuple[int, ...], **keywords: Any) -> np.ndarray:
    """For each query the largest of its logits, before terms cancel, among the keys it sees."""
    score = keywords.get("score", "scaled_dot")
    mask = keywords.get("mask")
    names = ("causal", "window", "offset", "key_lengths", "segments", "centers", "half_width")
    seen = reference.reach(
        lead,
        q.shape[-2],
        k.shape[-2],
        mask=mask,
        **{n: keywords[n] for n in names if n in keywords},
    )
    size = magnitude_of(q, k, score)
    where = {n: keywords[n] for n in ("offset", "key_lengths") if n in keywords}
    bias = bias_of(mask, q.shape[-2], k.shape[-2], **where)
    if bias is not None:
        size = size + np.abs(bias.astype(size.dtype))
    size = np.where(seen & np.isfinite(size), size, 0)
    return size.max(axis=-1, initial=0)


def magnitude_of(q: np.ndarray, k: np.ndarray, score: Any) -> np.ndarray:
    """How large each score is before terms cancel."""
    if isinstance(score, fv.Gaussian):
        return np.abs(reference.scores(q, k, score))
    return np.abs(reference.scores(np.abs(q), np.abs(k), _absolute(score)))


def _absolute(score: Any) -> Any:
    """The score whose parameters are the absolute values of these; a scale stays as it is."""
    names = {fv.Bilinear: "w", fv.Additive: "v wq wk b", fv.Concat: "v w b", fv.Location: "w b"}
    given = {name: getattr(score, name) for name in names.get(type(score), "").split()}
    changed = {name: np.abs(x) for name, x in given.items() if x is not None}
    return dataclasses.replace(score, **changed) if changed else score


def assert_within(got: np.ndarray, exact: np.ndarray, error: np.ndarray, what: str) -> None:
    """Each element within its own tolerance; NaN and inf in the same places."""
    assert got.shape == exact.shape, f"{what}: shape {got.shape}, wanted {exact.shape}"
    got = got.astype(exact.dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact), err_msg=f"{what}: where NaN is")
    infinite = np.isinf(exact)
    np.testing.assert_array_equal(got[infinite], exact[infinite], err_msg=f"{what}: where inf is")
    finite = np.isfinite(exact)
    off = np.abs(got[finite] - exact[finite])
    allowed = np.broadcast_to(error, exact.shape)[finite]
    bad = ~(off <= allowed)
    if bad.any():
        worst = np.argmax(off / np.where(allowed > 0, allowed, 1e-300))
        where = tuple(int(axis[worst]) for axis in np.nonzero(finite))
        raise AssertionError(
            f"{what}: {bad.sum()} of {bad.size} elements are off by too much; the worst at "
            f"{where}: got {got[where]!r}, wanted {exact[where]!r}, off by {off[worst]:.3g}, "
            f"allowed {allowed[worst]:.3g}"
        )


def check_attention(query: Any, key: Any, value: Any, **keywords: Any) -> np.ndarray:
    """Run `foveate.attention`, and hold its output and lse against the reference.

    Inputs must be as they were, bit for bit. Returns the output.
    """
    inputs = [x for x in (query, key, value) if isinstance(x, np.ndarray)]
    before = [x.tobytes() for x in inputs]
    output, lse = fv.attention(query, key, value, return_lse=True, **keywords)
    assert before == [x.tobytes() for x in inputs], "an input was modified"

    dtype = np.asarray(query).dtype.newbyteorder("=")
    assert output.dtype.newbyteorder("=") == dtype
    assert lse.dtype == reference.compute_dtype(dtype)
    expected = expect(query, key, value, **keywords)
    assert_within(output, expected.output, expected.output_error, "output")
    assert_within(lse, expected.lse, expected.lse_error, "lse")
    return output


def check_local(query: Any, key: Any, value: Any, **keywords: Any) -> np.ndarray:
    """Run `foveate.local_attention`, and hold it against the reference. Returns the output."""
    q, k, v = (np.asarray(x) for x in (query, key, value))
    before = [x.tobytes() for x in (q, k, v)]
    output = fv.local_attention(query, key, value, **keywords)
    assert before == [x.tobytes() for x in (q, k, v)], "an input was modified"
    dtype = q.dtype.newbyteorder("=")
    assert output.dtype.newbyteorder("=") == dtype

    accumulated = reference.compute_dtype(dtype)
    floor = FLOORS[dtype]
    q2, k2, v2 = wider(q), wider(k), wider(v)
    exact = reference.local_attention(q2, k2, v2, **keywords)
    plain = reference.local_attention(q, k, v, **keywords)
    places = keywords.get("centers")
    reach = {"half_width": keywords["half_width"], "key_lengths": keywords.get("key_lengths")}
    reach["centers"] = np.arange(q.shape[-2]) if places is None else places
    with np.errstate(all="ignore"):
        size = reference.local_attention(q2, k2, np.abs(v2), **keywords)
        window = {**keywords, "sigma": None}
        before_gaussian = reference.local_attention(q2, k2, np.abs(v2), **window)
        score = {"score": keywords.get("score", "scaled_dot")}
        magnitude = _logit_size(q2, k2, exact.shape[:-2], **score, **reach)
        logit_error = floor.logit * eps(accumulated) * (1 + magnitude)
        ulps = floor.output * eps(dtype) + logit_error[..., None]
        error = RATIO * _worst(plain, exact) + ulps * size
        error = error + GAUSSIAN_ULP * eps(accumulated) * before_gaussian
    least = float(np.finfo(np.float16).smallest_subnormal) if dtype.itemsize == 2 else 1e-37
    assert_within(output, exact, error + least, "output")
    return output


def check_weights(query: np.ndarray, key: np.ndarray, **keywords: Any) -> np.ndarray:
    """Run `foveate.attention_weights`, and hold it against the attention over the unit matrix.

    That is what the weights are. Returns them.
    """
    weights = fv.attention_weights(query, key, **keywords)
    assert weights.dtype == query.dtype
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    keys = key.shape[-2]
    unit = np.broadcast_to(np.eye(keys, dtype=query.dtype), (*lead, keys, keys))
    expected = expect(query, key, unit, **keywords)
    # The floor is relative to the weight, so that one which underflows counts as near 0.
    least = float(np.finfo(np.float16).smallest_subnormal) if query.dtype.itemsize == 2 else 1e-37
    assert_within(weights, expected.output, expected.output_error + least, "weights")
    return weights


# Statistics of weights, in ulp of the sums of their terms' sizes: exp, the denominator, and sums
# over a tile and over its queries, whose chains are short.
STATISTICS_ULP = 12


def check_statistics(query: Any, key: Any, **keywords: Any) -> fv.AttentionStatistics:
    """Run `foveate.attention_statistics`, and hold it against the formulas. Returns it.

    Scores and weights of 16-bit input are float32 here, so the tolerance is that of float32. A
    logarithm of a weight is off as its logit and the lse are, by d; a weight w then by w d, and
    the term w log(w) of an entropy by (1 + |log(w)|) w d.
    """
    q, k = (np.asarray(x) for x in (query, key))
    computed = reference.compute_dtype(q.dtype.newbyteorder("="))
    got = fv.attention_statistics(query, key, **keywords)
    assert [x.dtype for x in got] == [computed, computed, computed, np.int64]
    queries = keywords.pop("queries", None)
    exact = reference.attention_statistics(wider(q), wider(k), queries=queries, **keywords)
    weights = reference.attention_weights(wider(q), wider(k), **keywords)
    ones = np.ones((k.shape[-2], 1), computed)
    expected = expect(q.astype(computed), k.astype(computed), ones, **keywords)
    d = 2 * expected.lse_error + STATISTICS_ULP * eps(computed)
    if q.dtype.itemsize == 2:  # weights of products of bfloat16 too
        d = d + eps(computed)
    d = np.where(np.isfinite(d), d, 0)
    least = 1e-36 * (1 + q.shape[-2])
    with np.errstate(all="ignore"):
        logs = np.where(weights > 0, 1 + np.abs(np.log(weights)), 0)
        of_entropy = np.nansum(weights * logs, axis=-1) * d + STATISTICS_ULP * eps(computed)
        off = np.nan_to_num(weights) * d[..., None]
    rows = slice(None) if queries is None else queries
    assert_within(got.key_sum, exact.key_sum, off[..., rows, :].sum(axis=-2) + least, "key_sum")
    assert_within(got.entropy, exact.entropy, of_entropy, "entropy")
    assert_within(got.largest, exact.largest, np.nan_to_num(exact.largest) * d + least, "largest")
    np.testing.assert_array_equal(got.place >= 0, exact.place >= 0)
    assert got.place.shape == exact.place.shape
    assert (got.place >= -1).all()
    if weights.size:
        at = np.take_along_axis(weights, np.maximum(got.place, 0)[..., None], axis=-1)[..., 0]
        found = got.place >= 0
        assert (at[found] >= (exact.largest * (1 - 2 * d) - least)[found]).all()
    return got
