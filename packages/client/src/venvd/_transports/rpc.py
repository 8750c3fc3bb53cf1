"""Calls over gRPC with the pipe's fields and whole tracebacks. Needs the extra `grpc`.

A call runs on a Session stream that the client keeps (`rpc_streams`). A call that streams its output has its own
stream, and so has each array.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import grpc

from venvd._arrays import allocate
from venvd._transports import rpc_arrays
from venvd._transports.base import Call, Event
from venvd._transports.rpc_codec import RpcCodec
from venvd._transports.rpc_silence import SilenceTimer, SilenceWatcher
from venvd._transports.rpc_streams import AsyncSessionStreams, SessionStreams
from venvd.errors import Unavailable
from venvd_contract.arrays import Header
from venvd_proto.v1 import python_service_pb2 as messages
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

T = TypeVar("T")

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.max_frame_size", 2 << 20),  # a chunk of an array in one frame, not in sixty-four
)


class RpcTransport:
    """Carries calls over one channel, which gRPC shares among threads."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        self._codec = RpcCodec(url, token, ca)
        self.url = url
        if self._codec.secure:
            self._channel = grpc.secure_channel(self._codec.target, self._codec.make_credentials(), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(self._codec.target, _OPTIONS)
        self._bulk: Any = self._channel  # the channel's types allow only methods with serializers
        self._stub = PythonServiceStub(self._channel)
        self._silence = SilenceWatcher(url, self._stub.Health)
        self._streams = SessionStreams(self._codec, self._stub.Session, self._silence)

    def call(self, call: Call[T]) -> T:
        return self._codec.finish(call, self._streams.run(call))

    def stream(self, call: Call[Any]) -> Generator[Event, None, None]:
        for answer in self._answers(call):
            event = self._codec.event(answer)
            yield event or Event("result", self._codec.finish(call, answer))
            if event is None:
                return
        raise self._codec.explain_early_end()

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
            raise self._codec.explain(error) from None
        except ValueError as error:  # gRPC raises this for a closed channel
            raise Unavailable(f"the client of {self.url} was closed") from error

    def _answers(self, call: Call[Any]) -> Iterator[messages.SessionResponse]:
        request = self._codec.request(call, stream=True)
        try:
            answers = self._stub.Session(iter([request]), metadata=self._codec.metadata, timeout=call.wait_seconds)
        except ValueError as error:  # gRPC raises this for a closed channel
            raise Unavailable(f"the client of {self.url} was closed") from error
        try:
            with self._silence.watch(answers, call.timeout):
                yield from answers
        except grpc.RpcError as error:
            raise self._codec.explain(error) from None
        finally:
            answers.cancel()

    def close(self) -> None:
        self._streams.close()
        self._silence.close()
        self._channel.close()


class AsyncRpcTransport:
    """Carries calls of one event loop. The first call makes the channel, because it knows the loop."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        self._codec = RpcCodec(url, token, ca)
        self.url = url
        self._channel: Any = None
        self._closed = False
        self._streams = AsyncSessionStreams(self._codec, self._stub)

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
        return self._codec.finish(call, await self._streams.run(call))

    async def stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]:
        async for answer in self._answers(call):
            event = self._codec.event(answer)
            yield event or Event("result", self._codec.finish(call, answer))
            if event is None:
                return
        raise self._codec.explain_early_end()

    async def get_array(self, call: Call[Header]) -> tuple[Header, Any]:
        parts = rpc_arrays.ArrayParts(allocate)
        metadata = rpc_arrays.make_metadata(call, self._codec.metadata)
        async with self._errors():
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
        async with self._errors():
            sending = self._open_channel().stream_unary(rpc_arrays.PUT_ARRAY)(
                metadata=metadata, timeout=call.wait_seconds
            )
            try:
                with self._silence().run(call.timeout) as silence:
                    # If the server refuses the array midway, `await` of the call raises its error.
                    with suppress(asyncio.InvalidStateError, grpc.RpcError):
                        for message in rpc_arrays.encode_put(call, data):
                            await silence.wait(sending.write(message))
                        await silence.wait(sending.done_writing())
                    answer = await silence.wait(sending)
            finally:
                sending.cancel()
        return call.finish(rpc_arrays.decode_put(answer))

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise await self._codec.explain_async(error) from None
        except asyncio.InvalidStateError:
            raise self._codec.explain_early_end() from None

    async def _answers(self, call: Call[Any]) -> AsyncIterator[messages.SessionResponse]:
        request = self._codec.request(call, stream=True)
        answers = self._stub().Session(metadata=self._codec.metadata, timeout=call.wait_seconds)
        try:
            async with self._errors():
                with self._silence().run(call.timeout) as silence:
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
        self._streams.close()
        if self._channel is not None:
            await self._channel.close()
