"""Writes the audit log: one line for each request that changes something, before its answer leaves."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anyio.to_thread import run_sync

from venvd_contract.errors import Internal, VenvdError
from venvd_controller.audit import AuditLog, describe_fields
from venvd_controller.auth import CALLER
from venvd_controller.requests import drop_nulls
from venvd_http.asgi import ASGIApp, Message, Receive, Scope, Send, describe_peer

log = logging.getLogger("venvd.audit")

CHANGES = "venvd.changes"
"""The key of the `Changes` in an ASGI scope."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORBIDDEN = 403
_MAX_BODY = 1 << 20


@dataclass
class Changes:
    """What a route has changed.

    Attributes:
        fields: the fields that the route has changed; None for the fields of the request's body.
        is_call: whether the request is a call of a backend. The backend's log has it, and the audit log does not.
    """

    fields: dict[str, Any] | None = None
    is_call: bool = False


class AuditTrail:
    """ASGI middleware inside the guard: the caller is known, and requests with refused tokens do not arrive here."""

    def __init__(self, app: ASGIApp, audit: AuditLog) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or CALLER not in scope:
            await self._app(scope, receive, send)
            return
        scope[CHANGES] = changes = Changes()
        body = bytearray()

        async def copy_body() -> Message:
            message = await receive()
            if len(body) <= _MAX_BODY:
                body.extend(message.get("body", b""))
            return message

        answered = False

        async def write(status: int) -> None:
            nonlocal answered
            answered = True
            if changes.is_call and status != _FORBIDDEN:
                return
            fields = _read_fields(bytes(body)) if changes.fields is None else changes.fields
            await self._write(scope, status, fields)

        async def watch_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                await write(message["status"])
            await send(message)

        try:
            await self._app(scope, receive if scope["method"] in _SAFE else copy_body, watch_status)
        except Exception:
            if not answered:  # middleware outside of this one answers a defect
                scope["venvd"]["code"] = Internal.code
                await write(Internal.http_status)
            raise

    async def _write(self, scope: Scope, status: int, fields: dict[str, Any]) -> None:
        code = scope["venvd"].get("code")
        request = (scope[CALLER].name, describe_peer(scope), scope["method"], scope["path"], status, code)
        if status == _FORBIDDEN:
            self._audit.count_refusal(*request)
            return
        if scope["method"] in _SAFE or "endpoint" not in scope:  # without an endpoint nothing has changed
            return
        try:
            await run_sync(self._audit.write, *request, fields)
        except VenvdError as error:
            log.warning("%s %s is not in the audit log: %s", scope["method"], scope["path"], error.message)


def _read_fields(body: bytes) -> dict[str, Any]:
    """Read the fields of a body that is a JSON object, without null and empty fields."""
    if not 2 < len(body) <= _MAX_BODY:
        return {}
    try:
        given = json.loads(body)
        with suppress(ValueError):  # for a text that the route refuses
            given = drop_nulls(given)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    return describe_fields({name: value for name, value in given.items() if value not in ([], {})})
