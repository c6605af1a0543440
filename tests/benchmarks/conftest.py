"""The benchmarks are Python alone; what they time is tested elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.any_isa)


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of the benchmarks, where it is beside the tests."""
    if not BENCHMARKS.is_dir():
        pytest.skip("an sdist has no benchmarks")
    return BENCHMARKS
