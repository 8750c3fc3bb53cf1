"""Tests on a real cluster: `make test-kubernetes` names it, and without that they are not collected."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.cluster_faults import ClusterFaults, find_faults
from harness.kubernetes import VALUES

if not VALUES:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)


@pytest.fixture(scope="session")
def faults() -> ClusterFaults:
    """What a test may do to the parts of the cluster itself."""
    program = find_faults()
    if program is None:
        pytest.skip("VENVD_TEST_CLUSTER_FAULTS names no program that stops parts of the cluster (CONTRIBUTING.md)")
    return program
