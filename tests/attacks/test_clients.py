"""Clients that break every rule, at every door of every transport: an error or an end, and the next is served.

With VENVD_ATTACKS_FULL=1 ten thousand connections come and go where a thousand do otherwise.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator

import pytest
from harness import http2
from harness.attacks import Target
from harness.door import Door
from harness.measure import held
from harness.waiting import wait_until

MIB = 1 << 20
NOISE = random.Random(7).randbytes(64 * 1024)  # noqa: S311 — the same noise each time


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, the session kept its state, and the server serves."""
    if "target" in request.fixturenames:
        target = request.getfixturevalue("target")
    else:
        target = request.getfixturevalue("http_door")[0]
    with target.caller() as call:
        call("eval", {"expression": "kept = 'kept'"})
    yield
    target.serves()
    with target.caller() as call:
        assert call("eval", {"expression": "kept"}) == {"value": "kept"}


def refused(door: Door, answer: bytes) -> bool:
    """Whether what came back is an error in the door's own language, or nothing at all."""
    if door.speaks == "http":
        return not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    if door.speaks == "lines":
        return all("error" in json.loads(line) for line in answer.splitlines())
    return {kind for kind, _ in http2.frames(answer)}.isdisjoint({http2.DATA, http2.HEADERS})


ATTACKS = {
    "noise": NOISE,
    "bytes that are no UTF-8": b"\xff\xfe\xc3(" * 1000 + b"\r\n\r\n",
    "zeros": bytes(100_000) + b"\n\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:500] + b"\n",
    "HTTP/2 and noise": http2.PREFACE + NOISE,
    "an HTTP/2 frame of 16 MB": http2.PREFACE
    + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "brackets": b"[" * (10 * MIB) + b"\n",
    "a request line without end": b"GET /" + b"a" * MIB,
    "another protocol": b"EHLO example.org\r\nMAIL FROM:<a@example.org>\r\n\r\n",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_bytes_of_no_protocol(target: Target, attack: str) -> None:
    """A client tries bytes that mean nothing: they are answered with an error at most, and the connection ends."""
    for door in target.doors():
        with door.open() as raw:
            raw.send(ATTACKS[attack])
            raw.finish()
            assert refused(door, raw.rest()), door


HALVES = {
    "http": b"POST /api/eval HTTP/1.1\r\nHost: x\r\nContent-Le",
    "lines": b'{"command":"eval","payload":{"expre',
    "grpc": http2.PREFACE[:12],
}


@pytest.mark.long
def test_half_a_request_and_silence(target: Target) -> None:
    """A hundred connections try to hold the server by half a request: none delays another client, and all are ended."""
    for door in target.doors():
        with door.crowd(100) as waiting:
            for raw in waiting:
                raw.send(HALVES[door.speaks])
            target.serves()
            assert all(refused(door, raw.rest()) for raw in waiting)


def test_connections_opened_and_dropped(target: Target) -> None:
    """A client tries to use up descriptors by thousands of connections that come and go: none is left behind."""
    count = 10_000 if os.environ.get("VENVD_ATTACKS_FULL") == "1" else 1_000
    target.serves()
    before = held([target.parts.server])
    for door in target.doors():
        for number in range(count):
            with door.open() as raw:
                if number % 4:
                    raw.send(HALVES[door.speaks][: number % 17])
    wait_until(lambda: held([target.parts.server]).descriptors <= before.descriptors, "descriptors are left")
    assert held([target.parts.server]).memory < before.memory + 64 * MIB


def test_connections_that_only_stand_there(target: Target) -> None:
    """Hundreds of silent connections try to keep others out: no other client is delayed."""
    for door in target.doors():
        with door.crowd(500):
            target.serves()


# ---- HTTP ------------------------------------------------------------------------------------------------------


def head(target: Target, *lines: str) -> bytes:
    path = {"http": "/api/eval", "rpc": "/rpc/PythonService/Evaluate", "pipe": "/health"}[target.kind]
    first = f"POST {path} HTTP/1.1"
    return "\r\n".join([first, "Host: x", f"Authorization: Bearer {target.running.token}", *lines, "", ""]).encode()


LIES: dict[str, Callable[[Target], bytes]] = {
    "less body than announced": lambda target: head(target, "Content-Length: 100") + b'{"expression":"1"}',
    "2 GB announced": lambda target: head(target, f"Content-Length: {2**31}") + b'{"expression":"1"}',
    "a length of many digits": lambda target: head(target, f"Content-Length: {10**40}") + b"{}",
    "a negative length": lambda target: head(target, "Content-Length: -1") + b"{}",
    "two lengths": lambda target: head(target, "Content-Length: 2", "Content-Length: 200") + b"{}",
    "a length and chunks": lambda target: head(target, "Content-Length: 2", "Transfer-Encoding: chunked") + b"{}",
    "chunks that are none": lambda target: head(target, "Transfer-Encoding: chunked") + b"zz\r\nhello\r\n",
    "a chunk of 2 GB": lambda target: head(target, "Transfer-Encoding: chunked") + b"80000000\r\nhello",
    "headers without end": lambda target: head(target)[:-2] + b"X-Filler: " + b"x" * (2 * MIB),
    "ten thousand headers": lambda target: head(target, *(f"X-{number}: 1" for number in range(10_000))),
}


@pytest.mark.parametrize("lie", LIES)
def test_http_that_lies(http_door: tuple[Target, Door], lie: str) -> None:
    """A client tries a request that is not what it says: it is refused, or dropped when its client goes."""
    target, door = http_door
    with door.open() as raw:
        raw.send(LIES[lie](target))
        raw.finish()
        assert refused(door, raw.rest())


def test_more_body_than_announced(http_door: tuple[Target, Door]) -> None:
    """A client tries to smuggle a request behind a body: it is a request of its own, or an error."""
    target, door = http_door
    with door.open() as raw:
        raw.send(head(target, "Content-Length: 18") + b'{"expression":"1"}' + b'{"expression":"2"}' + b"\r\n\r\n")
        raw.finish()
        answers = raw.rest()
        assert answers.count(b"HTTP/1.1 ") <= 2
        assert answers.rfind(b"HTTP/1.1 400") == answers.rfind(b"HTTP/1.1 ")


def test_garbage_between_requests(http_door: tuple[Target, Door]) -> None:
    """A client tries garbage between requests: those before it are answered, it is an error, the rest is not read."""
    _, door = http_door
    ping = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with door.open() as raw:
        raw.send(ping * 3 + b"\x00\x01garbage\r\n\r\n" + ping * 3)
        raw.finish()
        answers = raw.rest()
    assert answers.count(b"HTTP/1.1 200") <= 3
    assert answers.count(b"HTTP/1.1 ") - answers.count(b"HTTP/1.1 200") <= 1


def test_many_requests_and_no_reading(http_door: tuple[Target, Door]) -> None:
    """A client tries to fill the memory by requests whose answers it does not read: it is held back."""
    target, door = http_door
    before = held([target.parts.server]).memory
    with door.open(timeout=1) as raw:
        flood = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000
        try:
            while raw.send(flood):
                pass
        except TimeoutError:
            pass
        target.serves()
        assert held([target.parts.server]).memory < before + 64 * MIB


def test_headers_drop_by_drop(http_door: tuple[Target, Door]) -> None:
    """Connections try to stay for ever by a header every now and then: they are ended."""
    target, door = http_door
    with door.crowd(50) as dripping:
        for raw in dripping:
            raw.send(b"GET /health HTTP/1.1\r\n")
        target.serves()

        def all_ended() -> bool:
            sent = [raw.send(b"X-Drop: 1\r\n") for raw in dripping]
            return not any(sent)

        wait_until(all_ended, "connections that never finish their request stay")


def test_brackets_as_a_body(http_door: tuple[Target, Door]) -> None:
    """A client tries 10 MB of nested brackets: they are too large; where no bodies are taken, nothing reads them."""
    target, door = http_door
    body = b'{"expression":"1","locals":{"a":' + b"[" * (10 * MIB)
    with door.open() as raw:
        raw.send(head(target, f"Content-Length: {len(body)}", "Connection: close") + body)
        answer = raw.rest()
    assert answer.startswith(b"HTTP/1.1 405 " if target.kind == "pipe" else b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] in {"too_large", "invalid_request"}
