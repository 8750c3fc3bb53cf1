"""The Session stream: many calls over one stream, with the fields of the pipe."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from venvd_contract.errors import Cancelled, Internal, LimitExceeded, Moved, Unavailable, VenvdError
from venvd_core import float_arrays
from venvd_core.backend import CANCEL, Backend, Call, Request
from venvd_core.float_arrays import WholeCall
from venvd_http.auth import tie_to
from venvd_proto import fields
from venvd_proto.v1.python_service_pb2 import Error, SessionEvent, SessionRequest, SessionResponse
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import status
from venvd_rpc_backend.context import CallFields, PeerGuard
from venvd_rpc_backend.settings import RpcSettings

Context = Any  # grpc.aio.ServicerContext, which has no types


class Streams:
    """Answers Session streams."""

    def __init__(self, backend: Backend, guard: PeerGuard, settings: RpcSettings) -> None:
        self._backend = backend
        self._guard = guard
        self._settings = settings
        self._open: set[Stream] = set()

    def end(self) -> None:
        """End each stream when it has no call: clients keep unused streams open."""
        for stream in list(self._open):
            stream.end()

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handler of the Session stream, if the service has it."""
        if "Session" not in service.methods_by_name:
            return {}
        handler: Any = grpc.stream_stream_rpc_method_handler(self._serve, SessionRequest.FromString)
        return {"Session": handler}

    async def _serve(self, _requests: Any, context: Context) -> None:
        try:
            call_fields = contexts.read_metadata(context.invocation_metadata())
            contexts.authorise(self._guard, call_fields, context)
        except VenvdError as error:
            await status.refuse(context, error)
        try:
            with tie_to(call_fields.key):
                await self._run(Stream(self._backend, call_fields, context, self._settings))
        except VenvdError as error:
            await context.abort_with_status(status.status_of(error))

    async def _run(self, stream: Stream) -> None:
        both = asyncio.gather(stream.read(), stream.finished)
        self._open.add(stream)
        try:
            await both
        finally:
            self._open.discard(stream)
            both.cancel()
            stream.close()
            if self._settings.cancel_on_disconnect:
                stream.cancel()


