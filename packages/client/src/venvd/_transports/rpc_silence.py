"""Ends the calls to a silent gRPC server. A server that lives ends them itself, but that may take seconds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc

from venvd._net import deadlines
from venvd.errors import DeadlineExceeded
from venvd_proto.v1 import python_service_pb2 as messages

T = TypeVar("T")

_SILENT = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE})
_WINDOW = deadlines.SILENCE - deadlines.PROBE_AFTER
"""Seconds in which the server must answer a ping."""
_LONGEST = 24 * 86400.0


class _Watched:
    """A running call, the time to ask for a sign of life, and the time to give the call up."""

    __slots__ = ("asked", "due", "failure", "last", "rpc")

    def __init__(self, rpc: Any, timeout: float) -> None:
        self.rpc = rpc
        now = time.monotonic()
        self.due = now + timeout + deadlines.PROBE_AFTER
        self.last = now + timeout + deadlines.LATE
        self.asked = False
        self.failure: DeadlineExceeded | None = None

    def give_up(self, failure: DeadlineExceeded) -> None:
        self.failure = failure
        self.rpc.cancel()


def _silent_error(url: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer from {url} in time: the server shows no sign of life; the call was abandoned")


def _late_error(url: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"no answer from {url} in time; the call was abandoned")


class SilenceWatcher:
    """Watches the calls of threads. Its own thread starts with the first call that has a timeout.

    Args:
        url: the address of the server.
        ping: sends a `Health` to the server.
    """

    def __init__(self, url: str, ping: Callable[..., Any]) -> None:
        self._url = url
        self._ping = ping
        self._watched: set[_Watched] = set()
        self._changed = threading.Condition()
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def watch(self, rpc: Any, timeout: float | None) -> Iterator[None]:
        """Cancel `rpc` if the server is silent when the block has lasted `timeout` seconds, or after `LATE` more.

        Raises:
            DeadlineExceeded: instead of the error of the cancelled call.
        """
        if timeout is None:
            yield
            return
        watched = _Watched(rpc, timeout)
        with self._changed:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="venvd-rpc-silence", daemon=True)
                self._thread.start()
            elif watched.due < self._wakes_at:
                self._changed.notify()
        try:
            yield
        except (grpc.RpcError, grpc.FutureCancelledError):
            if watched.failure is not None:
                raise watched.failure from None
            raise
        finally:
            with self._changed:
                self._watched.discard(watched)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = time.monotonic()
                if not any(watched.due <= now for watched in self._watched):
                    self._wakes_at = min((watched.due for watched in self._watched), default=float("inf"))
                    left = self._wakes_at - now
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                asks = any(watched.due <= now and not watched.asked for watched in self._watched)
            lives = self._lives() if asks else True
            with self._changed:  # a stream carries this call only while the client watches the call
                for watched in [watched for watched in self._watched if watched.due <= now]:
                    if watched.asked:
                        watched.give_up(_late_error(self._url))
                    elif not lives:
                        watched.give_up(_silent_error(self._url))
                    if watched.failure is not None:
                        self._watched.discard(watched)
                    else:
                        watched.asked, watched.due = True, watched.last

    def _lives(self) -> bool:
        try:
            self._ping(messages.HealthRequest(), timeout=_WINDOW)
        except grpc.RpcError as error:
            return error.code() not in _SILENT
        except ValueError:  # gRPC raises this for a closed channel, whose calls have ended
            pass
        return True


class SilenceTimer:
    """Watches one call on an event loop. Each step of the call runs in `wait`.

    If gRPC cancels a call before there is a connection, it may never end the step. So this ends the step itself.

    Args:
        url: the address of the server.
        ping: sends a `Health` to the server.
    """

    def __init__(self, url: str, ping: Callable[..., Any]) -> None:
        self._url = url
        self._ping = ping
        self._failure: DeadlineExceeded | None = None
        self._last = 0.0
        self._limit: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | asyncio.Task[None] | None = None

    @contextmanager
    def run(self, seconds: float | None) -> Iterator[SilenceTimer]:
        """Look for a sign of life of the server if the block lasts `seconds`, which is the call's timeout.

        The call of a server that lives may last `LATE` seconds more.
        """
        if seconds is not None:
            loop = asyncio.get_running_loop()
            self._last = loop.time() + seconds + deadlines.LATE
            self._timer = loop.call_later(min(seconds + deadlines.PROBE_AFTER, _LONGEST), self._on_timeout, loop)
        try:
            yield self
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def wait(self, step: Awaitable[T]) -> T:
        """Return what `step` returns.

        Raises:
            DeadlineExceeded: the server is silent, or its answer is late.
        """
        try:
            async with asyncio.timeout(0 if self._failure else None) as self._limit:
                return await step
        except TimeoutError:
            raise self._failure or _late_error(self._url) from None
        finally:
            self._limit = None

    def _on_timeout(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.create_task(self._look(loop))

    async def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        silent = False
        try:
            async with asyncio.timeout(_WINDOW):
                await self._ping(messages.HealthRequest())
        except TimeoutError:
            silent = True
        except grpc.RpcError as error:
            silent = error.code() in _SILENT
        if silent:
            self._give_up(loop, _silent_error(self._url))
        else:
            left = max(self._last - loop.time(), 0.0)
            self._timer = loop.call_later(left, self._give_up, loop, _late_error(self._url))

    def _give_up(self, loop: asyncio.AbstractEventLoop, failure: DeadlineExceeded) -> None:
        self._failure = failure
        if self._limit is not None:
            self._limit.reschedule(loop.time())
