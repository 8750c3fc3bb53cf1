"""Waiting for the engine without missing that the work was cancelled."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import docker.errors

from venvd_contract.errors import DeadlineExceeded
from venvd_engines.engine import Progress

LONGEST_LINE = 1 << 16
"""Bytes after which a line is cut: what has no end is not kept until it has one."""

T = TypeVar("T")

TICK = 0.2
"""Seconds between two looks at whether the work was cancelled."""


def _look(progress: Progress, seconds: float, doing: str) -> Callable[[], None]:
    """What to call between two waits: raises where the work was cancelled or took too long."""
    end = time.monotonic() + seconds

    def look() -> None:
        progress.check()
        if time.monotonic() > end:
            raise DeadlineExceeded(f"could not {doing} within {seconds:g} s")

    return look


class _End(Generic[T]):
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def items(stream: Iterable[T], progress: Progress, *, seconds: float, doing: str) -> Iterator[T]:
    """The items of a blocking stream, until it ends or the work is cancelled.

    A thread reads the stream, and closes it: the engine takes a closed connection as the end of what it does for it.
    A thread that waits for a stream that stays silent ends when whoever stopped early ends the stream's source.

    Raises:
        Cancelled: by `progress.check`.
        DeadlineExceeded: the stream went on for longer than `seconds`.
    """
    found: queue.Queue[T | _End[T]] = queue.Queue(maxsize=1000)
    left = threading.Event()
    threading.Thread(target=_read, args=(stream, found, left), daemon=True, name=f"docker: {doing}").start()
    look = _look(progress, seconds, doing)
    try:
        while True:
            look()
            try:
                item = found.get(timeout=TICK)
            except queue.Empty:
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        left.set()


def _read(stream: Iterable[Any], found: queue.Queue[Any], left: threading.Event) -> None:
    def put(item: Any) -> None:
        while not left.is_set():
            try:
                found.put(item, timeout=TICK)
            except queue.Full:
                continue
            return

    try:
        for item in stream:
            put(item)
            if left.is_set():
                return
    except BaseException as error:  # noqa: BLE001 - raised again where the items are read
        put(_End(error))
    else:
        put(_End(None))
    finally:
        hang_up(stream)


def hang_up(stream: Any) -> None:
    """Close a stream of the SDK, which closes its connection in some cases only."""
    with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
        stream.close()
    response = getattr(stream, "_response", None)
    if response is not None:
        with contextlib.suppress(OSError, ValueError):
            response.close()


def result(
    call: Callable[[], T], progress: Progress, *, seconds: float, doing: str, late: Callable[[T], object] | None = None
) -> T:
    """What a blocking call returns; `late` is given a result that comes after nobody waited any more.

    Raises:
        Cancelled: by `progress.check`; the call goes on behind.
        DeadlineExceeded: it took longer than `seconds`.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            made = call()
        except BaseException as error:  # noqa: BLE001 - raised again below
            future.set_exception(error)
        else:
            future.set_result(made)

    threading.Thread(target=run, daemon=True, name=f"docker: {doing}").start()
    look = _look(progress, seconds, doing)
    try:
        while True:
            look()
            try:
                return future.result(timeout=TICK)
            except TimeoutError:
                if future.done():
                    raise
    except BaseException:
        if late is not None:
            future.add_done_callback(lambda done: done.exception() is None and late(done.result()))
        raise


class Lines:
    """Cuts chunks of bytes into lines of text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        *whole, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode("utf-8", "replace") for line in whole]

    def end(self) -> list[str]:
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []
