"""The log lines of a backend's two containers, as one sequence."""

from __future__ import annotations

import contextlib
import heapq
import queue
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import docker.errors

from venvd_contract.resources import LogLine
from venvd_engines.docker import labels
from venvd_engines.docker.patience import Lines, hang_up

STREAMS = ("stdout", "stderr")


def kept(api: Any, launch_id: str, tail: int | None) -> list[LogLine]:
    """What both containers have said so far, oldest first; the last `tail` lines of both together."""
    found = list(
        heapq.merge(
            *(_said(api, launch_id, part, stream, tail) for part in labels.PARTS for stream in STREAMS),
            key=lambda line: line.time,
        )
    )
    return found if tail is None else found[len(found) - min(tail, len(found)) :]


def followed(api: Any, launch_id: str, tail: int | None) -> Iterator[LogLine]:
    """The same, and then what they say until both have ended or the caller closes the iterator."""
    past = kept(api, launch_id, tail)
    yield from past
    seen = past[-1].time if past else ""
    found: queue.Queue[LogLine | None] = queue.Queue(maxsize=1000)
    left = Event()
    streams = [
        (part, stream, raw)
        for part in labels.PARTS
        for stream in STREAMS
        if (raw := _stream(api, launch_id, part, stream)) is not None
    ]
    for part, stream, raw in streams:
        Thread(target=_pump, args=(raw, (part, stream), seen, found, left), daemon=True).start()
    running = len(streams)
    try:
        while running:
            line = found.get()
            if line is None:
                running -= 1
            else:
                yield line
    finally:
        left.set()
        for _, _, raw in streams:
            hang_up(raw)


def _said(api: Any, launch_id: str, part: str, stream: str, tail: int | None) -> list[LogLine]:
    try:
        text = api.logs(
            labels.part_name(launch_id, part),
            **{name: name == stream for name in STREAMS},
            timestamps=True,
            tail="all" if tail is None else tail,
        )
    except docker.errors.NotFound:
        return []
    return [_line(line, part, stream) for line in text.decode("utf-8", "replace").split("\n") if line]


def _stream(api: Any, launch_id: str, part: str, stream: str) -> Any:
    try:
        return api.logs(
            labels.part_name(launch_id, part),
            **{name: name == stream for name in STREAMS},
            timestamps=True,
            stream=True,
            follow=True,
        )
    except docker.errors.NotFound:
        return None


def _pump(raw: Any, source: tuple[str, str], seen: str, found: queue.Queue[LogLine | None], left: Event) -> None:
    lines = Lines()
    with contextlib.suppress(Exception):  # the stream ends in many ways, and all of them are its end
        for chunk in raw:
            for text in lines.feed(chunk):
                line = _line(text, *source)
                if line.time > seen:
                    _put(found, line, left)
            if left.is_set():
                return
    _put(found, None, left)


def _put(found: queue.Queue[LogLine | None], line: LogLine | None, left: Event) -> None:
    while not left.is_set():
        with contextlib.suppress(queue.Full):
            found.put(line, timeout=0.2)
            return


def _line(text: str, part: str, stream: str) -> LogLine:
    time, _, said = text.partition(" ")
    return LogLine(time=time, source=part, stream=stream, text=said.rstrip("\r"))
