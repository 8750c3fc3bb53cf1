"""The server side of a backend, behind each of the three transports."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from venvd_contract import commands
from venvd_contract.arrays import Header
from venvd_contract.commands import ATTACH, BY_NAME
from venvd_contract.errors import Cancelled, Internal, InvalidRequest, TooLarge, Unavailable, Unimplemented, VenvdError
from venvd_contract.framing import MAX_LINE
from venvd_contract.internal.messages import LoadReport, WallsReport
from venvd_contract.venvs import PASSED_ON
from venvd_core import float_arrays, wire
from venvd_core.arrays import ArrayService, Incoming, Outgoing, Target
from venvd_core.audit import AuditEvents
from venvd_core.background import BackgroundCalls
from venvd_core.callers import Access
from venvd_core.calls import Call, Reply, Request, options_of
from venvd_core.cancellation import Cancellation
from venvd_core.egress import EgressBroker
from venvd_core.files import Files
from venvd_core.metrics import Metrics
from venvd_core.pool import Pool
from venvd_core.replicas import Replicas
from venvd_core.secrets import Secrets
from venvd_core.session.direct import DirectClient
from venvd_core.settings import BackendSettings
from venvd_core.tasks import Tasks

if TYPE_CHECKING:
    from venvd_core.exposition import Exposition

__all__ = ["CANCEL", "Backend", "Call", "DirectClient", "Incoming", "Outgoing", "Reply", "Request", "Target"]

_SESSION_COMMANDS = frozenset(
    each.name for each in (*commands.COMMANDS, *commands.STREAMED) if each.served_by == "session"
)
_KNOWN_COMMANDS = frozenset({*BY_NAME, *PASSED_ON}) | _SESSION_COMMANDS
CANCEL = "cancel"
_DEFAULT_TARGET = Target()
_VALUES = frozenset({None, "plain", "tagged"})
_ENVELOPE = 4096
"""Bytes of a request's line beside its payload, with room to spare."""
_LONGEST_TIMEOUT = 365 * 86400.0

_AUDITED = frozenset({"session.create", "session.reset", "session.delete"})
_CANCELLED_WITH_CLIENT = PASSED_ON | {"session.create", "call.get", "file.get", "file.put", "file.list"}


class Environments(Protocol):
    """Asks the controller for what the commands of `PASSED_ON` want."""

    async def answer(self, command: str, payload: Any, token: str | None) -> Any: ...


_OwnCommand = Callable[[Pool, dict[str, Any]], Awaitable[Any]]


async def _ping(_pool: Pool, _payload: dict[str, Any]) -> commands.Status:
    return commands.Status()


async def _list(pool: Pool, _payload: dict[str, Any]) -> commands.SessionList:
    return pool.list()


async def _get(pool: Pool, payload: dict[str, Any]) -> commands.SessionInfo:
    return pool.find(payload["id"]).info()


async def _delete(pool: Pool, payload: dict[str, Any]) -> commands.Success:
    await pool.delete(payload["id"])
    return commands.Success()


async def _interrupt(pool: Pool, payload: dict[str, Any]) -> commands.Success:
    pool.find(payload["id"]).interrupt()
    return commands.Success()


_OWN_COMMANDS: dict[str, _OwnCommand] = {
    "ping": _ping,
    "session.create": lambda pool, payload: pool.create(payload),
    "session.list": _list,
    "session.get": _get,
    "session.delete": _delete,
    "session.interrupt": _interrupt,
    "session.reset": lambda pool, payload: pool.reset(payload["id"]),
}


@dataclass(frozen=True)
class _CancellableTask:
    """Runs a command of the server that its client's departure ends: a session that no client knows would never end.

    Other commands of the server run to their end.
    """

    task: asyncio.Task[None]

    def abandon(self, _call: Call) -> None:
        self.task.cancel()

    def stop(self, call: Call) -> None:
        call.stop_reason = "cancelled"
        self.task.cancel()


