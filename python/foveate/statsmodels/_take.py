"""The arguments of KernelReg, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._inputs.types import Array, ArrayLike


def matrix(name: str, given: ArrayLike, columns: int) -> Array:
    """Return float64 (n, columns), as statsmodels reads it.

    A list of variables, (columns, n), is turned round; axes of size 1 beyond two fall out.
    """
    try:
        x = np.asarray(given)
        if x.dtype.kind not in "biuf":
            x = x.astype(np.float64) if x.dtype.kind == "O" else x
        if x.dtype.kind not in "biuf":
            raise TypeError(f"{name}: got dtype {x.dtype}, wanted real numbers")
        x = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        if str(error).startswith(name):
            raise
        raise TypeError(f"{name}: got {given!r:.60}, wanted an array of numbers") from error
    shape = x.shape
    x = x.squeeze() if x.ndim > 2 else x
    if x.ndim == 1:
        x = x[:, None] if columns == 1 else x[None]
    elif x.ndim == 2 and x.shape[0] == columns != x.shape[1]:
        x = x.T
    if x.ndim != 2 or x.shape[1] != columns:
        raise ValueError(
            f"{name}: got shape {shape}, wanted (n, {columns}), or a list of {columns} arrays (n,)"
        )
    return np.ascontiguousarray(x)


def finite(name: str, x: Array) -> Array:
    """Refuse NaN and inf by the row."""
    wrong = ~np.isfinite(x).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{name}: got {x[row]} in row {row}, wanted finite numbers")
    return x


def letters(var_type: Any) -> str:
    if not isinstance(var_type, str):
        raise TypeError(f"var_type: got {var_type!r}, wanted a string of the letters c, o and u")
    if not var_type or set(var_type) - set("cou"):
        raise ValueError(f"var_type: got {var_type!r}, wanted one letter c, o or u a variable")
    return var_type


def ckertype(given: Any) -> str:
    if given == "tricube":
        raise ValueError(
            "ckertype: got 'tricube', wanted 'gaussian': in statsmodels 'tricube' gives all points "
            "beyond the bandwidth the largest weight"
        )
    return one_of("ckertype", given, ("gaussian",))


def one_of(name: str, given: Any, wanted: tuple[str, ...]) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{name}: got {given!r}, wanted one of {list(wanted)}")
    if given not in wanted:
        raise ValueError(f"{name}: got {given!r}, wanted one of {list(wanted)}")
    return given


def bandwidths(given: Any, var_type: str, unordered: str) -> Array:
    """Return float64 (k,), in the range of each kind of variable."""
    try:
        bw = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f'bw: got {given!r:.60}, wanted "cv_ls", "aic" or a number for each variable'
        ) from error
    if bw.shape != (len(var_type),):
        raise ValueError(f"bw: got shape {bw.shape}, wanted ({len(var_type)},), one a variable")
    for letter, b in zip(var_type, bw, strict=True):
        if letter == "c" and not (np.isfinite(b) and b > 0):
            raise ValueError(f"bw: got {b}, wanted finite numbers > 0 for continuous variables")
        if letter == "o" and not (np.isfinite(b) and b >= 0):
            raise ValueError(f"bw: got {b}, wanted finite numbers >= 0 for ordered variables")
        if letter == "u" and not (0 <= b <= 1 and (b < 1 or unordered != "aitchisonaitken")):
            raise ValueError(f"bw: got {b}, wanted numbers in [0, 1) for unordered variables")
    return bw


def rows(endog: Array, exog: Array) -> None:
    if len(endog) != len(exog) or len(exog) < 2:
        raise ValueError(
            f"endog: got {len(endog)} observations, wanted two or more, as many as exog has, which "
            f"is {len(exog)}"
        )


def rng(given: Any) -> Any:
    """Return what draws can be made from; a generator stays itself, and goes on."""
    if given is None or isinstance(given, (np.random.Generator, np.random.RandomState)):
        return given
    try:
        np.random.default_rng(given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"rng: got {given!r}, which must either be an integer, a numpy.random.Generator or a "
            "numpy.random.RandomState"
        ) from error
    return given


def places(given: Any, variables: int) -> Array:
    """Return the positions of variables, sorted, each once."""
    found = np.atleast_1d(np.asarray(given))
    if found.dtype.kind not in "iu" or found.ndim != 1 or not found.size:
        raise TypeError(f"var_pos: got {given!r:.60}, wanted an int or a list of ints")
    if not ((found >= -variables) & (found < variables)).all():
        raise ValueError(f"var_pos: got {given!r:.60}, wanted positions of {variables} variables")
    return np.unique(found % variables)


def count(name: str, given: Any) -> int:
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, np.integer)):
        raise TypeError(f"{name}: got {given!r}, wanted an int")
    if given < 1:
        raise ValueError(f"{name}: got {given}, wanted 1 or more")
    return int(given)
