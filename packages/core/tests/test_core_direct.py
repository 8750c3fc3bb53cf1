"""Direct clients, where their session or its worker host does not do its part."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract.commands import SessionInfo
from venvd_contract.errors import Unauthenticated
from venvd_core.backend import DirectClient


def direct_client(sock: socket.socket) -> DirectClient:
    def greeting(info: SessionInfo) -> bytes:
        return info.id.encode() + b"\n"

    return DirectClient(sock, b"", 1 << 20, 1 << 20, greeting, lambda _, error: json.dumps(error.fields()).encode())


def test_a_client_that_is_not_taken_is_told(run: Any, wardens: Any, serve: Any) -> None:
    """A connection that was greeted and not handed over says so: its mere end would mean that the state is lost."""
    wardens.start("full")

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            ours, theirs = socket.socketpair()
            await client.backend.attach(None, direct_client(theirs))
            ours.settimeout(30)
            with ours.makefile("rb") as lines:
                assert lines.readline() == b"default\n"
                assert json.loads(lines.read())["code"] == "unavailable"
            ours.close()
            assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
            assert (await client.do("count"))["count"] == 1

    run(work)


def test_a_client_whose_access_has_ended(run: Any, wardens: Any, serve: Any) -> None:
    """A key that ends before the client is greeted is an error, and the session takes nothing over."""
    wardens.start("full")

    class Ended:
        ended = True
        error = staticmethod(lambda: Unauthenticated("the key was revoked"))
        watch = unwatch = staticmethod(lambda _: None)

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            ours, theirs = socket.socketpair()
            late = direct_client(theirs)
            late.caller = SimpleNamespace(peer="unix", name="gone", key=Ended())
            with pytest.raises(Unauthenticated):
                await client.backend.attach(None, late)
            assert theirs.fileno() >= 0  # the server ends it
            theirs.close()
            assert ours.recv(1) == b""
            ours.close()

    run(work)


@pytest.mark.slow
def test_a_client_that_goes_with_the_server(run: Any, wardens: Any, serve: Any) -> None:
    """The server does not read the slot of a client that left after its session is gone."""
    wardens.start("deaf")

    async def work() -> None:
        wrong: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with serve() as client:
            await client.ready()
            ours, theirs = socket.socketpair()
            await client.backend.attach(None, direct_client(theirs))
            ours.close()
            await client.until(lambda: theirs.fileno() < 0)
        await asyncio.sleep(0.7)  # what was to happen after half a second has happened then
        assert not wrong

    run(work)
