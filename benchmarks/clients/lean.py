"""Clients that do the least: bytes out, bytes in, on one socket."""

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
    """Sends `size` bytes and takes them back."""
    message = bytes(size)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(urlsplit(at.url).path)

        def call() -> None:
            peer.sendall(message)
            peer.recv(65536)

        yield median_of(call)


@contextmanager
def pipe_line(at: Address) -> Iterator[Probe]:
    """Sends an `eval` as a line of the pipe and takes the reply's."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(urlsplit(at.url).path)
        peer.sendall(json.dumps({"command": "ping", "token": at.token}).encode() + b"\n")
        peer.recv(65536)
        expect(asked(peer, EVAL_LINE), b'"value":')

        yield median_of(lambda: asked(peer, EVAL_LINE))


def asked(peer: socket.socket, request: bytes) -> bytes:
    """What comes back."""
    peer.sendall(request)
    return peer.recv(65536)


@contextmanager
def http_post(at: Address, wanted: str = "") -> Iterator[Probe]:
    """One `POST /api/eval` after the other on a connection that is kept."""
    host = urlsplit(at.url).netloc
    head = f"POST /api/eval HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {at.token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(EVAL)}\r\n\r\n"
    request = head.encode() + EVAL
    address, _, port = host.partition(":")
    with socket.create_connection((address, int(port))) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call() -> bytes:
            peer.sendall(request)
            reply = b""
            while not complete(reply):
                more = peer.recv(65536)
                if not more:
                    raise UnmeasurableError("the server closed the connection")
                reply += more
            return reply

        expect(call(), wanted.encode())
        yield median_of(call)


def complete(reply: bytes) -> bool:
    """Whether a response is whole; it says how long it is."""
    head, end, body = reply.partition(b"\r\n\r\n")
    if not end:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def expect(reply: bytes, wanted: bytes) -> None:
    """What is measured must be what is meant."""
    if wanted not in reply:
        raise UnmeasurableError(f"the answer was {reply[:200]!r}")
