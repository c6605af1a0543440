"""Chunks of dask go to the kernels, which are tested elsewhere."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.any_isa)


@pytest.fixture(autouse=True)
def two_workers():
    """Two threads of dask, whatever the machine has: tasks run together, and out of order."""
    dask = pytest.importorskip("dask")
    pytest.importorskip("dask.array")
    with dask.config.set(scheduler="threads", num_workers=2):
        yield
