"""Tests on a real cluster: `make test-kubernetes` names it, and without that they are not collected."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.kubernetes import VALUES

if not VALUES:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)