class Backend:
    """Sessions behind one warden. All methods belong to one event loop."""

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings
        self._largest = min(settings.max_body, MAX_LINE - _ENVELOPE)
        self._timeout = settings.default_timeout
        self._common_options = {
            command: {values: options_of(Request(command, values=values)) for values in _VALUES}
            for command in _SESSION_COMMANDS
        }
        """The options of requests that have no others, by command and values."""
        self._pool: Pool | None = None
        self._exposition: Exposition | None = None
        self._tasks = Tasks()
        self._background: BackgroundCalls | None = None
        self._cancellation: Cancellation | None = None
        self._files: Files | None = None
        self._request_commands: dict[str, Callable[[Request], Awaitable[Any]]] = {}
        self._arrays = ArrayService(self.begin)
        self.audit = AuditEvents()
        self.replicas = Replicas(settings.replica)
        self._manages_key: str | None = None
        self._secrets = Secrets(settings.secrets_file, wait=settings.await_secrets)
        self._egress: asyncio.Task[None] | None = None
        self.environments: Environments | None = None
        """Answers the commands about venvs; the program of the server sets it."""

    async def start(self) -> None:
        """Read the secrets and wait for the warden in the background; `ready` tells whether it has joined.

        Raises:
            Unavailable: the file of the secrets does not appear.
            InvalidRequest: the file of the key for venvs cannot be read.
        """
        await self._secrets.start()
        self._pool = pool = Pool(self.settings, self.audit, self.replicas, self._secrets)
        if self.settings.manages_key_file is not None:
            self._manages_key = _read_key(self.settings.manages_key_file)
            pool.answer_venvs = self._answer_session
        self._background = background = BackgroundCalls(self.call, self.settings, self.replicas)
        self._cancellation = Cancellation(background, self.replicas)
        self._files = files = Files(pool, self.settings)
        self._request_commands = {
            "call.start": background.start,
            "call.get": background.get,
            **files.commands,
        }
        pool.start()
        if self.settings.network:
            self._egress = asyncio.create_task(
                EgressBroker(self.settings, pool.metrics, self._secrets).run(), name="egress"
            )

    async def close(self) -> None:
        """End every session and the connection to the warden."""
        pool, self._pool = self._pool, None
        if self._background is not None and self._files is not None:
            self._background.close()
            self._files.close()
        self._tasks.cancel()
        if self._egress is not None:
            self._egress.cancel()
            await asyncio.wait([self._egress])
        self._secrets.close()
        if pool is not None:
            await pool.close()

    async def wait_for_loss_of_worker(self) -> str:
        """Wait until the worker host has joined and is gone again; return why.

        Raises:
            Unavailable: the backend has not been started.
        """
        if self._pool is None:
            raise Unavailable("the backend has not been started")
        return await self._pool.channel.wait_for_loss()

    async def get_array(self, handle: str, target: Target = _DEFAULT_TARGET, form: str | None = None) -> Outgoing:
        """Fetch the array behind a handle, or the table if `form` is "arrow"; the caller closes it.

        Raises:
            VenvdError: as for other calls; also if the object is not an array or cannot be sent.
        """
        outgoing = await self._arrays.get(handle, target, form)
        self._metrics().record_bytes(outgoing.header.nbytes, out=True)
        return outgoing

    async def put_array(self, header: Header, target: Target = _DEFAULT_TARGET, *, segment: bool = False) -> Incoming:
        """Make room for an array in a session; the caller writes its bytes, commits, and closes it in any case.

        The session takes other calls until the commit, so a slow client delays no call.

        Args:
            header: from `venvd_contract.arrays.header` or `parse_npy`.
            target: its timeout is for the work of the session, not for the upload.
            segment: whether even a small array goes into shared memory.

        Raises:
            VenvdError: as for other calls; also if the array is too large, or the venv has no numpy.
        """
        incoming = await self._arrays.put(header, target, segment=segment)
        self._metrics().record_bytes(header.nbytes, out=False)
        return incoming

    def _metrics(self) -> Metrics:
        if self._pool is None:
            raise Unavailable("the server is closing")
        return self._pool.metrics

    def call(self, request: Request) -> Call:
        """Begin the call of a request; its reply contains the whole result."""
        call = float_arrays.WholeCall(request) if request.command in float_arrays.COMMANDS else Call(request)
        self.begin(call)
        return call

    def begin(self, call: Call) -> None:
        """Begin a call. Every error becomes the error of the call; `on_done` is not called before this returns."""
        request, pool = call.request, self._pool
        call.received_at = time.monotonic()
        try:
            if pool is None:
                raise Unavailable("the server is closing")
            if len(request.payload) > self._largest:
                raise TooLarge(f"the request has {len(request.payload)} bytes, and the limit is {self._largest}")
            if request.name is not None and self._cancellation is not None:
                self._cancellation.add(call, request.name)
            common = self._common_options.get(request.command)
            if common is None:
                self._run_own(call, request, pool)
                return
            if request.timeout is None and request.lease is None and not request.attachments and call.on_event is None:
                call.deadline = call.received_at + self._timeout
                call.options = common.get(request.values) or _refuse_values(request.values)
            else:
                call.deadline = call.received_at + (_check_seconds("timeout", request.timeout) or self._timeout)
                call.options = self._options(call)
            call.payload = wire.check_payload(request.payload)
            pool.find(request.session).submit(call)
        except VenvdError as error:
            self._refuse(call, error)

    def _options(self, call: Call) -> bytes:
        request = call.request
        if request.values not in _VALUES:
            _refuse_values(request.values)
        if request.lease is not None and not 0 <= request.lease < math.inf:
            raise InvalidRequest("lease takes seconds, 0 for none")
        return options_of(request, stream=call.on_event is not None)

    def _refuse(self, call: Call, error: VenvdError) -> None:
        on_done, call.on_done = call.on_done, None
        call.end(None, error)
        if on_done is not None:
            asyncio.get_running_loop().call_soon(on_done, call)
        if self._pool is not None:
            command = call.request.command
            known = command if command in _KNOWN_COMMANDS else "unknown"
            self._pool.metrics.record_refusal(known, error, call.request.caller)

    # ---- commands of the server itself

    def _run_own(self, call: Call, request: Request, pool: Pool) -> None:
        task = self._tasks.start(_answer(self._find_own(call, pool), pool, call))
        if request.command in _CANCELLED_WITH_CLIENT:
            call.runner = _CancellableTask(task)

    def _find_own(self, call: Call, pool: Pool) -> Callable[[], Awaitable[Any]]:
        request = call.request
        if request.command == CANCEL and self._cancellation is not None:
            return partial(self._cancellation.cancel, call)
        answer_request = self._request_commands.get(request.command)
        if answer_request is not None:
            return partial(answer_request, request)
        if request.command in PASSED_ON:
            return partial(self._pass_on, request)
        own_command = _OWN_COMMANDS.get(request.command)
        if own_command is None:
            if request.command == ATTACH:
                raise Unimplemented(f'"{ATTACH}" must be the first line of a pipe connection')
            raise InvalidRequest(f'there is no command "{request.command[:40]}"; known are {", ".join(BY_NAME)}')
        payload = commands.check_payload(request.command, wire.parse_object(request.payload))
        if request.command in _AUDITED:
            return partial(self._run_audited, own_command, pool, payload, request)
        return partial(own_command, pool, payload)

    async def _run_audited(
        self, own_command: _OwnCommand, pool: Pool, payload: dict[str, Any], request: Request
    ) -> Any:
        """Run a command that begins or ends a session, and note it for the audit log."""
        session: str | None = payload.get("id") or payload.get("name")
        error: VenvdError | None = None
        try:
            result = await own_command(pool, payload)
            session = getattr(result, "id", session)
        except asyncio.CancelledError:
            error = Cancelled("the client went away")
            raise
        except Exception as raised:
            error = raised if isinstance(raised, VenvdError) else Internal(type(raised).__name__)
            raise
        finally:
            self.audit.add_session(request.command, session, request.caller, error)
        return result

    async def _pass_on(self, request: Request) -> Any:
        """Have the controller answer a command about venvs."""
        if self.environments is None:
            raise Unavailable("this server cannot reach its controller")
        return await self.environments.answer(request.command, wire.parse_object(request.payload), request.token)

    async def _answer_session(self, command: str, payload: Any) -> Any:
        """Have the controller answer a session's request about venvs, with the key of this backend."""
        if self.environments is None:
            raise Unavailable("this server cannot reach its controller")
        return await self.environments.answer(command, payload, self._manages_key)

    @property
    def files(self) -> Files:
        """The files of sessions as streams.

        Raises:
            Unavailable: the server is closing.
        """
        if self._files is None or self._pool is None:
            raise Unavailable("the server is closing")
        return self._files

    async def attach(self, session: str | None, client: DirectClient) -> None:
        """Hand a client's connection to a session, which answers its requests from then on.

        Raises:
            NotFound: there is no such session.
            Unimplemented: this backend takes no direct clients.
            Busy: the session or the backend has as many as it may.
            Unavailable: the session or its worker host is not ready.
        """
        pool = self._pool
        if pool is None:
            raise Unavailable("the server is closing")
        try:
            await pool.find(session).attach(client)
        except VenvdError as error:
            pool.metrics.record_refusal(ATTACH, error, client.caller)
            raise
        pool.metrics.record_attach()

    def end_key(self, key: Access) -> None:
        """Stop the calls of an ended access key, including its background calls."""
        self.audit.add_key_end(key.name, key.error().message)
        if self._pool is not None:
            self._pool.stop_calls_of(key)

    def refuse_token(self, key: str | None, peer: str, error: VenvdError) -> None:
        """Note that a token was refused, for the audit log and the metrics; `key` is its name if that is known."""
        self.audit.add_refusal(key, peer, error)
        if self._pool is not None:
            self._pool.metrics.record_refused_token(error.code, peer)

    # ---- readiness and metrics

    def ready(self) -> dict[str, str]:
        """Return the reason why the backend is not ready, by the name of the check; empty if it is ready."""
        reason = "the server is closing" if self._pool is None else self._pool.find_unready_reason()
        return {} if reason is None else {"session": reason}

    def load(self) -> LoadReport:
        """Return the current load."""
        return LoadReport() if self._pool is None else self._pool.measure_load()

    def walls(self) -> WallsReport:
        """Return the walls around user code, as the worker host reports them.

        Raises:
            Unavailable: there is no worker host.
        """
        link = None if self._pool is None else self._pool.channel.link
        if link is None:
            raise Unavailable("no worker host is connected")
        return link.hello.walls

    async def refresh(self) -> None:
        """Ask the warden for its figures; await this before `metrics`."""
        if self._pool is None:
            return
        await self._pool.refresh()
        if self._exposition is None:
            self._exposition = await asyncio.to_thread(_create_exposition, self._pool)  # calls go on meanwhile

    def metrics(self) -> bytes:
        """Return every metric in the text format of Prometheus."""
        if self._exposition is None and self._pool is not None:
            self._exposition = _create_exposition(self._pool)
        return b"" if self._exposition is None else self._exposition.write()


