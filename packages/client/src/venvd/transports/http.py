"""Calls over HTTP: CONTRACT, "Operations of a backend" and "HTTP"."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from venvd_contract.operations import BY_COMMAND

from venvd.errors import BadReply, InvalidRequest, VenvdError, decoded
from venvd.net.endpoint import Endpoint, Exchange
from venvd.net.http1 import ResponseReader, head, with_body
from venvd.net.sse import EventParser
from venvd.transports.base import Call, Event

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_STREAM = "text/event-stream"


def json_of(data: bytes | bytearray) -> Any:
    """The JSON of a body.

    Raises:
        BadReply: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the answer is not JSON: {error}") from None


def error_of(reader: ResponseReader) -> VenvdError:
    """The error that a response with a status of 400 or more carries, problem details or not."""
    try:
        fields = json_of(reader.body)
    except BadReply:
        fields = None
    if not isinstance(fields, dict) or "code" not in fields:
        said = bytes(reader.body[:200]).decode("utf-8", "replace").strip()
        fields = {"code": _CODES.get(reader.status, "internal"), "detail": f"HTTP status {reader.status} {said}".strip()}
    return decoded(fields)


# What answers in front of a server (a proxy) knows no code of the contract.
_CODES = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    429: "busy",
    502: "unavailable",
    503: "unavailable",
    504: "timeout",
}


class HttpReply(ResponseReader):
    """The response to a call, whether it is streamed or not."""

    __slots__ = ("_output", "_parser")

    def __init__(self) -> None:
        super().__init__()
        self._parser: EventParser | None = None
        self._output: Any = None

    def events(self) -> list[Event]:
        if self._parser is None:
            if not self.has_head or not self.header("content-type").startswith(_STREAM):
                return []
            self._parser = EventParser()
        found = []
        for event in self._parser.feed(self.take()):
            data = json_of(event.data.encode())
            if event.name == "error":
                raise decoded(data if isinstance(data, dict) else {})
            if event.name == "result":
                self._output = data
            elif event.name != "done":
                found.append(Event(event.name, data))
        return found

    def result(self) -> Any:
        if self.status >= 400:
            raise error_of(self)
        if self._parser is None:
            return json_of(self.body)
        if self._output is None:
            raise BadReply("the stream of events ended without a result")
        return self._output

    def received(self) -> int:
        return len(self.body)


def _body(call: Call[Any]) -> bytes:
    method, path = BY_COMMAND[call.command].http
    if method != "POST" or "{id}" in path:
        return b""  # all that these ask is in the path
    try:
        return _dumps(call.payload).encode("utf-8")
    except ValueError as error:
        raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None


class HttpWire:
    """Writes calls as HTTP requests."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self.endpoint = endpoint
        self._common = [("X-Venvd-Values", "tagged")]
        if token:
            self._common.append(("Authorization", f"Bearer {token}"))
        self._heads: dict[tuple[str, str | None], bytes] = {}

    def exchange(self, call: Call[Any], *, stream: bool) -> tuple[Exchange, HttpReply]:
        start = self._heads.get((call.command, call.session))
        if start is None or stream:
            start = self._head(call, stream=stream)
        if call.timeout is not None:
            start += b"X-Venvd-Timeout: %s\r\n" % repr(float(call.timeout)).encode("ascii")
        body = _body(call)
        reader = HttpReply()
        return Exchange(with_body(start, body), reader, call.repeatable), reader

    def _head(self, call: Call[Any], *, stream: bool) -> bytes:
        method, path = BY_COMMAND[call.command].http
        names_one = "{id}" in path
        if names_one:
            path = path.replace("{id}", quote(call.payload["id"], safe=""))
        headers = [*self._common, ("Accept", _STREAM if stream else "application/json")]
        if call.session is not None:
            headers.append(("X-Venvd-Session", call.session))
        if method == "POST":
            headers.append(("Content-Type", "application/json"))
        made = head(method, self.endpoint, path, headers)
        if not stream and not names_one and len(self._heads) < 1024:
            self._heads[call.command, call.session] = made
        return made
