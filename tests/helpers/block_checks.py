"""Whole blocks held against the reference one precision wider, and that against differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import foveate as fv
import numpy as np
from foveate import reference
from gradient_checks import REACHES, differences, parts
from strategies import normal
from tolerances import RATIO, eps, wider

# How far from the formulas one precision wider: twice the worst error that the formulas have in the
# same precision, in any element, and a floor for where that is 0 by luck: of a block's two or three
# products in a row, and of the softmax between them, 4 ulp each at most of sums as short as those
# of these tests, of the largest element; the weights are made again from the lse, which is rounded.
FLOOR_ULP = 20

# What shifts all keys shifts all logits of a query alike: its gradient cancels. Another gradient is
# the sum of the same rows, times numbers of size 1.
LIKE = {"bk": "wk", "score.b": "score.w"}

# All but one of a mask that is 0, and so nothing but roundings.
BLOCK_REACHES = [name for name in REACHES if name != "mask of queries"]


def weight(seed: int, rows: int, columns: int, dtype: Any) -> np.ndarray:
    """A weight that keeps the size of normal rows."""
    return (normal(seed, (rows, columns), np.float64) / max(rows, 1) ** 0.5).astype(dtype)


def hold(
    got: np.ndarray,
    exact: np.ndarray,
    plain: np.ndarray,
    dtype: Any,
    what: str,
    like: np.ndarray | None = None,
) -> None:
    """Hold an array of a block of this dtype against an exact one, by the plain formulas' error.

    `like` is a sum of terms as large as its own that do not cancel, where its own do.
    """
    assert got.shape == exact.shape, what
    exact = np.asarray(exact)
    ulp = eps(reference.compute_dtype(dtype))
    size = np.abs(exact if like is None else like)
    floor = FLOOR_ULP * ulp * np.max(size, initial=0)
    allowed = RATIO * np.max(np.abs(plain - exact), initial=0) + floor
    off = np.abs(got.astype(exact.dtype) - exact)
    worst = np.max(off - eps(got.dtype) * np.abs(exact), initial=0)  # rounded once
    assert worst <= allowed, f"{what}: off by {worst:.3g}, allowed {allowed:.3g}"


def check(name: str, arrays: dict[str, Any], d_output: Any = None, **keywords: Any) -> Any:
    """Hold a block and its pullback against the reference, and the wrt of each field alone.

    Parameters
    ----------
    name : of the function
    arrays : the array arguments by name, the first of which says the dtype
    d_output : the gradient of the output; by default normal numbers

    Returns
    -------
    the output and the gradients
    """
    dtype = next(iter(arrays.values())).dtype
    before = {at: x.tobytes() for at, x in arrays.items()}
    output, pullback = getattr(fv, f"{name}_vjp")(**arrays, **keywords)
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, getattr(fv, name)(**arrays, **keywords))
    if d_output is None:
        d_output = normal(90, output.shape, dtype)
    found = pullback(d_output)
    for first, again in zip(parts(found).values(), parts(pullback(d_output)).values(), strict=True):
        np.testing.assert_array_equal(first, again, err_msg="a second pullback")
    assert before == {at: x.tobytes() for at, x in arrays.items()}, "an input was modified"

    plainly = getattr(reference, f"{name}_vjp")
    exact_output, pull = plainly(**{at: wider(x) for at, x in arrays.items()}, **keywords)
    plain_output, pull_plain = plainly(**arrays, **keywords)
    np.testing.assert_array_equal(
        plain_output, getattr(reference, name)(**arrays, **keywords), err_msg="the reference"
    )
    hold(output, exact_output, plain_output, dtype, "output")
    hold(getattr(fv, name)(**arrays, **keywords), exact_output, plain_output, dtype, "output alone")
    got, exact, plain = (parts(x) for x in (found, pull(wider(d_output)), pull_plain(d_output)))
    assert got.keys() == exact.keys() == plain.keys()
    assert got.keys() >= arrays.keys()
    for at, x in got.items():
        if at in arrays:
            assert x.dtype == arrays[at].dtype, at
        like = exact.get(LIKE.get(at, at))
        if (
            "score." in at and x.ndim == 0
        ):  # a sum of query . d_query, or the like, over all queries
            like = np.maximum(np.abs(exact[at]), np.sum(np.abs(exact[next(iter(arrays))])))
        hold(x, exact[at], plain[at], dtype, at, like)
    return output, found


def check_each_wrt(name: str, arrays: dict[str, Any], **keywords: Any) -> None:
    """Each gradient alone is the one among all, and there is no other, in the reference too."""
    for module in (fv, reference):
        function = getattr(module, f"{name}_vjp")
        output, pullback = function(**arrays, **keywords)
        whole = parts(pullback(np.ones_like(output)))
        assert len(whole) >= len(arrays)
        for at in {field.split(".")[0] for field in whole}:
            _, pullback = function(**arrays, **keywords, wrt=at)
            one = parts(pullback(np.ones_like(output)))
            assert one.keys() == {field for field in whole if field.split(".")[0] == at}
            for field, x in one.items():
                np.testing.assert_array_equal(x, whole[field], err_msg=field)
        _, pullback = function(**arrays, **keywords, wrt=())
        assert not parts(pullback(np.ones_like(output)))


def check_differences(name: str, arrays: dict[str, Any], **keywords: Any) -> None:
    """Hold the reference's gradients, in float64, against central differences.

    The error of these is step^2 for the curvature, and eps / step for the rounding.
    """
    output, pullback = getattr(reference, f"{name}_vjp")(**arrays, **keywords)
    d_output = normal(91, output.shape, np.float64)
    found = pullback(d_output)

    def loss(**changed: Any) -> float:
        given = {**arrays, **keywords, **changed}
        return float(np.sum(getattr(reference, name)(**given) * d_output))

    others = {at: np.asarray(keywords[at]) for at in ("mask", "sink") if at in keywords}
    for at, x in {**arrays, **others}.items():
        numeric = differences(lambda changed, at=at: loss(**{at: changed}), x)
        np.testing.assert_allclose(getattr(found, at), numeric, rtol=1e-5, atol=1e-7, err_msg=at)
    for at in ("score", "upper_score"):
        score = keywords.get(at)
        if not dataclasses.is_dataclass(score):
            continue
        for field in dataclasses.fields(score):
            x = getattr(score, field.name)
            if x is None or isinstance(x, str) or field.name in score.constants:
                continue

            def of_parameter(changed: Any, score: Any = score, at: Any = at, to: Any = field.name):
                number = changed if changed.ndim else float(changed)
                return loss(**{at: dataclasses.replace(score, **{to: number})})

            numeric = differences(of_parameter, np.asarray(x))
            got = getattr(getattr(found, at), field.name)
            np.testing.assert_allclose(got, numeric, rtol=1e-5, atol=1e-7, err_msg=field.name)


def check_threads(name: str, arrays: dict[str, Any], **keywords: Any) -> None:
    """The same bits for any number of threads, forward and backward."""
    bits = []
    for threads in (1, 2, 3):
        with fv.num_threads(threads):
            output, pullback = getattr(fv, f"{name}_vjp")(**arrays, **keywords)
            found = parts(pullback(output))
            bits.append({at: x.tobytes() for at, x in {"output": output, **found}.items()})
    assert bits[0] == bits[1] == bits[2]


def huge(length: int = 4, size: int = 8) -> np.ndarray:
    """More leading indices than any memory has room for, which take none themselves."""
    return np.broadcast_to(np.zeros((1, 1), np.float32), (2**40, length, size))
