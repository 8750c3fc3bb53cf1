"""Background calls: how long their results are kept, and how many."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract.errors import Busy, Cancelled, Conflict, InvalidRequest, NotFound, Unauthenticated
from venvd_core.backend import Request


async def leave(client: Any, do: str = "echo", **payload: Any) -> str:
    reply = await client.command("call.start", command="eval", payload={"do": do, **payload})
    return str(reply["id"])


async def fetch(client: Any, identity: str) -> Any:
    return await client.command("call.get", id=identity, wait=20)


@pytest.mark.slow
def test_a_result_is_kept_for_its_time(run: Any, wardens: Any, serve: Any) -> None:
    """When its time has come a result goes, and its ID says so; it can still be cancelled."""
    wardens.start()

    async def work() -> None:
        async with serve(kept_call_seconds=0.3) as client:
            await client.ready()
            identity = await leave(client)
            assert (await fetch(client, identity))["state"] == "succeeded"
            with pytest.raises(NotFound, match=r"kept for 0\.3 s"):
                while True:
                    await fetch(client, identity)
                    await asyncio.sleep(0.02)
            assert await client.command("cancel", id=identity) == {"success": True}

    run(work)


def test_only_so_many_are_kept(run: Any, wardens: Any, serve: Any) -> None:
    """The call that ended first makes room for the next; calls that have not ended do not, and then nothing starts."""
    wardens.start()

    async def work() -> None:
        async with serve(kept_calls=2) as client:
            await client.ready()
            first, second = await leave(client), await leave(client)
            await fetch(client, second)
            await leave(client, "sleep")
            with pytest.raises(NotFound, match="make room"):
                await fetch(client, first)
            await leave(client, "echo")
            with pytest.raises(Busy, match="2 background calls"):
                await leave(client)

    run(work)


def test_only_so_many_bytes_are_kept(run: Any, wardens: Any, serve: Any) -> None:
    """Results together have a limit; the one that came last is there whatever its size."""
    wardens.start()

    async def work() -> None:
        async with serve(kept_call_bytes=1000) as client:
            await client.ready()
            first = await leave(client, text="x" * 600)
            await fetch(client, first)
            second = await leave(client, text="y" * 2000)
            assert (await fetch(client, second))["state"] == "succeeded"
            with pytest.raises(NotFound, match="make room"):
                await fetch(client, first)

    run(work)


def test_errors_count_as_bytes(run: Any, wardens: Any, serve: Any) -> None:
    """What a session says of a call that failed is kept within the same limit as results."""
    wardens.start()

    async def work() -> None:
        async with serve(kept_call_bytes=1000) as client:
            await client.ready()
            fails = '{"id":{id},"error":"%s","code":"user_error"}\n' % ("x" * 900)
            first = await leave(client, "says", text=fails)
            assert (await fetch(client, first))["error"]["message"] == "x" * 900
            await fetch(client, await leave(client, "says", text=fails))
            with pytest.raises(NotFound, match="make room"):
                await fetch(client, first)

    run(work)


def test_a_name_is_taken_while_its_call_runs(run: Any, wardens: Any, serve: Any) -> None:
    """Two calls under way have not one name; once the first has ended the name is free."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            running = client.begin("sleep", request={"name": "mine"})
            with pytest.raises(Conflict, match="mine"):
                await client.begin(request={"name": "mine"})
            running.cancel()
            await asyncio.sleep(0)
            assert await client.do(request={"name": "mine"})
            with pytest.raises(InvalidRequest, match="printable"):
                await client.begin(request={"name": "a\nb"})

    run(work)


def test_waiting_is_cancelled_by_name(run: Any, wardens: Any, serve: Any) -> None:
    """`cancel` ends the wait for a background call, and the call goes on."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            identity = await leave(client, "sleep")
            body = b'{"id":"%b","wait":60}' % identity.encode()
            waiting = client.backend.call(Request("call.get", body, name="patience"))
            await client.command("cancel", id="patience")
            await asyncio.wait([waiting.future()])
            assert "cancelled" in str(waiting.exception())
            assert (await client.command("call.get", id=identity))["state"] == "running"

    run(work)


class Key:
    """An access key that has ended, or not."""

    name = "ci"
    ended = False

    def error(self) -> Unauthenticated:
        return Unauthenticated('the key "ci" was revoked')


def test_calls_end_with_their_key(run: Any, wardens: Any, serve: Any) -> None:
    """The end of a key ends its calls, whether they run or wait, and no others; it begins none any more."""
    wardens.start()
    caller = SimpleNamespace(peer="unix", name="ci", key=Key())

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            start = Request("call.start", b'{"command": "eval", "payload": {"do": "sleep"}}', caller=caller)
            left = [json.loads((await client.backend.call(start)).result)["id"] for _ in range(2)]
            connected = client.begin("sleep", request={"caller": caller})
            other = client.begin("echo")
            caller.key.ended = True
            client.backend.end_key(caller.key)
            for identity in left:
                ended = await fetch(client, identity)
                assert (ended["state"], ended["result"]) == ("cancelled", None)
                assert ended["error"]["message"].endswith(': the key "ci" was revoked')
            with pytest.raises(Cancelled):
                await connected
            await other
            with pytest.raises(Unauthenticated):
                await client.backend.call(start)

    run(work)
