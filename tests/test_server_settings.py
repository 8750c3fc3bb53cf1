"""The table of server settings in the contract, beside the settings classes of the servers."""

from __future__ import annotations

import types
import typing
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from venvd_contract.server_settings import (
    MANAGED_SETTINGS,
    SERVER_SETTINGS,
    ServerSetting,
    merge_server_settings,
)
from venvd_core.settings import BackendSettings
from venvd_http_backend.settings import HttpSettings
from venvd_pipe_backend.settings import PipeSettings
from venvd_rpc_backend.settings import RpcSettings

CLASSES: dict[str, type[BackendSettings]] = {"http": HttpSettings, "pipe": PipeSettings, "rpc": RpcSettings}
SAMPLES: dict[str, Any] = {
    "flag": False,
    "limits": {"handles": 7},
    "mode": "0600",
    "uids": [1000, 0],
    "file": "/etc/tls/server.pem",
}


def of_type(kind: str) -> dict[str, ServerSetting]:
    return {setting.field: setting for setting in SERVER_SETTINGS if kind in setting.types}


def get_bound(field: FieldInfo, kind: type, name: str) -> float | None:
    return next((getattr(bound, name) for bound in field.metadata if isinstance(bound, kind)), None)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_is_in_the_table(kind: str) -> None:
    """Each setting of a server may be set in a map `server`, or venvd sets it; add a new one to either table."""
    fields = set(CLASSES[kind].model_fields)
    assert fields - set(MANAGED_SETTINGS) == set(of_type(kind))


def test_what_venvd_sets_exists() -> None:
    """The table of settings that venvd sets names settings of servers only."""
    assert set(MANAGED_SETTINGS) <= {name for settings in CLASSES.values() for name in settings.model_fields}


@pytest.mark.parametrize("kind", CLASSES)
def test_numbers_have_the_bounds_of_the_servers(kind: str) -> None:
    """A number that the table accepts is one that the server accepts, and the other way round."""
    for name, setting in of_type(kind).items():
        field = CLASSES[kind].model_fields[name]
        if setting.kind in {"int", "float"}:
            annotation: Any = field.annotation
            kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
            assert {"int": int, "float": float}[setting.kind] in kinds, name
            bounds = (get_bound(field, Ge, "ge"), get_bound(field, Gt, "gt"), get_bound(field, Le, "le"))
            assert (setting.least, setting.above, setting.most) == bounds, name


@pytest.mark.parametrize("kind", CLASSES)
def test_servers_read_what_the_controller_writes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables made from a map give the server these values."""
    given = {}
    for setting in of_type(kind).values():
        least = setting.least if setting.least is not None else setting.above
        number = (least or 0) + 1
        choice = setting.choices[0] if setting.choices else number
        given[setting.name] = SAMPLES.get(setting.kind, float(number) if setting.kind == "float" else choice)
    variables, files = merge_server_settings(given, {}, kind)
    for name, value in {**variables, **files, "VENVD_NO_TOKEN": "1"}.items():
        monkeypatch.setenv(name, value)
    settings = CLASSES[kind]()
    read = {"socket_mode": 0o600, "socket_uids": frozenset({0, 1000})}
    for name, setting in of_type(kind).items():
        value = getattr(settings, name)
        if setting.kind == "limits":
            assert value.handles == 7
        else:
            assert (str(value) if setting.kind == "file" else value) == read.get(name, given[setting.name]), name
