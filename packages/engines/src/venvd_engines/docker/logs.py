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
from venvd_engines.docker.cancellable import LineSplitter, close_stream

STREAMS = ("stdout", "stderr")


def read_logs(api: Any, launch_id: str, tail: int | None) -> list[LogLine]:
    """Return the lines of both containers so far, oldest first; with `tail`, the last ones of both together."""
    lines = list(
        heapq.merge(
            *(_read_part(api, launch_id, part, stream, tail) for part in labels.PARTS for stream in STREAMS),
            key=lambda line: line.time,
        )
    )
    return lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]


def follow_logs(api: Any, launch_id: str, tail: int | None) -> Iterator[LogLine]:
    """Yield the lines of `read_logs`, then new lines until both containers end or the caller closes the iterator."""
    past = read_logs(api, launch_id, tail)
    yield from past
    last_time = past[-1].time if past else ""
    lines: queue.Queue[LogLine | None] = queue.Queue(maxsize=1000)
    stopped = Event()
    streams = [
        (part, stream, raw)
        for part in labels.PARTS
        for stream in STREAMS
        if (raw := _request_logs(api, launch_id, part, stream, stream_lines=True)) is not None
    ]
    for part, stream, raw in streams:
        Thread(target=_copy_lines, args=(raw, (part, stream), last_time, lines, stopped), daemon=True).start()
    running = len(streams)
    try:
        while running:
            line = lines.get()
            if line is None:
                running -= 1
            else:
                yield line
    finally:
        stopped.set()
        for _, _, raw in streams:
            close_stream(raw)


def _read_part(api: Any, launch_id: str, part: str, stream: str, tail: int | None) -> list[LogLine]:
    output = _request_logs(api, launch_id, part, stream, tail="all" if tail is None else tail)
    lines = [] if output is None else output.decode("utf-8", "replace").split("\n")
    return [_parse_line(line, part, stream) for line in lines if line]


def _request_logs(
    api: Any, launch_id: str, part: str, stream: str, *, tail: int | str = "all", stream_lines: bool = False
) -> Any:
    """Return the output so far, or a stream of it; None if there is no such container."""
    try:
        return api.logs(
            labels.part_name(launch_id, part),
            **{name: name == stream for name in STREAMS},
            timestamps=True,
            tail=tail,
            stream=stream_lines,
            follow=stream_lines,
        )
    except docker.errors.NotFound:
        return None


def _copy_lines(
    raw: Any, source: tuple[str, str], last_time: str, lines: queue.Queue[LogLine | None], stopped: Event
) -> None:
    """Put the lines after `last_time` into the queue, and None at the end."""

    def put(line: LogLine | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                lines.put(line, timeout=0.2)
                return

    splitter = LineSplitter()
    with contextlib.suppress(Exception):  # the SDK ends a stream with many kinds of exceptions
        for chunk in raw:
            for text in splitter.feed(chunk):
                line = _parse_line(text, *source)
                if line.time > last_time:
                    put(line)
            if stopped.is_set():
                return
    put(None)


def _parse_line(text: str, part: str, stream: str) -> LogLine:
    time, _, message = text.partition(" ")
    return LogLine(time=time, source=part, stream=stream, text=message.rstrip("\r"))
