"""The command line is Python alone, over kernels that are tested elsewhere."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.any_isa)
    item.add_marker(pytest.mark.python)
