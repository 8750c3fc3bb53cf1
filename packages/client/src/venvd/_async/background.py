"""Calls that run in the background. This program or another one fetches their results later."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from venvd._async.uploads import send_uploads
from venvd._calls import Proxy, SessionCalls
from venvd._done_callbacks import AsyncDoneCallbacks
from venvd._json_dataclasses import from_json
from venvd._transports.base import AsyncRun, AsyncTransport, Call, Kind
from venvd.errors import DeadlineExceeded, error_from_reply
from venvd_contract.background import CallInfo

_LONGEST_WAIT = 30.0
"""Seconds that one request waits for a call to end."""
_GET = Kind("call.get", lambda result: from_json(CallInfo, result), repeatable=True)
_CANCEL: Kind[None] = Kind("cancel", lambda _: None, repeatable=True)
_UNFINISHED = frozenset({"queued", "running"})


class AsyncRemoteCall:
    """A call in the background. Another program needs only its `id` to fetch the result."""

    def __init__(self, calls: SessionCalls, run_call: AsyncRun, call_id: str) -> None:
        self._calls = calls
        self._run_call = run_call
        self.id = call_id
        self._uploads: list[Any] = []
        self._callbacks = AsyncDoneCallbacks(self, self._wait)

    def __repr__(self) -> str:
        return f"<venvd call {self.id}>"

    async def info(self) -> CallInfo:
        """Return the call's state and times, and its result or error as JSON."""
        return await self._run_call(Call(_GET, {"id": self.id}))

    async def done(self) -> bool:
        """Return whether the call has ended."""
        return (await self.info()).state not in _UNFINISHED

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for the call to end and return its result.

        Raises:
            DeadlineExceeded: the call has not ended within `timeout` seconds. It keeps running.
            NotFound: the backend no longer keeps the result.
            VenvdError: the error of the call itself.
        """
        info = await self._wait(timeout)
        if info.error is not None:
            raise error_from_reply({**vars(info.error), "error": info.error.message})
        return self._calls.decode_reply(info.command, info.result)

    def add_done_callback(self, callback: Callable[[AsyncRemoteCall], object]) -> None:
        """Have `callback` called with this call when it has ended, or when this program can no longer wait for it.

        The callback calls `result()` to learn the outcome. One thread or task of this program waits for the call and
        runs all its callbacks. It logs the exception of a callback.
        """
        self._callbacks.add(callback)

    async def _wait(self, timeout: float | None = None) -> CallInfo:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            wait = _LONGEST_WAIT if end is None else max(0.0, min(_LONGEST_WAIT, end - time.monotonic()))
            info = await self._run_call(Call(_GET, {"id": self.id, "wait": wait} if wait else {"id": self.id}))
            if info.state not in _UNFINISHED:
                return info
            if end is not None and time.monotonic() >= end:
                raise DeadlineExceeded(f"the call {self.id} has not ended within {timeout:g} s; it keeps running")

    async def cancel(self) -> None:
        """Cancel the call. If the call has ended already, this does nothing."""
        await self._run_call(Call(_CANCEL, {"id": self.id}))


class AsyncBackground:
    """Starts calls of a session in the background. `timeout` limits the call itself, in seconds."""

    def __init__(self, calls: SessionCalls, transport: AsyncTransport) -> None:
        self._calls = calls
        self._transport = transport
        self._run_call: AsyncRun = transport.call

    async def eval(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        **more_names: Any,
    ) -> AsyncRemoteCall:
        """Start to evaluate `code`, which sees `names` and the keyword arguments as variables.

        `env` are environment variables while it runs.
        """
        return await self._start(self._calls.eval(code, {**(names or {}), **more_names}, timeout, env=env))

    async def exec(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        **more_names: Any,
    ) -> AsyncRemoteCall:
        """Start to run `code`, which sees `names` and the keyword arguments as variables.

        The result is its output, which includes the error if the code raises. `env` are environment variables while it
        runs.
        """
        return await self._start(self._calls.exec(code, {**(names or {}), **more_names}, timeout, env))

    async def call(
        self, target: Proxy, method: str, /, *args: Any, _timeout: float | None = None, **kwargs: Any
    ) -> AsyncRemoteCall:
        """Start to call a method. `_timeout` is in seconds, all other keywords go to the method."""
        return await self._start(self._calls.call(target, method, args, kwargs, _timeout))

    async def create(
        self, module: Proxy, name: str, /, *args: Any, _timeout: float | None = None, **kwargs: Any
    ) -> AsyncRemoteCall:
        """Start to make an object of the class `name` of a module. `_timeout` is in seconds."""
        return await self._start(self._calls.create(module, name, args, kwargs, _timeout))

    async def import_module(self, name: str, *, timeout: float | None = None) -> AsyncRemoteCall:
        """Start to import a module."""
        return await self._start(self._calls.import_module(name, timeout))

    def get(self, call_id: str) -> AsyncRemoteCall:
        """Return the call with that ID, which any client may have started in this session. This sends nothing."""
        return AsyncRemoteCall(self._calls, self._run_call, call_id)

    async def _start(self, call: Call[Any]) -> AsyncRemoteCall:
        proxies = await send_uploads(self._calls, self._transport, call)
        payload: dict[str, Any] = {"command": call.command, "payload": call.payload}
        if call.timeout is not None:
            payload["timeout"] = call.timeout
        kind = Kind("call.start", lambda result: str(result["id"]), self._calls.session, lease=self._calls.lease)
        started = self.get(await self._run_call(Call(kind, payload)))
        started._uploads = proxies
        return started
