"""The requests of a session about venvs, on a backend that manages venvs.

Each process of such a session gets a socket of its own and the module `venvd_host` that uses it. User code can write
anything to the socket. So the server limits the length of a line and the requests that run at a time, and closes the
socket at an invalid line.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, cast

import msgspec

from venvd_contract.errors import Busy, Forbidden, Internal, VenvdError
from venvd_contract.internal.messages import OpenVenvs
from venvd_contract.internal.venv_host import LARGEST_LINE
from venvd_contract.venvs import PASSED_ON
from venvd_core.link import Link
from venvd_core.tasks import Tasks
from venvd_core.wire import encode

log = logging.getLogger(__name__)

RUN = "venv.run"
"""Runs code in another venv; only sessions send it."""
MOST_AT_ONCE = 8
MOST_UNREAD = 32 << 20
_SOURCE = files("venvd_contract.internal").joinpath("venv_host.py").read_text()

AnswerVenvs = Callable[[str, Any], Awaitable[Any]]
"""Answers a command with a payload."""


class _Line(msgspec.Struct):
    id: int
    command: str
    payload: dict[str, Any]


_line = msgspec.json.Decoder(_Line)


class VenvRequests(asyncio.Protocol):
    """Answers the requests of one process."""

    def __init__(self, session: str, answer: AnswerVenvs) -> None:
        self._session = session
        self._answer = answer
        self._buffer = bytearray()
        self._running = 0
        self._tasks = Tasks()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                request = _line.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._break(f"an invalid request ({error})")
                return
            self._begin(request)
        if len(self._buffer) > LARGEST_LINE:
            self._break("a line that is too long")

    def _begin(self, request: _Line) -> None:
        if self._running >= MOST_AT_ONCE:
            self._write(request.id, Busy(f"{MOST_AT_ONCE} requests of this session about venvs run already"))
            return
        self._running += 1
        self._tasks.start(self._serve(request))

    async def _serve(self, request: _Line) -> None:
        outcome: Any
        try:
            if request.command in PASSED_ON or request.command == RUN:
                outcome = await self._answer(request.command, request.payload)
            else:
                outcome = Forbidden(f'"{request.command[:40]}" is not a command about venvs')
        except VenvdError as error:
            outcome = error
        except Exception:
            log.exception("%s", request.command)
            outcome = Internal("a defect of the server; its log has the traceback")
        finally:
            self._running -= 1
        code = outcome.code if isinstance(outcome, VenvdError) else "ok"
        fields = {"command": request.command, "session": self._session, "outcome": code}
        log.info("a session asked for a venv", extra={"fields": fields})
        self._write(request.id, outcome)

    def _write(self, number: int, outcome: Any) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MOST_UNREAD:
            self._break("requests without reading the answers")
            return
        reply = outcome.fields() if isinstance(outcome, VenvdError) else {"result": outcome}
        self._transport.write(encode({"id": number, **reply}) + b"\n")

    def _break(self, why: str) -> None:
        log.warning("the session %s sent %s: it can no longer manage venvs", self._session, why)
        self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._tasks.cancel()

    def close(self) -> None:
        self._tasks.cancel()
        self._transport.abort()


async def open_requests(link: Link, session: str, answer: AnswerVenvs) -> VenvRequests | None:
    """Give the process of a session its socket; return None if that fails: the process then has no `venvd_host`."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        await link.request(OpenVenvs(session, _SOURCE), descriptors=[theirs.fileno()])
        _, requests = await asyncio.get_running_loop().create_unix_connection(
            lambda: VenvRequests(session, answer), sock=ours
        )
    except VenvdError as error:
        log.warning("the session %s cannot manage venvs: %s", session, error.message)
        ours.close()
        return None
    finally:
        theirs.close()
    return requests
