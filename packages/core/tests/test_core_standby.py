"""Processes that wait for their sessions."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from venvd_contract import errors
from venvd_core.session import standby as standby_processes
from venvd_core.session.standby import find_most


async def wait_for_standby(client: Any, count: int = 1) -> None:
    """Wait until the server has so many processes that wait."""
    standby = client.backend._pool._standby
    await client.until(lambda: len(standby._ready) == count)


def test_a_new_session_has_the_process_that_waits(run: Any, wardens: Any, serve: Any) -> None:
    """A session with the usual fields gets the waiting process, and another one takes its place."""
    wardens.start()

    async def work() -> None:
        async with serve(standby=1) as client:
            await wait_for_standby(client)
            (waiting,) = client.backend._pool._standby._ready
            created = await client.command("session.create", name="a")
            assert (created["id"], created["state"]) == ("a", "idle")
            assert await client.session_ids() == ["default", "a"]
            assert (await client.do("count", request={"session": "a"}))["count"] == 1
            with pytest.raises(errors.SessionLost):
                await client.do("die", signal=signal.SIGKILL, request={"session": "a"})
            assert "signal 9" in waiting.process.exited.result().how
            assert (await client.do("count", request={"session": "a"}))["count"] == 1
            await wait_for_standby(client)
            assert await client.command("session.delete", id="a") == {"success": True}

    run(work)


@pytest.mark.parametrize("field", [{"env": {"A": "1"}}, {"limits": {"handles": 5}}])
def test_other_sessions_start_a_process_of_their_own(run: Any, wardens: Any, serve: Any, field: dict[str, Any]) -> None:
    """A session with an environment or other limits leaves the waiting process where it is."""
    wardens.start()

    async def work() -> None:
        async with serve(standby=1) as client:
            await wait_for_standby(client)
            waiting = list(client.backend._pool._standby._ready)
            await client.command("session.create", name="a", **field)
            assert (await client.do("count", request={"session": "a"}))["count"] == 1
            assert list(client.backend._pool._standby._ready) == waiting

    run(work)


def test_a_process_that_ends_while_it_waits_is_replaced(run: Any, wardens: Any, serve: Any) -> None:
    """A waiting process that dies is given to no session, and another one is started."""
    wardens.start()

    async def work() -> None:
        async with serve(standby=1) as client:
            await wait_for_standby(client)
            standby = client.backend._pool._standby
            (first,) = standby._ready
            os.kill(first.process.pid, signal.SIGKILL)
            await client.until(lambda: first not in standby._ready and len(standby._ready) == 1)
            await client.command("session.create", name="a")
            assert (await client.do("count", request={"session": "a"}))["count"] == 1

    run(work)


def test_waiting_processes_count_as_no_sessions(run: Any, wardens: Any, serve: Any) -> None:
    """With processes that wait there may be as many sessions as without, and not one more."""
    wardens.start()

    async def work() -> None:
        async with serve(standby=2, max_sessions=2) as client:
            await wait_for_standby(client, 2)
            await client.command("session.create", name="a")
            with pytest.raises(errors.LimitExceeded, match="this backend has 2"):
                await client.command("session.create", name="b")
            await client.command("session.delete", id="a")
            await client.command("session.create", name="b")

    run(work)


def test_a_warden_that_starts_none_is_asked_again_later(run: Any, wardens: Any, serve: Any) -> None:
    """A process that cannot be started costs no session, and no slot."""
    wardens.start("refuses")

    async def work() -> None:
        async with serve(standby=1, max_sessions=1) as client:
            slots = client.backend._pool.slots
            await client.until(lambda: "no interpreter" in client.backend.ready().get("session", ""))
            await client.until(lambda: slots.taken == 1)

    run(work)


def test_sessions_in_a_row_wait_for_processes_on_their_way(
    run: Any, wardens: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that are created one after another have more processes start for them, and later as few as before."""
    wardens.start()
    usual = standby_processes._CALM
    monkeypatch.setattr(standby_processes, "_CALM", 600.0)  # however long a busy machine takes between two sessions

    async def work() -> None:
        async with serve(standby=1, max_sessions=30) as client:
            await wait_for_standby(client)
            standby = client.backend._pool._standby
            most = 0
            for number in range(12):
                await client.command("session.create", name=f"s{number}")
                most = max(most, standby.slots)
            assert most > 1
            assert most <= find_most(1)
            for number in range(12):
                assert (await client.do("count", request={"session": f"s{number}"}))["count"] == 1
            monkeypatch.setattr(standby_processes, "_CALM", usual)
            await client.command("session.create", name="last")
            await client.until(lambda: standby.slots == 1)

    run(work)
