"""Arrays between server and session, with sessions that lie about the memory they share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from venvd_contract import arrays
from venvd_contract.errors import Internal, InvalidRequest, NotFound, SessionLost
from venvd_contract.internal.segments import MOST_SEGMENTS
from venvd_core.arrays import CHUNK, Target
from venvd_core.backend import Request

SIZE = 1 << 20


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def told(client: Any) -> Any:
    return client.do("told")


def test_an_array_is_given_out_in_parts(run: Any, wardens: Any, serve: Any) -> None:
    """The bytes of a segment come in parts of bounded size, and closing lets the session use it again, once."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            outgoing = await client.backend.get_array("share good")
            assert (outgoing.header.dtype, outgoing.header.shape, outgoing.header.nbytes) == ("<f8", (SIZE // 8,), SIZE)
            parts = list(outgoing)
            assert max(map(len, parts)) <= CHUNK
            assert b"".join(parts) == b"\x07" * SIZE
            outgoing.close()
            outgoing.close()
            assert await told(client) == {"told": [{"segments": {"free": [outgoing.segment.name]}}]}

    run(work)


def test_what_a_client_maps_is_given_up_with_it(run: Any, wardens: Any, serve: Any) -> None:
    """A segment whose reader went away is never used again."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            outgoing = await client.backend.get_array("share good")
            outgoing.close(reusable=False)
            outgoing.close()
            assert await told(client) == {"told": [{"segments": {"drop": [outgoing.segment.name]}}]}

    run(work)


@pytest.mark.parametrize(
    "kind", ["unknown", "gone", "small", "huge", "negative", "object", "hole", "punched", "shrunk"]
)
@pytest.mark.slow
def test_memory_that_cannot_be_trusted_is_refused(run: Any, wardens: Any, serve: Any, kind: str) -> None:
    """Memory that is too small, has holes or was never given: the call fails, and the server goes on."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = descriptors()
            if kind == "shrunk":  # its size is sealed
                outgoing = await client.backend.get_array(f"share {kind}")
                assert b"".join(outgoing) == b"\x07" * SIZE
                outgoing.close()
            else:
                with pytest.raises(Internal):
                    b"".join(await client.backend.get_array(f"share {kind}"))
            assert (await client.do("count"))["count"] == 1
            assert descriptors() - before <= 2, "one for the segment, one for its mapping"

    run(work)


@pytest.mark.parametrize("kind", ["garbage", "greedy"])
def test_a_session_that_misuses_its_supply_is_replaced(run: Any, wardens: Any, serve: Any, kind: str) -> None:
    """What is no request for a segment, and requests without taking the answers, end the session and leave nothing."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = descriptors()
            with pytest.raises((Internal, SessionLost)):
                await client.backend.get_array(f"share {kind}")

            async def replaced() -> bool:
                return bool((await client.command("session.get", id="default"))["restarts"])

            await client.until(replaced)
            await client.ready()
            await client.until(lambda: descriptors() <= before)

    run(work)


def test_a_descriptor_that_a_session_sends_never_arrives(run: Any, wardens: Any, serve: Any) -> None:
    """The server receives no descriptors: the kernel drops what a session passes with a packet."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = descriptors()
            outgoing = await client.backend.get_array("share outward")
            assert descriptors() - before == 1, "the segment's own"
            outgoing.close()

    run(work)


def test_the_server_bounds_segments(run: Any, wardens: Any, serve: Any) -> None:
    """A session gets neither more bytes than its memory limit nor more segments than there may be, and is told so."""
    wardens.start()

    async def work() -> None:
        async with serve(session_limits={"memoryBytes": 1 << 28}) as client:
            await client.ready()
            refused = await client.do("share", handleId="share refused")
            assert refused["said"]["code"] == refused["then"]["code"] == "limit_exceeded"
            assert "memoryBytes is 268435456" in refused["said"]["error"]
            made = (await client.do("share", handleId="share many"))["made"]
            assert made == ["made"] * MOST_SEGMENTS + ["limit_exceeded"] * 2

    run(work)


def test_a_lie_about_length_is_an_error(run: Any, wardens: Any, serve: Any) -> None:
    """An attachment that is not what type and shape come to is refused."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(Internal, match="takes 24 bytes, and there are 8"):
                await client.backend.get_array("attach")
            assert (await client.do("count"))["count"] == 1

    run(work)


def test_a_session_that_ends_takes_its_segments_along(run: Any, wardens: Any, serve: Any) -> None:
    """Descriptors of a session's memory are closed with it; a part being sent is still whole, the next is lost."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = descriptors()
            outgoing = await client.backend.get_array("share good")
            first = next(iter(outgoing))
            await client.command("session.reset", id="default")
            assert bytes(first) == b"\x07" * SIZE
            with pytest.raises(SessionLost, match="during the transfer of an array"):
                list(outgoing)
            outgoing.close()
            await client.until(lambda: descriptors() <= before)

    run(work)


def test_a_cancelled_fetch_gives_its_memory_back(run: Any, wardens: Any, serve: Any) -> None:
    """If no caller waits for a reply any more, the segment that it names is freed."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            task = asyncio.ensure_future(client.backend.get_array("share good"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await client.until(lambda: _has_freed(client))

    run(work)


async def _has_freed(client: Any) -> bool:
    messages = (await told(client))["told"]
    return not messages or list(messages[0]["segments"]) == [
        "free"
    ]  # cancelled before it was sent, there is nothing to free


def test_a_target_must_exist(run: Any, wardens: Any, serve: Any) -> None:
    """A session that is not there is an error of the call, like for other calls; so is a length that is too large."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            with pytest.raises(NotFound):
                await client.backend.get_array("x", Target("nobody"))
            header = arrays.header("|u1", [4])
            incoming = await client.backend.put_array(header)
            incoming.write(b"123")
            with pytest.raises(InvalidRequest, match="there are 3"):
                await incoming.commit()
            with pytest.raises(InvalidRequest, match="there are 5"):
                incoming.write(b"45")
            incoming.write(b"4")
            incoming.close()
            await client.backend.call(Request("eval", b'{"do": "count"}'))

    run(work)
