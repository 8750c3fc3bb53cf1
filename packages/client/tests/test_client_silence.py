"""Servers that are late or silent: the client gives a silent one up soon, and waits for one that lives."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import venvd
from venvd._net import deadlines
from venvd_contract.framing import dump_line

numpy = pytest.importorskip("numpy")
pytestmark = pytest.mark.slow

TIMEOUT = 0.05


class Peer:
    """A server that accepts connections and reads requests.

    It answers a call once `answering` is set, and a ping at once if it is `alive`.
    """

    def __init__(self, listener: socket.socket, url: str, *, alive: bool) -> None:
        self.url = url
        self.alive = alive
        self.answering = threading.Event()
        self.pinged = threading.Event()
        self.gone = threading.Event()
        self._listener = listener
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.answering.set()
        for opened in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(1 << 20):
                if request.startswith(b"GET /health") or b'"ping"' in request:
                    self.pinged.set()
                    if self.alive:
                        connection.sendall(self._answer({"status": "ok"}))
                else:
                    self.answering.wait()
                    connection.sendall(self._answer({"value": 7}))
        self.gone.set()

    def _answer(self, result: dict[str, Any]) -> bytes:
        if self.url.startswith("unix"):
            return dump_line({"id": 1, "result": result})
        body = dump_line(result)
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


StartPeer = Callable[..., Peer]


@pytest.fixture
def start_peer(tmp_path: Path) -> Iterator[StartPeer]:
    peers: list[Peer] = []

    def start(kind: str, *, alive: bool = False) -> Peer:
        if kind == "pipe":
            path = tmp_path / "pipe.sock"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            url = f"unix://{path}"
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            url = f"{'grpc' if kind == 'rpc' else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        peers.append(Peer(listener, url, alive=alive))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


def run_call(url: str, run: str, make: Callable[[Any], Any]) -> Any:
    """Do what `make` says with a client of `url`, sync or async."""
    if run == "sync":
        with venvd.connect(url, timeout=TIMEOUT) as backend:
            return make(backend)

    async def go() -> Any:
        async with venvd.connect_async(url, timeout=TIMEOUT) as backend:
            return await make(backend)

    return asyncio.run(go())


CALLS: dict[str, Callable[[Any], Any]] = {
    "eval": lambda backend: backend.eval("1"),
    "a large request": lambda backend: backend.eval("len(_x)", _x="x" * (8 << 20)),
    "put_array": lambda backend: backend.put_array(numpy.zeros(1 << 20)),
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("run", ["sync", "async"])
@pytest.mark.parametrize("kind", ["http", "pipe", "rpc"])
def test_a_silent_server_is_given_up(start_peer: StartPeer, kind: str, run: str, what: str) -> None:
    """A server that accepts and says nothing costs the timeout and a second, not the time for a late answer."""
    peer = start_peer(kind)
    before = time.monotonic()
    with pytest.raises(venvd.DeadlineExceeded, match="in time: the server shows no sign of life"):
        run_call(peer.url, run, CALLS[what])
    assert time.monotonic() - before < TIMEOUT + deadlines.LATE
    assert kind == "rpc" or peer.gone.wait(10)  # gRPC goes on to connect for a while


@pytest.mark.parametrize("run", ["sync", "async"])
@pytest.mark.parametrize("kind", ["http", "pipe"])
def test_a_late_answer_of_a_server_that_lives(
    start_peer: StartPeer, kind: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks after the timeout whether the server lives, and then waits for its answer."""
    monkeypatch.setattr(deadlines, "SILENCE", 30.0)
    monkeypatch.setattr(deadlines, "LATE", 30.0)
    peer = start_peer(kind, alive=True)

    def answer_late() -> None:
        peer.pinged.wait()
        peer.answering.set()

    threading.Thread(target=answer_late, daemon=True).start()
    assert run_call(peer.url, run, CALLS["eval"]) == 7


@pytest.mark.parametrize("run", ["sync", "async"])
@pytest.mark.parametrize("kind", ["http", "pipe"])
def test_an_answer_that_never_comes(
    start_peer: StartPeer, kind: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lives and does not answer the call is given up as well."""
    monkeypatch.setattr(deadlines, "SILENCE", 30.0)
    monkeypatch.setattr(deadlines, "LATE", 0.5)
    peer = start_peer(kind, alive=True)
    with pytest.raises(venvd.DeadlineExceeded, match="in time; the call was abandoned"):
        run_call(peer.url, run, CALLS["eval"])
    assert peer.pinged.is_set()