def _create_exposition(pool: Pool) -> Exposition:
    from venvd_core.exposition import Exposition  # noqa: PLC0415 — its library would be a sixth of a server's start

    return Exposition(pool.metrics, pool)


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"VENVD_MANAGES_KEY_FILE: {path} cannot be read: {error}") from None


def _check_seconds(name: str, seconds: float | None) -> float | None:
    if seconds is None:
        return None
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidRequest(f"{name} takes seconds, more than 0")
    return min(seconds, _LONGEST_TIMEOUT)


def _refuse_values(values: str | None) -> NoReturn:
    raise InvalidRequest(f'values takes "plain" or "tagged", not "{str(values)[:40]}"')


def _cancellation_error(call: Call) -> VenvdError:
    if call.cancelled():
        return Cancelled("the client went away")
    return Cancelled("the call was cancelled") if call.stop_reason else Unavailable("the server is closing")


async def _answer(command: Callable[[], Awaitable[Any]], pool: Pool, call: Call) -> None:
    """Run one of the server's own commands and end its call. The command runs on if its client leaves."""
    error: VenvdError | None = None
    reply: Reply | None = None
    try:
        result = await command()
        reply = result if isinstance(result, Reply) else Reply(wire.encode(result))
    except VenvdError as raised:
        error = raised
    except asyncio.CancelledError:
        error = _cancellation_error(call)
    except Exception as raised:  # noqa: BLE001 — the log has the traceback of a defect
        error = Internal(f"{type(raised).__name__} in {call.request.command}")
        error.__cause__ = raised
    if not call.done():
        call.end(reply, error)
    seconds = time.monotonic() - call.received_at
    outcome = "ok" if error is None else error.code
    size = 0 if reply is None else reply.size
    pool.metrics.record_call(call, outcome, seconds, size=size, error=error)
