"""The application that uvicorn runs: hot routes at once, probes, then FastAPI for the rest."""

from __future__ import annotations

import logging
from importlib.metadata import version

from venvd_contract.commands import COMMANDS
from venvd_contract.errors import Internal, VenvdError
from venvd_core import monitor
from venvd_core.backend import Backend
from venvd_core.monitor import Message, Receive, Scope, Send, refuse
from venvd_http_backend.arrays import METHODS, PATH, Arrays
from venvd_http_backend.commands import Commands
from venvd_http_backend.schema import schema_app

HOT = {
    command.http[1]: command.name
    for command in COMMANDS
    if command.http[0] == "POST" and command.http[1].startswith("/api/")
}

_log = logging.getLogger(__name__)
_IN_THE_HEADER = "this page takes it like every other: curl -H 'Authorization: Bearer …'"
_PAGES = frozenset({"/docs", "/openapi.json"})


class Front:
    """Answers everything; whatever goes wrong is problem details."""

    def __init__(self, backend: Backend, commands: Commands, arrays: Arrays) -> None:
        self._backend = backend
        self._commands = commands
        self._monitor = monitor.app(backend)
        self._arrays = arrays
        self._rest = schema_app(self._commands, version("venvd-http-backend"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            command = HOT.get(scope["path"])
            if command is not None and scope["method"] == "POST":
                await self._commands.serve(command, scope, receive, send)
            else:
                await self._other(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if scope["path"] in monitor.PATHS:
                await self._monitor(scope, receive, watched)
            elif scope["path"] == PATH and scope["method"] in METHODS:
                await self._arrays.serve(scope, receive, watched)
            else:
                self._admit(scope)
                await self._rest(scope, receive, watched)
        except VenvdError as error:
            await refuse(watched, error)
        except Exception:
            _log.exception("%s %s", scope["method"], scope["path"])
            if started:
                raise
            await refuse(send, Internal("a defect of the server; its log has the traceback"))

    def _admit(self, scope: Scope) -> None:
        try:
            self._commands.admit(scope)
        except VenvdError as error:
            if scope["path"] in _PAGES and error.http_status == 401:
                raise type(error)(f"{error.message}; {_IN_THE_HEADER}") from None
            raise

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._backend.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._backend.close()
        await send({"type": "lifespan.shutdown.complete"})
