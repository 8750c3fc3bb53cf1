"""Ways to wait for the engine until a cancellation or a deadline."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import docker.errors

from venvd_contract.errors import DeadlineExceeded
from venvd_engines.engine import Progress

MAX_LINE_BYTES = 1 << 16
"""The most bytes of a line; a longer line is cut."""
POLL_SECONDS = 0.2
"""Seconds between two checks for a cancellation."""

T = TypeVar("T")
_END: Any = object()


class _Deadline:
    """Ends a wait: `check` raises once the work is cancelled or takes too long."""

    def __init__(self, progress: Progress, seconds: float, doing: str) -> None:
        self._progress = progress
        self._seconds = seconds
        self._doing = doing
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        self._progress.check()
        if time.monotonic() > self._end:
            raise DeadlineExceeded(f"could not {self._doing} within {self._seconds:g} s")


def iterate(stream: Iterable[T], progress: Progress, *, seconds: float, doing: str) -> Iterator[T]:
    """Yield the items of a blocking stream until it ends or the work is cancelled.

    A thread reads the stream and closes it; the engine stops its work when the connection closes. The thread of a
    silent stream outlives a cancellation: it ends with the source of the stream.

    Args:
        stream: a stream of the SDK.
        progress: asked for cancellation.
        seconds: the longest time for the whole stream.
        doing: names the work in an error: "pull python".

    Raises:
        Cancelled: by `progress.check`.
        DeadlineExceeded: the stream takes longer than `seconds`.
    """
    reader = _Reader(stream)
    threading.Thread(target=reader.run, daemon=True, name=f"docker: {doing}").start()
    deadline = _Deadline(progress, seconds, doing)
    try:
        while True:
            deadline.check()
            try:
                item = reader.items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if item is _END:
                break
            yield item
    finally:
        reader.stopped.set()
    if reader.failure is not None:
        raise reader.failure


class _Reader:
    """Puts the items of a stream into a queue, and `_END` after the last one."""

    def __init__(self, stream: Iterable[Any]) -> None:
        self.items: queue.Queue[Any] = queue.Queue(maxsize=1000)
        self.stopped = threading.Event()
        self.failure: BaseException | None = None
        self._stream = stream

    def run(self) -> None:
        try:
            for item in self._stream:
                self._put(item)
                if self.stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the items are read
            self.failure = error
        finally:
            self._put(_END)
            close_stream(self._stream)

    def _put(self, item: Any) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.items.put(item, timeout=POLL_SECONDS)
                return


def close_stream(stream: Any) -> None:
    """Close a stream of the SDK and its connection, which the SDK leaves open in some cases."""
    with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
        stream.close()
    response = getattr(stream, "_response", None)
    if response is not None:
        with contextlib.suppress(OSError, ValueError):
            response.close()


def call(
    function: Callable[[], T],
    progress: Progress,
    *,
    seconds: float,
    doing: str,
    discard: Callable[[T], object] | None = None,
) -> T:
    """Run a blocking call in a thread, and return its result.

    Args:
        function: runs in a thread, to its end even after a cancellation.
        progress: asked for cancellation.
        seconds: the longest time for the call.
        doing: names the work in an error: "commit the image".
        discard: receives the result of a call that ended after the wait.

    Raises:
        Cancelled: by `progress.check`.
        DeadlineExceeded: the call takes longer than `seconds`.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised again below
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True, name=f"docker: {doing}").start()
    deadline = _Deadline(progress, seconds, doing)
    try:
        while True:
            deadline.check()
            try:
                return future.result(timeout=POLL_SECONDS)
            except TimeoutError:
                if future.done():  # the call raised this error itself, or it ended just now
                    return future.result()
    except BaseException:
        if discard is not None:
            future.add_done_callback(lambda done: done.exception() is None and discard(done.result()))
        raise


class LineSplitter:
    """Cuts chunks of bytes into lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that this chunk completes."""
        *whole, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode("utf-8", "replace") for line in whole]

    def end(self) -> list[str]:
        """Return the last line if it has no line end."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []
