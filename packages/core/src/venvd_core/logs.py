"""Log lines of JSON on standard error: one for each call that failed and, at level `debug`, one for every call."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Any

from venvd_contract.errors import Internal, SessionLost, Unavailable, UserError, VenvdError
from venvd_core.wire import encode

_calls = logging.getLogger("venvd.call")
_LEVELS = {Internal.code: logging.ERROR, SessionLost.code: logging.WARNING, Unavailable.code: logging.WARNING}
_LONGEST_MESSAGE = 500


class JsonLines(logging.Formatter):
    """One JSON object a line; `fields` of the record are fields of it."""

    def __init__(self, **always: str) -> None:
        super().__init__()
        self._always = {name: value for name, value in always.items() if value}

    def format(self, record: logging.LogRecord) -> str:
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return encode(line).decode()


def configure(level: str, **always: str) -> None:
    """Send all logging of this process to standard error; `always` are fields of each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**always))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def every_call() -> bool:
    """Whether calls that went well are logged too."""
    return _calls.isEnabledFor(logging.DEBUG)


def call(
    command: str,
    outcome: str,
    *,
    seconds: float = 0.0,
    session: str | None = None,
    error: VenvdError | None = None,
    **fields: Any,
) -> None:
    """The line of one call. What user code said in its error is its own affair and not logged, its type is."""
    level = logging.DEBUG if error is None else _LEVELS.get(error.code, logging.INFO)
    if not _calls.isEnabledFor(level):
        return
    found = {"command": command, "outcome": outcome, "durationMs": round(seconds * 1000, 3), **fields}
    if session is not None:
        found["session"] = session
    if error is not None and error.error_type is not None:
        found["errorType"] = error.error_type
    if error is not None and error.code != UserError.code:
        found["error"] = error.message[:_LONGEST_MESSAGE]
    _calls.log(level, "call", extra={"fields": found})
