"""Calls over gRPC: one `Session` stream for each call, which carries the pipe's terms and whole tracebacks.

Needs the extra `grpc` of this distribution.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from grpc_status import rpc_status

from venvd.arrays import room
from venvd.errors import BadReply, DeadlineExceeded, InvalidRequest, Unavailable, Unreachable, VenvdError, decoded
from venvd.transports import rpc_bulk
from venvd.transports.base import Call, Event
from venvd_contract.arrays import Header
from venvd_proto.v1 import python_service_pb2 as messages
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

T = TypeVar("T")

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
SCHEMES = ("grpc", "grpcs")
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.max_frame_size", 2 << 20),  # a chunk of an array in one frame, not in sixty-four
)
_CODES = {
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.PERMISSION_DENIED: "forbidden",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too_large",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.UNIMPLEMENTED: "not_implemented",
}
"""What a status without details means: it comes from gRPC itself, or from a proxy."""


class RpcWire:
    """Writes calls as messages and reads their answers; knows no channel."""

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.path not in {"", "/"}:
            raise InvalidRequest(f'"{url}" is no address of a gRPC server: write grpc://host:port')
        self.url = url
        self.target = parts.netloc
        self.secure = parts.scheme == "grpcs"
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def request(self, call: Call[Any], *, stream: bool) -> messages.SessionRequest:
        """Raises `InvalidRequest` where the payload has no JSON form."""
        try:
            payload = _dumps(call.payload)
        except ValueError as error:
            raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None
        return messages.SessionRequest(
            id=1,
            command=call.command,
            payload_json=payload,
            session=call.session,
            timeout=call.timeout,
            lease=call.lease,
            values="tagged",
            stream=stream,
            attachments=[] if call.body is None else [call.body],
        )

    def event(self, answer: messages.SessionResponse) -> Event | None:
        """The event that an answer is; None where it is the reply."""
        if answer.WhichOneof("kind") != "event":
            return None
        return Event(answer.event.event, json.loads(answer.event.data_json))

    def finish(self, call: Call[T], answer: messages.SessionResponse) -> T:
        """The caller's value; raises the error that the backend answered."""
        if answer.WhichOneof("kind") == "error":
            error = answer.error
            fields = {"code": error.code, "error": error.message, "stateLost": error.state_lost}
            if error.HasField("error_type"):
                fields["errorType"] = error.error_type
            if error.HasField("traceback"):
                fields["traceback"] = error.traceback
            raise decoded(fields)
        call.received = len(answer.result_json)
        try:
            result = json.loads(answer.result_json)
            if answer.attachments:
                result["attached"] = b"".join(answer.attachments)
            return call.finish(result)
        except json.JSONDecodeError as error:
            raise BadReply(f"{call.command}: the reply is not JSON: {error}") from None

    def cut(self) -> Unavailable:
        return Unavailable(f"{self.url} ended the call without an answer")

    def raised(self, error: Any) -> VenvdError:
        """The error behind a gRPC status."""
        status, details = error.code(), error.details() or ""
        fields = {"code": _CODES.get(status, "internal"), "error": details}
        found = rpc_status.from_call(error)
        if found is not None:
            return decoded(_from_details(fields, found.details))
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"no answer from {self.url} in time; the call was given up")
        if status is grpc.StatusCode.UNAVAILABLE:
            return Unreachable(f"nothing answers at {self.url}: {details}")
        return decoded(fields)


def _from_details(fields: dict[str, Any], details: Any) -> dict[str, Any]:
    for detail in details:
        info, debug = ErrorInfo(), DebugInfo()
        if detail.Unpack(info):
            fields |= {"code": info.reason, "errorType": info.metadata.get("errorType")}
            fields["stateLost"] = info.metadata.get("stateLost") == "true"
        elif detail.Unpack(debug):
            fields["traceback"] = debug.detail
    return fields


