"""Calls that are started and left: their results are fetched later, by this program or by another."""
# ruff: noqa: ASYNC109 - the timeout is a part of the call that the server keeps to

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from venvd.errors import DeadlineExceeded, decoded
from venvd.flow import Flow, drive, drive_async
from venvd.records import record
from venvd.scope import Held, Scope
from venvd.transports.base import Call, Kind
from venvd_contract.background import CallInfo

_ROUND = 30.0
"""Seconds for which one request waits."""
_GET = Kind("call.get", lambda result: record(CallInfo, result), repeatable=True)
_CANCEL: Kind[None] = Kind("cancel", lambda _: None, repeatable=True)
_UNDER_WAY = frozenset({"queued", "running"})


def _started(scope: Scope, call: Call[Any]) -> Call[str]:
    """What starts a call; its timeout is its own, not that of the answer."""
    payload: dict[str, Any] = {"command": call.command, "payload": call.payload}
    if call.timeout is not None:
        payload["timeout"] = call.timeout
    return Call(Kind("call.start", lambda result: str(result["id"]), scope.session, lease=scope.lease), payload)


def _asked(identity: str, wait: float) -> Call[CallInfo]:
    fields: dict[str, Any] = {"id": identity}
    if wait:
        fields["wait"] = wait
    return Call(_GET, fields)


def _cancel(identity: str) -> Call[None]:
    return Call(_CANCEL, {"id": identity})


def _result(scope: Scope, identity: str, timeout: float | None) -> Flow[Call[Any], Any]:
    end = None if timeout is None else time.monotonic() + timeout
    while True:
        wait = _ROUND if end is None else max(0.0, min(_ROUND, end - time.monotonic()))
        info: CallInfo = yield _asked(identity, wait)
        if info.state not in _UNDER_WAY:
            break
        if end is not None and time.monotonic() >= end:
            raise DeadlineExceeded(f"the call {identity} has not ended within {timeout:g} s; it goes on")
    if info.error is not None:
        raise decoded({**vars(info.error), "error": info.error.message})
    return scope.result_of(info.command, info.result)


class _Starts:
    """The calls of a scope that can be left."""

    def __init__(self, scope: Scope, start: Callable[[Call[str]], Any]) -> None:
        self._scope = scope
        self._start = start

    def eval(self, code: str, *, timeout: float | None = None, **names: Any) -> Any:
        """Start to evaluate `code`; see `Operations.eval`."""
        return self._left(self._scope.eval(code, names, timeout))

    def exec(self, code: str, *, timeout: float | None = None) -> Any:
        """Start to run `code`; the result is its output, with its error where it raised."""
        return self._left(self._scope.exec(code, timeout))

    def call(self, target: Held, method: str, *args: Any, **kwargs: Any) -> Any:
        """Start to call a method."""
        return self._left(self._scope.call(target, method, args, kwargs))

    def create(self, module: Held, name: str, *args: Any, **kwargs: Any) -> Any:
        """Start to make an object of the class `name` of a module."""
        return self._left(self._scope.create(module, name, args, kwargs))

    def import_module(self, name: str, *, timeout: float | None = None) -> Any:
        """Start to import a module."""
        return self._left(self._scope.import_module(name, timeout))

    def _left(self, call: Call[Any]) -> Any:
        return self._start(_started(self._scope, call))


class RemoteCall:
    """A call that was started; `id` is what another program needs to fetch its result."""

    def __init__(self, scope: Scope, run: Callable[[Call[Any]], Any], identity: str) -> None:
        self._scope = scope
        self._run = run
        self.id = identity

    def __repr__(self) -> str:
        return f"<venvd call {self.id}>"

    def info(self) -> CallInfo:
        """State, times, and result or error as they came."""
        info: CallInfo = self._run(_asked(self.id, 0))
        return info

    def done(self) -> bool:
        """Whether it has ended."""
        return self.info().state not in _UNDER_WAY

    def result(self, timeout: float | None = None) -> Any:
        """What the call came to, waited for.

        Raises:
            DeadlineExceeded: it has not ended within `timeout` seconds, and goes on.
            NotFound: the result is not kept any more.
            VenvdError: the call's own error.
        """
        return drive(_result(self._scope, self.id, timeout), self._run)

    def cancel(self) -> None:
        """End it; one that has ended already is no error."""
        self._run(_cancel(self.id))


class Background(_Starts):
    """Starts calls of a session and leaves them: each method gives a `RemoteCall` at once.

    `timeout` is the time that the call may take, not that of its start.
    """

    def __init__(self, scope: Scope, run: Callable[[Call[Any]], Any]) -> None:
        super().__init__(scope, lambda call: self.get(run(call)))
        self._run = run

    def get(self, identity: str) -> RemoteCall:
        """The call of that ID, started by whomever in this session; nothing is sent."""
        return RemoteCall(self._scope, self._run, identity)


class AsyncRemoteCall:
    """The same for asyncio."""

    def __init__(self, scope: Scope, run: Callable[[Call[Any]], Awaitable[Any]], identity: str) -> None:
        self._scope = scope
        self._run = run
        self.id = identity

    def __repr__(self) -> str:
        return f"<venvd call {self.id}>"

    async def info(self) -> CallInfo:
        """State, times, and result or error as they came."""
        info: CallInfo = await self._run(_asked(self.id, 0))
        return info

    async def done(self) -> bool:
        """Whether it has ended."""
        return (await self.info()).state not in _UNDER_WAY

    async def result(self, timeout: float | None = None) -> Any:
        """What the call came to, as `RemoteCall.result`."""
        return await drive_async(_result(self._scope, self.id, timeout), self._run)

    async def cancel(self) -> None:
        """End it; one that has ended already is no error."""
        await self._run(_cancel(self.id))


class AsyncBackground(_Starts):
    """Starts calls of a session and leaves them: each method, awaited, gives an `AsyncRemoteCall`."""

    def __init__(self, scope: Scope, run: Callable[[Call[Any]], Awaitable[Any]]) -> None:
        super().__init__(scope, self._begun)
        self._run = run

    async def _begun(self, call: Call[str]) -> AsyncRemoteCall:
        return self.get(await self._run(call))

    def get(self, identity: str) -> AsyncRemoteCall:
        """The call of that ID; nothing is sent."""
        return AsyncRemoteCall(self._scope, self._run, identity)
