"""Following the log of a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from anyio.to_thread import run_sync

from venvd_contract.resources import BackendSpec, Event, VenvSpec
from venvd_controller import streams
from venvd_engines.engine import PartState


def _launches(desk: Any) -> streams.Launches:
    """The launches of a fresh backend `app`, which runs."""
    _, operation = desk.program.venvs.put("plain", VenvSpec(python="3.13"))
    desk.done(operation)
    desk.done(desk.program.backends.start(BackendSpec("http", "plain", "app"))[1])
    return streams.Launches(desk.engine, desk.program.backends, "app")


async def _lines(desk: Any, launches: streams.Launches, act: Callable[[str], Any], tail: int | None) -> list[str]:
    """What a follower is told until the end; `act` is called with each line."""
    found: list[str] = []
    first = await run_sync(launches.next)
    async with aclosing(streams.backend_log(desk.program.logs, launches, first, tail)) as events:  # type: ignore[type-var]
        async for event in events:
            if event is None:
                continue
            if event.kind == "done":
                return found
            assert event == Event(len(found) + 1, "log", event.data)
            found.append(event.data["text"])
            await run_sync(act, event.data["text"])
    raise AssertionError("it ended without `done`")


def test_following_goes_on_with_the_next_launch(desk: Any) -> None:
    """A restart, and a part that died, end a launch and not what follows the backend; its removal does."""
    launches = _launches(desk)
    steps = iter(["restart", "die", "remove"])

    def act(_line: str) -> None:
        step = next(steps)
        if step == "restart":
            desk.done(desk.program.backends.restart("app")[1])
        elif step == "die":
            desk.engine.part_of("app").parts["worker"] = PartState("exited", "status 1")
        else:
            desk.program.backends.unwant("app")
            desk.program.reconciler.wake()

    assert asyncio.run(_lines(desk, launches, act, 1)) == ["listening"] * 3


def test_each_line_is_told_once(desk: Any) -> None:
    """A follower that was let go by a launch that runs on comes back to what it missed, and to nothing twice."""
    launches = _launches(desk)
    part = desk.engine.part_of("app")

    def act(line: str) -> None:
        if line == "listening":
            desk.program.logs._topics[part.launch.id].end()
            part.say("one")
            part.say("two")
        elif line == "two":
            desk.program.backends.unwant("app")
            desk.program.reconciler.wake()

    assert asyncio.run(_lines(desk, launches, act, None)) == ["listening", "one", "two"]
