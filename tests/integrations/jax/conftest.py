"""How arrays of JAX come to the kernels, which are tested elsewhere."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.any_isa)
    item.add_marker(pytest.mark.python)


@pytest.fixture(autouse=True, scope="module")
def compiled_soon():
    """What surrounds attention is small: to optimize it takes longer than to run it."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def strict():
    """No rank and no dtype is promoted silently: programs that forbid it can use foveate.jax."""
    jax = pytest.importorskip("jax")
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
