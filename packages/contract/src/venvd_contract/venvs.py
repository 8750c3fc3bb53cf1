"""The commands about venvs: a server passes them on to its controller, with the token of the caller.

They have a module of their own because no session answers them, so no session imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, FrozenSet, List, Optional, Tuple, Type

from venvd_contract.commands import Command, Success
from venvd_contract.resources import OperationInfo, Venv, VenvChange, VenvSpec


@dataclass
class VenvCreateRequest:
    """The request may have the fields of `spec` beside `name` instead."""

    name: str
    spec: Optional[VenvSpec] = None
    replace: Optional[bool] = None
    """Whether the request may change an existing venv; without it, an existing name is a `conflict`."""
    wait: Optional[bool] = None
    """Whether the answer comes when the venv is built."""


@dataclass
class VenvListRequest:
    limit: Optional[int] = None
    after: Optional[str] = None
    """`next` of the previous page."""


@dataclass
class VenvList:
    items: List[Venv]
    next: Optional[str] = None


@dataclass
class VenvRequest:
    name: str


@dataclass
class VenvEnsureRequest:
    provider: Optional[str] = None
    model: Optional[str] = None
    spec: Optional[VenvSpec] = None
    """For a venv that does not exist yet."""
    wait: Optional[bool] = None
    """Whether the answer comes when the venv is built."""


@dataclass
class VenvEnsured:
    path: str
    """The directory of the venv on the local engine, else its name."""
    success: bool
    venv: Optional[Venv] = None
    operation: Optional[OperationInfo] = None


def _command(name: str, rpc: str, http: Tuple[str, str], request: Type[Any], response: Any, summary: str) -> Command:
    return Command(f"venv.{name}", f"VenvService/{rpc}", http, request, response, "controller", summary=summary)


VENV_COMMANDS: Tuple[Command, ...] = (
    _command("create", "CreateEnvironment", ("POST", "/venv/create"), VenvCreateRequest, VenvChange, "Create a venv"),
    _command("list", "ListEnvironments", ("GET", "/venv/list"), VenvListRequest, VenvList, "List the venvs"),
    _command("status", "GetEnvironment", ("GET", "/venv/status/{name}"), VenvRequest, Venv, "Return a venv"),
    _command("delete", "DeleteEnvironment", ("DELETE", "/venv/{name}"), VenvRequest, Success, "Delete a venv"),
    _command(
        "ensure",
        "EnsureProviderEnvironment",
        ("POST", "/venv/ensure"),
        VenvEnsureRequest,
        VenvEnsured,
        "Ensure the venv of a provider",
    ),
)

PASSED_ON: FrozenSet[str] = frozenset(command.name for command in VENV_COMMANDS)
