"""A backend and its sessions."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from venvd import leases, session_calls
from venvd.arrays import array_of, bytes_of
from venvd.background import Background
from venvd.errors import DeadlineExceeded, Unreachable
from venvd.files import Files
from venvd.release import Releaser
from venvd.remote import RemoteObject
from venvd.scope import Scope
from venvd.tables import stream_of, table_of
from venvd.transports import open_transport
from venvd.transports.base import Call, Event, Run, Transport
from venvd_contract.arrays import Header
from venvd_contract.commands import HandleInfo, Output, SessionInfo

T = TypeVar("T")


class Operations:
    """What a session does; a `Backend` does it in the session `default`.

    Every method takes `timeout`, in seconds. All raise the errors of `venvd.errors`: `UserError` with the remote type
    and traceback where the session's code raised.
    """

    _scope: Scope
    run_call: Run
    """Sends one call and waits for what it comes to."""

    @property
    def files(self) -> Files:
        """Files of the session's working directory: put, get, save, list, delete."""
        return Files(self._scope, self.run_call)

    @property
    def background(self) -> Background:
        """Calls that are started and left; their results are fetched later, by ID."""
        return Background(self._scope, self.run_call)

    def stream_call(self, call: Call[Any]) -> Iterator[Event]:
        raise NotImplementedError

    def fetch_array(self, call: Call[Header]) -> tuple[Header, Any]:
        raise NotImplementedError

    def send_array(self, call: Call[T], data: memoryview) -> T:
        raise NotImplementedError

    def eval(self, code: str, *, timeout: float | None = None, **names: Any) -> Any:
        """The value of `code`: with several statements, of its last expression. `names` are seen by the code."""
        return self.run_call(self._scope.eval(code, names, timeout))

    def exec(self, code: str, *, check: bool = True, timeout: float | None = None) -> Output:
        """Run `code` and return its output; with `check`, raise `UserError` where the code raised, else its error is in
        the output.
        """
        return session_calls.checked(self.run_call(self._scope.exec(code, timeout)), check=check)

    def exec_stream(self, code: str, *, timeout: float | None = None) -> Iterator[Event]:
        """Run `code` and yield what it shows while it runs; the last event is `result`, with the output.

        Closing the iterator cancels the code.
        """
        return self.stream_call(self._scope.exec(code, timeout))

    def import_module(self, name: str, *, timeout: float | None = None) -> RemoteObject:
        """The module of that dotted name."""
        module: RemoteObject = self.run_call(self._scope.import_module(name, timeout))
        return module

    def module_available(self, name: str, *, timeout: float | None = None) -> bool:
        """Whether the module can be imported."""
        return self.run_call(self._scope.module_available(name, timeout))

    def create(self, module: RemoteObject, name: str, *args: Any, **kwargs: Any) -> RemoteObject:
        """An object of the class `name` of a module; a proxy even where it is plain data."""
        made: RemoteObject = self.run_call(self._scope.create(module, name, args, kwargs))
        return made

    def wrap(self, value: Any, *, timeout: float | None = None) -> RemoteObject:
        """A proxy of a value: a list, say, that the session keeps and changes."""
        wrapped: RemoteObject = self.run_call(self._scope.wrap(value, timeout))
        return wrapped

    def call(self, target: RemoteObject, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by name; `target.method(…)` asks for the method first, and so takes two calls."""
        return self.run_call(self._scope.call(target, method, args, kwargs))

    def getattr(self, target: RemoteObject, name: str, *, timeout: float | None = None) -> Any:
        """An attribute, whatever its name."""
        return self.run_call(self._scope.getattr(target, name, timeout))

    def setattr(self, target: RemoteObject, name: str, value: Any, *, timeout: float | None = None) -> None:
        """Set an attribute, whatever its name."""
        self.run_call(self._scope.setattr(target, name, value, timeout))

    def floats(self, target: RemoteObject, *, timeout: float | None = None) -> list[float]:
        """A sequence or array as a list of floats."""
        return self.run_call(self._scope.floats(target, timeout))

    def rows(self, target: RemoteObject, *, timeout: float | None = None) -> list[list[float]]:
        """A sequence of sequences or a two-dimensional array as lists of floats."""
        return self.run_call(self._scope.rows(target, timeout))

    def get_array(self, target: RemoteObject, *, timeout: float | None = None) -> Any:
        """The object behind a proxy as a numpy array: arrays, numbers, buffers, what pandas holds in one type.

        Its memory is this program's own: changing it changes nothing in the session.
        """
        return array_of(*self.fetch_array(self._scope.get_array(target, timeout)))

    def put_array(self, array: Any, *, timeout: float | None = None) -> RemoteObject:
        """A proxy of a numpy array in the session, with the elements of `array`: whatever numpy sees as one."""
        header, data = bytes_of(array)
        made: RemoteObject = self.send_array(self._scope.put_array(header, timeout), data)
        return made

    def get_table(self, target: RemoteObject, *, timeout: float | None = None) -> Any:
        """The object behind a proxy as a `pyarrow.Table`: tables of pyarrow, data frames of pandas and polars."""
        return table_of((self.fetch_array(self._scope.get_table(target, timeout)))[1])

    def put_table(self, table: Any, *, into: str = "table", timeout: float | None = None) -> RemoteObject:
        """A proxy of a table in the session with the columns of `table`, which is one of pyarrow, pandas or polars.

        Args:
            table: its columns have types that Arrow knows.
            into: "table" for a `pyarrow.Table`, "pandas" or "polars" for a data frame of theirs.
            timeout: seconds for the session's part.
        """
        data = stream_of(table)
        made: RemoteObject = self.send_array(self._scope.put_table(len(data), into, timeout), data)
        return made

    def handles(self, *, timeout: float | None = None) -> list[HandleInfo]:
        """What the session holds for clients."""
        return self.run_call(self._scope.handles(timeout))


class Session(Operations):
    """One session of a backend. `with backend.sessions.create() as session:` ends it at the end of the block."""

    def __init__(self, backend: Backend, name: str, info: SessionInfo | None = None) -> None:
        self.backend = backend
        self.name = name
        self.info = info
        self.run_call = backend.run_call
        self._scope = Scope(backend, name, backend.timeout, backend.make_proxy, backend.lease)

    def __repr__(self) -> str:
        return f"<venvd session {self.name!r} of {self.backend.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.info is not None:
            self.backend.sessions.delete(self.info.id)

    def fetch_array(self, call: Call[Header]) -> tuple[Header, Any]:
        return self.backend.fetch_array(call)

    def send_array(self, call: Call[T], data: memoryview) -> T:
        return self.backend.send_array(call, data)

    def stream_call(self, call: Call[Any]) -> Iterator[Event]:
        return self.backend.stream_call(call)

    def interrupt(self) -> None:
        """Interrupt the running call."""
        self.backend.sessions.interrupt(self.name)

    def reset(self) -> SessionInfo:
        """Start the session afresh; its state and handles are gone."""
        return self.backend.sessions.reset(self.name)

    def delete(self) -> None:
        """End the session."""
        self.backend.sessions.delete(self.name)


class Sessions:
    """The sessions of a backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def create(
        self,
        name: str | None = None,
        *,
        limits: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
    ) -> Session:
        """A new session.

        Args:
            name: null lets the backend choose.
            limits: fields of `venvd_contract.commands.Limits`; sizes in bytes.
            env: environment variables of its process.
            idle_timeout: seconds without a call after which it ends.
        """
        backend = self._backend
        info = backend.run_call(session_calls.create(name, limits, env, idle_timeout))
        return Session(backend, info.id, info)

    def list(self) -> list[SessionInfo]:
        return self._backend.run_call(session_calls.listed())

    def get(self, session: str) -> SessionInfo:
        return self._backend.run_call(session_calls.get(session))

    def delete(self, session: str) -> None:
        """End a session; what runs in it is killed."""
        self._backend.run_call(session_calls.delete(session))

    def interrupt(self, session: str) -> None:
        """Interrupt the running call of a session; its state stays where the code lets it."""
        self._backend.run_call(session_calls.interrupt(session))

    def reset(self, session: str) -> SessionInfo:
        """Start a session afresh."""
        return self._backend.run_call(session_calls.reset(session))


class Backend(Operations):
    """A client of one backend; any thread may use it.

    Over a pipe, sessions answer it themselves, on connections of their own; what concerns sessions goes another way, so
    that `interrupt` works while a call runs. Such a client notices that a session's process has ended or was replaced,
    other than by its own `reset`: the call that ran, or else the next one, raises `SessionLost`, once.

    Args:
        url: `http://host:port` or `unix:///path`.
        token: what the backend asks for.
        timeout: seconds for calls that name none; None leaves it to the backend (300 s).
        lease: seconds after which what this client holds is freed should it die or lose its way; proxies that live
            are renewed in the background. None keeps it as long as its session.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float | None = None, lease: float | None = None
    ) -> None:
        self.timeout = timeout
        self.lease = leases.checked(lease)
        self._transport: Transport = open_transport(url, token)
        self.run_call = self._transport.call
        self.url = url
        self._scope = Scope(self, None, timeout, self.make_proxy, lease)
        # The thread that releases handles knows the transport, not this object: it must not keep it alive.
        transport = self._transport
        self._releaser = Releaser(lambda *dead: transport.call(session_calls.dispose(*dead)), transport.close)
        self._keeper = None if lease is None else leases.Keeper(lease, self._releaser, transport.call)
        self._end = weakref.finalize(self, _stop, self._releaser, self._keeper)
        self._end.atexit = False
        if self._keeper is not None:
            self._keeper.start()
        _open.add(self)

    def __repr__(self) -> str:
        return f"<venvd backend {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release every handle and close the connections; the sessions and what their code made stay."""
        if self._end.detach() is not None:
            if self._keeper is not None:
                self._keeper.stop()
            self._releaser.close()
            self._transport.close()

    @property
    def sessions(self) -> Sessions:
        """The backend's sessions: create, list, get, delete, interrupt, reset."""
        return Sessions(self)

    def ping(self, *, timeout: float | None = 5.0) -> bool:
        """Whether the backend's server answers."""
        try:
            return self.run_call(self._scope.ping(timeout))
        except (Unreachable, DeadlineExceeded):
            return False

    def session(self, name: str) -> Session:
        """The session of that name or ID, which exists; nothing is sent."""
        return Session(self, name)

    def fetch_array(self, call: Call[Header]) -> tuple[Header, Any]:
        return self._transport.get_array(call)

    def send_array(self, call: Call[T], data: memoryview) -> T:
        return self._transport.put_array(call, data)

    def stream_call(self, call: Call[Any]) -> Iterator[Event]:
        return self._transport.stream(call)

    def make_proxy(self, scope: Scope, handle: str, type_name: str, _repr: str | None) -> RemoteObject:
        proxy = RemoteObject(scope, handle, type_name)
        self._releaser.watch(proxy, scope.session, handle)
        return proxy


def _stop(releaser: Releaser, keeper: leases.Keeper | None) -> None:
    if keeper is not None:
        keeper.stop()
    releaser.stop()


_open: weakref.WeakSet[Backend] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Handles outlive the program that forgets them, so a program that ends lets go of its own."""
    for backend in list(_open):
        backend.close()


def connect(url: str, token: str | None = None, *, timeout: float | None = None, lease: float | None = None) -> Backend:
    """A client of the backend at `url` (`http://…`, `unix:///…`); nothing is sent yet."""
    return Backend(url, token, timeout=timeout, lease=lease)
