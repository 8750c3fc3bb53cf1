"""Sessions: made, listed, reset, ended, kept apart."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from venvd_contract import errors
from venvd_core.backend import Request


def test_default_is_always_there(run: Any, wardens: Any, serve: Any) -> None:
    """The session `default` exists from the start and cannot be deleted."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            (only,) = (await client.command("session.list"))["sessions"]
            assert only["id"] == "default"
            assert only["state"] == "idle"
            with pytest.raises(errors.InvalidRequest, match="reset"):
                await client.command("session.delete", id="default")

    run(work)


def test_sessions_are_kept_apart(run: Any, wardens: Any, serve: Any) -> None:
    """Each session has a process, an environment and limits of its own."""
    wardens.start()

    async def work() -> None:
        async with serve(session_limits={"handles": 7}) as client:
            await client.ready()
            info = await client.command("session.create", name="a", env={"TOLD": "yes"}, limits={"memoryBytes": 10**8})
            assert info["id"] == info["name"] == "a"
            assert info["limits"]["memoryBytes"] == 10**8
            assert info["limits"]["handles"] == 7
            in_a = await client.do("count", request={"session": "a"})
            in_default = await client.do("count")
            assert in_a["env"] == "yes"
            assert in_default["env"] is None
            assert in_a["pid"] != in_default["pid"]
            assert in_a["count"] == in_default["count"] == 1

    run(work)


def test_a_ceiling_of_limits(run: Any, wardens: Any, serve: Any) -> None:
    """A client cannot raise a limit above its ceiling, which the error names; the defaults are lowered to it."""
    wardens.start()

    async def work() -> None:
        async with serve(max_session_limits={"handles": 7, "memoryBytes": 10**8}) as client:
            await client.ready()
            default = await client.command("session.get", id="default")
            assert (default["limits"]["handles"], default["limits"]["memoryBytes"]) == (7, 10**8)
            with pytest.raises(errors.InvalidRequest, match=r"memoryBytes.* 100000000 .*VENVD_MAX_SESSION_LIMITS"):
                await client.command("session.create", limits={"memoryBytes": 10**8 + 1})
            info = await client.command("session.create", limits={"memoryBytes": None, "handles": 3})
            assert (info["limits"]["handles"], info["limits"]["memoryBytes"]) == (3, 10**8)

    run(work)


def test_a_session_without_a_name_gets_an_id(run: Any, wardens: Any, serve: Any) -> None:
    """Generated IDs are names of sessions like any other."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            info = await client.command("session.create")
            assert info["name"] is None
            assert (await client.do("count", request={"session": info["id"]}))["count"] == 1
            assert (await client.command("session.get", id=info["id"]))["calls"] == 1

    run(work)


def test_sessions_run_beside_each_other(run: Any, wardens: Any, serve: Any) -> None:
    """A call in one session does not wait for one that runs in another."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.command("session.create", name="a")
            long = client.begin("sleep", seconds=30)
            assert (await client.do("count", request={"session": "a"}))["count"] == 1
            assert not long.done()
            assert (await client.command("session.get", id="default"))["state"] == "busy"

    run(work)


def test_a_deleted_session_is_gone(run: Any, wardens: Any, serve: Any) -> None:
    """Deleting ends what runs there; afterwards the name is unknown, the error says why, and it can be used again."""
    wardens.start()

    async def work() -> None:
        async with serve(max_sessions=2) as client:
            await client.ready()
            await client.command("session.create", name="a")
            running = client.begin("sleep", request={"session": "a"})
            assert await client.command("session.delete", id="a") == {"success": True}
            with pytest.raises(errors.SessionLost):
                await running
            with pytest.raises(errors.NotFound, match="deleted"):
                await client.do("count", request={"session": "a"})
            await client.command("session.create", name="a")
            assert (await client.do("count", request={"session": "a"}))["count"] == 1

    run(work)


