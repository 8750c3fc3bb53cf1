"""Logs: lines of JSON on standard error."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import time
from typing import Any

from venvd_http.asgi import ASGIApp, Message, Receive, Scope, Send

_requests = logging.getLogger("venvd.request")


class JsonLines(logging.Formatter):
    """Writes a JSON object on each line. The entries of a record's `fields` are fields of the object."""

    def __init__(self, **always: str) -> None:
        super().__init__()
        self._always = {name: value for name, value in always.items() if value}

    def format(self, record: logging.LogRecord) -> str:
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), default=str)


def configure(level: str, *, quiet: tuple[str, ...] = (), **always: str) -> None:
    """Send all logging of this process to standard error.

    Args:
        level: the lowest level in the log.
        quiet: names of loggers that log only warnings and errors.
        always: fields of each line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**always))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in quiet:
        logging.getLogger(name).setLevel(logging.WARNING)


class RequestLog:
    """ASGI middleware: logs one line for each request. Requests of the paths in `quiet` are logged at level `debug`."""

    def __init__(self, app: ASGIApp, quiet: frozenset[str]) -> None:
        self._app = app
        self._quiet = quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            self._write(scope, status, time.perf_counter() - started)

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        level = logging.DEBUG if scope["path"] in self._quiet and status < 400 else logging.INFO
        client = scope.get("client")
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "durationMs": round(seconds * 1000, 1),
            "client": client[0] if client else None,
            **scope.get("venvd", {}),
        }
        _requests.log(level, "request", extra={"fields": fields})
