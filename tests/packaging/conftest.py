"""What is installed and how the sources look depends on no instruction set."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.any_isa)
