"""Streams of server-sent events: operations, and logs of backends.

A stream needs no thread while it waits, and a client that goes away leaves no thread behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from datetime import datetime

from anyio.to_thread import run_sync
from fastapi.responses import StreamingResponse

from venvd_contract.errors import Conflict, NotFound, VenvdError
from venvd_contract.resources import Event, LogLine
from venvd_controller.backends import Backends
from venvd_controller.operations import Operations
from venvd_engines.engine import Engine, LaunchRecord
from venvd_http import sse

log = logging.getLogger("venvd.controller")

_KEEP_ALIVE_SECONDS = 10.0
"""After this time without an event a comment keeps the connection open."""
_MAX_PENDING = 10_000
"""How many lines may wait for a slow follower. It reads further lines from the log."""
_CHECK_SECONDS = 1.0
"""Seconds between two checks whether the token of a client is still valid."""
_POLL_SECONDS = 0.25
"""Seconds between two searches for the next launch of a backend."""


class Signal:
    """An event that any thread sets and one event loop awaits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and its waiters are gone
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self) -> bool:
        """Wait for the event. Return False when a comment is due."""
        try:
            await asyncio.wait_for(self._event.wait(), _KEEP_ALIVE_SECONDS)
        except TimeoutError:
            return False
        return True


async def _follow_while(
    is_valid: Callable[[], bool], events: AsyncIterator[Event | None]
) -> AsyncIterator[Event | None]:
    """Yield events until they end, or until the token is no longer valid."""
    try:
        while True:
            pending = asyncio.ensure_future(anext(events))
            while not pending.done():
                await asyncio.wait((pending,), timeout=_CHECK_SECONDS)
                if not is_valid():
                    return
            yield await pending
    except StopAsyncIteration:
        return
    finally:
        pending.cancel()


def create_response(events: AsyncIterator[Event | None], is_valid: Callable[[], bool]) -> StreamingResponse:
    """Send events as server-sent events, and None as a comment, as long as the client's token is valid."""

    async def render() -> AsyncIterator[bytes]:
        async for event in _follow_while(is_valid, events):
            if event is None:
                yield sse.KEEP_ALIVE
            else:
                yield sse.render_event(event.kind, json.dumps(event.data).encode(), event.id)

    return StreamingResponse(render(), headers={name.decode(): value.decode() for name, value in sse.HEADERS})


async def stream_operation(operations: Operations, key: str, after: int) -> AsyncIterator[Event | None]:
    """Yield the events of an operation with an ID greater than `after`, until `done`. Yield None for a comment."""
    signal = Signal()
    with operations.subscribe(key, signal.set):
        while not operations.closing:
            signal.clear()
            events = await run_sync(operations.list_events, key, after)
            for event in events:
                after = event.id
                yield event
                if event.kind == "done":
                    return
            if not events and not await signal.wait():
                yield None


class Follower:
    """The lines that wait for one client."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.ended = False
        self._lines: list[LogLine] = []

    def put(self, line: LogLine) -> None:
        if len(self._lines) < _MAX_PENDING:
            self._lines.append(line)
        else:
            self.ended = True
        self.signal.set()

    def end(self) -> None:
        self.ended = True
        self.signal.set()

    def take(self) -> list[LogLine]:
        lines, self._lines = self._lines, []
        return lines


class LogHub:
    """Follows the logs of launches. Each launch has one thread for all its clients."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self.closing = False

    def close(self) -> None:
        """End all streams."""
        self.closing = True
        with self._lock:
            for topic in self._topics.values():
                topic.end()

    @contextmanager
    def follow(self, record: LaunchRecord, follower: Follower) -> Iterator[None]:
        """Give `follower` each new line of a launch."""
        with self._lock:
            topic = self._topics.get(record.launch_id)
            if topic is None or topic.ended:
                topic = self._topics[record.launch_id] = _Topic(record)
                name = f"log of {record.launch_id}"
                threading.Thread(target=self._read, args=(topic,), name=name, daemon=True).start()
            topic.followers.append(follower)
        try:
            yield
        finally:
            topic.followers.remove(follower)

    def _read(self, topic: _Topic) -> None:
        """Read the log of a launch until it ends or has no followers."""
        launch_id = topic.record.launch_id
        try:
            for line in self._engine.logs(topic.record, 1, follow=True):
                for follower in list(topic.followers):
                    follower.put(line)
                if not topic.followers and self._remove_unused(topic):
                    return
        except VenvdError as error:
            log.info("the log of %s cannot be followed: %s", launch_id, error.message)
        except Exception:
            log.exception("the log of %s cannot be followed", launch_id)
        topic.ended = True
        self._remove_unused(topic)

    def _remove_unused(self, topic: _Topic) -> bool:
        """Remove a topic. Return False if a new follower has joined a launch that still runs."""
        with self._lock:
            if topic.followers and not topic.ended:
                return False
            topic.end()
            if self._topics.get(topic.record.launch_id) is topic:
                del self._topics[topic.record.launch_id]
            return True


