"""Server-sent events: no thread waits for a client, and none is left behind where a client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict

from anyio.to_thread import run_sync
from fastapi.responses import StreamingResponse

from venvd_contract.errors import Conflict, NotFound, VenvdError
from venvd_contract.resources import Event, LogLine
from venvd_controller.backends import Backends
from venvd_controller.operations import Operations
from venvd_engines.engine import Engine, LaunchRecord
from venvd_http import sse

log = logging.getLogger("venvd.controller")

_QUIET_SECONDS = 10.0
"""After so long without an event a comment keeps the connection open."""
_BEHIND = 10_000
"""Lines that a follower may be behind; what it misses beyond that is read from the log again."""
_PAUSE = 0.25
"""Seconds between two looks for the next launch of a backend."""


class Signal:
    """Set from any thread, awaited in one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no client waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self) -> bool:
        """False after a quiet while."""
        try:
            await asyncio.wait_for(self._event.wait(), _QUIET_SECONDS)
        except TimeoutError:
            return False
        return True


def response(events: AsyncIterator[Event | None]) -> StreamingResponse:
    """Events as server-sent events; None becomes a comment."""

    async def chunks() -> AsyncIterator[bytes]:
        async for event in events:
            if event is None:
                yield sse.KEEP_ALIVE
            else:
                yield sse.render_event(event.kind, json.dumps(event.data).encode(), event.id)

    return StreamingResponse(chunks(), headers={name.decode(): value.decode() for name, value in sse.HEADERS})


async def operation(operations: Operations, key: str, after: int) -> AsyncIterator[Event | None]:
    """Events of an operation with an ID beyond `after`, up to that of kind `done`; None where a while was quiet."""
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


class LogHub:
    """Followed logs: one thread for each backend that is followed, however many follow it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self.closing = False

    def close(self) -> None:
        """Let go of all followers."""
        self.closing = True
        with self._lock:
            for topic in self._topics.values():
                topic.end()

    @contextmanager
    def following(self, record: LaunchRecord, follower: Follower) -> Iterator[None]:
        """Have `follower` given the lines that a backend says from now on."""
        with self._lock:
            topic = self._topics.get(record.launch_id)
            if topic is None or topic.ended:
                topic = self._topics[record.launch_id] = _Topic(self._engine, record, self._drop)
            topic.followers.append(follower)
        try:
            yield
        finally:
            topic.followers.remove(follower)

    def _drop(self, topic: _Topic) -> bool:
        """Whether the topic ended; it goes on where somebody has come meanwhile."""
        with self._lock:
            if topic.followers and not topic.ended:
                return False
            topic.end()
            if self._topics.get(topic.launch_id) is topic:
                del self._topics[topic.launch_id]
            return True


class Follower:
    """Lines on their way to one client."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.ended = False
        self._lines: list[LogLine] = []

    def put(self, line: LogLine) -> None:
        if len(self._lines) < _BEHIND:
            self._lines.append(line)
        else:
            self.ended = True
        self.signal.set()

    def end(self) -> None:
        self.ended = True
        self.signal.set()

    def take(self) -> list[LogLine]:
        found, self._lines = self._lines, []
        return found


class _Topic:
    def __init__(self, engine: Engine, record: LaunchRecord, drop: Callable[[_Topic], bool]) -> None:
        self.launch_id = record.launch_id
        self.followers: list[Follower] = []
        self.ended = False
        self._engine = engine
        self._record = record
        self._drop = drop
        threading.Thread(target=self._pump, name=f"log of {record.launch_id}", daemon=True).start()

    def end(self) -> None:
        self.ended = True
        for follower in list(self.followers):
            follower.end()

    def _pump(self) -> None:
        try:
            for line in self._engine.logs(self._record, 1, follow=True):
                for follower in list(self.followers):
                    follower.put(line)
                if not self.followers and self._drop(self):
                    return
        except VenvdError as error:
            log.info("the log of %s cannot be followed: %s", self.launch_id, error.message)
        except Exception:
            log.exception("following the log of %s failed", self.launch_id)
        self.ended = True
        self._drop(self)


class Launches:
    """The launches of one backend: the one that runs, and after its end the one that follows it."""

    def __init__(self, engine: Engine, backends: Backends, name: str) -> None:
        self.engine = engine
        self._backends = backends
        self._name = name
        self._last: str | None = None

    def next(self) -> LaunchRecord | None:
        """The launch to follow, None while there is none to come to.

        Raises:
            NotFound: the backend is removed.
            Conflict: it never ran and is not going to.
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


async def backend_log(
    hub: LogHub, launches: Launches, launch: LaunchRecord | None, tail: int | None
) -> AsyncIterator[Event | None]:
    """The last lines of a backend's log and then each as it comes, over restarts too, until the backend is removed:
    events `log`, and `done`. None, which keeps the connection open, where a while was quiet.
    """
    number, told = 0, ""
    while not hub.closing:
        if launch is not None:
            async with aclosing(_launch_log(hub, launches.engine, launch, tail, told)) as lines:
                async for line in lines:
                    if line is not None:
                        number, told = number + 1, line.time
                    yield Event(number, "log", asdict(line)) if line else None
            tail = None
        try:
            launch = await run_sync(launches.next)
        except (NotFound, Conflict):
            yield Event(number + 1, "done", None)
            return
        except VenvdError:
            launch = None  # the engine is away, and may come back
        yield None
        await asyncio.sleep(_PAUSE)


async def _launch_log(
    hub: LogHub, engine: Engine, record: LaunchRecord, tail: int | None, told: str
) -> AsyncGenerator[LogLine | None]:
    """What one launch has said after the time `told`, and says until it ends."""
    follower = Follower()

    def said() -> list[LogLine]:
        lines = engine.logs(record, None if tail is None else max(tail, 1), follow=False)
        return [line for line in lines if line.time > told]

    with hub.following(record, follower):
        history = await run_sync(said)
        lines = history[len(history) if tail == 0 else 0 :]
        while not hub.closing:
            follower.signal.clear()
            ended = follower.ended
            for line in lines:
                yield line
            lines = [line for line in _new(follower.take(), history) if line.time > told]
            if lines:
                continue
            if ended:
                return
            if not await follower.signal.wait():
                yield None


def _new(lines: list[LogLine], history: list[LogLine]) -> list[LogLine]:
    """The lines that are neither in the history that was shown nor older than it."""
    if not lines or not history:
        return lines
    first, seen = history[0].time, {(line.time, line.source, line.text) for line in history}
    return [line for line in lines if line.time >= first and (line.time, line.source, line.text) not in seen]
