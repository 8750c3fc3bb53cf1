"""The client of a backend, and its sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from inspect import Signature
from operator import attrgetter
from types import TracebackType
from typing import Any, Self, TypeVar

from venvd import _calls
from venvd._arrays import array_of, bytes_of
from venvd._async.background import AsyncBackground
from venvd._async.files import AsyncFiles
from venvd._async.output_events import pass_on_output
from venvd._async.replicas import AsyncReplicaList, AsyncReplicaTransport
from venvd._async.uploads import run_uploading, stream_uploading
from venvd._async_proxy import AsyncRemoteCallable, AsyncRemoteObject
from venvd._calls import SessionCalls
from venvd._output import Output
from venvd._release import AsyncReleaser
from venvd._signatures import make_signature
from venvd._tables import stream_of, table_of
from venvd._transports.base import AsyncRun, AsyncTransport, Call, Event
from venvd.errors import DeadlineExceeded, Unavailable, Unreachable
from venvd_contract.commands import HandleInfo, SessionInfo
from venvd_contract.session_requests import Limits

T = TypeVar("T")

_PING_TIMEOUT = 5.0
_PING_PAUSE = 0.1
"""Seconds between two attempts to reach a backend that starts."""


class AsyncCommands:
    """The commands of one session. A backend's own methods run in the session `default`.

    `timeout` is in seconds. All methods raise the errors of `venvd.errors`. If the session's code raises, the error is
    a `UserError` with the remote type and traceback.
    """

    _calls: SessionCalls
    _transport: AsyncTransport
    _run_call: AsyncRun

    @property
    def files(self) -> AsyncFiles:
        """The files of the session's working directory: put, get, save, list, delete."""
        return AsyncFiles(self._calls, self._run_call)

    @property
    def background(self) -> AsyncBackground:
        """Starts calls without waiting for them. Any program can fetch their results later by ID."""
        return AsyncBackground(self._calls, self._transport)

    @property
    def timeout(self) -> float | None:
        """Seconds for calls that name no timeout, those of proxies too. None leaves the timeout to the backend.

        A new value applies to all later calls. `NO_DEADLINE` means no limit.
        """
        return self._calls.timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._calls.set_timeout(seconds)

    async def eval(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        proxy: bool = False,
        env: Mapping[str, str] | None = None,
        **more_names: Any,
    ) -> Any:
        """Evaluate `code` and return the value of its last expression.

        Args:
            code: any code.
            names: variables that only this code sees.
            timeout: seconds for this call.
            proxy: whether to return a proxy of plain data too, so that changes reach the session's object.
            env: environment variables while the code runs. The whole process has them, with all its threads.
            **more_names: more variables.
        """
        if names:
            more_names = {**names, **more_names}
        call = self._calls.eval(code, more_names, timeout, proxy=proxy, env=env)
        return await (self._run(call) if call.uploads else self._run_call(call))

    async def ref(self, target: AsyncRemoteObject, place: str, *, timeout: float | None = None) -> AsyncRemoteObject:
        """Return a proxy of the object in an attribute or item, even if the object is plain data.

        `place` is the code that follows `target`: `"items"`, `"cfg['a']"`, `"[0].name"`.
        """
        proxy: AsyncRemoteObject = await self._run_call(self._calls.ref(target, place, timeout))
        return proxy

    async def exec(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        /,
        *,
        check: bool = True,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **more_names: Any,
    ) -> Output:
        """Run `code` and return its output.

        Args:
            code: any code.
            names: variables that only this code sees.
            check: whether to raise an error of the code as `UserError`. Otherwise the output contains the error.
            timeout: seconds for this call.
            env: environment variables while the code runs. The whole process has them, with all its threads.
            on_stdout: takes each piece of text that the code prints, as it comes. What it raises cancels the code.
            on_stderr: the same for standard error.
            **more_names: more variables.
        """
        names = {**(names or {}), **more_names}
        if on_stdout is None and on_stderr is None:
            return _calls.check_output(await self._run(self._calls.exec(code, names, timeout, env)), check=check)
        events = self.exec_stream(code, names, timeout=timeout, env=env)
        output = await pass_on_output(events, {"stdout": on_stdout, "stderr": on_stderr})
        return _calls.check_output(output, check=check)

    def exec_stream(
        self,
        code: str,
        names: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        **more_names: Any,
    ) -> AsyncGenerator[Event, None]:
        """Run `code` and yield its output while it runs. The last event is `result` and contains the whole output.

        `names` and the keyword arguments are variables that only this code sees. `env` are environment variables while
        it runs. Closing the iterator cancels the code.
        """
        call = self._calls.exec(code, {**(names or {}), **more_names}, timeout, env)
        return stream_uploading(self._calls, self._transport, call) if call.uploads else self._transport.stream(call)

    async def proxy(self, handle: str, *, timeout: float | None = None) -> AsyncRemoteObject:
        """Return a proxy of the object behind a handle that any program has in this session.

        The proxy has its own handle. When the proxy dies, the other handle stays.

        Args:
            handle: the ID of the handle. `venvd.handle_id` returns it for a proxy, and `handles()` lists it.
            timeout: seconds for this call.

        Raises:
            HandleNotFound: the session has no such handle.
        """
        proxy: AsyncRemoteObject = await self._run_call(self._calls.proxy(handle, timeout))
        return proxy

    async def isinstance(
        self, target: AsyncRemoteObject, kind: type | str | tuple[type | str, ...], *, timeout: float | None = None
    ) -> bool:
        """Return whether an object is an instance of a class, or of one of several classes.

        `kind` is a class that the session can import, or its dotted name, such as `"pandas.DataFrame"`.
        """
        call = self._calls.isinstance(target, kind, timeout)
        return await self._run(call)

    async def signature(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> Signature:
        """Return the signature of a function or class of the session. Defaults other than literals appear as text."""
        return make_signature(await self._run_call(self._calls.signature(target, timeout)))

    async def import_module(self, name: str, *, timeout: float | None = None) -> AsyncRemoteObject:
        """Import the module with that dotted name."""
        module: AsyncRemoteObject = await self._run_call(self._calls.import_module(name, timeout))
        return module

    async def module_available(self, name: str, *, timeout: float | None = None) -> bool:
        """Return whether the session can import the module."""
        return await self._run_call(self._calls.module_available(name, timeout))

    async def create(
        self, module: AsyncRemoteObject, name: str, /, *args: Any, _timeout: float | None = None, **kwargs: Any
    ) -> AsyncRemoteObject:
        """Make an object of the class `name` of a module. The result is a proxy even if the object is plain data.

        `_timeout` is in seconds. All other keywords go to the class.
        """
        proxy: AsyncRemoteObject = await self._run(self._calls.create(module, name, args, kwargs, _timeout))
        return proxy

    async def wrap(self, value: Any, *, timeout: float | None = None) -> AsyncRemoteObject:
        """Put a value into the session and return a proxy: for example of a list that the session then changes."""
        proxy: AsyncRemoteObject = await self._run(self._calls.wrap(value, timeout))
        return proxy

    async def call(
        self,
        target: AsyncRemoteObject,
        method: str,
        /,
        *args: Any,
        _timeout: float | None = None,
        _proxy: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call a method by name, in one round trip.

        `_timeout` is in seconds. With `_proxy`, plain data comes as a proxy too. All other keywords go to the method.
        """
        return await self._run(self._calls.call(target, method, args, kwargs, _timeout, proxy=_proxy))

    async def getattr(
        self, target: AsyncRemoteObject, name: str, *, timeout: float | None = None, proxy: bool = False
    ) -> Any:
        """Get an attribute by name. With `proxy`, plain data comes as a proxy too."""
        return await self._run_call(self._calls.getattr(target, name, timeout, proxy=proxy))

    async def setattr(self, target: AsyncRemoteObject, name: str, value: Any, *, timeout: float | None = None) -> None:
        """Set an attribute by name."""
        await self._run(self._calls.setattr(target, name, value, timeout))

    async def floats(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> list[float]:
        """Return a sequence or array as a list of floats."""
        return await self._run_call(self._calls.floats(target, timeout))

    async def rows(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> list[list[float]]:
        """Return a sequence of sequences or a two-dimensional array as lists of floats."""
        return await self._run_call(self._calls.rows(target, timeout))

    async def get_array(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> Any:
        """Fetch the object behind a proxy as a numpy array.

        The object is an array, a number, a buffer, or a pandas object of one type. The result has its own memory. A
        change of it changes nothing in the session.
        """
        return array_of(*await self._transport.get_array(self._calls.get_array(target, timeout)))

    async def put_array(self, array: Any, *, timeout: float | None = None) -> AsyncRemoteObject:
        """Send anything that numpy reads as an array, and return a proxy of a numpy array in the session."""
        header, data = bytes_of(array)
        proxy: AsyncRemoteObject = await self._transport.put_array(self._calls.put_array(header, timeout), data)
        return proxy

    async def get_table(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> Any:
        """Fetch a pyarrow table, or a pandas or polars data frame, as a `pyarrow.Table`."""
        return table_of((await self._transport.get_array(self._calls.get_table(target, timeout)))[1])

    async def put_table(self, table: Any, *, into: str = "table", timeout: float | None = None) -> AsyncRemoteObject:
        """Send a table of pyarrow, pandas or polars, and return a proxy of it in the session.

        Args:
            table: a table whose column types Arrow knows.
            into: "table" makes a `pyarrow.Table`; "pandas" or "polars" makes a data frame.
            timeout: seconds for the session's part.
        """
        data = stream_of(table)
        call = self._calls.put_table(len(data), into, timeout)
        proxy: AsyncRemoteObject = await self._transport.put_array(call, data)
        return proxy

    async def _run(self, call: Call[T]) -> T:
        if call.uploads:
            return await run_uploading(self._calls, self._transport, call)
        return await self._run_call(call)

    async def handles(self, *, timeout: float | None = None) -> list[HandleInfo]:
        """List the objects that the session keeps for clients."""
        return await self._run_call(self._calls.handles(timeout))


class AsyncSession(AsyncCommands):
    """One session of a backend. A `with` block around a session that `sessions.create()` made deletes it at the end."""

    def __init__(self, backend: AsyncBackend, name: str, info: SessionInfo | None = None) -> None:
        self.backend = backend
        self.name = name
        self.info = info
        self._transport = backend._transport
        self._run_call = backend._run_call
        self._calls = SessionCalls(backend, name, backend.timeout, backend._make_proxy, backend.lease)

    def __repr__(self) -> str:
        return f"<venvd session {self.name!r} of {self.backend.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.info is not None:
            await self.backend.sessions.delete(self.info.id)

    async def interrupt(self) -> None:
        """Interrupt the running call."""
        await self.backend.sessions.interrupt(self.name)

    async def reset(self) -> SessionInfo:
        """Restart the session. Its state and handles are lost."""
        return await self.backend.sessions.reset(self.name)

    async def delete(self) -> None:
        """End the session."""
        await self.backend.sessions.delete(self.name)


class AsyncSessions:
    """The sessions of a backend."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def create(
        self,
        name: str | None = None,
        *,
        limits: Limits | Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
        lifetime: float | None = None,
        cwd: str | None = None,
    ) -> AsyncSession:
        """Create a session.

        Args:
            name: the session's name. None lets the backend choose one.
            limits: `venvd.Limits`, or a mapping of its fields. The backend has defaults for the other fields.
            env: environment variables of the session's process.
            idle_timeout: seconds without a call after which the session ends.
            lifetime: seconds after its creation at which the session ends, even while it runs a call.
            cwd: the directory in which its code runs and finds modules. A relative one is below the session's working
                directory, and is made if missing. The paths of `files` are always relative to the working directory.
        """
        call = _calls.create_session(name, limits, env, idle_timeout, lifetime, cwd)
        transport = await self._backend._choose_replica() if name is None else self._backend._transport
        info = await transport.call(call)
        return AsyncSession(self._backend, info.id, info)

    async def list(self) -> list[SessionInfo]:
        """List the sessions of all replicas if the client knows them, else those of the replica at its URL."""
        listed: list[SessionInfo] = []
        for transport in await self._backend._find_replicas():
            page = await transport.call(_calls.list_sessions())
            listed += page
        return listed

    async def get(self, session: str) -> SessionInfo:
        """Return what the backend knows about a session."""
        return await self._backend._run_call(_calls.get_session(session))

    async def delete(self, session: str) -> None:
        """End a session and kill what runs in it."""
        await self._backend._run_call(_calls.delete_session(session))

    async def interrupt(self, session: str) -> None:
        """Interrupt the running call of a session. Its state stays if the code lets itself be interrupted."""
        await self._backend._run_call(_calls.interrupt_session(session))

    async def reset(self, session: str) -> SessionInfo:
        """Restart a session. Its state and handles are lost."""
        return await self._backend._run_call(_calls.reset_session(session))


class AsyncBackend(AsyncCommands):
    """A client of one backend, for one event loop.

    Over a pipe, each session answers on its own connections. Commands about sessions take another connection, so
    `interrupt` works while a call runs. If a session's process ends or is replaced, other than by this client's own
    `reset`, then the running call or else the next one raises `SessionLost` once.

    Args:
        url: `http://host:port`, `grpc://host:port` or `unix:///path`.
        token: the backend's token.
        timeout: seconds for calls that name no timeout. None leaves the timeout to the backend (300 s). It can be set
            later too.
        lease: seconds after which the backend frees this client's handles if the client dies or loses its connection.
            The client renews the lease of living proxies. 0 keeps handles as long as their session. None takes the
            backend's lease, or keeps them in the same way if it has none.
        ca: a PEM file with the authorities to trust for `https://` and `grpcs://`. None takes `VENVD_CA`, else the
            system's.
        list_replicas: lists the replicas of the backend. The client creates sessions without a name on the least
            loaded one. None creates them on the replica at `url`.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float | None = None,
        lease: float | None = None,
        ca: str | None = None,
        list_replicas: AsyncReplicaList | None = None,
    ) -> None:
        self.url = url
        self.lease = lease
        self._transport = self._replicas = AsyncReplicaTransport(url, token, ca)
        self._list_replicas = list_replicas
        self._run_call = self._transport.call
        self._calls = SessionCalls(self, None, timeout, self._make_proxy, lease)
        self._releaser = AsyncReleaser(self, self._transport, lease)

    def __repr__(self) -> str:
        return f"<venvd backend {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release every handle and close the connections. Sessions keep their other objects."""
        await self._releaser.close()

    @property
    def sessions(self) -> AsyncSessions:
        """The backend's sessions: create, list, get, delete, interrupt, reset."""
        return AsyncSessions(self)

    def session(self, name: str) -> AsyncSession:
        """Return the existing session with that name or ID. This sends nothing."""
        return AsyncSession(self, name)

    async def ping(self, *, timeout: float | None = 5.0) -> bool:
        """Return whether the backend's server answers."""
        try:
            return await self._run_call(self._calls.ping(timeout))
        except (Unreachable, DeadlineExceeded):
            return False

    async def wait_ready(self, timeout: float = 60.0) -> Self:
        """Wait until the backend's server answers. A starting server refuses connections or ends them at once.

        Args:
            timeout: seconds after which the wait ends.

        Raises:
            Unreachable, Unavailable, DeadlineExceeded: the error of the last attempt.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                await self._run_call(self._calls.ping(_PING_TIMEOUT))
            except (Unavailable, DeadlineExceeded):
                if time.monotonic() + _PING_PAUSE > end:
                    raise
            else:
                return self
            await asyncio.sleep(_PING_PAUSE)

    async def _find_replicas(self) -> Sequence[AsyncTransport]:
        """Find the replicas that run."""
        listed = () if self._list_replicas is None else await self._list_replicas()
        urls = [each.url for each in listed if each.state == "running" and each.url is not None]
        return [self._replicas.find_replica(url) for url in urls] or [self._transport]

    async def _choose_replica(self) -> AsyncTransport:
        """Choose the replica that runs and has the fewest sessions."""
        listed = () if self._list_replicas is None else await self._list_replicas()
        ready = [each for each in listed if each.url is not None and each.sessions is not None]
        if not ready:
            return self._transport
        least = min(ready, key=attrgetter("sessions"))
        return self._replicas.find_replica(least.url or self.url)

    def _make_proxy(self, calls: SessionCalls, handle: str, type_name: str, is_callable: bool) -> AsyncRemoteObject:
        proxy = (AsyncRemoteCallable if is_callable else AsyncRemoteObject)(calls, handle, type_name)
        self._releaser.watch(proxy, calls.session, handle)
        return proxy


def connect_async(
    url: str,
    token: str | None = None,
    *,
    timeout: float | None = None,
    lease: float | None = None,
    ca: str | None = None,
) -> AsyncBackend:
    """Return a client of the backend at `url`: `http://…`, `grpc://…` or `unix:///…`. This sends nothing."""
    return AsyncBackend(url, token, timeout=timeout, lease=lease, ca=ca)
