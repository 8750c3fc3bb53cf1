"""The Session stream. Each of its calls goes to the replica of its session, over another stream of the router."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc

from venvd_contract.errors import NotFound, Unavailable, VenvdError
from venvd_http.auth import tie_to
from venvd_proto.v1.python_service_pb2 import Error, SessionRequest, SessionResponse
from venvd_router.activity import Activity
from venvd_router.loads import Loads
from venvd_router.merging import join_lists
from venvd_router.replicas import Replicas
from venvd_router.rpc import statuses
from venvd_router.rpc.calls import LARGEST_KEPT, MOST_MOVES, Forwarding
from venvd_router.rpc.channels import Channels
from venvd_router.rpc.entrance import Admitted, Entrance

METHOD = "/venvd.v1.PythonService/Session"
_BY_ID = frozenset({"session.get", "session.delete", "session.interrupt", "session.reset"})
_FIELDS = {**dict.fromkeys(_BY_ID, "id"), "session.create": "name", "call.start": "session"}
"""The fields of payloads that name a session."""


@dataclass
class _Pending:
    """A call that is not answered yet.

    Attributes:
        data: its message; empty if it is too large to keep.
        replicas: the replicas that have not answered.
        answers: the answers of the others, if several are asked.
    """

    command: str
    data: bytes
    replicas: set[int]
    asked: int = 1
    moves: int = 0
    creates: bool = False
    answers: list[SessionResponse] = field(default_factory=list)
    calls: dict[int, Any] = field(default_factory=dict)
    """The streams on which the router asked the replicas, by number."""


class SessionStreams:
    """Serves Session streams."""

    def __init__(
        self,
        replicas: Replicas,
        channels: Channels,
        loads: Loads,
        activity: Activity,
        entrance: Entrance,
        forwarding: Forwarding,
    ) -> None:
        self.replicas = replicas
        self.channels = channels
        self.loads = loads
        self.activity = activity
        self.forwarding = forwarding
        self._entrance = entrance
        self._open: set[_Stream] = set()

    def end(self) -> None:
        """End each stream once it has no call. Clients keep streams that they do not use."""
        for stream in list(self._open):
            stream.end()

    async def serve(self, _requests: Any, context: Any) -> None:
        """Serve one stream."""
        try:
            admitted = self._entrance.admit(context)
            with tie_to(admitted.key):
                stream = _Stream(self, admitted, context)
                self._open.add(stream)
                try:
                    await stream.run()
                finally:
                    self._open.discard(stream)
                    stream.close()
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await statuses.refuse(context, error)


class _Stream:
    """One stream of a client, and its streams to replicas."""

    def __init__(self, streams: SessionStreams, admitted: Admitted, context: Any) -> None:
        self._streams = streams
        self._admitted = admitted
        self._context = context
        self._pending: dict[int, _Pending] = {}
        self._calls: dict[int, tuple[Any, Any]] = {}
        """The channel to each replica, and the stream on it, by number."""
        self._readers: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()
        self._sending: dict[int, asyncio.Lock] = {}
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._input_ended = False
        self._ends = False

    async def run(self) -> None:
        """Pass all calls on until the client ends its side and has its answers."""
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.wait({reading, self._finished}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            await self._finished
        finally:
            reading.cancel()

    def end(self) -> None:
        """End the stream after the running calls."""
        self._ends = True
        self._check_end()

    def close(self) -> None:
        """End the calls at the replicas."""
        for _, call in self._calls.values():
            call.cancel()
        for reader in self._readers:
            reader.cancel()
        for _ in self._pending:
            self._streams.activity.end()
        self._pending.clear()

    def _check_end(self) -> None:
        if self._pending or self._finished.done():
            return
        if self._input_ended:
            self._finished.set_result(None)
        elif self._ends:
            self._finished.set_exception(Unavailable("the router ends"))

    async def _read(self) -> None:
        while (data := await self._context.read()) is not grpc.aio.EOF:
            message = SessionRequest.FromString(data)
            self._streams.activity.begin()
            pending = _Pending(message.command, data if len(data) <= LARGEST_KEPT else b"", set())
            self._pending[message.id] = pending
            try:
                await self._streams.replicas.wait_for_any()
                numbers = await self._find_replicas(message, pending)
            except VenvdError as error:
                await self._fail(message.id, error)
                continue
            pending.replicas, pending.asked = set(numbers), len(numbers)
            for number in numbers:
                await self._send(number, message.id, data)
        self._input_ended = True
        self._check_end()

    # ---- requests

    async def _find_replicas(self, message: SessionRequest, pending: _Pending) -> list[int]:
        replicas, command = self._streams.replicas, message.command
        if command == "cancel":
            return self._find_own(message) or replicas.list_reachable()
        if command == "session.list":
            return replicas.list_reachable()
        if command == "session.create" and not _read_field(message, "name"):
            pending.creates = True
            return (await self._streams.loads.rank_open())[:1] or [0]
        return [self._find_home(message)]

    def _find_home(self, message: SessionRequest) -> int:
        replicas, command = self._streams.replicas, message.command
        if command.startswith("venv."):
            return 0
        if command == "call.get":
            return replicas.find_call_home(_read_field(message, "id") or "")
        field_of_session = _FIELDS.get(command)
        named = None if field_of_session is None else _read_field(message, field_of_session)
        if command in _BY_ID:
            return replicas.find_home(named)
        return replicas.find_home(named or message.session or self._admitted.session)

    def _find_own(self, message: SessionRequest) -> list[int]:
        """Find the replicas of the running call that a `cancel` names, if this stream has it."""
        identity = _read_field(message, "id")
        for number, pending in self._pending.items():
            if str(number) == identity and number != message.id:
                return list(pending.replicas)
        return []

    async def _send(self, number: int, identity: int, data: bytes) -> None:
        try:
            call = self._open(number)
            if identity in self._pending:
                self._pending[identity].calls[number] = call
            async with self._sending[number]:
                await call.write(data)
        except VenvdError as error:
            await self._fail(identity, error, number)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader of the stream reports how it ended

    def _open(self, number: int) -> Any:
        opened, call = self._calls.get(number, (None, None))
        is_away = call is not None and self._streams.replicas.find_address(number, http=False) is None
        channel = opened if is_away else self._streams.channels.get(number)
        if opened is not channel:  # an update has replaced the replica's launch
            if call is not None:
                self._start(self._end_requests(number, call))
            call = channel.stream_stream(METHOD)(
                metadata=self._admitted.metadata, timeout=self._context.time_remaining()
            )
            self._calls[number] = channel, call
            self._sending.setdefault(number, asyncio.Lock())
            self._start(self._pass_answers(number, call))
        return call

    async def _end_requests(self, number: int, call: Any) -> None:
        """Send no more requests to a launch. It answers those that it has, and then ends the stream."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            async with self._sending[number]:
                await call.done_writing()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    # ---- answers

    async def _pass_answers(self, number: int, call: Any) -> None:
        activity = self._streams.activity
        activity.streams[number] += 1
        error: VenvdError = Unavailable(f"replica {number} ended the stream; the call may have run")
        try:
            while (data := await call.read()) is not grpc.aio.EOF:
                await self._take(number, data)
        except grpc.aio.AioRpcError as raised:
            reason = raised.details() or raised.code().name
            error = Unavailable(f"replica {number} ended the stream: {reason}; the call may have run")
            activity.count(number, raised.code().name)
        finally:
            activity.streams[number] -= 1
            if self._calls.get(number, (None, None))[1] is call:
                del self._calls[number]
        asked = [
            key
            for key, pending in self._pending.items()
            if number in pending.replicas and pending.calls.get(number) is call
        ]
        for identity in asked:
            await self._fail(identity, error, number)

    async def _take(self, number: int, data: bytes) -> None:
        message = SessionResponse.FromString(data)
        pending = self._pending.get(message.id)
        kind = message.WhichOneof("kind")
        if pending is None or kind == "event":
            await self._write(data)
            return
        if kind == "error" and message.error.code == "moved":
            await self._follow(number, message, pending)
            return
        self._streams.activity.count(number, message.error.code if kind == "error" else "OK")
        pending.replicas.discard(number)
        if pending.creates and kind != "error":
            self._streams.loads.note_creation(number)
        if pending.asked == 1:
            await self._finish(message.id, data)
            return
        pending.answers.append(message)
        await self._finish_merged(message.id, pending)

    async def _follow(self, number: int, message: SessionResponse, pending: _Pending) -> None:
        pending.replicas.discard(number)
        if pending.asked > 1:  # another replica knows it
            pending.answers.append(_make_error(message.id, NotFound(message.error.message)))
            await self._finish_merged(message.id, pending)
            return
        try:
            target = self._streams.forwarding.find_target(number, message.error.url)
            if not pending.data or pending.moves >= MOST_MOVES:
                raise Unavailable("the session has moved to another replica: send the request again")
        except VenvdError as error:
            await self._fail(message.id, error)
            return
        pending.moves += 1
        pending.replicas.add(target)
        await self._send(target, message.id, pending.data)

    async def _finish_merged(self, identity: int, pending: _Pending) -> None:
        """Answer the client once all replicas have answered."""
        if pending.replicas:
            return
        results = [each for each in pending.answers if each.WhichOneof("kind") == "result_json"]
        if not results:
            known = [each for each in pending.answers if each.error.code != "not_found"]
            chosen = (known or pending.answers)[0]
        elif pending.command == "session.list":
            joined = join_lists([each.result_json.encode() for each in results])
            chosen = SessionResponse(id=identity, result_json=joined.decode())
        else:
            chosen = results[0]
        await self._finish(identity, chosen.SerializeToString())

    async def _fail(self, identity: int, error: VenvdError, number: int | None = None) -> None:
        pending = self._pending.get(identity)
        if pending is None:
            return
        answer = _make_error(identity, error)
        if number is not None and pending.asked > 1:
            pending.replicas.discard(number)
            pending.answers.append(answer)
            await self._finish_merged(identity, pending)
        else:
            await self._finish(identity, answer.SerializeToString())

    async def _finish(self, identity: int, data: bytes) -> None:
        if self._pending.pop(identity, None) is not None:
            self._streams.activity.end()
        await self._write(data)
        self._check_end()

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            await self._context.write(data)


def _make_error(identity: int, error: VenvdError) -> SessionResponse:
    return SessionResponse(id=identity, error=Error(code=error.code, message=error.message))


def _read_field(message: SessionRequest, name: str) -> str | None:
    """Read a field of a payload. Return None if it is absent or wrong: then a replica refuses it."""
    try:
        payload = json.loads(message.payload_json) if message.HasField("payload_json") else {}
    except ValueError:
        return None
    value = payload.get(name) if isinstance(payload, dict) else None
    return str(value) if isinstance(value, str | int) else None
