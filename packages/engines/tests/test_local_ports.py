from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_engines.engine import Port
from venvd_engines.local import ports


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        yield made.getsockname()[1]


def test_a_free_port_is_taken_as_wanted() -> None:
    """The wanted port is chosen if it is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    assert ports.choose("127.0.0.1", Port("main", 1, number, exact=True), ()) == number


def test_the_next_free_port_comes_after_a_taken_one(listener: int) -> None:
    """A port that is taken is passed over, and so is one that is spoken for."""
    first = ports.choose("127.0.0.1", Port("main", 1, listener), ())
    assert first > listener
    assert ports.choose("127.0.0.1", Port("main", 1, listener), {first}) > first


def test_a_port_that_must_be_it_is_a_conflict_with_its_holder(listener: int) -> None:
    """An exact port that is taken is an error that names the port and who listens on it."""
    with pytest.raises(Conflict, match=rf"port {listener} is taken by process {os.getpid()} \("):
        ports.choose("127.0.0.1", Port("main", 1, listener, exact=True), ())


def test_a_port_taken_on_every_address_is_taken_on_each() -> None:
    """A listener on all addresses keeps loopback from being free."""
    with socket.socket() as made:
        made.bind(("0.0.0.0", 0))
        made.listen()
        assert not ports.is_free("127.0.0.1", made.getsockname()[1])


def test_old_connections_keep_no_port() -> None:
    """A port whose listener is gone is free although connections of it linger, as every server allows."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", number))
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)
        client.close()
    assert ports.is_free("127.0.0.1", number)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1", "a" * 300, "\x00"])
def test_an_address_that_nothing_can_listen_on_is_refused(host: str) -> None:
    """A host that is none of this machine's is the caller's mistake."""
    with pytest.raises(InvalidRequest):
        ports.choose(host, Port("main", 1, 34567), ())


def test_nothing_above_the_last_port() -> None:
    """The search ends at the last port there is."""
    with pytest.raises(Conflict, match="no port from 65535 to 65535"):
        ports.choose("127.0.0.1", Port("main", 1, 65535), {65535})


def test_the_listening_process_is_known(listener: int) -> None:
    """It is seen which process listens on a port."""
    assert ports.listens(os.getpid(), listener)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        assert not ports.listens(os.getpid(), other.getsockname()[1])
