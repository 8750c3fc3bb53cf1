"""Following the log of a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from anyio.to_thread import run_sync

from venvd_contract.resources import BackendSpec, Event, VenvSpec
from venvd_controller import streams
from venvd_engines.engine import PartState

pytestmark = pytest.mark.slow


def _start(testbed: Any) -> streams.Launches:
    """Start a backend `app` and return its launches."""
    _, operation = testbed.controller.venvs.put("plain", VenvSpec(python="3.13"))
    testbed.wait(operation)
    testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "app"))[1])
    return streams.Launches(testbed.engine, testbed.controller.backends, "app")


async def _follow(testbed: Any, launches: streams.Launches, act: Callable[[str], Any], tail: int | None) -> list[str]:
    """Return the lines that a follower gets until the end; `act` runs after each."""
    lines: list[str] = []
    first = await run_sync(launches.find_next)
    async with aclosing(streams.stream_backend_log(testbed.controller.logs, launches, first, tail)) as events:  # type: ignore[type-var]
        async for event in events:
            if event is None:
                continue
            if event.kind == "done":
                return lines
            assert event == Event(len(lines) + 1, "log", event.data)
            lines.append(event.data["text"])
            await run_sync(act, event.data["text"])
    raise AssertionError("it ended without `done`")


def test_following_goes_on_with_the_next_launch(testbed: Any) -> None:
    """A follower survives a restart and the death of a part, and ends with the removal of the backend."""
    launches = _start(testbed)
    steps = iter(["restart", "die", "remove"])

    def act(_line: str) -> None:
        step = next(steps)
        if step == "restart":
            testbed.wait(testbed.controller.backends.restart("app")[1])
        elif step == "die":
            testbed.engine.find_backend("app").parts["worker"] = PartState("exited", "status 1")
        else:
            testbed.controller.backends.request_removal("app")
            testbed.controller.reconciler.wake()

    assert asyncio.run(_follow(testbed, launches, act, 1)) == ["listening"] * 3


def test_each_line_is_sent_once(testbed: Any) -> None:
    """A follower that fell behind gets the lines that it missed, and none twice."""
    launches = _start(testbed)
    backend = testbed.engine.find_backend("app")

    def act(line: str) -> None:
        if line == "listening":
            testbed.controller.logs._topics[backend.launch.id].end()
            backend.log("one")
            backend.log("two")
        elif line == "two":
            testbed.controller.backends.request_removal("app")
            testbed.controller.reconciler.wake()

    assert asyncio.run(_follow(testbed, launches, act, None)) == ["listening", "one", "two"]
