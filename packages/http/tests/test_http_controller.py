"""Requests of a server to its controller that are given up, or are too many."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from harness.certificates import make_authority, make_certificate

from venvd_contract.errors import Busy, InvalidRequest, Unavailable
from venvd_http.controller import MOST_STREAMS, ControllerClient
from venvd_http.controller_connection import ControllerAddress
from venvd_http.environments import Environments

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nevent: log\ndata: 1\n\n"


class Silent:
    """A controller that reads requests, and says nothing but `answer`."""

    def __init__(self, answer: bytes = b"") -> None:
        self._answer = answer
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answer)
            self.asked.set()
            await reader.read()
        self.left.set()


def run(tmp_path: Path, answer: bytes, work: Callable[[Silent, ControllerClient], Awaitable[None]]) -> None:
    async def serve() -> None:
        controller = Silent(answer)
        path = tmp_path / "controller.sock"
        server = await asyncio.start_unix_server(controller, path)
        await asyncio.wait_for(work(controller, ControllerClient(ControllerAddress(path))), 60)
        server.close()
        while connections := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(connections)

    asyncio.run(serve())


def test_a_cancelled_request_ends_its_connection(tmp_path: Path) -> None:
    """A client that goes away leaves no thread that waits for the controller."""

    async def work(controller: Silent, client: ControllerClient) -> None:
        request = asyncio.ensure_future(client.request("POST", ("venvs", "a", "run"), "token", {}, seconds=5000.0))
        await controller.asked.wait()
        request.cancel()
        await controller.left.wait()

    run(tmp_path, b"", work)


def test_a_request_that_is_cancelled_at_once_leaves_no_thread(tmp_path: Path) -> None:
    """The end of the loop waits for no request that had not yet connected."""

    async def work(_controller: Silent, client: ControllerClient) -> None:
        for _ in range(50):
            request = asyncio.ensure_future(client.request("GET", ("venvs",), "token", seconds=5000.0))
            await asyncio.sleep(0)
            request.cancel()
        await asyncio.to_thread(client._threads.shutdown)

    run(tmp_path, b"", work)


def test_streams_are_bounded(tmp_path: Path) -> None:
    """No more streams than the limit are open at a time; the next is refused until one ends."""

    async def work(_controller: Silent, client: ControllerClient) -> None:
        async with AsyncExitStack() as stack:
            for number in range(MOST_STREAMS):
                events = await stack.enter_async_context(client.follow(("operations", str(number)), "token"))
                assert await anext(events) == ("log", 1)
            with pytest.raises(Busy):
                await stack.enter_async_context(client.follow(("operations", "more"), "token"))
        async with client.follow(("operations", "more"), "token") as events:
            assert await anext(events) == ("log", 1)

    run(tmp_path, EVENTS, work)


def test_older_names_of_an_ensure() -> None:
    """With `older` they stand for the new ones, which no controller answers here; without it they are none."""
    payload = {"providerName": "P", "modelId": "m"}
    with pytest.raises(Unavailable):
        asyncio.run(Environments(ControllerAddress(), older=True).answer("venv.ensure", payload, "token"))
    with pytest.raises(InvalidRequest, match='"provider" is missing'):
        asyncio.run(Environments(ControllerAddress(), older=False).answer("venv.ensure", payload, "token"))


def test_a_controller_at_an_address(tmp_path: Path) -> None:
    """A server without a socket asks at an address, by TLS where it has the certificate; another one is refused."""
    make_authority(tmp_path)
    shown, other = (make_certificate(tmp_path, name) for name in ("shown", "other"))
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"items": null}'

    async def ask(certificate: Path | None) -> object:
        context = None
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*shown)
        server = await asyncio.start_server(Silent(answer), "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        url = f"{'http' if context is None else 'https'}://localhost:{port}"
        async with server:
            client = ControllerClient(ControllerAddress(url=url, certificate=certificate))
            return await client.request("GET", ("venvs",), "token")

    assert asyncio.run(ask(None)) == asyncio.run(ask(shown[0])) == {"items": None}
    with pytest.raises(Unavailable, match="certificate verify failed"):
        asyncio.run(ask(other[0]))
