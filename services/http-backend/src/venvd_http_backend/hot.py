"""Calls answered by the connection itself, with neither task nor ASGI in between.

A small request that has come whole and whose answer is one piece of JSON needs nothing that ASGI offers, and a task,
its events and its messages cost more than the call. Everything else (a body in pieces, a stream of events, a request
behind another that is not answered yet) goes the usual way.

Nor need a client's second request be parsed where its head is that of an earlier one, byte for byte: `Heads`.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Protocol

from venvd_contract.errors import Internal, VenvdError
from venvd_core.backend import Call
from venvd_core.monitor import problem_of
from venvd_http_backend.commands import Commands
from venvd_http_backend.incoming import Head

LARGEST = 64 * 1024
STATUS_LINE = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus} | {
    413: b"413 Content Too Large",  # RFC 9110's names: those of HTTPStatus depend on the version of Python
    422: b"422 Unprocessable Content",
}

_log = logging.getLogger(__name__)


class Heads:
    """Heads of hot requests of one connection that were parsed, and whose sender may call."""

    MOST = 16
    LARGEST = 4096

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[str, Head]] = {}

    def learn(self, data: bytes, command: str, head: Head) -> None:
        """Keep the head with which `data` begins, where nothing but its body follows."""
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end <= self.LARGEST and len(data) == end + head.length and data[:5] == b"POST ":
            if len(self._found) >= self.MOST:
                self._found.clear()
            self._found[data[:end]] = command, head

    def known(self, data: bytes) -> tuple[str, Head, bytes] | None:
        """Command, head and body of a request that is whole, and the only thing that has come."""
        end = data.find(b"\r\n\r\n") + 4
        found = self._found.get(data[:end])
        if found is None or len(data) != end + found[1].length:
            return None
        return (*found, data[end:])


class Writer(Protocol):
    """The connection, as an exchange sees it."""

    def answer(self, exchange: Exchange, status: bytes, headers: bytes, body: bytes) -> None: ...


class Exchange:
    """One request on one connection, from its last byte to the answer.

    It stands where uvicorn keeps its own cycle, and so has what uvicorn looks at there: `response_complete`,
    `disconnected`, `keep_alive` and a `message_event` to set.
    """

    __slots__ = ("_call", "_cancels", "_writer", "disconnected", "keep_alive", "response_complete")

    def __init__(self, writer: Writer, keep_alive: bool, cancels: bool) -> None:
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self._cancels = cancels
        self._writer = writer
        self._call: Call | None = None

    @property
    def message_event(self) -> Exchange:
        return self

    def set(self) -> None:
        """Nothing waits for this event: the connection says by `gone` what uvicorn says by it."""

    def gone(self) -> None:
        """The client closed its connection."""
        self.disconnected = True
        if self._cancels and self._call is not None:
            self._call.cancel()

    def begin(self, commands: Commands, command: str, head: Head, body: bytes) -> None:
        """Begin the call of a request whose sender may."""
        try:
            self._call = commands.call(command, head, body, self._done)
        except VenvdError as error:
            self.refuse(error)
        except Exception as error:  # noqa: BLE001 — a defect of ours: logged with its traceback, and answered
            _log.exception(command)
            self.refuse(Internal(f"{type(error).__name__} in the server; its log has the traceback"))

    def _done(self, call: Call) -> None:
        if self.disconnected:
            self.response_complete = True
        elif call.reply is not None:
            self._writer.answer(self, b"200 OK", b"content-type: application/json\r\n", call.reply.result)
        elif call.error is not None:
            self.refuse(call.error)
        else:
            self.response_complete = True

    def refuse(self, error: VenvdError) -> None:
        status, headers, body = problem_of(error)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._writer.answer(self, STATUS_LINE.get(status) or b"%d " % status, lines, body)
