"""The log of calls: one line for each call that failed and, at level `debug`, one for every call."""

from __future__ import annotations

import logging
from typing import Any

from venvd_contract.errors import Internal, SessionLost, Unavailable, UserError, VenvdError

_calls = logging.getLogger("venvd.call")
_LEVELS = {Internal.code: logging.ERROR, SessionLost.code: logging.WARNING, Unavailable.code: logging.WARNING}
_LONGEST_MESSAGE = 500


def logs_every_call() -> bool:
    """Return whether the log has successful calls too."""
    return _calls.isEnabledFor(logging.DEBUG)


def log_call(
    command: str,
    outcome: str,
    *,
    key: str | None,
    seconds: float = 0.0,
    session: str | None = None,
    error: VenvdError | None = None,
    **more: Any,
) -> None:
    """Log one call of the token `key`. Of an error of user code, log the type and not the message."""
    level = logging.DEBUG if error is None else _LEVELS.get(error.code, logging.INFO)
    if not _calls.isEnabledFor(level):
        return
    fields = {"command": command, "outcome": outcome, "key": key, "durationMs": round(seconds * 1000, 3), **more}
    if session is not None:
        fields["session"] = session
    if error is not None and error.error_type is not None:
        fields["errorType"] = error.error_type
    if error is not None and error.code != UserError.code:
        fields["error"] = error.message[:_LONGEST_MESSAGE]
    _calls.log(level, "call", extra={"fields": fields})
