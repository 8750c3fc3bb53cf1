"""Probes of a backend: what the controller makes of each answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from venvd_contract.errors import Unavailable
from venvd_controller import probes
from venvd_engines.engine import LaunchRecord

Answer = Callable[[bytes], LaunchRecord]
READY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Venvd-Audit: at-7\r\n\r\n{}"


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Make a server that answers each request with the same bytes, in two parts, and closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(content: bytes) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # a client may leave before the end
                connection.recv(4096)
                connection.sendall(content[:20])
                connection.sendall(content[20:])

    def start(content: bytes) -> LaunchRecord:
        threading.Thread(target=serve, args=(content,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return LaunchRecord("local", "probed", url, url, {})

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_an_answer_is_read_with_its_position(answer: Answer) -> None:
    """The status says whether the backend is ready, and a header where its audit log is."""
    readiness = probes.probe_readiness(answer(READY))
    assert (readiness.ready, readiness.audit_position) == (True, "at-7")


def test_the_reason_is_that_of_the_server(answer: Answer) -> None:
    """A backend that is not ready says why."""
    body = b'{"detail": "no worker host yet"}'
    readiness = probes.probe_readiness(answer(b"HTTP/1.1 503 x\r\ncontent-length: %d\r\n\r\n" % len(body) + body))
    assert (readiness.ready, readiness.answered, readiness.reason) == (False, True, "no worker host yet")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2 and some more\r\n\r\n", "speaks no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "has no length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", "has no length"),
        (b"HTTP/1.1 200 OK\r\nX: " + bytes(200_000), "too large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(17 << 20), "too large"),
    ],
)
def test_what_is_no_answer_is_none(answer: Answer, content: bytes, reason: str) -> None:
    """A server that sends no whole answer, or too much of one, has not answered."""
    readiness = probes.probe_readiness(record := answer(content))
    assert (readiness.ready, readiness.answered) == (False, False)
    assert reason in readiness.reason
    with pytest.raises(Unavailable, match=reason):
        probes.fetch(record, "/metrics")
