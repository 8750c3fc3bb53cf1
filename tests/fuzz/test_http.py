"""Fuzzing of the HTTP front: bytes of any client on a connection, cut anywhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvicorn
from harness.fuzzing import cuts, damaged, fuzz, outcome
from harness.wire import Wire
from hypothesis import strategies as st
from uvicorn.server import ServerState

from venvd_contract.errors import Forbidden, InvalidRequest, Unauthenticated
from venvd_http.connection import LARGEST_FAST_BODY, Exchange, FastPath, create_connection_type
from venvd_http.edge import Edge
from venvd_http.heads import Head, HeadCache
from venvd_http.origin import BrowserGuard, find, parse_host_pattern, parse_origin_pattern

TOKEN = "vd_right"
TURNS = 10
"""Turns of the loop after which each request is answered: none waits for anything outside of it."""

starts = st.sampled_from(
    [b"POST /api/eval HTTP/1.1"] * 4
    + [
        b"POST /api/eval HTTP/1.0",
        b"GET /api/eval HTTP/1.1",
        b"POST /other HTTP/1.1",
        b"POST /api/eval?x HTTP/1.1",
        b"POST  / HTTP/1.1",
    ]
    + [
        b"POST /api/eval",
        b"PRI * HTTP/2.0",
        b"",
        b"CONNECT a:1 HTTP/1.1",
        b"POST http://a/api/eval HTTP/1.1",
        b"DELETE / HTTP/1.1",
    ]
)
headers = st.sampled_from(
    [b"Authorization: Bearer vd_right"] * 3
    + [b"Content-Length: %d" % size for size in (0, 2, 2, 2, 7, LARGEST_FAST_BODY + 1)]
    + [
        b"Content-Length: +2",
        b"Content-Length: 2, 2",
        b"content-length:2",
        b"Content-Length : 2",
        b"Content-Length: 0x2",
    ]
    + [
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding:\x0bchunked",
    ]
    + [
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
    ]
    + [
        b"Host: localhost",
        b"Host: a.example",
        b"Origin: http://evil.example",
        b"Origin: null",
        b"Host:",
        b"Accept: text/event-stream",
    ]
    + [
        b"X-Venvd-Timeout: 5",
        b"X-Venvd-Timeout: x",
        b"X-Venvd-Session: \xff",
        b"Authorization: Basic x",
        b"Authorization: Bearer no",
    ]
    + [b" folded", b"no colon", b"X:\x00", b": empty", b"X: " + b"y" * 500]
)
bodies = st.sampled_from(
    [
        b"",
        b"{}",
        b"{}",
        b"{}",
        b"2\r\n{}\r\n0\r\n\r\n",
        b"0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"{}GET / HTTP/1.1\r\n\r\n",
    ]
)
exact = st.just(b"POST /api/eval HTTP/1.1\r\nAuthorization: Bearer vd_right\r\nContent-Length: 2\r\n\r\n{}")
requests = st.tuples(starts, st.lists(headers, max_size=5), bodies).map(
    lambda parts: b"\r\n".join([parts[0], *parts[1], b"", parts[2]])
)
http_streams = damaged(st.lists(requests | exact, max_size=4).map(b"".join), 3)


class Echo(Exchange):
    """Answers a request of the fast path with what it was."""

    def begin(self, command: str, head: Head, body: bytes) -> None:
        self.respond(describe(command, head.session, body))

    def cancel(self) -> None:
        """Nothing runs."""

    def respond(self, body: bytes) -> None:
        self._connection.answer(self, b"200 OK", b"content-type: application/json\r\n", body)


def describe(command: str, session: str | None, body: bytes) -> bytes:
    return json.dumps([command, session, body.decode("latin-1")]).encode()


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer as `Echo` does, for requests that take the long way."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    status, text = 200, b""
    try:
        head = Head.of(scope["headers"], "test")
        Edge().browsers.check(*find(scope["headers"]))
        admit(head)
        text = describe("eval" if scope["path"] == "/api/eval" else scope["path"], head.session, body)
    except (InvalidRequest, Forbidden, Unauthenticated) as error:
        status, text = error.http_status, b"{}"
    lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": text})


def admit(head: Head) -> None:
    if head.token != TOKEN:
        raise Unauthenticated("wrong")


def exchange(pieces: list[bytes], *, fast: bool) -> bytes:
    """What a connection writes for these bytes; the peer that sends single bytes waits for each answer."""
    turns = TURNS if all(len(piece) == 1 for piece in pieces) else 1

    async def talk() -> bytes:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        path = FastPath({b"/api/eval": "eval"} if fast else {}, admit, Echo)
        kind = create_connection_type(Edge(), 60, path)
        connection: Any = kind(
            uvicorn.Config(answer, log_config=None, access_log=False, lifespan="off"), ServerState(), {}
        )
        peer = Wire()
        connection.connection_made(peer)
        connection.accept(None)
        for piece in pieces:
            if not peer.closed:
                connection.data_received(piece)
                for _ in range(turns):
                    await asyncio.sleep(0)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert not failures
        return peer.written

    return asyncio.run(talk())


def read_answers(written: bytes) -> list[tuple[int, bytes]]:
    """Split what was written into statuses and bodies: each answer has its length."""
    answers = []
    while written:
        head, end, rest = written.partition(b"\r\n\r\n")
        assert end, written[:200]
        first, *lines = head.split(b"\r\n")
        version, code, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        if code == b"100":
            written = rest
            continue
        lengths = [int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length:")]
        assert len(lengths) == 1
        size = lengths[0]
        answers.append((int(code), rest[:size] if int(code) == 200 else b""))
        written = rest[size:]
    return answers


@fuzz(http_streams, share=0.5)
def test_http_requests(data: bytes) -> None:
    """All ways to cut some bytes, and both paths, find the same requests in them: none gets an answer of its own.

    A connection that ends for bytes that are no HTTP may end before the requests in front of them are answered.
    """
    bytewise = [data[at : at + 1] for at in range(len(data))]
    expected = read_answers(exchange(bytewise, fast=False))
    good = [answer for answer in expected if answer[0] == 200]
    for fast in (True, False):
        for pieces in cuts(data, 1):
            answers = read_answers(exchange(pieces, fast=fast))
            served = [answer for answer in answers if answer[0] == 200]
            assert served == good[: len(served)]
            assert len(answers) <= len(expected)
            assert answers == expected or {400, 413} & {status for status, _ in answers}


@fuzz(st.tuples(exact, requests | exact, st.booleans()).map(lambda parts: parts[0] + parts[1] + parts[0] * parts[2]))
def test_known_heads(data: bytes) -> None:
    """A head that is known by its bytes gives the same request as one that is parsed."""
    at = data.find(b"\r\n\r\n") + 6
    cache = HeadCache()
    cache.learn(data[:at], "eval", Head(length=2))
    known = cache.find(data[at:])
    if known is not None:
        assert known[2] == data[-2:]
        assert data[at:].startswith(data[: at - 2])
        assert len(data) == 2 * at


names = st.sampled_from(
    [
        b"localhost",
        b"LOCALHOST:80",
        b"127.0.0.1:1",
        b"[::1]",
        b"[::1]:8",
        b"evil.example",
        b"localhost.evil.example",
        b"a.localhost",
        b"localhost:80:90",
        b"evil@localhost",
        b"localhost\x00",
        b"",
        b":",
        b"[",
        b"[::1",
        b"1.2.3.4.evil.example",
        b"app.example.com",
        b"x.app.example.com.",
        b"localhost.",
        b"\xe9",
        b"0x7f.1",
        b"127.1",
        b"localhost/x",
        b"localhost#",
    ]
) | st.binary(max_size=20)


@fuzz(
    st.tuples(names, st.sampled_from([b"", b"http://", b"https://", b"null", b"HTTP://", b"file://"]), names).map(
        b"\n".join
    )
)
def test_names_of_a_request(data: bytes) -> None:
    """A server without a token takes no name but its own, and no page but those of its names and the allowed ones."""
    host, scheme, page = ([*data.split(b"\n", 2), b"", b""])[:3]
    origin = scheme + page if scheme else None
    guard = BrowserGuard(
        open_to_all=True,
        own_hosts=["backend"],
        allowed_hosts=["*.example.com"],
        allowed_origins=["https://app.example.com"],
    )
    listed = [(b"host", host), *([] if origin is None else [(b"origin", origin)])]
    checked = [outcome(lambda: guard.check(*find(listed)), Forbidden) for _ in range(2)]
    assert checked[0] == checked[1]
    if checked[0][0] == "value":
        name = host.decode("latin-1").lower()
        assert "evil.example" not in name
        assert "/" not in name
        if origin is not None:
            assert (
                origin.partition(b"://")[2].lower() == host.lower()
                or origin.lower().rstrip(b":443") == b"https://app.example.com"
            )


@fuzz(names | st.tuples(st.sampled_from([b"*.", b"*", b"https://", b"http://*."]), names).map(b"".join))
def test_patterns_of_settings(data: bytes) -> None:
    """A pattern of hosts or origins is refused, or stays what it is when it is parsed again."""
    text = data.decode("latin-1")
    for parse in (parse_host_pattern, parse_origin_pattern):
        kind, pattern = outcome(lambda parse=parse: parse(text), InvalidRequest)
        if kind == "value":
            assert parse(pattern) == pattern
