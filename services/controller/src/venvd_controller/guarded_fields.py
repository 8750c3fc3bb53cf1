"""Which fields of venvs and backends a key with the scope `venv:NAME` may set. docs/access.md says why.

A field that is not listed here needs `operator`: a new field is guarded until it is known to be harmless. Clients send
every field. So if a guarded field of a venv has its default, it keeps the value that an operator gave it.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from venvd_contract.access import ADMIN, OPERATOR
from venvd_contract.resources import QUEUE_LIMIT, BackendSpec, VenvSpec
from venvd_controller.callers import Caller
from venvd_controller.settings import Settings
from venvd_controller.specs import is_loopback

_FREE_IN_VENV = frozenset(
    {"python", "requirements", "aptPackages", "preload", "env", "labels"}
    | {"constraints", "lock", "pyproject", "requiresPython", "extras", "groups", "checks", "dotnet"}
)
"""Fields that change what runs inside the walls around builds and user code, but not the walls."""
_FREE_IN_BACKEND = frozenset({"type", "venv", "name", "socketDir", "env", "timeout", "handleLease", "update", "ttl"})
_ADMIN_ONLY = frozenset({"manages"})
_FIRST_FREE_PORT = 1024
_CLOSED = (None, False, "loopback")
"""The values of `network` with which user code reaches nothing outside."""


def guard_venv(caller: Caller, spec: VenvSpec, stored: VenvSpec | None) -> VenvSpec:
    """Return the specification that a caller may write; `stored` is the present one.

    Raises:
        Forbidden: the specification changes a guarded field.
    """
    if caller.is_operator:
        return spec
    default = VenvSpec()
    kept = {}
    for name in _list_fields(spec, _FREE_IN_VENV):
        value, usual = getattr(spec, name), getattr(default, name)
        kept[name] = usual if stored is None else getattr(stored, name)
        if value not in (usual, kept[name]):
            caller.require([OPERATOR], f'the field "{name}"')
    return replace(spec, **kept)


def guard_backend(caller: Caller, spec: BackendSpec, venv: VenvSpec | None, settings: Settings) -> BackendSpec:
    """Return the specification that a caller may start.

    Unless the caller is an operator, a network that is not closed becomes that of the venv at each start.

    Raises:
        Forbidden: a guarded field has a value that only an operator or admin may give it.
    """
    default = BackendSpec(type=spec.type)
    for name in _list_fields(spec, frozenset()):
        value = getattr(spec, name)
        if name in _ADMIN_ONLY and value != getattr(default, name):
            caller.require([ADMIN], f'the field "{name}"')
        if not caller.is_operator and not _is_harmless(name, value, getattr(default, name), venv, settings):
            caller.require([OPERATOR], f'the field "{name}" with this value')
    return spec if caller.is_operator or spec.network in _CLOSED else replace(spec, network=None)


def _is_harmless(name: str, value: Any, usual: Any, venv: VenvSpec | None, settings: Settings) -> bool:
    """Return whether a key with `venv:NAME` may give a field this value."""
    if name in _FREE_IN_BACKEND or value == usual:
        return True
    match name:
        case "host":
            harmless = is_loopback(value)
        case "port" | "httpPort":
            harmless = value >= _FIRST_FREE_PORT
        case "queueLimit":
            harmless = value <= QUEUE_LIMIT
        case "network":
            harmless = value in _CLOSED or (venv is not None and value == venv.network)
        case "limits":
            most = (settings.worker_memory_bytes, settings.worker_cpus, settings.worker_processes)
            given = (value.memoryBytes, value.cpus, value.processes)
            harmless = all(limit is None or limit <= bound for limit, bound in zip(given, most, strict=True))
        case _:
            harmless = False
    return bool(harmless)


def _list_fields(spec: VenvSpec | BackendSpec, without: frozenset[str]) -> list[str]:
    return [field.name for field in fields(spec) if field.name not in without]
