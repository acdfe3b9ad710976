"""`make quick` runs the contract on two architectures; the others are marked wide."""

from __future__ import annotations

import pytest

from architectures import FEW


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a contract test does on any but the first two architectures."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "contract" in item.path.parts and parameters.get("name", FEW[0]) not in FEW[:2]:
            item.add_marker(pytest.mark.wide)
