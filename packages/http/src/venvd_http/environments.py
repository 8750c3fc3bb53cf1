"""The commands about venvs: the server passes them on to the controller with the caller's token."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from venvd_contract.errors import Conflict, InvalidRequest, NotFound, Unauthenticated, from_fields
from venvd_contract.suggestions import check_names
from venvd_http import compat
from venvd_http.controller import ControllerClient
from venvd_http.controller_connection import ControllerAddress

_POLL_SECONDS = 0.3
LONGEST_RUN = 3600.0 + 1800.0
"""Seconds for the build of a venv, the start of a backend and the code that runs there."""
_CALLER_IS_UNKNOWN = (
    "the controller checks the rights of the caller, and the request has no token: send an access key of the "
    "controller (`venvd key create`)"
)
_OPTIONS = ("wait", "replace")
_FIELDS = {
    "venv.list": ("limit", "after"),
    "venv.status": ("name",),
    "venv.delete": ("name",),
    "venv.run": ("name", "code", "timeout"),
}
"""The fields of commands that have no specification of a venv. The controller checks specifications."""


class Environments:
    """Answers the commands about venvs: each is one request to the controller, or a few.

    Args:
        address: the address of the controller; with an empty one, each command is `unavailable`.
        older: whether to serve clients of the older .NET host.
    """

    def __init__(self, address: ControllerAddress, *, older: bool) -> None:
        self._controller = ControllerClient(address)
        self._older = older

    async def answer(self, command: str, payload: Mapping[str, Any], token: str | None) -> Any:
        """Answer one of `PASSED_ON`, or `venv.run`.

        Raises:
            VenvdError: a field is wrong, there is no token, or the controller answered with an error.
        """
        if token is None:
            raise Unauthenticated(_CALLER_IS_UNKNOWN)
        if not isinstance(payload, dict):
            raise InvalidRequest("the request must be a JSON object")
        known = _FIELDS.get(command)
        if known is not None:
            check_names(payload, known, f"{command}: the field")
        if command == "venv.list":
            query = {"limit": payload.get("limit"), "after": payload.get("after")}
            return await self._controller.request("GET", ("venvs",), token, query=query)
        if command == "venv.create":
            return await self._create(payload, token)
        if command == "venv.ensure":
            older = self._older and compat.is_older(payload)
            answer = await self._ensure(compat.translate(payload) if older else payload, token)
            return compat.shorten(answer) if older else answer
        name = _read_name(command, payload, "name")
        if command == "venv.run":
            run = {"code": payload.get("code"), "timeout": payload.get("timeout")}
            return await self._controller.request("POST", ("venvs", name, "run"), token, run, seconds=LONGEST_RUN)
        if command == "venv.status":
            return await self._controller.request("GET", ("venvs", name), token)
        await self._controller.request("DELETE", ("venvs", name), token)
        return {"success": True}

    async def _create(self, payload: Mapping[str, Any], token: str) -> Any:
        name = _read_name("venv.create", payload, "name")
        spec = _read_spec("venv.create", payload, ("name",))
        if payload.get("replace") is not True:
            await self._check_free(name, token)
        change = await self._controller.request("PUT", ("venvs", name), token, spec)
        return await self._finish(change, token) if payload.get("wait") is True else change

    async def _check_free(self, name: str, token: str) -> None:
        try:
            await self._controller.request("GET", ("venvs", name), token)
        except NotFound:
            return
        raise Conflict(f'a venv "{name}" exists already: choose another name, or change it with "replace": true')

    async def _ensure(self, payload: Mapping[str, Any], token: str) -> Any:
        provider = _read_name("venv.ensure", payload, "provider")
        model = payload.get("model") or None
        if model is not None and not isinstance(model, str):
            raise InvalidRequest('venv.ensure: the field "model" takes a text')
        spec = _read_spec("venv.ensure", payload, ("provider", "model"))
        parts = ("providers", provider, "venv")
        change = await self._controller.request("PUT", parts, token, spec or None, {"model": model})
        if payload.get("wait") is True:
            change = await self._finish(change, token)
        venv = change["venv"]
        image = venv.get("image") or ""
        return {"path": image if image.startswith("/") else venv["name"], "success": True, **change}

    async def _finish(self, change: dict[str, Any], token: str) -> dict[str, Any]:
        """Wait for the operation of a change, and return the change with the new state of the venv.

        Raises:
            VenvdError: the error of the operation.
        """
        while (operation := change.get("operation")) and operation["state"] in {"queued", "running"}:
            await asyncio.sleep(_POLL_SECONDS)
            change["operation"] = await self._controller.request("GET", ("operations", operation["id"]), token)
        if operation and operation["state"] != "succeeded":
            raise from_fields(operation.get("error") or {"detail": f"the build was {operation['state']}"})
        change["venv"] = await self._controller.request("GET", ("venvs", change["venv"]["name"]), token)
        return change

    def follow(self, operation: str, token: str | None) -> AbstractAsyncContextManager[Any]:
        """Follow an operation; see `ControllerClient.follow`.

        Raises:
            Unauthenticated: there is no token.
        """
        if token is None:
            raise Unauthenticated(_CALLER_IS_UNKNOWN)
        return self._controller.follow(("operations", operation, "events"), token)


def _read_name(command: str, payload: Mapping[str, Any], field: str) -> str:
    name = payload.get(field)
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f'{command}: the field "{field}" is missing; it takes a name')
    return name


def _read_spec(command: str, payload: Mapping[str, Any], others: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a venv; the controller checks them."""
    flat = {
        name: value for name, value in payload.items() if name not in {*others, *_OPTIONS, "spec"} and value is not None
    }
    spec = payload.get("spec")
    if spec is None:
        return flat
    if not isinstance(spec, dict) or flat:
        wrong = f'"{next(iter(flat))}" is outside of it' if flat else "it is not an object"
        raise InvalidRequest(f'{command}: the field "spec" takes the fields of a venv; {wrong}')
    return spec
