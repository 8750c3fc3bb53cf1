"""What a call comes to, with a warden and sessions that behave or end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from venvd_contract import errors
from venvd_core.backend import Request


def test_a_call_is_answered(run: Any, wardens: Any, serve: Any) -> None:
    """A request reaches the session whole and its reply comes back."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            got = (await client.do("echo", text="grüß\n", request={"values": "tagged", "timeout": 7}))["request"]
            assert got["command"] == "eval"
            assert got["payload"] == {"do": "echo", "text": "grüß\n"}
            assert got["values"] == "tagged"
            assert "stream" not in got
            assert "timeout" not in got

    run(work)


def test_payloads_may_hold_line_ends(run: Any, wardens: Any, serve: Any) -> None:
    """JSON that is written over several lines is one line for the session."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            reply = await client.backend.call(Request("eval", b'\r\n{\n "do":\r\n"count"}\n'))
            assert json.loads(reply.result)["count"] == 1

    run(work)


def test_attachments_travel_both_ways(run: Any, wardens: Any, serve: Any) -> None:
    """What stands behind a request's line arrives, and what stands behind a reply's comes back in one piece."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            sent = await client.do("echo", request={"attachments": [b"a" * 10, b"", b"b" * 3_000_000]})
            assert sent["attachments"] == [10, 0, 3_000_000]
            text = '{"id":{id},"result":{},"attachments":[3,0,2]}\nabcde'
            reply = await client.begin("says", text=text)
            assert reply.attachments == [b"abc", b"", b"de"]

    run(work)


def test_events_come_before_the_reply(run: Any, wardens: Any, serve: Any) -> None:
    """A call that streams is told of each event, in order."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            seen: list[Any] = []
            events = [["stdout", "a"], ["display", {"text/plain": "b", "application/json": 10**400}], ["stderr", "c"]]
            got = await client.do("stream", events=events, request={"on_event": lambda *event: seen.append(event)})
            assert got == {"streamed": True}
            shown = seen[1][1]
            assert seen == [("stdout", b'"a"'), ("display", shown), ("stderr", b'"c"')]
            assert json.loads(shown) == {"text/plain": "b", "application/json": 10**400}

    run(work)


def test_errors_of_user_code_come_back_whole(run: Any, wardens: Any, serve: Any) -> None:
    """Code, type, message and traceback of what user code raised are the session's."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.UserError) as raised:
                await client.do("fail")
            assert raised.value.error_type == "ZeroDivisionError"
            assert raised.value.traceback == "…"
            assert not raised.value.state_lost

    run(work)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", errors.InvalidRequest),
        (b"{", errors.InvalidRequest),
        (b"[]", errors.InvalidRequest),
        (b"null", errors.InvalidRequest),
        (b'{"a": NaN}', errors.InvalidRequest),
        (b'{"a": 1} {}', errors.InvalidRequest),
        (b'{"a": "\xff"}', errors.InvalidRequest),
        (b'{"a": "' + b"x" * 70_000 + b'"}', errors.TooLarge),
        (b"[" * 60_000, errors.TooLarge),
    ],
)
def test_what_is_no_json_object_never_reaches_the_session(
    run: Any, wardens: Any, serve: Any, payload: bytes, error: type[errors.VenvdError]
) -> None:
    """Bad payloads are refused with a reason, and the session answers the next call."""
    wardens.start()

    async def work() -> None:
        async with serve(max_body=65536) as client:
            await client.ready()
            with pytest.raises(error):
                await client.backend.call(Request("eval", payload))
            assert (await client.do("count"))["count"] == 1

    run(work)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request("evil"), errors.InvalidRequest),
        (Request("venv.list"), errors.Unavailable),
        (Request("eval", values="fancy"), errors.InvalidRequest),
        (Request("eval", timeout=0), errors.InvalidRequest),
        (Request("eval", timeout=-1), errors.InvalidRequest),
        (Request("eval", timeout=float("nan")), errors.InvalidRequest),
        (Request("eval", session="nobody"), errors.NotFound),
        (Request("session.get", b'{"id": 3}'), errors.InvalidRequest),
        (Request("session.get", b"{}"), errors.InvalidRequest),
        (Request("session.get", b"x"), errors.InvalidRequest),
        (Request("session.get", b"[" * 50_000), errors.TooLarge),
    ],
)
def test_what_cannot_be_asked_is_refused(
    run: Any, wardens: Any, serve: Any, request_: Request, error: type[errors.VenvdError]
) -> None:
    """Each thing that is wrong with a request has its error."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(error):
                await client.backend.call(request_)

    run(work)


def test_calls_run_in_order_and_the_queue_is_bounded(run: Any, wardens: Any, serve: Any) -> None:
    """One call runs, as many wait as may, one more is refused, and they are answered in the order they came."""
    wardens.start()

    async def work() -> None:
        async with serve(queue_limit=2) as client:
            await client.ready()
            order: list[str] = []
            calls = [client.begin("sleep", seconds=0.1), client.begin("count"), client.begin("count")]
            for index, call in enumerate(calls):
                call.add_done_callback(lambda _, index=index: order.append(str(index)))
            with pytest.raises(errors.Busy):
                await client.do("count")
            await asyncio.gather(*calls)
            assert order == ["0", "1", "2"]
            assert (await client.do("count"))["count"] == 3

    run(work)


@pytest.mark.parametrize(
    ("bounds", "named"),
    [({"queue_bytes": 3000}, "VENVD_QUEUE_BYTES"), ({"max_queued_bytes": 3000}, "VENVD_MAX_QUEUED_BYTES")],
)
def test_the_bytes_that_wait_are_bounded(
    run: Any, wardens: Any, serve: Any, bounds: dict[str, int], named: str
) -> None:
    """One request larger than the bound may wait, no other beside it, and its bytes count until it begins or ends."""
    wardens.start()

    async def work() -> None:
        async with serve(**bounds) as client:
            await client.ready()
            running = client.begin("sleep", seconds=0.1)
            for _ in range(2):
                waiting = client.begin("count", ballast="x" * 4000)
                with pytest.raises(errors.Busy, match=named):
                    await client.do("count")
                waiting.cancel()
            small = [client.begin("count", ballast="x" * 1000) for _ in range(2)]
            with pytest.raises(errors.Busy, match=named):
                await client.do("count", ballast="x" * 1000)
            await asyncio.gather(running, *small)
            assert (await client.do("count"))["count"] == 3

    run(work)


def test_a_deadline_stops_the_call_and_keeps_the_state(run: Any, wardens: Any, serve: Any) -> None:
    """A call over its time is answered `timeout`, and what the session held is still there."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = await client.do("count")
            with pytest.raises(errors.DeadlineExceeded) as raised:
                await client.do("sleep", request={"timeout": 0.1})
            assert not raised.value.state_lost
            assert await client.do("count") == {**before, "count": 2}

    run(work)


