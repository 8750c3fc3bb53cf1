"""Calls of the fast path: the connection itself answers them, without a task and without ASGI.

A small request that has arrived whole, with one piece of JSON as its answer, needs no feature of ASGI. A task, its
events and its messages would take longer than the call.
"""

from __future__ import annotations

import logging

from venvd_contract.errors import Internal, VenvdError
from venvd_core import float_arrays
from venvd_core.backend import Call
from venvd_http.connection import Exchange, HttpConnection
from venvd_http.heads import Head
from venvd_http_backend.commands import Commands, make_request

_log = logging.getLogger(__name__)


class FastCall(Exchange):
    """One call on the fast path."""

    __slots__ = ("_call", "_commands")

    def __init__(self, commands: Commands, connection: HttpConnection, keep_alive: bool) -> None:
        self._connection = connection  # as `Exchange` does: a call of its __init__ would be one more for each request
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self._commands = commands
        self._call: Call | None = None

    def begin(self, command: str, head: Head, body: bytes) -> None:
        try:
            self._call = Call(make_request(command, head, body), self._finish)
            self._commands.backend.begin(self._call)
        except VenvdError as error:
            self.refuse(error)
        except Exception as error:  # noqa: BLE001 — a defect of ours: logged with its traceback, and answered
            _log.exception(command)
            self.refuse(Internal(f"{type(error).__name__} in the server; its log has the traceback"))

    def cancel(self) -> None:
        if self._call is not None and self._commands.watch is not None:
            self._call.cancel()

    def _finish(self, call: Call) -> None:
        if self.disconnected:
            self.response_complete = True
            if call.request.command in float_arrays.COMMANDS:
                float_arrays.discard(call)
        elif call.reply is not None:
            if call.request.command in float_arrays.COMMANDS and float_arrays.is_apart(call.reply):
                self._commands.tasks.start(self._send_text(call))
            else:
                self.answer(call.reply.result)
        elif call.error is not None:
            self.refuse(call.error)
        else:
            self.response_complete = True

    async def _send_text(self, call: Call) -> None:
        """Send a long float array in parts."""
        try:
            text = float_arrays.open_text(call)
        except VenvdError as error:
            self.refuse(error)
            return
        try:
            await self.answer_in_parts(text.header.nbytes, float_arrays.read_text(text))
        except VenvdError as error:
            _log.warning("a response broke off: %s", error.message)
        finally:
            text.close()
