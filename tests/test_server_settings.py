"""The table of server settings in the contract, beside the settings classes of the servers."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any

import pytest
from msgspec import Meta

from venvd_contract.server_settings import (
    MANAGED_SETTINGS,
    SERVER_SETTINGS,
    ServerSetting,
    merge_server_settings,
)
from venvd_core.settings import BackendSettings, read
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


def get_hints(kind: str) -> dict[str, Any]:
    return typing.get_type_hints(CLASSES[kind], include_extras=True)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_is_in_the_table(kind: str) -> None:
    """Each setting of a server may be set in a map `server`, or venvd sets it; add a new one to either table."""
    fields = set(get_hints(kind))
    assert fields - set(MANAGED_SETTINGS) == set(of_type(kind))


def test_what_venvd_sets_exists() -> None:
    """The table of settings that venvd sets names settings of servers only."""
    assert set(MANAGED_SETTINGS) <= {name for kind in CLASSES for name in get_hints(kind)}


@pytest.mark.parametrize("kind", CLASSES)
def test_numbers_have_the_bounds_of_the_servers(kind: str) -> None:
    """A number that the table accepts is one that the server accepts, and the other way round."""
    for name, setting in of_type(kind).items():
        if setting.kind not in {"int", "float"}:
            continue
        hint = get_hints(kind)[name]
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType | typing._UnionGenericAlias) else (hint,)  # type: ignore[attr-defined]
        number = next(part for part in parts if typing.get_origin(part) is Annotated)
        assert number.__origin__ is {"int": int, "float": float}[setting.kind], name
        (meta,) = (each for each in number.__metadata__ if isinstance(each, Meta))
        assert (setting.least, setting.above, setting.most) == (meta.ge, meta.gt, meta.le), name


@pytest.mark.parametrize("kind", CLASSES)
def test_servers_read_what_the_controller_writes(kind: str) -> None:
    """The variables made from a map give the server these values."""
    given = {}
    for setting in of_type(kind).values():
        least = setting.least if setting.least is not None else setting.above
        number = (least or 0) + 1
        choice = setting.choices[0] if setting.choices else number
        given[setting.name] = SAMPLES.get(setting.kind, float(number) if setting.kind == "float" else choice)
    variables, files = merge_server_settings(given, {}, kind)
    settings = read(CLASSES[kind], {**variables, **files, "VENVD_NO_TOKEN": "1"})
    expected = {"socket_mode": 0o600, "socket_uids": frozenset({0, 1000})}
    for name, setting in of_type(kind).items():
        value = getattr(settings, name)
        if setting.kind == "limits":
            assert value.handles == 7
        else:
            assert (str(value) if setting.kind == "file" else value) == expected.get(name, given[setting.name]), name
