"""The Session streams that a client keeps: each carries one call at a time, and a pool keeps the idle ones.

To begin a stream takes longer than a call on an open one. A call that is late, cancelled or interrupted ends its
stream, so that the server ends the call. No call affects another one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

from venvd._transports.base import Call
from venvd._transports.rpc_codec import RpcCodec
from venvd._transports.rpc_silence import SilenceTimer, SilenceWatcher
from venvd.errors import Unavailable, VenvdError
from venvd_proto.v1 import python_service_pb2 as messages

MOST_IDLE = 16
"""Idle streams of one client. Each takes one of the server's `maxCalls`."""
_LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK})
"""The statuses of a stream that ends without an answer because its server has ended."""


def _explain_lost_answer(url: str) -> Unavailable:
    return Unavailable(f"{url} ended the stream without an answer; the call may have run")


class _Stream:
    """An open stream. gRPC sends its requests in a separate thread for each stream."""

    __slots__ = ("_requests", "answers", "fresh")

    def __init__(self, session: Callable[..., Any], metadata: list[tuple[str, str]]) -> None:
        self._requests: SimpleQueue[messages.SessionRequest | None] = SimpleQueue()
        self.answers = session(iter(self._requests.get, None), metadata=metadata)
        self.fresh = True

    def exchange(self, request: messages.SessionRequest) -> messages.SessionResponse | None:
        """Send a request and return its answer, or None if the stream ends before."""
        self._requests.put(request)
        answer: messages.SessionResponse | None = next(self.answers, None)
        return answer

    def close(self) -> None:
        """End the stream, and also the call that runs on it."""
        self.answers.cancel()
        self._requests.put(None)


class SessionStreams:
    """Keeps the streams of a client. Any thread may use it.

    Args:
        codec: encodes the calls.
        session: begins a Session stream.
        silence: watches the calls that have a timeout.
    """

    def __init__(self, codec: RpcCodec, session: Callable[..., Any], silence: SilenceWatcher) -> None:
        self._codec = codec
        self._session = session
        self._silence = silence
        self._idle: deque[_Stream] = deque()
        self._closed = False

    def run(self, call: Call[Any]) -> messages.SessionResponse:
        """Send a call and return its answer. A call that may have run is sent again only if it is `repeatable`.

        Raises:
            Unreachable: nothing answers.
            Unavailable: the stream ended without an answer.
            DeadlineExceeded: the answer is late.
        """
        request = self._codec.request(call, stream=False)
        while True:
            stream = self._take()
            try:
                with self._silence.watch(stream.answers, call.timeout):
                    answer = stream.exchange(request)
            except grpc.RpcError as error:
                stream.close()
                if stream.fresh or self._closed or error.code() not in _LOST:
                    raise self._codec.explain(error) from None
            except BaseException:
                stream.close()
                raise
            else:
                if answer is not None:
                    self._put_back(stream)
                    return answer
                stream.close()
                if stream.fresh:
                    raise self._codec.explain_early_end()
            self._close_idle()
            if not call.repeatable:
                raise _explain_lost_answer(self._codec.url)

    def close(self) -> None:
        """End the idle streams, and each other one after its call."""
        self._closed = True
        self._close_idle()

    def __del__(self) -> None:
        self._close_idle()  # so a client that the program did not close leaves no thread behind

    def _take(self) -> _Stream:
        if not self._closed:
            try:
                while True:
                    stream = self._idle.pop()
                    if stream.answers.is_active():
                        stream.fresh = False
                        return stream
                    stream.close()
            except IndexError:
                pass
        try:
            return _Stream(self._session, self._codec.metadata)
        except ValueError as error:  # gRPC raises this for a closed channel
            raise Unavailable(f"the client of {self._codec.url} was closed") from error

    def _put_back(self, stream: _Stream) -> None:
        if self._closed or len(self._idle) >= MOST_IDLE:
            stream.close()
            return
        self._idle.append(stream)
        if self._closed:  # another thread has closed the client a moment ago
            self._close_idle()

    def _close_idle(self) -> None:
        try:
            while True:
                self._idle.pop().close()
        except IndexError:
            pass


class AsyncSessionStreams:
    """Does the same for the tasks of one event loop.

    Args:
        codec: encodes the calls.
        find_stub: returns the service's stub, or raises `Unavailable` if the client was closed.
    """

    def __init__(self, codec: RpcCodec, find_stub: Callable[[], Any]) -> None:
        self._codec = codec
        self._find_stub = find_stub
        self._idle: deque[Any] = deque()
        self._closed = False

    async def run(self, call: Call[Any]) -> messages.SessionResponse:
        """Send a call and return its answer. A call that may have run is sent again only if it is `repeatable`.

        Raises:
            Unreachable: nothing answers.
            Unavailable: the stream ended without an answer.
            DeadlineExceeded: the answer is late.
        """
        request = self._codec.request(call, stream=False)
        while True:
            stub = self._find_stub()
            stream = self._take()
            fresh = stream is None
            if stream is None:
                stream = stub.Session(metadata=self._codec.metadata)
            failure: VenvdError | grpc.RpcError
            try:
                with SilenceTimer(self._codec.url, stub.Health).run(call.timeout) as silence:
                    await silence.wait(stream.write(request))
                    answer = await silence.wait(stream.read())
                if answer is not grpc.aio.EOF:
                    self._put_back(stream)
                    return answer  # type: ignore[no-any-return]
                failure, lost = self._codec.explain_early_end(), True
            except grpc.RpcError as error:
                failure, lost = error, error.code() in _LOST
            except asyncio.InvalidStateError:  # the stream ended before this wrote the request
                failure, lost = self._codec.explain_early_end(), True
            except BaseException:
                stream.cancel()
                raise
            stream.cancel()
            if fresh or self._closed or not lost:
                if isinstance(failure, VenvdError):
                    raise failure
                raise await self._codec.explain_async(failure)
            self._close_idle()
            if not call.repeatable:
                raise _explain_lost_answer(self._codec.url)

    def close(self) -> None:
        """End the idle streams. Closing the channel ends the others."""
        self._closed = True
        self._close_idle()

    def _take(self) -> Any:
        while self._idle:
            stream = self._idle.pop()
            if not stream.done():
                return stream
        return None

    def _put_back(self, stream: Any) -> None:
        if self._closed or len(self._idle) >= MOST_IDLE:
            stream.cancel()
        else:
            self._idle.append(stream)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().cancel()