@pytest.mark.parametrize("deed", ["stubborn", "hides", "silent"])
@pytest.mark.slow
def test_what_does_not_stop_is_killed(run: Any, wardens: Any, serve: Any, deed: str) -> None:
    """Code that ignores the interrupt, hides its call from the slot or never replies loses its session, and is told."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            pid = (await client.do("count"))["pid"]
            with pytest.raises(errors.DeadlineExceeded) as raised:
                await client.do(deed, request={"timeout": 0.1})
            assert raised.value.state_lost
            after = await client.do("count")
            assert after["count"] == 1
            assert after["pid"] != pid

    run(work)


@pytest.mark.slow
def test_a_call_may_run_out_of_time_in_the_queue(run: Any, wardens: Any, serve: Any) -> None:
    """A call whose time ends while it waits is answered `timeout` and never begun."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            running = client.begin("sleep", seconds=0.5)
            with pytest.raises(errors.DeadlineExceeded) as raised:
                await client.do("count", request={"timeout": 0.1})
            assert not raised.value.state_lost
            await running
            assert (await client.do("count"))["count"] == 1

    run(work)


def test_cancelling_stops_a_running_call_and_drops_a_waiting_one(run: Any, wardens: Any, serve: Any) -> None:
    """A cancelled call is interrupted or never begun; the session goes on with its state."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = await client.do("count")
            running, waiting = client.begin("sleep"), client.begin("count")
            waiting.cancel()
            running.cancel()
            assert await client.do("count") == {**before, "count": 2}

    run(work)


def test_an_interrupt_is_answered_cancelled(run: Any, wardens: Any, serve: Any) -> None:
    """`session.interrupt` ends the running call as cancelled, state kept."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            running = client.begin("sleep")
            await asyncio.sleep(0.05)
            assert await client.command("session.interrupt", id="default") == {"success": True}
            with pytest.raises(errors.Cancelled) as raised:
                await running
            assert not raised.value.state_lost

    run(work)


@pytest.mark.parametrize(
    ("end", "how"), [({"status": 1}, "exited with status 1"), ({"signal": signal.SIGSEGV}, "killed by signal 11")]
)
def test_a_process_that_ends_takes_its_calls_with_it(
    run: Any, wardens: Any, serve: Any, end: dict[str, int], how: str
) -> None:
    """The running and the waiting calls get an error that says how the process ended; the session gets a new one."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            calls = [client.begin("die", **end), client.begin("count")]
            for call in calls:
                with pytest.raises(errors.SessionLost, match=how) as raised:
                    await call
                assert raised.value.state_lost
            assert (await client.do("count"))["count"] == 1
            assert (await client.command("session.get", id="default"))["restarts"] == 1

    run(work)


def test_a_session_that_is_replaced_leaves_the_backend_ready(run: Any, wardens: Any, serve: Any) -> None:
    """Code that ends its process does not turn readiness red: calls are taken and served by the next one."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(errors.SessionLost):
                await client.do("die", status=1)
            assert not client.backend.ready()

    run(work)


def test_a_warden_that_goes_takes_everything(run: Any, wardens: Any, serve: Any) -> None:
    """Calls that ran are lost, calls after are unavailable, and readiness is red."""
    first = wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            running = client.begin("sleep")
            await asyncio.sleep(0.05)
            os.kill(first.pid, signal.SIGKILL)
            with pytest.raises(errors.SessionLost):
                await running
            assert client.backend.ready()
            with pytest.raises(errors.Unavailable):
                await client.do("count")
            first.wait()

    run(work)


def test_before_there_is_a_warden_everything_is_unavailable(run: Any, serve: Any) -> None:
    """Without a warden a call is answered at once, and readiness says what is missing."""

    async def work() -> None:
        async with serve() as client:
            with pytest.raises(errors.Unavailable):
                await client.do("count")
            for command, payload in (("session.create", {}), ("session.reset", {"id": "default"})):
                with pytest.raises(errors.Unavailable):
                    await client.command(command, **payload)
            assert client.backend.ready() == {"session": "the worker host has not joined yet"}
            assert await client.command("ping") == {"status": "ok"}

    run(work)


def test_after_closing_everything_is_unavailable(run: Any, wardens: Any, serve: Any) -> None:
    """Closing answers what runs and what waits, and later calls too."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            calls = [client.begin("sleep"), client.begin("count")]
            await client.backend.close()
            for call in [*calls, client.begin("count")]:
                with pytest.raises((errors.SessionLost, errors.Unavailable)):
                    await call

    run(work)
