"""gRPC calls on their way to a replica, and their answers on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from venvd_contract.errors import Unavailable, VenvdError
from venvd_http.auth import tie_to
from venvd_proto.v1 import python_service_pb2 as python
from venvd_proto.v1 import session_service_pb2 as sessions
from venvd_router.activity import Activity
from venvd_router.loads import Loads
from venvd_router.replicas import Replicas
from venvd_router.rpc import statuses
from venvd_router.rpc.channels import Channels
from venvd_router.rpc.entrance import Admitted, Entrance

LARGEST_KEPT = 1 << 20
"""The most bytes of a stream's messages that the router keeps, so that it can send them to another replica too."""
MOST_MOVES = 4
_AHEAD = 4
"""How many messages of a client the router reads before the replica has taken them."""

_PYTHON, _SESSIONS = "/venvd.v1.PythonService/", "/venvd.v1.SessionService/"
_BY_ID = {f"{_SESSIONS}{name}Session" for name in ("Get", "Delete", "Interrupt", "Reset")}
Ask = Callable[[int], Awaitable[bytes]]


class Forwarding:
    """Passes calls on to replicas, and follows a session that has moved."""

    def __init__(
        self, replicas: Replicas, channels: Channels, loads: Loads, activity: Activity, entrance: Entrance
    ) -> None:
        self._replicas = replicas
        self._channels = channels
        self._loads = loads
        self._activity = activity
        self._entrance = entrance

    # ---- one message

    def make_unary(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Make the handler of a method with one message each way."""

        async def serve(request: bytes, context: Any) -> bytes:
            try:
                admitted = self._entrance.admit(context)
                with self._activity.run(), tie_to(admitted.key):
                    await self._replicas.wait_for_any()
                    return await self._answer(method, request, admitted, context)
            except Exception as error:  # noqa: BLE001 — every error becomes a status
                await statuses.refuse(context, error)
            return b""

        return serve

    async def _answer(self, method: str, request: bytes, admitted: Admitted, context: Any) -> bytes:
        async def ask(number: int) -> bytes:
            return await self._ask(method, request, admitted, context, number)

        if method == f"{_SESSIONS}ListSessions":
            return merge_sessions(await self._ask_all(ask))
        if method == f"{_PYTHON}CancelCall":
            return choose_success(await self._ask_all(ask))
        if method == f"{_SESSIONS}CreateSession":
            name = _parse(sessions.CreateSessionRequest, request).name
            if not name:
                number = (await self._loads.rank_open())[0]
                response = await ask(number)
                self._loads.note_creation(number)
                return response
            return await ask(self._replicas.find_home(name))
        return await ask(self._find_home(method, request, admitted.session))

    def _find_home(self, method: str, request: bytes, session: str | None) -> int:
        if method in _BY_ID:
            return self._replicas.find_home(_parse(sessions.GetSessionRequest, request).id)
        if method == f"{_PYTHON}StartCall":
            return self._replicas.find_home(_parse(python.StartCallRequest, request).session or session)
        if method == f"{_PYTHON}GetCall":
            return self._replicas.find_call_home(_parse(python.GetCallRequest, request).id)
        return self._replicas.find_home(session)

    async def _ask_all(self, ask: Ask) -> Sequence[bytes | BaseException]:
        return await asyncio.gather(*map(ask, self._replicas.list_reachable()), return_exceptions=True)

    async def _ask(self, method: str, request: bytes, admitted: Admitted, context: Any, number: int) -> bytes:
        for _ in range(MOST_MOVES + 1):
            call = self._channels.get(number).unary_unary(method)(
                request, metadata=admitted.metadata, timeout=context.time_remaining()
            )
            try:
                with self._activity.use(number):
                    response: bytes = await call
            except grpc.aio.AioRpcError as error:
                number = self.follow(number, error)
                continue
            finally:
                call.cancel()
            self._activity.count(number, "OK")
            return response
        raise Unavailable("the replicas of this backend send each other the session; try again")

    def follow(self, number: int, error: grpc.aio.AioRpcError) -> int:
        """Return the replica to which an error sends a call.

        Raises:
            Unavailable: the error says that the replica does not answer.
            AioRpcError: it is another error.
        """
        self._activity.count(number, error.code().name)
        url = statuses.read_url(error)
        if url is not None:
            return self.find_target(number, url)
        if error.code() is grpc.StatusCode.UNAVAILABLE and not any(
            name == "grpc-status-details-bin" for name, _ in error.trailing_metadata() or ()
        ):
            address = self._replicas.find_address(number, http=False)
            where = "" if address is None else f" at {address.authority}"
            raise Unavailable(f"replica {number} does not answer{where}: {error.details()}") from None
        raise error

    def find_target(self, number: int, url: str) -> int:
        """Return the replica at the address to which another one sends a call.

        Raises:
            Unavailable: there is no replica at the address.
        """
        target = self._replicas.find_number(url)
        if target is None:
            raise Unavailable(f"replica {number} says that the session moved to {url[:200]}, which is no replica")
        self._activity.moves += 1
        return target

    # ---- streams

    def make_stream(self, method: str) -> Callable[[Any, Any], Awaitable[None]]:
        """Make the handler of a method with streams of messages."""

        async def serve(_requests: Any, context: Any) -> None:
            try:
                admitted = self._entrance.admit(context)
                with self._activity.run(), tie_to(admitted.key):
                    await self._replicas.wait_for_any()
                    await self._run_stream(method, admitted, context)
            except Exception as error:  # noqa: BLE001 — every error becomes a status
                await statuses.refuse(context, error)

        return serve

    async def _run_stream(self, method: str, admitted: Admitted, context: Any) -> None:
        number, source = self._replicas.find_home(admitted.session), _Source(context)
        try:
            for _ in range(MOST_MOVES + 1):
                call = self._channels.get(number).stream_stream(method)(
                    metadata=admitted.metadata, timeout=context.time_remaining()
                )
                sending = asyncio.ensure_future(source.send_to(call))
                begun = False
                try:
                    with self._activity.use(number):
                        while (message := await call.read()) is not grpc.aio.EOF:
                            begun = True
                            await context.write(message)
                except grpc.aio.AioRpcError as error:
                    if begun:
                        raise
                    moved_from, number = number, self.follow(number, error)
                    source.check_kept(moved_from)
                    continue
                finally:
                    call.cancel()
                    sending.cancel()
                self._activity.count(number, "OK")
                return
            raise Unavailable("the replicas of this backend send each other the session; try again")
        finally:
            source.close()


class _Source:
    """The messages of a client. It keeps the first ones."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._coming: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        self._kept: list[bytes | None] | None = []
        self._size = 0
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            await self._coming.put(message)
        await self._coming.put(None)

    def check_kept(self, number: int) -> None:
        """Check that all messages can be sent again.

        Raises:
            Unavailable: there were too many to keep.
        """
        if self._kept is None:
            raise Unavailable(
                f"the session has moved away from replica {number}, and messages of more than {LARGEST_KEPT} bytes "
                "are not kept: send them again"
            )

    async def send_to(self, call: Any) -> None:
        """Send all messages from the first one on."""
        sent = 0
        try:
            while True:
                if self._kept is not None and sent < len(self._kept):
                    message = self._kept[sent]
                else:
                    message = await self._coming.get()
                    self._keep(message)
                sent += 1
                if message is None:
                    await call.done_writing()
                    return
                await call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the call has ended, and its reader reports how

    def _keep(self, message: bytes | None) -> None:
        self._size += len(message or b"")
        if self._size > LARGEST_KEPT:
            self._kept = None
        if self._kept is not None:
            self._kept.append(message)

    def close(self) -> None:
        self._reading.cancel()


def _parse(kind: Any, data: bytes) -> Any:
    """Parse a message. If it is broken, return an empty one, which the replica refuses."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind()


def merge_sessions(answers: Sequence[bytes | BaseException]) -> bytes:
    """Merge the lists of all replicas that answer. Raise the error of one if no replica does."""
    whole = [each for each in answers if isinstance(each, bytes)]
    for each in answers:
        if isinstance(each, BaseException) and (not whole or not isinstance(each, VenvdError)):
            raise each
    merged = sessions.ListSessionsResponse.FromString(b"".join(whole))
    merged.sessions.sort(key=lambda session: session.created_at)
    data: bytes = merged.SerializeToString()
    return data


def choose_success(answers: Sequence[bytes | BaseException]) -> bytes:
    """Choose the answer of the replica that knows a call."""
    errors = []
    for each in answers:
        if isinstance(each, bytes):
            return each
        errors.append(each)
    known = [
        each
        for each in errors
        if not (isinstance(each, grpc.aio.AioRpcError) and each.code() is grpc.StatusCode.NOT_FOUND)
    ]
    raise (known or errors)[0]
