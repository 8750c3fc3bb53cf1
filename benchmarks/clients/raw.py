"""Clients that do the least: they send prepared bytes on one socket and receive the answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.clients.timing import median_of
from benchmarks.figure import Address, Probe, UnmeasurableError

EVAL = b'{"expression":"1+1"}'
EVAL_LINE = b'{"id":1,"command":"eval","payload":%b}\n' % EVAL


@contextmanager
def unix_echo(at: Address, size: int = 64) -> Iterator[Probe]:
    """Send `size` bytes and receive them back."""
    message = bytes(size)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(urlsplit(at.url).path)

        def call() -> None:
            peer.sendall(message)
            peer.recv(65536)

        yield median_of(call)


@contextmanager
def pipe_line(at: Address) -> Iterator[Probe]:
    """Send an `eval` as a line of the pipe and receive the reply."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(urlsplit(at.url).path)
        peer.sendall(json.dumps({"command": "ping", "token": at.token}).encode() + b"\n")
        peer.recv(65536)
        expect(exchange(peer, EVAL_LINE), b'"value":')

        yield median_of(lambda: exchange(peer, EVAL_LINE))


def exchange(peer: socket.socket, request: bytes) -> bytes:
    """Send a request and return the answer."""
    peer.sendall(request)
    return peer.recv(65536)


@contextmanager
def http_post(at: Address, expected: str = "") -> Iterator[Probe]:
    """Send one `POST /api/eval` after another on one connection."""
    request = make_post(at)
    address, _, port = urlsplit(at.url).netloc.partition(":")
    with socket.create_connection((address, int(port))) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call() -> bytes:
            peer.sendall(request)
            reply = b""
            while not is_complete(reply):
                chunk = peer.recv(65536)
                if not chunk:
                    raise UnmeasurableError("the server closed the connection")
                reply += chunk
            return reply

        expect(call(), expected.encode())
        yield median_of(call)


def make_post(at: Address, session: str = "") -> bytes:
    """The bytes of a request that evaluates `1+1` in this session."""
    head = f"POST /api/eval HTTP/1.1\r\nHost: {urlsplit(at.url).netloc}\r\nAuthorization: Bearer {at.token}\r\n"
    if session:
        head += f"X-Venvd-Session: {session}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(EVAL)}\r\n\r\n"
    return head.encode() + EVAL


def is_complete(reply: bytes) -> bool:
    """Whether a response has all bytes of its Content-Length."""
    head, end, body = reply.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def expect(reply: bytes, expected: bytes) -> None:
    """Check that an answer is the right one before anything is timed."""
    if expected not in reply:
        raise UnmeasurableError(f"the answer was {reply[:200]!r}")
