"""A backend and its sessions, for asyncio: the same methods as in `venvd.session`, to be awaited."""
# ruff: noqa: ASYNC109 - the timeout is a part of the call that the server keeps to

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from venvd import leases, session_calls
from venvd.arrays import array_of, bytes_of
from venvd.background import AsyncBackground
from venvd.errors import DeadlineExceeded, Unreachable
from venvd.files import AsyncFiles
from venvd.release import AsyncReleaser
from venvd.remote_async import AsyncRemoteObject
from venvd.scope import Scope
from venvd.tables import stream_of, table_of
from venvd.transports import open_async_transport
from venvd.transports.base import AsyncTransport, Call, Event
from venvd_contract.arrays import Header
from venvd_contract.commands import HandleInfo, Output, SessionInfo

T = TypeVar("T")


class AsyncOperations:
    """What a session does, as in `venvd.session.Operations`; cancelling a task cancels its call in the session."""

    _scope: Scope

    @property
    def files(self) -> AsyncFiles:
        """Files of the session's working directory: put, get, save, list, delete."""
        return AsyncFiles(self._scope, self.run_call)

    @property
    def background(self) -> AsyncBackground:
        """Calls that are started and left; their results are fetched later, by ID."""
        return AsyncBackground(self._scope, self.run_call)

    async def run_call(self, call: Call[T]) -> T:
        raise NotImplementedError

    def stream_call(self, call: Call[Any]) -> AsyncIterator[Event]:
        raise NotImplementedError

    async def fetch_array(self, call: Call[Header]) -> tuple[Header, Any]:
        raise NotImplementedError

    async def send_array(self, call: Call[T], data: memoryview) -> T:
        raise NotImplementedError

    async def eval(self, code: str, *, timeout: float | None = None, **names: Any) -> Any:
        """The value of `code`: with several statements, of its last expression. `names` are seen by the code."""
        return await self.run_call(self._scope.eval(code, names, timeout))

    async def exec(self, code: str, *, check: bool = True, timeout: float | None = None) -> Output:
        """Run `code` and return its output; with `check`, raise `UserError` where the code raised."""
        return session_calls.checked(await self.run_call(self._scope.exec(code, timeout)), check=check)

    def exec_stream(self, code: str, *, timeout: float | None = None) -> AsyncIterator[Event]:
        """Run `code` and yield what it shows while it runs; the last event is `result`, with the output."""
        return self.stream_call(self._scope.exec(code, timeout))

    async def import_module(self, name: str, *, timeout: float | None = None) -> AsyncRemoteObject:
        """The module of that dotted name."""
        module: AsyncRemoteObject = await self.run_call(self._scope.import_module(name, timeout))
        return module

    async def module_available(self, name: str, *, timeout: float | None = None) -> bool:
        """Whether the module can be imported."""
        return await self.run_call(self._scope.module_available(name, timeout))

    async def create(self, module: AsyncRemoteObject, name: str, *args: Any, **kwargs: Any) -> AsyncRemoteObject:
        """An object of the class `name` of a module; a proxy even where it is plain data."""
        made: AsyncRemoteObject = await self.run_call(self._scope.create(module, name, args, kwargs))
        return made

    async def wrap(self, value: Any, *, timeout: float | None = None) -> AsyncRemoteObject:
        """A proxy of a value: a list, say, that the session keeps and changes."""
        wrapped: AsyncRemoteObject = await self.run_call(self._scope.wrap(value, timeout))
        return wrapped

    async def call(self, target: AsyncRemoteObject, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by name."""
        return await self.run_call(self._scope.call(target, method, args, kwargs))

    async def getattr(self, target: AsyncRemoteObject, name: str, *, timeout: float | None = None) -> Any:
        """An attribute, whatever its name."""
        return await self.run_call(self._scope.getattr(target, name, timeout))

    async def setattr(self, target: AsyncRemoteObject, name: str, value: Any, *, timeout: float | None = None) -> None:
        """Set an attribute."""
        await self.run_call(self._scope.setattr(target, name, value, timeout))

    async def floats(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> list[float]:
        """A sequence or array as a list of floats."""
        return await self.run_call(self._scope.floats(target, timeout))

    async def rows(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> list[list[float]]:
        """A sequence of sequences or a two-dimensional array as lists of floats."""
        return await self.run_call(self._scope.rows(target, timeout))

    async def get_array(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> Any:
        """The object behind a proxy as a numpy array: arrays, numbers, buffers, what pandas holds in one type.

        Its memory is this program's own: changing it changes nothing in the session.
        """
        return array_of(*await self.fetch_array(self._scope.get_array(target, timeout)))

    async def put_array(self, array: Any, *, timeout: float | None = None) -> AsyncRemoteObject:
        """A proxy of a numpy array in the session, with the elements of `array`: whatever numpy sees as one."""
        header, data = bytes_of(array)
        made: AsyncRemoteObject = await self.send_array(self._scope.put_array(header, timeout), data)
        return made

    async def get_table(self, target: AsyncRemoteObject, *, timeout: float | None = None) -> Any:
        """The object behind a proxy as a `pyarrow.Table`: tables of pyarrow, data frames of pandas and polars."""
        return table_of((await self.fetch_array(self._scope.get_table(target, timeout)))[1])

    async def put_table(self, table: Any, *, into: str = "table", timeout: float | None = None) -> AsyncRemoteObject:
        """A proxy of a table in the session with the columns of `table`, which is one of pyarrow, pandas or polars.

        Args:
            table: its columns have types that Arrow knows.
            into: "table" for a `pyarrow.Table`, "pandas" or "polars" for a data frame of theirs.
            timeout: seconds for the session's part.
        """
        data = stream_of(table)
        made: AsyncRemoteObject = await self.send_array(self._scope.put_table(len(data), into, timeout), data)
        return made

    async def handles(self, *, timeout: float | None = None) -> list[HandleInfo]:
        """What the session holds for clients."""
        return await self.run_call(self._scope.handles(timeout))


class AsyncSession(AsyncOperations):
    """One session of a backend. `async with await backend.sessions.create() as session:` ends it with the block."""

    def __init__(self, backend: AsyncBackend, name: str, info: SessionInfo | None = None) -> None:
        self.backend = backend
        self.name = name
        self.info = info
        self._scope = Scope(backend, name, backend.timeout, backend.make_proxy, backend.lease)

    def __repr__(self) -> str:
        return f"<venvd session {self.name!r} of {self.backend.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.info is not None:
            await self.backend.sessions.delete(self.info.id)

    async def run_call(self, call: Call[T]) -> T:
        return await self.backend.run_call(call)

    async def fetch_array(self, call: Call[Header]) -> tuple[Header, Any]:
        return await self.backend.fetch_array(call)

    async def send_array(self, call: Call[T], data: memoryview) -> T:
        return await self.backend.send_array(call, data)

    def stream_call(self, call: Call[Any]) -> AsyncIterator[Event]:
        return self.backend.stream_call(call)

    async def interrupt(self) -> None:
        """Interrupt the running call."""
        await self.backend.sessions.interrupt(self.name)

    async def reset(self) -> SessionInfo:
        """Start the session afresh; its state and handles are gone."""
        return await self.backend.sessions.reset(self.name)

    async def delete(self) -> None:
        """End the session."""
        await self.backend.sessions.delete(self.name)


class AsyncSessions:
    """The sessions of a backend, as in `venvd.session.Sessions`."""

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend

    async def create(
        self,
        name: str | None = None,
        *,
        limits: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
    ) -> AsyncSession:
        """A new session."""
        info = await self._backend.run_call(session_calls.create(name, limits, env, idle_timeout))
        return AsyncSession(self._backend, info.id, info)

    async def list(self) -> list[SessionInfo]:
        return await self._backend.run_call(session_calls.listed())

    async def get(self, session: str) -> SessionInfo:
        return await self._backend.run_call(session_calls.get(session))

    async def delete(self, session: str) -> None:
        """End a session; what runs in it is killed."""
        await self._backend.run_call(session_calls.delete(session))

    async def interrupt(self, session: str) -> None:
        """Interrupt the running call of a session."""
        await self._backend.run_call(session_calls.interrupt(session))

    async def reset(self, session: str) -> SessionInfo:
        """Start a session afresh."""
        return await self._backend.run_call(session_calls.reset(session))


class AsyncBackend(AsyncOperations):
    """A client of one backend, for one event loop; the arguments are those of `venvd.session.Backend`."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float | None = None, lease: float | None = None
    ) -> None:
        self.timeout = timeout
        self.lease = leases.checked(lease)
        self.url = url
        self._transport: AsyncTransport = open_async_transport(url, token)
        self._releaser = AsyncReleaser(self._dispose)
        self._scope = Scope(self, None, timeout, self.make_proxy, lease)
        self._keeper = None if lease is None else leases.AsyncKeeper(lease, self._releaser, self._transport.call)

    def __repr__(self) -> str:
        return f"<venvd backend {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release every handle and close the connections."""
        if self._keeper is not None:
            await self._keeper.stop()
        await self._releaser.close()
        await self._transport.close()

    @property
    def sessions(self) -> AsyncSessions:
        """The backend's sessions: create, list, get, delete, interrupt, reset."""
        return AsyncSessions(self)

    async def ping(self, *, timeout: float | None = 5.0) -> bool:
        """Whether the backend's server answers."""
        try:
            return await self.run_call(self._scope.ping(timeout))
        except (Unreachable, DeadlineExceeded):
            return False

    def session(self, name: str) -> AsyncSession:
        """The session of that name or ID, which exists; nothing is sent."""
        return AsyncSession(self, name)

    async def run_call(self, call: Call[T]) -> T:
        return await self._transport.call(call)

    async def fetch_array(self, call: Call[Header]) -> tuple[Header, Any]:
        return await self._transport.get_array(call)

    async def send_array(self, call: Call[T], data: memoryview) -> T:
        return await self._transport.put_array(call, data)

    def stream_call(self, call: Call[Any]) -> AsyncIterator[Event]:
        return self._transport.stream(call)

    def make_proxy(self, scope: Scope, handle: str, type_name: str, _repr: str | None) -> AsyncRemoteObject:
        proxy = AsyncRemoteObject(scope, handle, type_name)
        self._releaser.watch(proxy, scope.session, handle)
        if self._keeper is not None:
            self._keeper.start()
        return proxy

    async def _dispose(self, session: str | None, handles: list[str], timeout: float) -> None:
        await self.run_call(session_calls.dispose(session, handles, timeout))


def connect_async(
    url: str, token: str | None = None, *, timeout: float | None = None, lease: float | None = None
) -> AsyncBackend:
    """A client of the backend at `url` for asyncio; nothing is sent yet."""
    return AsyncBackend(url, token, timeout=timeout, lease=lease)
