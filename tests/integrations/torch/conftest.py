"""How tensors come to the kernels, which are tested elsewhere."""

from __future__ import annotations

import pytest


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Whoever leaves these out need not wait for their imports."""
    return True if "not any_isa" in config.option.markexpr else None


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.any_isa)
