"""The engines that tests run on, as parameters of fixtures.

`VENVD_TEST_OCI_RUNTIME` names the OCI runtime of the worker hosts. The engine `local` has none, and is left out then.
The engine `kubernetes` takes part where `make test-kubernetes` names a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from harness import kubernetes

OCI_RUNTIME = os.environ.get("VENVD_TEST_OCI_RUNTIME") or None

ENGINES = [
    *([] if OCI_RUNTIME else [pytest.param("local", id="local")]),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
    *([pytest.param("kubernetes", id="kubernetes", marks=pytest.mark.kubernetes)] if kubernetes.VALUES else []),
]


@contextmanager
def open_settings(engine: str) -> Iterator[dict[str, Any]]:
    """Fields of an engine's settings that tests on it need beside those of every engine."""
    if engine != "kubernetes":
        yield {}
        return
    with kubernetes.open_settings() as fields:
        yield fields


def list_ways(ways: Mapping[str, tuple[str, object]]) -> list[object]:
    """List ways to call, by the type of their backend, as parameters: a pipe is for clients on the host."""
    return [
        pytest.param(way, id=way, marks=pytest.mark.host if kind == "pipe" else ()) for way, (kind, _) in ways.items()
    ]
