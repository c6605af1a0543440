"""Beside other packages with threads in one process: torch, scikit-learn and numba."""

from __future__ import annotations

import pytest
from processes import needs_fork, output_of

pytestmark = pytest.mark.any_isa

PACKAGES = ("torch", "sklearn", "numba")

# Each is called in turns with foveate, from several threads, and foveate in a forked child too.
CODE = """
import os, threading, time, warnings
warnings.simplefilter("ignore")
import foveate as fv, numpy as np
order = {order!r}
if "foveate first" in order:
    start = np.ones((8, 300, 32), np.float32)
    fv.attention(start, start, start)

x = np.random.default_rng(0).standard_normal((8, 200, 32), np.float32)
others = {{}}
if "torch" in order:
    import torch, foveate.torch
    t = torch.from_numpy(x)
    others["torch"] = lambda: (t @ t.mT).numpy()
    others["foveate.torch"] = lambda: foveate.torch.attention(t, t, t).numpy()
if "sklearn" in order:
    from sklearn.cluster import KMeans
    others["sklearn"] = lambda: KMeans(4, n_init=1, random_state=0).fit(x[0]).inertia_
if "numba" in order:
    import numba
    numba.config.THREADING_LAYER = "omp"
    @numba.njit(parallel=True)
    def total(a):
        sum = 0.0
        for i in numba.prange(a.size):
            sum += a.flat[i] * 2
        return sum
    others["numba"] = lambda: round(total(x), 1)

fv.set_threading("pool")
fv.set_num_threads(1)
wanted = fv.attention(x, x, x)
fv.set_num_threads(2)
answers = {{name: call() for name, call in others.items()}}

def rounds(count, names):
    for _ in range(count):
        assert np.array_equal(fv.attention(x, x, x), wanted)
        for name in names:
            np.testing.assert_allclose(others[name](), answers[name], rtol=1e-3, atol=1e-4)

for threading_name in ("pool", "openmp"):
    if threading_name == "pool" or fv._core.openmp_names():
        fv.set_threading(threading_name)
    rounds(3, others)
    errors = []
    def work():
        try:
            # numba: only some of its threading layers take several callers at once
            rounds(3, [name for name in others if name != "numba"])
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads: one.start()
    for one in threads: one.join()
    assert not errors, errors
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fv.attention(x, x, x)
            rounds(2, [])
            if "torch" in others:
                torch.set_num_threads(1)
                rounds(1, ["foveate.torch"])
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 30
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(child, 9)
            raise AssertionError("the forked child hangs")
        time.sleep(0.01)
    rounds(1, others)
"""


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("first", [True, False], ids=["foveate first", "foveate last"])
def test_packages_with_threads_in_one_process(first):
    order = []
    for name in PACKAGES:
        try:
            __import__(name)
        except ImportError:
            continue
        order.append(name)
    if not order:
        pytest.skip("none of torch, scikit-learn and numba is installed")
    output_of(CODE.format(order=["foveate first"] * first + order))
