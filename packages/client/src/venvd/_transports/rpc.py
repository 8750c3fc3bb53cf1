"""Calls over gRPC: one `Session` stream for each call, with the pipe's fields and whole tracebacks.

This needs the extra `grpc`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from grpc_status import rpc_status

from venvd._arrays import allocate
from venvd._net.certificates import read_pem_files
from venvd._transports import rpc_arrays
from venvd._transports.base import Call, Event
from venvd._transports.rpc_silence import SilenceTimer, SilenceWatcher
from venvd.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidRequest,
    Unavailable,
    Unreachable,
    VenvdError,
    error_from_reply,
)
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
"""The codes of statuses without details, which come from gRPC itself or from a proxy."""


class RpcCodec:
    """Encodes calls as messages and decodes their answers. Knows no channel."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.path not in {"", "/"}:
            raise InvalidRequest(f'"{url}" is no address of a gRPC server: write grpc://host:port')
        self.url = url
        self.target = parts.netloc
        self.secure = parts.scheme == "grpcs"
        self._ca = ca
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def make_credentials(self) -> grpc.ChannelCredentials:
        """Make what a secure channel checks and shows.

        Raises:
            InvalidRequest: a file of certificates cannot be used.
        """
        return grpc.ssl_channel_credentials(*read_pem_files(self._ca))

    def request(self, call: Call[Any], *, stream: bool) -> messages.SessionRequest:
        """Encode a call; raises `InvalidRequest` if the payload has no JSON form."""
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
        """Return the event in an answer, or None if the answer is the reply."""
        if answer.WhichOneof("kind") != "event":
            return None
        return Event(answer.event.event, json.loads(answer.event.data_json))

    def finish(self, call: Call[T], answer: messages.SessionResponse) -> T:
        """Return the caller's value, or raise the error that the backend answered."""
        if answer.WhichOneof("kind") == "error":
            error = answer.error
            fields = {"code": error.code, "error": error.message, "stateLost": error.state_lost}
            if error.HasField("url"):
                fields["url"] = error.url
            if error.HasField("error_type"):
                fields["errorType"] = error.error_type
            if error.HasField("traceback"):
                fields["traceback"] = error.traceback
            if error.HasField("exception_json"):
                fields["exception"] = _parse_fields(error.exception_json)
            if error.HasField("output_json"):
                fields["output"] = _parse_fields(error.output_json)
            raise error_from_reply(fields)
        call.received = len(answer.result_json)
        try:
            result = json.loads(answer.result_json)
            if answer.attachments:
                result["attached"] = b"".join(answer.attachments)
            return call.finish(result)
        except json.JSONDecodeError as error:
            raise BadReply(f"{call.command}: the reply is not JSON: {error}") from None

    def ended_early(self) -> Unavailable:
        return Unavailable(f"{self.url} ended the call without an answer")

    def error_of(self, error: Any) -> VenvdError:
        """Return the error that a gRPC status stands for."""
        status, details = error.code(), error.details() or ""
        fields = {"code": _CODES.get(status, "internal"), "error": details}
        status_message = rpc_status.from_call(error)
        if status_message is not None:
            return error_from_reply(_parse_details(fields, status_message.details))
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"no answer from {self.url} in time; the call was abandoned")
        if status is grpc.StatusCode.UNAVAILABLE:
            return Unreachable(f"nothing answers at {self.url}: {details}")
        return error_from_reply(fields)


def _parse_details(fields: dict[str, Any], details: Any) -> dict[str, Any]:
    for detail in details:
        info, debug = ErrorInfo(), DebugInfo()
        if detail.Unpack(info):
            fields |= {"code": info.reason, "errorType": info.metadata.get("errorType")}
            fields["stateLost"] = info.metadata.get("stateLost") == "true"
            fields["url"] = info.metadata.get("url")
            fields["exception"] = _parse_fields(info.metadata.get("exception"))
        elif detail.Unpack(debug):
            fields["traceback"] = debug.detail
    return fields


