"""Connections of uvicorn that read no further ahead than they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from harness.wire import Wire
from uvicorn.server import ServerState

from venvd_http.connection import HEAD_BYTES, PIECE, PIPELINED, create_connection_type
from venvd_http.edge import Edge

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
MANY = 2000
READ = 256 * 1024
"""Bytes that come at once from a client that always has more."""


async def app(_scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Takes the body, then waits for its client to leave while the answer is made, as servers do."""
    await receive()
    leaving = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
    leaving.cancel()


def connected() -> tuple[Any, Wire]:
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    connection, wire = create_connection_type(Edge(), 60)(config, ServerState(), {}), Wire(unread=True)
    connection.connection_made(wire)
    connection.accept(None)
    return connection, wire


def arriving(stream: bytes) -> Callable[[], bytes]:
    """What is read of a stream that has no end."""
    at = 0

    def read() -> bytes:
        nonlocal at
        start, at = at % len(stream), at + READ
        return (stream * (2 + READ // len(stream)))[start : start + READ]

    return read


async def turns(number: int) -> None:
    """Let the loop turn that often."""
    for _ in range(number):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario())


@pytest.mark.slow
def test_what_is_ahead_of_the_answers_is_bounded() -> None:
    """However often uvicorn wants to read on, no more is parsed than a few requests and what one piece brings."""

    async def scenario() -> None:
        connection, wire = connected()
        read, taken = arriving(REQUEST), 0
        for _ in range(8_000):
            if wire.read:
                connection.data_received(read())
                taken += READ
            await asyncio.sleep(0)
            assert len(connection.pipeline) <= PIPELINED + PIECE // len(REQUEST) + 1
        answered = wire.written.count(b"200 OK")
        assert answered > 1000
        assert taken - answered * len(REQUEST) <= 2 * READ

    run(scenario)


def test_whatever_was_sent_ahead_is_answered() -> None:
    """Once the client sends no more, all of it is answered, and more is read."""

    async def scenario() -> None:
        connection, wire = connected()
        connection.data_received(REQUEST * MANY)
        assert not wire.read
        await turns(10 * MANY)
        assert wire.written.count(b"200 OK") == MANY
        assert wire.read
        assert not wire.closed

    run(scenario)


def test_nothing_is_answered_while_answers_lie_unread() -> None:
    """What was read waits, and goes on where it stopped."""

    async def scenario() -> None:
        connection, wire = connected()
        connection.data_received(REQUEST * MANY)
        connection.pause_writing()
        await turns(100)
        answered, read = wire.written.count(b"200 OK"), wire.read
        connection.resume_writing()
        assert answered <= 1
        assert not read
        await turns(10 * MANY)
        assert wire.written.count(b"200 OK") == MANY
        assert wire.read

    run(scenario)


@pytest.mark.parametrize("size", [HEAD_BYTES, 2 * HEAD_BYTES])
def test_a_head_is_counted_without_what_was_in_front_of_it(size: int) -> None:
    """A head of the size that is allowed is taken behind anything, a larger one is not."""

    async def scenario() -> None:
        connection, wire = connected()
        body = b"POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000
        connection.data_received(body + b"GET / HTTP/1.1\r\nX: " + b"x" * (size - 21))
        assert wire.closed == (size > HEAD_BYTES)

    run(scenario)


# ---- slow and silent clients -------------------------------------------------------------------------------------


def slow_client() -> tuple[Any, Wire]:
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
    connection, wire = create_connection_type(Edge(), 0.05)(config, ServerState(), {}), Wire(unread=True)
    connection.connection_made(wire)
    connection.accept(None)
    return connection, wire


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nX: x", REQUEST[:-1]])
def test_a_client_that_stops_before_its_request_is_whole_is_ended(sent: bytes) -> None:
    """Silence, empty lines and half a head end the connection; a head that is whole is the application's affair."""

    async def scenario() -> None:
        connection, wire = slow_client()
        if sent:
            connection.data_received(sent)
        if sent == REQUEST[:-1]:
            await turns(10)
            assert not wire.closed
        else:
            async with asyncio.timeout(60):
                await wire.ended.wait()
        connection.connection_lost(None)

    run(scenario)


def test_a_head_without_end_is_answered() -> None:
    """A client that goes on sending its head is told that it is too large."""

    async def scenario() -> None:
        connection, wire = slow_client()
        connection.data_received(b"GET / HTTP/1.1\r\n")
        for number in range(2000):
            connection.data_received(b"X-%d: %b\r\n" % (number, b"x" * 100))
        assert wire.closed
        assert wire.written.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
        assert b'"code":"too_large"' in wire.written
        connection.connection_lost(None)

    run(scenario)
