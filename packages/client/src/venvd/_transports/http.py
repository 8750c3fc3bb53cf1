"""Encodes calls over HTTP and decodes their replies. Knows no socket."""

from __future__ import annotations

import json
from typing import Any

from venvd._net.endpoint import Endpoint, Exchange
from venvd._net.http1 import ResponseReader, head, with_body
from venvd._net.sse import EventParser, ServerEvent
from venvd._transports import http_targets
from venvd._transports.base import Call, Event
from venvd.errors import BadReply, InvalidRequest, Unavailable, VenvdError, error_from_reply
from venvd_contract.commands import BY_NAME
from venvd_contract.displays import add_display

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_STREAM = "text/event-stream"
_FILE, _ARCHIVE = "application/octet-stream", "application/x-tar"


def parse_json(data: bytes | bytearray) -> Any:
    """Return the JSON in a body.

    Raises:
        BadReply: the body is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"the answer is not JSON: {error}") from None


def error_of(reader: ResponseReader) -> VenvdError:
    """Return the error in a response with a status of 400 or more. Its body may be problem details or anything else."""
    try:
        fields = parse_json(reader.body)
    except BadReply:
        fields = None
    if not isinstance(fields, dict) or "code" not in fields:
        text = bytes(reader.body[:200]).decode("utf-8", "replace").strip()
        fields = {
            "code": _CODES.get(reader.status, "internal"),
            "detail": f"HTTP status {reader.status} {text}".strip(),
        }
    return error_from_reply(fields)


# A proxy in front of the server does not send our error codes.
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
    """The response to a call, streamed or whole."""

    __slots__ = ("_output", "_parser")

    def __init__(self) -> None:
        super().__init__()
        self._parser: EventParser | None = None
        self._output: StreamedOutput | None = None

    def events(self) -> list[Event]:
        if self._output is None or self._parser is None:
            if not self.has_head or not self.header("content-type").startswith(_STREAM):
                return []
            self._parser, self._output = EventParser(), StreamedOutput()
        events = [self._output.take(event) for event in self._parser.feed(self.take())]
        return [event for event in events if event is not None]

    def result(self) -> Any:
        if self.status >= 400:
            raise error_of(self)
        if self.header("content-type") in {_FILE, _ARCHIVE}:
            is_directory = self.header("content-type") == _ARCHIVE
            fields = {"isDirectory": is_directory, "kind": "directory" if is_directory else "file"}
            return {**http_targets.parse_version(self.header("etag")), **fields, "attached": bytes(self.body)}
        return parse_json(self.body) if self._output is None else self._output.whole()

    def count_bytes(self) -> int:
        return len(self.body)


class StreamedOutput:
    """Builds the *output* of the contract from the events of a stream."""

    def __init__(self) -> None:
        self._text: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._display: list[Any] = []
        self._outcome: dict[str, Any] = {}
        self._done = False

    def take(self, event: ServerEvent) -> Event | None:
        """Return the event for the caller, if any, or raise the error that ended the call."""
        data = parse_json(event.data.encode())
        if event.name == "error":
            if "code" in data:
                raise error_from_reply(data)
            self._outcome["error"] = data
        elif event.name == "result":
            self._outcome["result"] = data
        elif event.name == "done":
            self._outcome.update(data or {})
            self._done = True
        else:
            if event.name in self._text:
                self._text[event.name].append(str(data))
            elif event.name == "display":
                add_display(self._display, data)
            return Event(event.name, data)
        return None

    def whole(self) -> dict[str, Any]:
        """Return the output.

        Raises:
            Unavailable: the stream ended early.
        """
        if not self._done:
            raise Unavailable("the stream of events ended before the code did")
        text = {name: "".join(parts) for name, parts in self._text.items()}
        return {"durationMs": 0.0, "truncated": False, **text, "display": self._display, **self._outcome}


def _body(call: Call[Any]) -> bytes:
    method, path = BY_NAME[call.command].http
    if method != "POST" or "{id}" in path:
        return call.body or b""  # everything else is in the path and the query
    try:
        return _dumps(call.payload).encode("utf-8")
    except ValueError as error:
        raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None


class HttpCodec:
    """Encodes calls as HTTP requests."""

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
        if call.lease is not None:
            start += b"X-Venvd-Lease: %s\r\n" % repr(float(call.lease)).encode("ascii")
        if call.timeout is not None:
            start += b"X-Venvd-Timeout: %s\r\n" % repr(float(call.timeout)).encode("ascii")
        body = _body(call)
        reader = HttpReply()
        return Exchange(with_body(start, body), reader, call.repeatable), reader

    def headers(self, call: Call[Any]) -> list[tuple[str, str]]:
        """Return the headers that describe a call."""
        headers = list(self._common)
        if call.session is not None:
            headers.append(("X-Venvd-Session", call.session))
        if call.timeout is not None:
            headers.append(("X-Venvd-Timeout", repr(float(call.timeout))))
        if call.lease is not None:
            headers.append(("X-Venvd-Lease", repr(float(call.lease))))
        return headers

    def _head(self, call: Call[Any], *, stream: bool) -> bytes:
        method, path = BY_NAME[call.command].http
        names_item = "{id}" in path
        if names_item:
            path = http_targets.make_target(call, method, path)
        headers = [*self._common, ("Accept", _STREAM if stream else "application/json")]
        if call.session is not None:
            headers.append(("X-Venvd-Session", call.session))
        if method == "POST":
            headers.append(("Content-Type", "application/json"))
        request_head = head(method, self.endpoint, path, headers)
        if not stream and not names_item and len(self._heads) < 1024:
            self._heads[call.command, call.session] = request_head
        return request_head
