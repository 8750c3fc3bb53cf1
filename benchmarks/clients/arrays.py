"""Clients that bring 100 MB of float64 into a numpy array of their own."""

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
    """From a bare HTTP server that sends 1 MB chunks."""
    host = urlsplit(at.url).netloc
    request = f"GET /?{size} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    address, _, port = host.partition(":")
    with socket.create_connection((address, int(port))) as connection:

        def call() -> None:
            connection.sendall(request)
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1)
            _receive_into(np.empty(size * MB // ITEM), connection)

        yield median_of(call, MILLI)


def _receive_into(array: np.ndarray, connection: socket.socket) -> None:
    rest = memoryview(array).cast("B")
    while rest:
        received = connection.recv_into(rest)
        if not received:
            raise UnmeasurableError("the server closed the connection")
        rest = rest[received:]


@contextmanager
def rpc_bytes(at: Address, size: int) -> Iterator[Probe]:
    """From a bare gRPC server that streams 1 MB chunks."""
    channel = grpc.insecure_channel(urlsplit(at.url).netloc, [("grpc.max_receive_message_length", -1)])
    method = channel.unary_stream("/floor.Echo/Chunks")

    def call() -> None:
        rest = memoryview(np.empty(size * MB // ITEM)).cast("B")
        for chunk in method(b"%d" % size):
            rest[: len(chunk)] = chunk
            rest = rest[len(chunk) :]

    yield median_of(call, MILLI)
    channel.close()


@contextmanager
def sdk_get_array(at: Address, size: int) -> Iterator[Probe]:
    """The SDK's `get_array` of an array in the session."""
    count = size * MB // ITEM
    with venvd.connect(at.url, at.token) as backend:
        remote = backend.eval(f"import numpy; numpy.arange({count}, dtype='float64')")
        array = backend.get_array(remote)
        if array.nbytes != size * MB or array[-1] != count - 1:
            raise UnmeasurableError("get_array returned a different array")
        del array
        yield median_of(lambda: backend.get_array(remote), MILLI)