def test_a_reset_session_starts_afresh(run: Any, wardens: Any, serve: Any) -> None:
    """A reset gives a new process under the same name; what ran is lost, what comes after is not."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = await client.do("count")
            running = client.begin("sleep")
            info = await client.command("session.reset", id="default")
            assert info["restarts"] == 1
            with pytest.raises(errors.SessionLost, match="reset"):
                await running
            after = await client.do("count")
            assert after["count"] == 1
            assert after["pid"] != before["pid"]

    run(work)


def test_calls_that_come_during_a_reset_run_after_it(run: Any, wardens: Any, serve: Any) -> None:
    """A call that arrives while the process is replaced is answered by the new one."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.do("count")
            reset = asyncio.ensure_future(client.command("session.reset", id="default"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (await client.do("count"))["count"] == 1
            await reset

    run(work)


def test_a_session_without_calls_ends(run: Any, wardens: Any, serve: Any) -> None:
    """After its idle timeout a session is gone, and the error for its name says so; `default` stays."""
    wardens.start()

    async def work() -> None:
        async with serve(session_idle_timeout=0.2) as client:
            await client.ready()
            await client.command("session.create", name="a")
            await client.command("session.create", name="b", idleTimeout=0)

            async def ended() -> bool:
                return await client.session_ids() == ["default", "b"]

            await client.until(ended)
            with pytest.raises(errors.NotFound, match="no call for"):
                await client.do("count", request={"session": "a"})
            assert (await client.do("count", request={"session": "b"}))["count"] == 1
            assert (await client.do("count"))["count"] == 1

    run(work)


def test_a_busy_session_is_not_idle(run: Any, wardens: Any, serve: Any) -> None:
    """A call that takes longer than the idle timeout is answered."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.command("session.create", name="a", idleTimeout=1)
            began = time.monotonic()
            assert await client.do("sleep", seconds=1.4, request={"session": "a"}) == {"slept": True}
            assert time.monotonic() - began > 1.3

    run(work)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"name": "Not A Label"}, errors.InvalidRequest),
        ({"name": ""}, errors.InvalidRequest),
        ({"name": "default"}, errors.Conflict),
        ({"name": 3}, errors.InvalidRequest),
        ({"limits": {"memoryBytes": -1}}, errors.InvalidRequest),
        ({"limits": {"memoryBytes": True}}, errors.InvalidRequest),
        ({"limits": {"openFiles": 0}}, errors.InvalidRequest),
        ({"limits": {"tokens": 5}}, errors.InvalidRequest),
        ({"idleTimeout": -1}, errors.InvalidRequest),
        ({"idleTimeout": 1e-178}, errors.InvalidRequest),
        ({"idleTimeout": 1e12}, errors.InvalidRequest),
        ({"env": {"A=B": "c"}}, errors.InvalidRequest),
        ({"env": {"A": "c\x00"}}, errors.InvalidRequest),
        ({"env": {"A": "c" * 40_000}}, errors.InvalidRequest),
        ({"env": {"A": 1}}, errors.InvalidRequest),
    ],
)
def test_what_no_session_can_be_is_refused(
    run: Any, wardens: Any, serve: Any, payload: dict[str, Any], error: type[errors.VenvdError]
) -> None:
    """Bad names, limits, times and environments are refused, and nothing is left of them."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(error):
                await client.command("session.create", **payload)
            assert len((await client.command("session.list"))["sessions"]) == 1

    run(work)


def test_there_are_only_so_many_sessions(run: Any, wardens: Any, serve: Any) -> None:
    """One session more than allowed is refused, and says which limit it was."""
    wardens.start()

    async def work() -> None:
        async with serve(max_sessions=2) as client:
            await client.ready()
            await client.command("session.create", name="a")
            with pytest.raises(errors.LimitExceeded, match="sessions"):
                await client.command("session.create", name="b")

    run(work)


def test_a_session_whose_maker_went_away_is_ended(run: Any, wardens: Any, serve: Any) -> None:
    """A cancelled `session.create` leaves no session behind."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            creating = client.backend.call(Request("session.create", b'{"name": "a"}'))
            creating.cancel()

            async def ended() -> bool:
                return await client.session_ids() == ["default"]

            await client.until(ended)
            await client.command("session.create", name="a")

    run(work)


def test_a_server_has_one_warden_in_its_life(run: Any, wardens: Any, serve: Any, channel: Path) -> None:
    """When the warden is gone, calls are unavailable and readiness says so; the channel takes no other, ever."""
    first = wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            assert os.listdir(channel) == ["taken"]  # noqa: PTH208
            first.kill()
            first.wait()
            await client.until(lambda: "went away" in client.backend.ready().get("session", ""))
            with pytest.raises(errors.Unavailable, match="went away"):
                await client.do("count")
        with pytest.raises(errors.Unavailable, match="together, with a new channel"):
            async with serve():
                pass

    run(work)


def test_a_sidecar_takes_a_used_channel(run: Any, wardens: Any, serve: Any) -> None:
    """A server that something starts again by itself tells that its warden is gone, and the next one takes another."""

    async def work() -> None:
        for _ in range(2):
            warden = wardens.start()
            async with serve(sidecar=True) as client:
                await client.ready()
                assert (await client.do("count"))["count"] == 1
                warden.kill()
                warden.wait()
                assert "went away" in await client.backend.wait_for_loss_of_worker()

    run(work)


@pytest.mark.slow
def test_a_name_can_be_used_again_at_once(run: Any, wardens: Any, serve: Any) -> None:
    """What is still done about a session that was deleted does not touch the next one of its name."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.command("session.create", name="a")
            await client.command("session.delete", id="a")
            await client.command("session.create", name="a")
            assert (await client.do("count", request={"session": "a"}))["count"] == 1
            await asyncio.sleep(1)  # longer than the patience with a stream that ended before its process
            assert (await client.do("count", request={"session": "a"}))["count"] == 2
            assert (await client.command("session.get", id="a"))["restarts"] == 0

    run(work)