class RpcTransport:
    """For threads: one channel, which gRPC itself shares among them."""

    def __init__(self, url: str, token: str | None) -> None:
        self._wire = RpcWire(url, token)
        self.url = url
        if self._wire.secure:
            self._channel = grpc.secure_channel(self._wire.target, grpc.ssl_channel_credentials(), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(self._wire.target, _OPTIONS)
        self._bulk: Any = self._channel  # whose types know of methods with serializers only
        self._stub = PythonServiceStub(self._channel)

    def call(self, call: Call[T]) -> T:
        for answer in self._answers(call, stream=False):
            return self._wire.finish(call, answer)
        raise self._wire.cut()

    def stream(self, call: Call[Any]) -> Iterator[Event]:
        for answer in self._answers(call, stream=True):
            event = self._wire.event(answer)
            yield event or Event("result", self._wire.finish(call, answer))
            if event is None:
                return
        raise self._wire.cut()

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        parts = rpc_bulk.Parts(room)
        metadata = rpc_bulk.metadata_of(call, self._wire.metadata)
        with self._errors():
            answers = self._bulk.unary_stream(rpc_bulk.GET_ARRAY)(
                rpc_bulk.asked(call), metadata=metadata, timeout=call.patience
            )
            try:
                for message in answers:
                    parts.take(message)
            finally:
                answers.cancel()
        return parts.whole()

    def put_array(self, call: Call[T], data: memoryview) -> T:
        metadata = rpc_bulk.metadata_of(call, self._wire.metadata)
        with self._errors():
            answer = self._bulk.stream_unary(rpc_bulk.PUT_ARRAY)(
                rpc_bulk.sent(call, data), metadata=metadata, timeout=call.patience
            )
        return call.finish(rpc_bulk.put_reply(answer))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._wire.raised(error) from None
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise Unavailable(f"the client of {self.url} was closed") from error

    def _answers(self, call: Call[Any], *, stream: bool) -> Iterator[messages.SessionResponse]:
        request = self._wire.request(call, stream=stream)
        try:
            answers = self._stub.Session(iter([request]), metadata=self._wire.metadata, timeout=call.patience)
        except ValueError as error:  # gRPC's word for a channel that was closed
            raise Unavailable(f"the client of {self.url} was closed") from error
        try:
            yield from answers
        except grpc.RpcError as error:
            raise self._wire.raised(error) from None
        finally:
            answers.cancel()

    def close(self) -> None:
        self._channel.close()


class AsyncRpcTransport:
    """For one event loop; the channel is made when the first call knows which."""

    def __init__(self, url: str, token: str | None) -> None:
        self._wire = RpcWire(url, token)
        self.url = url
        self._channel: Any = None
        self._closed = False

    def _stub(self) -> Any:
        return PythonServiceStub(self._opened())

    def _opened(self) -> Any:
        if self._closed:
            raise Unavailable(f"the client of {self.url} was closed")
        if self._channel is None:
            if self._wire.secure:
                self._channel = grpc.aio.secure_channel(self._wire.target, grpc.ssl_channel_credentials(), _OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(self._wire.target, _OPTIONS)
        return self._channel

    async def call(self, call: Call[T]) -> T:
        async for answer in self._answers(call, stream=False):
            return self._wire.finish(call, answer)
        raise self._wire.cut()

    async def stream(self, call: Call[Any]) -> AsyncIterator[Event]:
        async for answer in self._answers(call, stream=True):
            event = self._wire.event(answer)
            yield event or Event("result", self._wire.finish(call, answer))
            if event is None:
                return
        raise self._wire.cut()

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        parts = rpc_bulk.Parts(room)
        metadata = rpc_bulk.metadata_of(call, self._wire.metadata)
        with self._errors():
            answers = self._opened().unary_stream(rpc_bulk.GET_ARRAY)(
                rpc_bulk.asked(call), metadata=metadata, timeout=call.patience
            )
            try:
                async for message in answers:
                    parts.take(message)
            finally:
                answers.cancel()
        return parts.whole()

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        metadata = rpc_bulk.metadata_of(call, self._wire.metadata)
        with self._errors():
            sending = self._opened().stream_unary(rpc_bulk.PUT_ARRAY)(metadata=metadata, timeout=call.patience)
            try:
                # What is refused midway is told by the call itself.
                with suppress(asyncio.InvalidStateError, grpc.RpcError):
                    for message in rpc_bulk.sent(call, data):
                        await sending.write(message)
                    await sending.done_writing()
                answer = await sending
            finally:
                sending.cancel()
        return call.finish(rpc_bulk.put_reply(answer))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._wire.raised(error) from None
        except asyncio.InvalidStateError:
            raise self._wire.cut() from None

    async def _answers(self, call: Call[Any], *, stream: bool) -> AsyncIterator[messages.SessionResponse]:
        request = self._wire.request(call, stream=stream)
        answers = self._stub().Session(metadata=self._wire.metadata, timeout=call.patience)
        try:
            with self._errors():
                await answers.write(request)
                await answers.done_writing()
                while (answer := await answers.read()) is not grpc.aio.EOF:
                    yield answer
        finally:
            answers.cancel()

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None:
            await self._channel.close()
