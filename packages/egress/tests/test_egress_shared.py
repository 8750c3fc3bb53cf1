"""The shared broker: tickets, and the tunnels that it makes for the brokers of backends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.egress import Client, Host, Start

from venvd_egress import rules as rules_of_brokers
from venvd_egress import shared
from venvd_egress.rules import parse_rules
from venvd_egress.shared import SharedBroker
from venvd_egress.tickets import make_ticket, read_ticket

KEY = b"key of the cluster"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a shared broker that may connect to this machine."""
    monkeypatch.setattr(rules_of_brokers, "is_reachable", lambda address, *_: address == "127.0.0.1")
    monkeypatch.setattr(shared, "MOST_UNACCEPTED", 2)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(SharedBroker(KEY).listen("127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    asyncio.run_coroutine_threadsafe(end(server), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


async def end(server: Any) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def make_rules(host: Host, **fields: Any) -> dict[str, Any]:
    return {"backend": "web", "destinations": [f"127.0.0.1:{host.port}", "[::1]:80"], "networks": [], **fields}


@pytest.fixture
def start_chain(start: Start, host: Host, port: int) -> Callable[..., Client]:
    """Starts the broker of a backend behind the shared one; `ticket` are other rules in its ticket."""

    def make(key: bytes = KEY, **ticket: Any) -> Client:
        upstream = {"host": "127.0.0.1", "port": port, "ticket": make_ticket(key, make_rules(host, **ticket))}
        return start(parse_rules({**make_rules(host), "upstream": upstream}))

    return make


def ask(client: Client, host: Host) -> bytes:
    return client.ask(f"GET http://127.0.0.1:{host.port}/ HTTP/1.1\r\n\r\n".encode())


def test_requests_and_tunnels_pass(start_chain: Callable[..., Client], host: Host) -> None:
    """What the list of a backend names is reached through both brokers."""
    client = start_chain()
    assert ask(client, host).endswith(b"\r\n\r\nok")
    with client.connect() as connection:
        connection.sendall(f"CONNECT 127.0.0.1:{host.port} HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(100) == b"HTTP/1.1 200 Connection established\r\n\r\n"
        connection.sendall(b"anything\r\n\r\n")
        assert connection.recv(100) == host.answer


@pytest.mark.parametrize(
    ("given", "status", "message"),
    [
        ({"key": b"another"}, b"502", b"not signed with the key"),
        ({"destinations": ["other.example"]}, b"403", b'to the list "network"'),
    ],
)
def test_the_shared_broker_checks_too(
    start_chain: Callable[..., Client], host: Host, given: dict[str, Any], status: bytes, message: bytes
) -> None:
    """A ticket of another key, or with other rules, opens nothing, and the client learns the reason."""
    client = start_chain(**given)
    first = ask(client, host).partition(b"\r\n")[0]
    assert first.startswith(b"HTTP/1.1 " + status)
    assert message in first
    assert len(client.refusals) == 1
    assert host.received == []


def test_an_absent_broker_is_named(start: Start, host: Host) -> None:
    """Where the shared broker does not answer, the client learns that."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    upstream = {"host": "127.0.0.1", "port": port, "ticket": make_ticket(KEY, make_rules(host))}
    client = start(parse_rules({**make_rules(host), "upstream": upstream}))
    assert b"the broker of the cluster does not answer" in ask(client, host)
    assert [refusal.kind for refusal in client.refusals] == ["unreachable"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n", b"407"),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nProxy-Authorization: Basic x\r\n\r\n", b"407"),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nProxy-Authorization: Bearer e30.00\r\n\r\n", b"407"),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nProxy-Authorization: Bearer \xff\xfe.\xff\r\n\r\n", b"407"),
        (b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
    ],
)
def test_without_a_ticket_nothing_is_reached(port: int, head: bytes, status: bytes) -> None:
    """User code that reaches the shared broker itself has no ticket, and gets a refusal."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 " + status)


def test_silent_connections_are_few(port: int) -> None:
    """One address has a bounded number of connections without a ticket, and the next one is refused."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 503")


def test_tickets_are_read_as_they_were_made() -> None:
    """A ticket gives back its rules; a changed one is refused, and so are rules that no request's head can hold."""
    ticket = make_ticket(KEY, {"backend": "web", "destinations": []})
    assert read_ticket(KEY, ticket) == {"backend": "web", "destinations": []}
    payload, _, signature = ticket.partition(".")
    for changed in (f"x{payload[1:]}.{signature}", payload, "", f"{payload}.{signature[:-1]}"):
        with pytest.raises(ValueError, match="not signed"):
            read_ticket(KEY, changed)
    with pytest.raises(ValueError, match="the limit is 49152"):
        make_ticket(KEY, {"destinations": ["a" * 250] * 200})
