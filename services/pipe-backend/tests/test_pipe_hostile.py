"""Peers that mean no good, or know no better: each gets an error or its end, and the next client is served."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from venvd_http.guesses import USUAL_SECONDS

from .conftest import TOKEN, Server, Start, until  # type: ignore[import-not-found]

STALL = 1.0


@pytest.fixture(scope="module")
def strict(start: Start) -> Iterator[Server]:
    """A server with small bounds."""
    with start(
        VENVD_MAX_BODY="65536",
        VENVD_MAX_ATTACHMENT_BYTES="65536",
        VENVD_MAX_CONNECTIONS="64",
        VENVD_MAX_HELD_BYTES=str(1 << 20),
        VENVD_MAX_UNREAD_BYTES="65536",
        VENVD_STALL_TIMEOUT=str(STALL),
        VENVD_ACCEPT_TIMEOUT=str(STALL),
    ) as server:
        yield server


@pytest.fixture
def server(strict: Server) -> Iterator[Server]:
    yield strict
    while strict.clients:
        strict.clients.pop().close()
    until(lambda: strict.connect()("ping")["result"] == {"status": "ok"}, "the next client is not served")
    strict.clients.pop().close()


@pytest.mark.slow
def test_a_line_without_end(server: Server) -> None:
    """A line over the limit is `too_large`, and the connection ends; its sender may go on sending meanwhile."""
    client = server.connect()
    client.raw(b"x" * 1_000_000)
    assert client.receive()["code"] == "too_large"
    assert client.closed()


@pytest.mark.slow
def test_half_a_line_then_silence(server: Server) -> None:
    """A request that does not go on is refused after the stall timeout."""
    client = server.connect()
    client.raw(b'{"command":"pi')
    assert "the rest of a request did not arrive" in client.receive()["error"]
    assert client.closed()


@pytest.mark.slow
def test_half_an_attachment_then_silence(server: Server) -> None:
    """Attachments that do not come are refused after the stall timeout."""
    client = server.connect()
    client.raw(b'{"command":"ping","attachments":[100]}\nabc')
    assert client.receive()["code"] == "invalid_request"
    assert client.closed()


@pytest.mark.slow
def test_silence(server: Server) -> None:
    """A connection that never makes a request is ended."""
    client = server.connect(token=None)
    assert "no token was accepted" in client.receive()["error"]
    assert client.closed()


@pytest.mark.slow
def test_a_known_client_may_be_silent(server: Server) -> None:
    """A connection that was let in may be idle for as long as it likes."""
    client = server.connect()
    time.sleep(3 * STALL)
    assert client("ping")["result"] == {"status": "ok"}


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64, 10**400])
def test_a_length_of_gigabytes(server: Server, length: int) -> None:
    """An attachment of any absurd length is refused before a byte of it is waited for."""
    client = server.connect()
    client.raw(b'{"command":"ping","id":1,"attachments":[%d]}\n' % length)
    reply = client.receive()
    assert reply["code"] in {"too_large", "invalid_request"}
    assert client.closed()


def test_attachments_that_end_early(server: Server) -> None:
    """The error for too few bytes says how many came."""
    client = server.connect()
    client.raw(b'{"command":"ping","id":9,"attachments":[10]}\nabc')
    client.socket.shutdown(socket.SHUT_WR)
    reply = client.receive()
    assert reply["id"] == 9
    assert "3 of the 10 bytes" in reply["error"]
    assert client.closed()


def test_more_attachment_than_announced(server: Server) -> None:
    """Bytes beyond what was announced are no request, and the lines behind them are."""
    client = server.connect()
    client.raw(b'{"command":"ping","attachments":[2]}\nab-surplus\n{"command":"ping"}\n')
    assert client.receive()["result"] == {"status": "ok"}
    assert client.receive()["code"] == "invalid_request"
    assert client.receive()["result"] == {"status": "ok"}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b'{"command":"\xed\xa0\x80"}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        b'"',
        b"null",
        b"GET / HTTP/1.1\r",
    ],
)
def test_lines_that_are_no_requests(server: Server, line: bytes) -> None:
    """Whatever a line holds, it gets an error, and the connection goes on."""
    client = server.connect()
    client.raw(line + b"\n")
    assert client.receive()["code"] in {"invalid_request", "too_large"}
    assert client("ping")["result"] == {"status": "ok"}


def test_random_bytes(server: Server) -> None:
    """Random bytes are answered with errors only, and end nothing but their own connection."""
    noise = random.Random(4)  # noqa: S311 — the same noise each time
    for _ in range(30):
        client = server.connect()
        client.raw(noise.randbytes(2000) + b"\n")
        assert "error" in client.receive()


def test_a_client_that_does_not_read(server: Server) -> None:
    """A client that sends without reading is held back, then ended, and others are served meanwhile."""
    client = server.connect()
    client.socket.settimeout(0.2)
    line = b'{"command":"session.get","payload":{"id":"' + b"x" * 80 + b'"}}\n'
    sent = 0
    try:
        while sent < 64 << 20:
            sent += client.socket.send(line * 100)
    except (TimeoutError, BrokenPipeError, ConnectionResetError):
        pass
    assert sent < 64 << 20
    assert server.connect()("ping")["result"] == {"status": "ok"}

    def ended() -> bool:
        try:
            client.socket.send(b"\n")
        except TimeoutError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False

    until(ended, "the connection is not ended")


@pytest.mark.slow
def test_what_is_held_is_bounded(server: Server) -> None:
    """Incomplete requests of all clients hold no more bytes than the limit; small clients go on."""
    small = server.connect()
    hogs = [server.connect() for _ in range(30)]
    refused = 0
    for hog in hogs:
        hog.raw(b'{"command":"ping","attachments":[65536]}\n' + b"x" * 65_000)
    for hog in hogs:
        refused += hog.receive()["code"] == "busy"
    assert refused > 5
    assert small("ping")["result"] == {"status": "ok"}


def test_too_many_connections(server: Server) -> None:
    """A connection over the limit is told so, and there is room again when others go."""
    clients = [server.connect() for _ in range(64)]
    late = server.connect_once()
    assert late.receive()["code"] == "busy"
    assert late.closed()
    for client in (*clients, late):
        client.close()
    server.clients.clear()
    until(lambda: admitted(server), "there is no room again")


def admitted(server: Server) -> bool:
    return "result" in server.connect_once()("ping")


def test_connections_opened_and_dropped(server: Server) -> None:
    """Hundreds of connections that go at once leave no descriptor behind."""
    server.connect()
    before = server.descriptors()
    for number in range(600):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(server.path))
            if number % 3:
                stranger.send(b'{"command":"ping"}\n'[: number % 20])
    until(lambda: server.descriptors() <= before, "descriptors are left")


def test_ids_and_errors_do_not_amplify(server: Server) -> None:
    """The error for a long line of nonsense is short."""
    client = server.connect()
    client.send("x" * 60_000, id="y" * 200)
    assert len(str(client.receive())) < 2000


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
@pytest.mark.needs("nc")
@pytest.mark.slow
def test_other_users_are_refused_without_a_token(start: Start) -> None:
    """Where no token guards the backend, a user who is not this one's, root or the directory's owner is refused."""
    with start(VENVD_NO_TOKEN="1", VENVD_TOKEN_SHA256="", VENVD_SOCKET_MODE="0666") as server:
        assert '"forbidden"' in ping_as(server, 65534)
        assert '"ok"' in ping_as(server, 0)
        os.chown(server.directory, 65534, -1)
    with start(VENVD_SOCKET_UIDS="65534", VENVD_SOCKET_MODE="0666") as server:
        assert '"ok"' in ping_as(server, 65534)
        assert '"forbidden"' in ping_as(server, 0)


def ping_as(server: Server, user: int) -> str:
    finished = subprocess.run(
        ["nc", "-U", "-N", str(server.path)],
        input=b'{"command":"ping"}\n',
        capture_output=True,
        timeout=60,
        user=user,
        cwd="/",
        check=False,
    )
    return finished.stdout.decode()


def test_the_token_is_not_guessed_by_many_tries(server: Server) -> None:
    """Wrong tokens are refused one like the other, each only when the one before is answered."""
    client = server.connect()
    began = time.monotonic()
    for number in range(3):
        client.raw(b'{"id":%d,"command":"session.list","token":"%s"}\n' % (number, secrets.token_hex().encode()))
    replies = [client.receive() for _ in range(3)]
    assert [(line["id"], line["code"]) for line in replies] == [(number, "unauthenticated") for number in range(3)]
    assert time.monotonic() - began >= 3 * USUAL_SECONDS
    assert client("session.list", token=TOKEN)["result"]["sessions"]
