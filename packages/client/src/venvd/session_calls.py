"""The calls about sessions, and what an output means: the same for sync and async clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from venvd.errors import decoded
from venvd.records import record, records
from venvd.transports.base import Call
from venvd_contract.operations import Output, SessionInfo


def _info(result: Any) -> SessionInfo:
    return record(SessionInfo, result)


def _nothing(_: Any) -> None:
    return None


def create(
    name: str | None, limits: Mapping[str, Any] | None, env: Mapping[str, str] | None, idle_timeout: float | None
) -> Call[SessionInfo]:
    fields = {
        "name": name,
        "limits": dict(limits) if limits is not None else None,
        "env": dict(env) if env is not None else None,
        "idleTimeout": idle_timeout,
    }
    return Call("session.create", {key: value for key, value in fields.items() if value is not None}, _info)


def listed() -> Call[list[SessionInfo]]:
    convert = records(SessionInfo)
    return Call("session.list", {}, lambda result: convert(result["sessions"]), repeatable=True)


def get(session: str) -> Call[SessionInfo]:
    return Call("session.get", {"id": session}, _info, repeatable=True)


def delete(session: str) -> Call[None]:
    return Call("session.delete", {"id": session}, _nothing)


def interrupt(session: str) -> Call[None]:
    return Call("session.interrupt", {"id": session}, _nothing)


def reset(session: str) -> Call[SessionInfo]:
    return Call("session.reset", {"id": session}, _info)


def dispose(session: str | None, handles: list[str], timeout: float) -> Call[None]:
    return Call("dispose", {"handleIds": handles}, _nothing, session, timeout, repeatable=True)


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