class _Topic:
    """A launch whose log is read, and its followers."""

    def __init__(self, record: LaunchRecord) -> None:
        self.record = record
        self.followers: list[Follower] = []
        self.ended = False

    def end(self) -> None:
        self.ended = True
        for follower in list(self.followers):
            follower.end()


class Launches:
    """The launches of one backend, one after the other."""

    def __init__(self, engine: Engine, backends: Backends, name: str) -> None:
        self.engine = engine
        self._backends = backends
        self._name = name
        self._last: str | None = None

    def find_next(self) -> LaunchRecord | None:
        """Find the launch to follow. Return None while there is none.

        Raises:
            NotFound: the backend is removed.
            Conflict: the backend failed and never ran.
        """
        row = self._backends.get_row(self._name)
        if row.record is None:
            return None if row.state not in {"failed", "stopping"} else self._backends.get_launch_record(self._name)
        record = LaunchRecord(**row.record)
        if record.launch_id != self._last or self.engine.inspect(record).running:
            self._last = record.launch_id
            return record
        if not row.wanted:
            raise NotFound(f'the backend "{self._name}" is removed')
        return None


async def stream_backend_log(
    hub: LogHub, launches: Launches, launch: LaunchRecord | None, tail: int | None, since: datetime | None = None
) -> AsyncIterator[Event | None]:
    """Yield the last lines of a backend's log and then each new line, over restarts, until the backend is removed.

    The events are `log` and, at the end, `done`. None means that a comment is due.
    """
    number, last_time = 0, ""
    while not hub.closing:
        if launch is not None:
            async with aclosing(_stream_launch_log(hub, launches.engine, launch, (tail, since), last_time)) as lines:
                async for line in lines:
                    if line is not None:
                        number, last_time = number + 1, line.time
                    yield Event(number, "log", asdict(line)) if line else None
            tail = since = None
        try:
            launch = await run_sync(launches.find_next)
        except (NotFound, Conflict):
            yield Event(number + 1, "done", None)
            return
        except VenvdError:
            launch = None  # the engine does not answer now, but may answer later
        yield None
        await asyncio.sleep(_POLL_SECONDS)


async def _stream_launch_log(
    hub: LogHub, engine: Engine, record: LaunchRecord, first: tuple[int | None, datetime | None], last_time: str
) -> AsyncGenerator[LogLine | None]:
    """Yield the lines of a launch after `last_time`, until it ends; `first` is `tail` and `since` for past lines."""
    follower = Follower()
    tail, since = first

    def read_history() -> list[LogLine]:
        asked = None if tail is None or since is not None else max(tail, 1)
        return [line for line in engine.logs(record, asked, follow=False) if line.time > last_time]

    with hub.follow(record, follower):
        history = await run_sync(read_history)
        lines = select_lines(history, tail, since)
        while not hub.closing:
            follower.signal.clear()
            ended = follower.ended
            for line in lines:
                yield line
            lines = [line for line in _drop_known(follower.take(), history) if line.time > last_time]
            if lines:
                continue
            if ended:
                return
            if not await follower.signal.wait():
                yield None


def read_lines(engine: Engine, record: LaunchRecord, tail: int | None, since: datetime | None) -> list[LogLine]:
    """Read the last `tail` lines of a launch, but none before `since`."""
    lines = list(engine.logs(record, tail if since is None else None, follow=False))
    return select_lines(lines, tail, since)


def select_lines(lines: list[LogLine], tail: int | None, since: datetime | None) -> list[LogLine]:
    """Return the last `tail` lines, but none before `since`."""
    if since is not None:
        lines = [line for line in lines if datetime.fromisoformat(line.time) >= since]
    return lines if tail is None else lines[max(0, len(lines) - tail) :]


def _drop_known(lines: list[LogLine], history: list[LogLine]) -> list[LogLine]:
    """Drop the lines that are in the history, or older than it."""
    if not lines or not history:
        return lines
    first, known = history[0].time, {(line.time, line.source, line.text) for line in history}
    return [line for line in lines if line.time >= first and (line.time, line.source, line.text) not in known]
