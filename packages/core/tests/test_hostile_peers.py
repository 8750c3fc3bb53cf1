"""Sessions and wardens that misbehave: they hurt themselves, and the server serves the next call."""

from __future__ import annotations

import os
from typing import Any

import pytest

from venvd_contract import errors

GARBAGE = {
    "bytes that are no UTF-8": "\xff\xfe\x00\x01\n",
    "a line that is no JSON": "hello there\n",
    "JSON that is no object": "[1, 2]\n",
    "invalid UTF-8 in a value": '{"id":{id},"result":"\xff"}\n',
    "NaN": '{"id":{id},"result":NaN}\n',
    "nested brackets": '{"id":{id},"result":' + "[" * 100_000 + "\n",
    "another id": '{"id":987654,"result":{}}\n',
    "a result without an id": '{"result":{}}\n',
    "an id of the wrong type": '{"id":"{id}","result":{}}\n',
    "neither result nor error": '{"id":{id}}\n',
    "an error of the wrong type": '{"id":{id},"error":{"a":1}}\n',
    "a negative attachment": '{"id":{id},"result":{},"attachments":[-1]}\n',
    "attachments of the wrong type": '{"id":{id},"result":{},"attachments":"lots"}\n',
    "too large an attachment": '{"id":{id},"result":{},"attachments":[2000000000]}\n',
    "too many attachments": '{"id":{id},"result":{},"attachments":[' + "0," * 100 + "0]}\n",
    "an event without end": '{"id":{id},"event":"stdout","data":"' + "x" * 100_000 + '"}\n',
    "a line without end": "x" * 1_000_000,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_session_that_sends_garbage_is_replaced(run: Any, wardens: Any, serve: Any, kind: str) -> None:
    """Whatever breaks the protocol ends the session that sent it, and the call is told that its state is lost."""
    wardens.start()
    limits = {"session_limits": {"resultBytes": 1000, "outputBytes": 1000}}

    async def work() -> None:
        async with serve(**limits) as client:
            await client.ready()
            with pytest.raises(errors.SessionLost) as raised:
                await client.do("says", text=GARBAGE[kind], times=200 if "end" in kind else 1)
            assert raised.value.state_lost
            assert "sent" in raised.value.message
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.slow
def test_a_second_reply_ends_the_session(run: Any, wardens: Any, serve: Any) -> None:
    """A reply that nothing asked for breaks the protocol, though the first one was good."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            await client.do("says", text='{"id":{id},"result":{}}\n{"id":{id},"result":{}}\n')

            async def replaced() -> bool:
                return (await client.command("session.get", id="default"))["restarts"] > 0

            await client.until(replaced)
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.parametrize(
    "text",
    [
        '{"id":{id},"result":{},"attachments":[100]}\nonly this',
        '{"id":{id},"result":{"half": ',
    ],
)
@pytest.mark.slow
def test_a_reply_that_stops_half_way_runs_into_the_deadline(run: Any, wardens: Any, serve: Any, text: str) -> None:
    """Half a line, or attachments announced and not sent: the call ends with its deadline, and the session with it."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.DeadlineExceeded) as raised:
                await client.do("says", text=text, request={"timeout": 0.2})
            assert raised.value.state_lost
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.slow
def test_a_stream_that_is_closed_ends_a_session_that_lives_on(run: Any, wardens: Any, serve: Any) -> None:
    """A process that closes its channel and stays is ended, and its call gets an error that says so."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.SessionLost, match="closed its channel"):
                await client.do("close")
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.slow
def test_the_warden_knows_better_why_a_channel_closed(run: Any, wardens: Any, serve: Any) -> None:
    """Where the warden ends a process for a limit, the call is told of the limit and not of the channel."""
    wardens.start("limits")

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.SessionLost, match="limit of 16"):
                await client.do("close")
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.parametrize("code", ["unauthenticated", "busy", "session_lost", "unavailable", "of my own"])
def test_a_session_cannot_claim_what_only_the_server_knows(run: Any, wardens: Any, serve: Any, code: str) -> None:
    """Codes that are the server's to use come back as a defect, and never with lost state."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.Internal) as raised:
                await client.do("says", text='{"id":{id},"error":"x","stateLost":true,"code":"' + code + '"}\n')
            assert not raised.value.state_lost

    run(work)


def test_unknown_fields_and_error_lines_without_id_are_taken(run: Any, wardens: Any, serve: Any) -> None:
    """Unknown fields are ignored; an error without an id answers the running call."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            assert await client.do("says", text='{"id":{id},"later":[1],"result":{"a":1}}\n') == {"a": 1}
            with pytest.raises(errors.TooLarge, match="deep"):
                await client.do("says", text='{"error":"too deep","code":"too_large"}\n')

    run(work)


def test_strange_events_are_dropped(run: Any, wardens: Any, serve: Any) -> None:
    """Events of unknown kinds, of other calls or of calls that do not stream are dropped, and do no harm."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            seen: list[Any] = []
            strange = '{"id":{id},"event":"launch","data":1}\n{"id":9999,"event":"stdout","data":"x"}\n'
            text = strange + '{"id":{id},"result":{}}\n'
            await client.do("says", text=text, request={"on_event": lambda *event: seen.append(event)})
            await client.do("stream", events=[["stdout", "unasked"]])
            assert seen == []
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.parametrize(
    ("trait", "says"),
    [
        ("refuses", "there is no interpreter here"),
        ("stillborn", "exited with status 3"),
    ],
)
def test_a_session_that_cannot_start_is_unavailable(run: Any, wardens: Any, serve: Any, trait: str, says: str) -> None:
    """Calls are answered with the reason, and readiness names it."""
    wardens.start(trait)

    async def work() -> None:
        async with serve() as client:
            await client.until(lambda: says in client.backend.ready().get("session", ""))
            with pytest.raises(errors.Unavailable, match=says):
                await client.do("count")
            with pytest.raises(errors.Unavailable, match=says):
                await client.command("session.create", name="other")
            assert len((await client.command("session.list"))["sessions"]) == 1

    run(work)


def test_a_warden_that_passes_a_descriptor_is_dropped(run: Any, wardens: Any, serve: Any) -> None:
    """No descriptor travels towards the server."""
    wardens.start("passes")

    async def work() -> None:
        async with serve() as client:
            await client.until(lambda: "sent a descriptor" in client.backend.ready()["session"])
            with pytest.raises(errors.Unavailable):
                await client.do("count")

    run(work)


def test_a_warden_that_babbles_is_dropped(run: Any, wardens: Any, serve: Any) -> None:
    """What is no packet of the protocol ends the connection; readiness says so."""
    wardens.start("babbles")

    async def work() -> None:
        async with serve() as client:
            await client.until(lambda: "invalid packet" in client.backend.ready()["session"])
            with pytest.raises(errors.Unavailable):
                await client.do("count")

    run(work)


def test_a_session_that_kills_its_warden_is_told_as_lost(run: Any, wardens: Any, serve: Any) -> None:
    """Where user code ends the warden itself, its call is answered and the server is up to say so."""
    first = wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.SessionLost, match="worker host"):
                await client.do("end warden")
            assert await client.command("ping") == {"status": "ok"}
            first.wait()

    run(work)


def test_hostile_sessions_leave_no_descriptor_behind(run: Any, wardens: Any, serve: Any) -> None:
    """Replacing a session many times leaves as many open files as there were before."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            for _ in range(10):
                with pytest.raises(errors.SessionLost):
                    await client.do("says", text="garbage\n")
            await client.do("count")
            assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    run(work)
