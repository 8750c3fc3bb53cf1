"""Bodies of requests: limits, clients that stop, and what becomes of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_http import bodies
from venvd_http.asgi import CLOSE
from venvd_http.bodies import Body, BodyLimit
from venvd_http.clients import ClientGone
from venvd_http.heads import Head

GONE: dict[str, Any] = {"type": "http.disconnect"}


def arriving(*messages: Any) -> Callable[[], Any]:
    """An ASGI `receive` that gives these messages, pieces of a body with more behind them, and then nothing."""
    waiting = list(messages)

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()
        message = waiting.pop(0)
        return message if isinstance(message, dict) else {"type": "http.request", "body": message, "more_body": True}

    return receive


def last(piece: bytes) -> dict[str, Any]:
    return {"type": "http.request", "body": piece, "more_body": False}


def read(*messages: Any, limit: int = 100) -> bytes:
    return asyncio.run(Body(arriving(*messages), 0.05).read(limit))


def test_a_body_is_read_whole() -> None:
    """Pieces are joined; an empty one is no end."""
    assert read(b"a", b"", last(b"b")) == b"ab"
    assert read(last(b"")) == b""


def test_a_body_over_the_limit_is_read_and_dropped() -> None:
    """The refusal comes once the body has ended, and names the limit."""
    with pytest.raises(TooLarge, match="100"):
        read(b"x" * 60, b"x" * 60, last(b"x"))


def test_a_body_far_over_the_limit_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is bounded; the connection cannot carry another request then."""
    monkeypatch.setattr(bodies, "SWALLOWED", 50)
    body = Body(arriving(b"x" * 101, b"x" * 100, last(b"x")), 0.05)
    with pytest.raises(TooLarge):
        asyncio.run(body.read(100))
    assert not body.ended
    assert body.choose_closing(Head(length=1000)) == CLOSE


def test_a_client_that_stops_is_refused() -> None:
    """A pause longer than the stall timeout ends the body with an error that says how far it came."""
    with pytest.raises(InvalidRequest, match="after 3 bytes"):
        read(b"abc")
    with pytest.raises(ClientGone):
        read(b"abc", GONE)


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (Head(), False),
        (Head(length=10), False),
        (Head(length=10, expects=True), True),
        (Head(length=bodies.SWALLOWED + 1), True),
        (Head(chunked=True), True),
    ],
)
def test_a_refused_body_may_end_its_connection(head: Head, closes: bool) -> None:
    """The connection goes on if the rest of the body is known to be short, and is on its way."""
    assert (Body(arriving(), 1).choose_closing(head) == CLOSE) == closes


@pytest.mark.parametrize(("messages", "status"), [((b"x" * 200, last(b"")), 413), ((b"{",), 400)])
def test_the_middleware_refuses(messages: tuple[Any, ...], status: int) -> None:
    """A body that is too large or stops coming never reaches the application."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(*_: Any) -> None:
        raise AssertionError

    limited = BodyLimit(app, limit=100, stall_timeout=0.05)
    asyncio.run(limited({"type": "http"}, arriving(*messages), send))
    assert sent[0]["status"] == status


def test_the_middleware_replays_the_body() -> None:
    """The application receives the body in one piece, and then what comes behind it."""
    received: list[Any] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        received.extend([await receive(), await receive()])

    limited = BodyLimit(app, limit=100, stall_timeout=60)
    asyncio.run(limited({"type": "http"}, arriving(b"a", last(b"b"), GONE), None))  # type: ignore[arg-type]
    assert received == [last(b"ab"), GONE]