class Stream:
    """One Session stream: reads requests, begins calls, and writes replies as the calls end.

    `finished` is done when the last reply is sent, or failed with the error that ended the stream before.
    """

    def __init__(self, backend: Backend, defaults: CallFields, context: Context, settings: RpcSettings) -> None:
        self._backend = backend
        self._defaults = defaults
        self._context = context
        self._max_pipelined = settings.max_pipelined
        self._max_unread = settings.max_unread_bytes
        self._unread = 0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls: dict[Call, int] = {}
        """The running calls, and the IDs of their requests."""
        self._outbox: deque[bytes] = deque()
        self._write: Coroutine[asyncio.Future[None], None, None] | None = None
        """The current write: that of the first message in the outbox."""
        self._write_waits_for: asyncio.Future[None] | None = None
        self._input_ended = False
        self._ends = False
        self._room = asyncio.Event()

    async def read(self) -> None:
        """Begin every call until the client ends its side."""
        while (message := await self._context.read()) is not grpc.aio.EOF:
            while len(self._calls) + len(self._outbox) >= self._max_pipelined:
                self._room.clear()
                await self._room.wait()
            self._begin(message)
        self._input_ended = True
        if self._write is None:
            self._write_next()

    def end(self) -> None:
        """End the stream after the running calls."""
        self._ends = True
        if self._write is None:
            self._write_next()

    def close(self) -> None:
        """Send no more; `finished` is done."""
        if self._write is not None and self._write_waits_for is not None:
            self._write_waits_for.cancel()  # else asyncio logs that its exception was never retrieved
            self._write.close()

    def cancel(self) -> None:
        """Cancel every running call."""
        for call in list(self._calls):
            call.cancel()

    # ---- requests

    def _begin(self, message: SessionRequest) -> None:
        kind = WholeCall if message.command in float_arrays.COMMANDS else Call
        call = kind(self._request(message), self._on_done)
        if message.stream:
            call.on_event = partial(self._on_event, message.id)
        if message.command == CANCEL:
            call.find_call = self._find_call
        self._calls[call] = message.id
        self._backend.begin(call)

    def _request(self, message: SessionRequest) -> Request:
        given, defaults = message.HasField, self._defaults
        return Request(
            message.command,
            message.payload_json.encode() if given("payload_json") else b"{}",  # core checks it
            message.session if given("session") else defaults.session,
            message.timeout if given("timeout") else None,
            message.values if given("values") else defaults.values,
            message.attachments or (),
            message.call if given("call") else None,
            lease=message.lease if given("lease") else defaults.lease,
            token=defaults.token,
            caller=defaults.caller,
        )

    def _find_call(self, identity: Any) -> Call | None:
        """Find the running call of this stream by the ID of its request."""
        return next((call for call, number in self._calls.items() if str(number) == str(identity)), None)

    # ---- replies

    def _on_event(self, number: int, kind: str, data: bytes) -> None:
        event = SessionEvent(event=kind, data_json=data.decode())
        self._send(SessionResponse(id=number, event=event).SerializeToString())

    def _on_done(self, call: Call) -> None:
        self._send(write_response(self._calls.pop(call), call))

    def _send(self, message: bytes) -> None:
        if self.finished.done():
            return
        waiting = self._unread - len(self._outbox[0]) if self._outbox else 0  # the first one may be of any size
        if waiting > self._max_unread:
            limit = self._max_unread
            error = LimitExceeded(f"more than {limit} bytes of replies on the stream were not read")
            self.finished.set_exception(error)
            return
        self._unread += len(message)
        self._outbox.append(message)
        if self._write is None:
            self._write_next()

    def _write_next(self) -> None:
        """Begin to send the next message, without a task: waking one for each message would take longer."""
        if self._outbox:
            self._write = self._context.write(self._outbox[0])
            self._step()
        elif self._calls or self.finished.done():
            return
        elif self._input_ended:
            self.finished.set_result(None)
        elif self._ends:
            self.finished.set_exception(Unavailable("the server ends"))

    def _step(self, _done: Any = None) -> None:
        """Run the current write until it must wait or has ended."""
        if self._write is None or self.finished.done():
            return
        try:
            self._write_waits_for = self._write.send(None)
            self._write_waits_for.add_done_callback(self._step)
        except StopIteration:
            self._write = None
            self._unread -= len(self._outbox.popleft())
            self._room.set()
            self._write_next()
        except Exception as error:  # noqa: BLE001 — every error ends the stream
            self.finished.set_exception(error)


_ID = fields.tag(SessionResponse.ID_FIELD_NUMBER, fields.VARINT)
_RESULT = fields.tag(SessionResponse.RESULT_JSON_FIELD_NUMBER, fields.BYTES)
_ATTACHMENT = fields.tag(SessionResponse.ATTACHMENTS_FIELD_NUMBER, fields.BYTES)


def write_response(number: int, call: Call) -> bytes:
    """Write the `SessionResponse` to a call that has ended."""
    try:
        reply = call.result()
        response: bytes = fields.text(_ID + fields.varint(number) + _RESULT, reply.result)
    except asyncio.CancelledError:
        return write_failure(number, Cancelled("the call was cancelled"))
    except UnicodeDecodeError:
        return write_failure(number, Internal("the session sent a result that is not UTF-8"))
    except Exception as error:  # noqa: BLE001 — every error becomes a message
        return write_failure(number, status.public_error(error))
    for part in reply.attachments:
        response += b"%b%b%b" % (_ATTACHMENT, fields.varint(len(part)), part)
    return response


def write_failure(number: int, error: VenvdError) -> bytes:
    """Write the `SessionResponse` with an error."""
    response: bytes = SessionResponse(id=number, error=message_of(error)).SerializeToString()
    return response


def message_of(error: VenvdError) -> Error:
    """Make the message of an error; nothing is cut."""
    message = Error(code=error.code, message=status.replace_surrogates(error.message), state_lost=error.state_lost)
    if error.error_type is not None:
        message.error_type = status.replace_surrogates(error.error_type)
    if error.traceback is not None:
        message.traceback = status.replace_surrogates(error.traceback)
    if error.exception is not None:
        message.exception_json = json.dumps(error.exception)
    if error.output is not None:
        message.output_json = json.dumps(error.output)
    if isinstance(error, Moved):
        message.url = error.url
    return message
