"""The Session streams that the SDK keeps, in front of a small gRPC server that counts what it reads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import venvd
from venvd._net import deadlines

grpc = pytest.importorskip("grpc")

from venvd_proto.v1 import python_service_pb2 as messages  # noqa: E402
from venvd_proto.v1.python_service_pb2_grpc import (  # noqa: E402
    PythonServiceServicer,
    add_PythonServiceServicer_to_server,
)

pytestmark = pytest.mark.slow


class Peer(PythonServiceServicer):  # type: ignore[misc]
    """A server that answers each call with 7, except for what a test asks of it.

    Attributes:
        streams: the streams that have begun.
        seen: the commands that came.
        ended: the streams that have ended.
        ends_after: the call, from 1, at which the server ends its stream without an answer; 0 for none.
        silent: whether calls get no answer.
    """

    def __init__(self) -> None:
        self.streams = 0
        self.seen: list[str] = []
        self.ended = threading.Semaphore(0)
        self.ends_after = 0
        self.silent = False
        self.arrived = threading.Event()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        add_PythonServiceServicer_to_server(self, self._server)
        self.url = f"grpc://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Session(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802 - its name in the proto
        self.streams += 1
        context.add_callback(self.ended.release)
        for request in requests:
            self.seen.append(request.command)
            self.arrived.set()
            if len(self.seen) == self.ends_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the test ends the stream")
            if not self.silent:
                result = '{"status":"ok"}' if request.command == "ping" else '{"value":7}'
                yield messages.SessionResponse(id=request.id, result_json=result)

    def Health(self, request: Any, context: Any) -> Any:  # noqa: N802 - its name in the proto
        return messages.HealthResponse()

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


class _AsyncLook:
    """Gives a sync client the methods of an async one, so that both take the same steps."""

    def __init__(self, backend: venvd.Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def run(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self._backend, name), *arguments, **options)

        return run


@asynccontextmanager
async def connect(url: str, run: str, **options: Any) -> AsyncIterator[Any]:
    if run == "async":
        async with venvd.connect_async(url, **options) as backend:
            yield backend
    else:
        with venvd.connect(url, **options) as backend:
            yield _AsyncLook(backend)


both = pytest.mark.parametrize("run", ["sync", "async"])


@both
def test_calls_share_a_stream(peer: Peer, run: str) -> None:
    """Calls in turn take one stream. It ends with the client."""

    async def steps() -> None:
        async with connect(peer.url, run) as backend:
            assert [await backend.eval("7") for _ in range(5)] == [7] * 5
            assert await asyncio.gather(*(backend.eval("7") for _ in range(4))) == [7] * 4
            assert 1 <= peer.streams <= 4
        for _ in range(peer.streams):
            assert peer.ended.acquire(timeout=60)

    asyncio.run(steps())


def test_a_forgotten_client_leaves_no_stream(peer: Peer) -> None:
    """A client that is not closed ends its stream when it goes."""
    backend = venvd.connect(peer.url)
    assert backend.eval("7") == 7
    del backend
    gc.collect()
    assert peer.ended.acquire(timeout=60)


@both
def test_a_call_whose_answer_is_lost_is_not_sent_again(peer: Peer, run: str) -> None:
    """The error says that the call may have run. The next call takes a new stream."""
    peer.ends_after = 2

    async def steps() -> None:
        async with connect(peer.url, run) as backend:
            assert await backend.eval("7") == 7
            with pytest.raises(venvd.Unavailable, match="ended the stream without an answer; the call may have run"):
                await backend.eval("7")
            assert peer.seen == ["eval", "eval"]
            assert await backend.eval("7") == 7
            assert (peer.streams, len(peer.seen)) == (2, 3)

    asyncio.run(steps())


@both
def test_a_call_that_changes_nothing_is_sent_again(peer: Peer, run: str) -> None:
    """A ping whose stream ended goes over a new one."""
    peer.ends_after = 2

    async def steps() -> None:
        async with connect(peer.url, run) as backend:
            assert await backend.eval("7") == 7
            await backend.ping()
            assert (peer.streams, peer.seen) == (2, ["eval", "ping", "ping"])

    asyncio.run(steps())


@both
def test_an_answer_that_never_comes_ends_its_stream(peer: Peer, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lives and does not answer is given up, and learns of it. Later calls work."""
    monkeypatch.setattr(deadlines, "LATE", 0.5)

    async def steps() -> None:
        async with connect(peer.url, run) as backend:
            assert await backend.eval("7") == 7
            peer.silent = True
            with pytest.raises(venvd.DeadlineExceeded, match="in time; the call was abandoned"):
                await backend.eval("7", timeout=0.05)
            assert peer.ended.acquire(timeout=60)
            peer.silent = False
            assert await backend.eval("7", timeout=60) == 7

    asyncio.run(steps())


def test_a_cancelled_task_ends_its_stream_alone(peer: Peer) -> None:
    """The server learns of the cancellation at once. The stream of another call goes on."""

    async def steps() -> None:
        async with venvd.connect_async(peer.url) as backend:
            await backend.eval("7")
            peer.arrived.clear()
            peer.silent = True
            task = asyncio.create_task(backend.eval("7"))
            await asyncio.to_thread(peer.arrived.wait, 60)
            peer.silent = False
            assert await backend.eval("7") == 7
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(peer.ended.acquire, timeout=60)
            assert await backend.eval("7") == 7
            assert peer.streams == 2

    asyncio.run(steps())


@both
def test_a_closed_client_is_told(peer: Peer, run: str) -> None:
    """A call after `close` says so."""

    async def steps() -> None:
        async with connect(peer.url, run) as backend:
            await backend.eval("7")
            await backend.close()
            with pytest.raises(venvd.Unavailable, match="was closed"):
                await backend.eval("7")

    asyncio.run(steps())