def _parse_fields(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None


class RpcTransport:
    """Carries calls over one channel, which gRPC shares among threads."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        self._codec = RpcCodec(url, token, ca)
        self.url = url
        if self._codec.secure:
            self._channel = grpc.secure_channel(self._codec.target, self._codec.make_credentials(), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(self._codec.target, _OPTIONS)
        self._bulk: Any = self._channel  # its types allow only methods with serializers
        self._stub = PythonServiceStub(self._channel)
        self._silence = SilenceWatcher(url, self._stub.Health)

    def call(self, call: Call[T]) -> T:
        for answer in self._answers(call, stream=False):
            return self._codec.finish(call, answer)
        raise self._codec.ended_early()

    def stream(self, call: Call[Any]) -> Generator[Event, None, None]:
        for answer in self._answers(call, stream=True):
            event = self._codec.event(answer)
            yield event or Event("result", self._codec.finish(call, answer))
            if event is None:
                return
        raise self._codec.ended_early()

    def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        parts = rpc_arrays.ArrayParts(allocate)
        metadata = rpc_arrays.make_metadata(call, self._codec.metadata)
        with self._errors():
            answers = self._bulk.unary_stream(rpc_arrays.GET_ARRAY)(
                rpc_arrays.encode_get(call), metadata=metadata, timeout=call.wait_seconds
            )
            try:
                with self._silence.watch(answers, call.timeout):
                    for message in answers:
                        parts.take(message)
            finally:
                answers.cancel()
        return parts.whole()

    def put_array(self, call: Call[T], data: memoryview) -> T:
        metadata = rpc_arrays.make_metadata(call, self._codec.metadata)
        with self._errors():
            sending = self._bulk.stream_unary(rpc_arrays.PUT_ARRAY).future(
                rpc_arrays.encode_put(call, data), metadata=metadata, timeout=call.wait_seconds
            )
            try:
                with self._silence.watch(sending, call.timeout):
                    answer = sending.result()
            finally:
                sending.cancel()
        return call.finish(rpc_arrays.decode_put(answer))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._codec.error_of(error) from None
        except ValueError as error:  # gRPC raises this for a closed channel
            raise Unavailable(f"the client of {self.url} was closed") from error

    def _answers(self, call: Call[Any], *, stream: bool) -> Iterator[messages.SessionResponse]:
        request = self._codec.request(call, stream=stream)
        try:
            answers = self._stub.Session(iter([request]), metadata=self._codec.metadata, timeout=call.wait_seconds)
        except ValueError as error:  # gRPC raises this for a closed channel
            raise Unavailable(f"the client of {self.url} was closed") from error
        try:
            with self._silence.watch(answers, call.timeout):
                yield from answers
        except grpc.RpcError as error:
            raise self._codec.error_of(error) from None
        finally:
            answers.cancel()

    def close(self) -> None:
        self._silence.close()
        self._channel.close()


class AsyncRpcTransport:
    """Carries calls of one event loop. The first call makes the channel, because it knows the loop."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        self._codec = RpcCodec(url, token, ca)
        self.url = url
        self._channel: Any = None
        self._closed = False

    def _stub(self) -> Any:
        return PythonServiceStub(self._open_channel())

    def _open_channel(self) -> Any:
        if self._closed:
            raise Unavailable(f"the client of {self.url} was closed")
        if self._channel is None:
            if self._codec.secure:
                self._channel = grpc.aio.secure_channel(self._codec.target, self._codec.make_credentials(), _OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(self._codec.target, _OPTIONS)
        return self._channel

    async def call(self, call: Call[T]) -> T:
        async for answer in self._answers(call, stream=False):
            return self._codec.finish(call, answer)
        raise self._codec.ended_early()

    async def stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]:
        async for answer in self._answers(call, stream=True):
            event = self._codec.event(answer)
            yield event or Event("result", self._codec.finish(call, answer))
            if event is None:
                return
        raise self._codec.ended_early()

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        parts = rpc_arrays.ArrayParts(allocate)
        metadata = rpc_arrays.make_metadata(call, self._codec.metadata)
        with self._errors():
            answers = self._open_channel().unary_stream(rpc_arrays.GET_ARRAY)(
                rpc_arrays.encode_get(call), metadata=metadata, timeout=call.wait_seconds
            )
            try:
                with self._silence().run(call.timeout) as silence:
                    while (message := await silence.wait(answers.read())) is not grpc.aio.EOF:
                        parts.take(message)
            finally:
                answers.cancel()
        return parts.whole()

    async def put_array(self, call: Call[T], data: memoryview) -> T:
        metadata = rpc_arrays.make_metadata(call, self._codec.metadata)
        with self._errors():
            sending = self._open_channel().stream_unary(rpc_arrays.PUT_ARRAY)(
                metadata=metadata, timeout=call.wait_seconds
            )
            try:
                with self._silence().run(call.timeout) as silence:
                    # If the server refuses the array midway, awaiting the call raises its error.
                    with suppress(asyncio.InvalidStateError, grpc.RpcError):
                        for message in rpc_arrays.encode_put(call, data):
                            await silence.wait(sending.write(message))
                        await silence.wait(sending.done_writing())
                    answer = await silence.wait(sending)
            finally:
                sending.cancel()
        return call.finish(rpc_arrays.decode_put(answer))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._codec.error_of(error) from None
        except asyncio.InvalidStateError:
            raise self._codec.ended_early() from None

    async def _answers(self, call: Call[Any], *, stream: bool) -> AsyncIterator[messages.SessionResponse]:
        request = self._codec.request(call, stream=stream)
        answers = self._stub().Session(metadata=self._codec.metadata, timeout=call.wait_seconds)
        try:
            with self._errors(), self._silence().run(call.timeout) as silence:
                await silence.wait(answers.write(request))
                await silence.wait(answers.done_writing())
                while (answer := await silence.wait(answers.read())) is not grpc.aio.EOF:
                    yield answer
        finally:
            answers.cancel()

    def _silence(self) -> SilenceTimer:
        return SilenceTimer(self.url, self._stub().Health)

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None:
            await self._channel.close()
