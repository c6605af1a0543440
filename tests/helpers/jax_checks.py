"""Arrays for tests of foveate.jax, and what JAX's sums are held to; skips where jax is missing."""

from __future__ import annotations

import foveate as fv
import numpy as np
import pytest
from numpy.testing import assert_allclose

jax = pytest.importorskip("jax")
fj = pytest.importorskip("foveate.jax")
jnp = jax.numpy

# What JAX adds or sums itself, in another order than NumPy: projections and their gradients.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def normal(*shape: int, seed: int = 0, dtype=np.float32):
    return np.random.default_rng([*shape, seed]).standard_normal(shape).astype(dtype)


def operands(*lead: int, queries: int = 9, keys: int = 11, dtype=np.float32):
    sizes = ((*lead, queries, 8), (*lead, keys, 8), (*lead, keys, 6))
    return [normal(*shape, seed=n).astype(dtype) for n, shape in enumerate(sizes)]


def close(ours, wanted, **tolerance):
    assert_allclose(np.asarray(ours, np.float64), np.asarray(wanted, np.float64), **tolerance)


def x64(dtype):
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(dtype == np.float64)
    from jax.experimental import enable_x64  # before jax 0.8.2 or so

    return enable_x64(dtype == np.float64)


SCORES = {
    "dot": fv.Dot(),
    "gaussian of a number": fv.Gaussian(0.7),
    "gaussian": fv.Gaussian(np.linspace(0.5, 1, 8, dtype=np.float32)),
    "cosine": fv.Cosine(3.0),
    "polynomial": fv.Polynomial(3, c=0.5, scale=0.3),
    "bilinear": fv.Bilinear(normal(8, 8)),
    "additive": fv.Additive(normal(5), normal(8, 5), normal(8, 5), normal(5)),
    "identity": fv.Additive(normal(5), normal(8, 5), normal(8, 5), activation="identity"),
    "leaky": fv.Concat(normal(5), normal(16, 5), normal(5), activation="leaky_relu", slope=0.3),
    "concat": fv.Concat(normal(5), normal(16, 5), normal(5), activation="relu"),
    "location": fv.Location(normal(8), 0.5),
}
