"""Backends with replicas in a testbed, and their launches."""

from __future__ import annotations

import json
from typing import Any

from venvd_contract.resources import BackendSpec


def start(testbed: Any, name: str, replicas: int = 3, **fields: Any) -> Any:
    spec = BackendSpec("http", venv="many", name=name, replicas=replicas, **fields)
    _, operation = testbed.controller.backends.start(spec)
    return testbed.wait(operation)


def find(testbed: Any, name: str, number: int | str) -> Any:
    return testbed.engine.find_backend(name if number == 0 else f"{name}--{number}")


def list_launches(testbed: Any, name: str) -> dict[str, str]:
    """Return the IDs of a backend's launches by their names."""
    launches = [each.launch for each in testbed.engine.launches.values()]
    return {each.name: each.id for each in launches if each.name.startswith(name)}


def read_table(testbed: Any, name: str, number: int | str = 0) -> Any:
    """Return the table of replicas that a server has."""
    return json.loads(find(testbed, name, number).keys)["siblings"]
