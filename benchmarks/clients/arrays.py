"""100 MB of float64, from where they are to a numpy array of the caller."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import grpc
import numpy as np

import venvd
from benchmarks.clients.timing import MILLI, median_of
from benchmarks.figure import Address, Probe, UnmeasurableError

MB = 1_000_000
ITEM = 8


@contextmanager
def memcpy(_at: Address, size: int) -> Iterator[Probe]:
    """One copy into memory that was touched before."""
    source = np.arange(size * MB // ITEM, dtype=np.float64)
    target = np.ones_like(source)
    yield median_of(lambda: np.copyto(target, source), MILLI)


@contextmanager
def http_bytes(at: Address, size: int) -> Iterator[Probe]:
    """From a bare server that sends 1 MB chunks, into an array."""
    host = urlsplit(at.url).netloc
    request = f"GET /?{size} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    address, _, port = host.partition(":")
    with socket.create_connection((address, int(port))) as peer:

        def call() -> None:
            peer.sendall(request)
            head = b""
            while b"\r\n\r\n" not in head:
                head += peer.recv(1)
            _fill(peer, np.empty(size * MB // ITEM))

        yield median_of(call, MILLI)


def _fill(peer: socket.socket, array: np.ndarray) -> None:
    room = memoryview(array).cast("B")
    while room:
        came = peer.recv_into(room)
        if not came:
            raise UnmeasurableError("the server closed the connection")
        room = room[came:]


@contextmanager
def rpc_bytes(at: Address, size: int) -> Iterator[Probe]:
    """From a bare server that streams 1 MB chunks, into an array."""
    channel = grpc.insecure_channel(urlsplit(at.url).netloc, [("grpc.max_receive_message_length", -1)])
    method = channel.unary_stream("/floor.Echo/Chunks")

    def call() -> None:
        room = memoryview(np.empty(size * MB // ITEM)).cast("B")
        for chunk in method(b"%d" % size):
            room[: len(chunk)] = chunk
            room = room[len(chunk) :]

    yield median_of(call, MILLI)
    channel.close()


@contextmanager
def fetched(at: Address, size: int) -> Iterator[Probe]:
    """The SDK's `get_array` of an array that lies in the session."""
    count = size * MB // ITEM
    with venvd.connect(at.url, at.token) as backend:
        remote = backend.eval(f"import numpy; numpy.arange({count}, dtype='float64')")
        found = backend.get_array(remote)
        if found.nbytes != size * MB or found[-1] != count - 1:
            raise UnmeasurableError("another array came back")
        del found
        yield median_of(lambda: backend.get_array(remote), MILLI)
