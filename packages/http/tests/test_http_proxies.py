"""Clients behind trusted proxies: whose address counts, and that no client can claim another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from harness.wire import Wire
from uvicorn.server import ServerState

from venvd_http.admission import Admission, AdmissionLimits
from venvd_http.asgi import describe_peer
from venvd_http.auth import Key
from venvd_http.connection import Exchange, FastPath, HttpConnection, create_connection_type
from venvd_http.edge import Edge
from venvd_http.heads import Head
from venvd_http.proxies import TrustedProxies, parse_proxies

PROXIES = TrustedProxies(parse_proxies(["127.0.0.1", "10.1.0.0/16", "2001:db8:1::/48"]))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),  # no proxy: its word counts for nothing
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # the client claimed the first one
        ("127.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),  # through two proxies
        ("127.0.0.1", ["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
        ("127.0.0.1", ["203.0.113.9, nonsense"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9, nonsense, 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", ["203.0.113.9,"], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1:50000"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8::7]:50000"], "2001:db8::7"),
        ("127.0.0.1", ["2001:DB8::7"], "2001:db8::7"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1::5", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", [", ".join(["203.0.113.9"] + ["10.1.2.3"] * 40)], "10.1.2.3"),
        ("unix", ["203.0.113.9"], "unix"),
    ],
)
def test_the_right_most_address_that_is_no_proxy_counts(peer: str, forwarded: list[str], client: str) -> None:
    """Each proxy appends what it saw; what a client wrote stands further left."""
    assert PROXIES.find_client(peer, forwarded) == client


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("proxy.local", "is neither an address nor a network"),
        ("10.0.0.7/24", "write 10.0.0.7"),
        ("0.0.0.0/0", "every address"),
    ],
)
def test_networks_that_are_refused(text: str, said: str) -> None:
    """The error says what would be right."""
    with pytest.raises(ValueError, match=said):
        parse_proxies([text])


class Fast(Exchange):
    def begin(self, command: str, head: Head, body: bytes) -> None:
        del command, body
        self.answer(head.peer.encode())

    def cancel(self) -> None:
        pass


async def app(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers with the address that a request came from."""
    del receive
    body = describe_peer(scope).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Site:
    """A server behind proxies, which accepts the requests that the test lets it."""

    def __init__(self) -> None:
        self.admission = Admission(AdmissionLimits())
        edge = Edge(admission=self.admission, proxies=PROXIES)
        self._type = create_connection_type(edge, 60, FastPath({b"/fast": "fast"}, self._admit, Fast))
        self._config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")

    def _admit(self, head: Head) -> Key | None:
        del head
        return None

    def connect(self, peer: str = "127.0.0.1") -> tuple[HttpConnection, Wire]:
        connection, wire = self._type(self._config, ServerState(), {}), Wire(peer)
        connection.connection_made(wire)
        return connection, wire

    def count(self) -> dict[str, int]:
        return {peer: len(connections) for peer, connections in self.admission._peers.items()}


def make_request(path: str, forwarded: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nX-Forwarded-For: {forwarded}\r\nContent-Length: 2\r\n\r\n{{}}".encode()


async def ask(connection: HttpConnection, wire: Wire, path: str, forwarded: str) -> str:
    wire.written.clear()
    wire.answered.clear()
    connection.data_received(make_request(path, forwarded))
    await wire.answered.wait()
    return wire.written.rpartition(b"\r\n\r\n")[2].decode()


def test_each_request_has_a_client_of_its_own() -> None:
    """On both paths, and also where a connection of the proxy carries requests of several clients, some again."""

    async def scenario() -> None:
        connection, wire = Site().connect()
        for path in ("/fast", "/slow", "/fast"):
            for address in ("198.51.100.1", "198.51.100.2", "198.51.100.1"):
                assert await ask(connection, wire, path, f"203.0.113.9, {address}") == address
        stranger, wire = Site().connect("198.51.100.7")
        for path in ("/fast", "/slow"):
            assert await ask(stranger, wire, path, "203.0.113.9") == "198.51.100.7"

    asyncio.run(scenario())


def test_unaccepted_connections_count_for_the_client() -> None:
    """A connection counts for its proxy until its head is there, then for the client, and not after it was accepted."""

    async def scenario() -> None:
        site = Site()
        made = [site.connect() for _ in range(3)]
        assert site.count() == {"127.0.0.1": 3}
        for (connection, wire), address in zip(made, ("198.51.100.1", "198.51.100.1", "2001:db8:7::1"), strict=True):
            await ask(connection, wire, "/slow", f"203.0.113.9, {address}")
        assert site.count() == {"198.51.100.1": 2, "2001:db8:7::/64": 1}
        await ask(*made[0], "/fast", "198.51.100.1")
        assert site.count() == {"198.51.100.1": 1, "2001:db8:7::/64": 1}
        for connection, _ in made:
            connection.connection_lost(None)
        assert site.count() == {}
        assert site.admission._total == 0

    asyncio.run(scenario())
