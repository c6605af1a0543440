"""Kernel regression and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from foveate import reference
from regression_checks import FLOOR_ULP, Sizes, floor_of
from regression_checks import rows as columns_of
from strategies import BFLOAT16
from tolerances import FLOORS, RATIO, eps, wider

from fuzz.case import Case
from fuzz.formulas import of_dtype, same, within, worst
from fuzz.gradients import wrt_of
from fuzz.memory import Laid, lay, true
from fuzz.problem import DTYPES, KEYS, compute

POINTS = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 0, 33, 65]


class Points:
    """Arguments of a regression, as they are given and as they are."""

    def __init__(self, case: Case) -> None:
        self.dtype = dtype = case.pick("dtype", DTYPES)
        d = case.pick("d", [None, 1, 2, 3, 1, 2, 5, 16, 17, 0])
        k = case.pick("k", [None, None, 1, 2, 3, 17, 0])
        n, m = case.pick("n", POINTS), case.pick("m", KEYS)
        if case.chance("large", 0.004):  # where points are ordered along a curve
            d, k, n, m = 1, None, 2100, 2050
        loo = case.chance("leave one out", 0.3)
        if loo:
            n = m
        spread = case.pick("spread", [1.0, 1.0, 1.0, 4.0, 0.25])
        end = () if d is None else (d,)
        self.laid: list[Laid] = []
        for name, shape in (
            ("x", (n, *end)),
            ("x_train", (m, *end)),
            ("y_train", (m, *([] if k is None else [k]))),
        ):
            x = case.normal(name, shape) * spread
            if case.chance(f"{name} whole", 0.2):
                x = np.round(x)
            self.laid.append(lay(case, name, x.astype(dtype)))
        if loo and case.chance("the same", 0.7):
            self.laid[0] = self.laid[1]
        self.clean = [true(x.view) for x in self.laid]
        size = 1 if d is None else d
        w: Any = case.pick("w", [1.0, 0.5, 2.0, 0.0, 8.0, 0.125])
        if case.chance("w of dimensions", 0.3):
            w = np.abs(np.round(4 * case.normal("ws", (size,)))) / 4
        kernel = case.pick("kernel", list(reference._regression.KERNELS))
        self.keywords: dict[str, Any] = {"w": w, "kernel": kernel, "leave_one_out": loo}
        if case.chance("sample weights", 0.3) and m:
            sample = case.integers("sample weights", 0, 4, (m,)) + (np.arange(m) == 0)
            self.keywords["sample_weight"] = sample
        if case.chance("fill", 0.3):
            self.keywords["fill_value"] = case.pick("fill value", [0.0, -1.5])

    @property
    def views(self) -> list[np.ndarray]:
        return [x.view for x in self.laid]

    def check_inputs(self, case: Case) -> None:
        for name, laid in zip(("x", "x_train", "y_train"), self.laid, strict=True):
            if laid.is_changed():
                case.fail(f"{name}: an input was changed")


def kernel_regression(case: Case) -> None:
    given = Points(case)
    x, x_train, y = (wider(a) for a in given.clean)
    keywords, dtype = given.keywords, given.dtype
    with np.errstate(all="ignore"):
        exact = reference.kernel_regression(x, x_train, y, **keywords)
        plain = reference.kernel_regression(*given.clean, **keywords)
        size = columns_of(reference.kernel_regression(x, x_train, np.abs(y), **keywords))
        error, clear = floor_of(x, x_train, y, dtype, size, **keywords)
        shaped = clear.reshape(-1, *([1] * (exact.ndim - 1)))
        off = worst(np.where(shaped, plain.astype(exact.dtype), 0), np.where(shaped, exact, 0))
        # what skip_far leaves out of points that are many
        skipped = 2.0**-53 if dtype == np.float64 else 2.0**-24
        skipped *= float(np.max(np.abs(y), initial=0, where=np.isfinite(y)))
        error = RATIO * off + np.where(np.isfinite(error), error, 0) + skipped
        error = error.reshape(exact.shape)
        if dtype == np.float16:
            error = error + 6e-8
    spoilt = ~np.broadcast_to(shaped, exact.shape)
    first: dict[str, np.ndarray] = {}
    sizes = [exact.size * item for item in {8, 4, dtype.itemsize}]
    for isa, threads in case.variants():
        case.under(isa, threads)
        more = {"skip_far": False} if case.chance("no skipping", 0.2) else {}
        got = case.call("kernel_regression", *given.views, expected=sizes, **keywords, **more)
        of_dtype(case, "output", got, dtype)
        within(case, "output", got, exact, error, spoilt)
        if isa in first:
            same(case, "output, other threads", first[isa], got)
        first[isa] = got
        given.check_inputs(case)


def kernel_regression_vjp(case: Case) -> None:
    given = Points(case)
    keywords, dtype = given.keywords, given.dtype
    wide = compute(dtype)
    wide_arrays = [wider(x) for x in given.clean]
    with np.errstate(all="ignore"):
        sizes = Sizes(wide_arrays, eps(wide), **keywords)
    shape = (len(given.clean[0]), *given.clean[2].shape[1:])
    d = case.normal("d_output", shape).astype(dtype)
    d[~sizes.clear] = 0  # rounding decides what they see
    d_output = lay(case, "d_output", d)
    if not np.array_equal(true(d_output.view), d):
        d_output = Laid(d, d.view(np.uint8) if d.flags.c_contiguous else d)
    wrt = wrt_of(case, ("x", "x_train", "y_train", "w"))
    with np.errstate(all="ignore"):
        of = reference.kernel_regression_vjp
        exact = of(*wide_arrays, **keywords)[1](wider(d))
        plain = of(*given.clean, **keywords)[1](d)
        bounds = sizes.of(columns_of(wider(d)))
    ulps = FLOOR_ULP * eps(wide) + FLOORS[dtype].rounded_weights
    first: dict[str, Any] = {}
    memory = [x.size * item for x in given.clean for item in {8, 4, dtype.itemsize}]
    for isa, threads in case.variants():
        case.under(isa, threads)
        more = {} if wrt is None else {"wrt": wrt}
        output, pull = case.call(
            "kernel_regression_vjp", *given.views, expected=memory, **keywords, **more
        )
        of_dtype(case, "output", output, dtype)
        found = case.run("pullback", pull, d_output.view, expected=memory)
        for name in ("x", "x_train", "y_train", "w"):
            got = getattr(found, name)
            if (got is None) != (wrt is not None and name not in wrt):
                case.fail(f"{name}: got {type(got).__name__} with wrt={wrt}")
            if got is None:
                continue
            got, want, usual = (np.asarray(getattr(g, name)) for g in (found, exact, plain))
            if name != "w":
                of_dtype(case, name, got, dtype)
            bound = bounds[name] if got.ndim or name != "w" else bounds[name].sum()
            with np.errstate(all="ignore"):
                error = ulps * np.reshape(bound, want.shape) + RATIO * worst(usual, want)
                stored = got.dtype if got.dtype == BFLOAT16 else np.result_type(got.dtype)
                error = error + eps(stored) * np.abs(want)
                error = error + (6e-8 if got.dtype == np.float16 else 1e-37)
            within(case, name, got, want, error)
            if (isa, name) in first:
                same(case, f"{name}, other threads", first[isa, name], got)
            first[isa, name] = got
        given.check_inputs(case)
