"""The Session stream: many calls over one stream, each message a request of the pipe."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from venvd_contract.errors import Cancelled, Internal, LimitExceeded, VenvdError
from venvd_core.backend import CANCEL, Backend, Call, Request
from venvd_http.auth import TokenGuard
from venvd_proto import fields
from venvd_proto.v1.python_service_pb2 import Error, SessionEvent, SessionRequest, SessionResponse
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import messages, status
from venvd_rpc_backend.context import Asked
from venvd_rpc_backend.settings import RpcSettings

Context = Any  # grpc.aio.ServicerContext, whose types are not told


class Streams:
    """Serves Session streams."""

    def __init__(self, backend: Backend, guard: TokenGuard, settings: RpcSettings) -> None:
        self._backend = backend
        self._guard = guard
        self._settings = settings

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The handler of the Session stream, where the service has it."""
        if "Session" not in service.methods_by_name:
            return {}
        handler: Any = grpc.stream_stream_rpc_method_handler(self._serve, SessionRequest.FromString)
        return {"Session": handler}

    async def _serve(self, _requests: Any, context: Context) -> None:
        try:
            found = contexts.asked(context.invocation_metadata())
            contexts.authorise(self._guard, found)
        except VenvdError as error:
            await context.abort_with_status(status.status_of(error))
        try:
            await self._run(Stream(self._backend, found, context, self._settings))
        except VenvdError as error:
            await context.abort_with_status(status.status_of(error))

    async def _run(self, stream: Stream) -> None:
        both = asyncio.gather(stream.read(), stream.over)
        try:
            await both
        finally:
            both.cancel()
            stream.close()
            if self._settings.cancel_on_disconnect:
                stream.cancel()


class Stream:
    """One Session stream: a reader that begins calls, and a writer of what comes of them.

    `over` is done when the last reply is sent, or failed with what ended the stream before.
    """

    def __init__(self, backend: Backend, asked: Asked, context: Context, settings: RpcSettings) -> None:
        self._backend = backend
        self._asked = asked
        self._context = context
        self._max_pipelined = settings.max_pipelined
        self._max_unread = settings.max_unread_bytes
        self._unread = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls: dict[Call, int] = {}
        self._outbox: deque[bytes] = deque()
        self._writing: Coroutine[asyncio.Future[None], None, None] | None = None
        self._sent: asyncio.Future[None] | None = None
        """What the write that is under way waits for."""
        self._ended = False
        self._room = asyncio.Event()

    async def read(self) -> None:
        """Begin every call until the client ends its side."""
        while (message := await self._context.read()) is not grpc.aio.EOF:
            while len(self._calls) + len(self._outbox) >= self._max_pipelined:
                self._room.clear()
                await self._room.wait()
            self._begin(message)
        self._ended = True
        if self._writing is None:
            self._write()

    def _send(self, message: bytes) -> None:
        if self.over.done():
            return
        if self._unread > self._max_unread:
            limit = self._max_unread
            self.over.set_exception(LimitExceeded(f"more than {limit} bytes of replies on the stream were not read"))
            return
        self._unread += len(message)
        self._outbox.append(message)
        if self._writing is None:
            self._write()

    def _write(self) -> None:
        """Begin to send what is next, at this very moment: a task would have to be woken for each message."""
        if self._outbox:
            self._writing = self._context.write(self._outbox[0])
            self._step()
        elif self._ended and not self._calls:
            self.over.set_result(None)

    def _step(self, _done: Any = None) -> None:
        if self._writing is None or self.over.done():
            return
        try:
            self._sent = self._writing.send(None)
            self._sent.add_done_callback(self._step)
        except StopIteration:
            self._writing = None
            self._unread -= len(self._outbox.popleft())
            self._room.set()
            self._write()
        except Exception as error:  # noqa: BLE001 — whatever it is, it is the stream's end
            self.over.set_exception(error)

    def close(self) -> None:
        """Send no more; `over` is done."""
        if self._writing is not None and self._sent is not None:
            self._sent.cancel()  # or it would complain that nobody cares how it fails
            self._writing.close()

    def cancel(self) -> None:
        for call in list(self._calls):
            call.cancel()

    def _begin(self, message: SessionRequest) -> None:
        call = Call(self._request(message), self._finished)
        if message.stream:
            call.on_event = partial(self._event, message.id)
        if message.command == CANCEL:
            call.find_call = self._named
        self._calls[call] = message.id
        self._backend.begin(call)

    def _request(self, message: SessionRequest) -> Request:
        given, asked = message.HasField, self._asked
        return Request(
            message.command,
            message.payload_json.encode() if given("payload_json") else b"{}",  # core sees to what is in it
            message.session if given("session") else asked.session,
            message.timeout if given("timeout") else None,
            message.values if given("values") else asked.values,
            message.attachments or (),
            message.call if given("call") else None,
            lease=message.lease if given("lease") else asked.lease,
        )

    def _named(self, identity: Any) -> Call | None:
        """The running call of this stream whose request had that ID."""
        return next((call for call, number in self._calls.items() if str(number) == str(identity)), None)

    def _event(self, number: int, kind: str, data: Any) -> None:
        event = SessionEvent(event=kind, data_json=messages.encoded(data))
        self._send(SessionResponse(id=number, event=event).SerializeToString())

    def _finished(self, call: Call) -> None:
        self._send(response(self._calls.pop(call), call))


_ID = fields.tag(SessionResponse.ID_FIELD_NUMBER, fields.VARINT)
_RESULT = fields.tag(SessionResponse.RESULT_JSON_FIELD_NUMBER, fields.BYTES)
_ATTACHMENT = fields.tag(SessionResponse.ATTACHMENTS_FIELD_NUMBER, fields.BYTES)


def response(number: int, call: Call) -> bytes:
    """The message that answers a call that is done, a `SessionResponse`."""
    try:
        reply = call.result()
        made: bytes = fields.text(_ID + fields.varint(number) + _RESULT, reply.result)
    except asyncio.CancelledError:
        return failure(number, Cancelled("the call was cancelled"))
    except UnicodeDecodeError:
        return failure(number, Internal("the session answered with what is not UTF-8"))
    except Exception as error:  # noqa: BLE001 — every error becomes a message
        return failure(number, status.known(error))
    for part in reply.attachments:
        made += b"%b%b%b" % (_ATTACHMENT, fields.varint(len(part)), part)
    return made


def failure(number: int, error: VenvdError) -> bytes:
    """The message that answers with an error."""
    made: bytes = SessionResponse(id=number, error=error_of(error)).SerializeToString()
    return made


def error_of(error: VenvdError) -> Error:
    """An error as a message; nothing of it is cut."""
    made = Error(code=error.code, message=status.clean(error.message), state_lost=error.state_lost)
    if error.error_type is not None:
        made.error_type = status.clean(error.error_type)
    if error.traceback is not None:
        made.traceback = status.clean(error.traceback)
    return made
