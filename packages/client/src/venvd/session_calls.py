"""The calls about sessions, and what an output means: the same for sync and async clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from venvd.errors import decoded
from venvd.records import record, records
from venvd.transports.base import Call, Kind
from venvd_contract.commands import Output, SessionInfo


def _info(result: Any) -> SessionInfo:
    return record(SessionInfo, result)


def _nothing(_: Any) -> None:
    return None


_listed = records(SessionInfo)
_CREATE = Kind("session.create", _info)
_LIST = Kind("session.list", lambda result: _listed(result["sessions"]), repeatable=True)
_GET = Kind("session.get", _info, repeatable=True)
_DELETE = Kind("session.delete", _nothing)
_INTERRUPT = Kind("session.interrupt", _nothing)
_RESET = Kind("session.reset", _info)


def create(
    name: str | None, limits: Mapping[str, Any] | None, env: Mapping[str, str] | None, idle_timeout: float | None
) -> Call[SessionInfo]:
    fields = {
        "name": name,
        "limits": dict(limits) if limits is not None else None,
        "env": dict(env) if env is not None else None,
        "idleTimeout": idle_timeout,
    }
    return Call(_CREATE, {key: value for key, value in fields.items() if value is not None})


def listed() -> Call[list[SessionInfo]]:
    return Call(_LIST, {})


def get(session: str) -> Call[SessionInfo]:
    return Call(_GET, {"id": session})


def delete(session: str) -> Call[None]:
    return Call(_DELETE, {"id": session})


def interrupt(session: str) -> Call[None]:
    return Call(_INTERRUPT, {"id": session})


def reset(session: str) -> Call[SessionInfo]:
    return Call(_RESET, {"id": session})


def dispose(session: str | None, handles: list[str], timeout: float) -> Call[None]:
    return Call(Kind("dispose", _nothing, session, repeatable=True), {"handleIds": handles}, timeout)


def checked(output: Output, *, check: bool) -> Output:
    """The output; with `check`, its error is raised.

    Raises:
        UserError: the code raised.
    """
    if check and output.error is not None:
        raise decoded(
            {
                "code": "user_error",
                "error": output.error.message,
                "errorType": output.error.errorType,
                "traceback": output.error.traceback,
            }
        )
    return output
