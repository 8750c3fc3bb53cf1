"""Connections that are not accepted yet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from venvd_http import admission
from venvd_http.admission import Admission, AdmissionLimits, count_unread, name_peer


class Silent:
    """A connection that sends nothing."""

    def __init__(self) -> None:
        self.reason = ""
        self.unread = False

    def has_unread(self) -> bool:
        return self.unread

    def drop(self, reason: str) -> None:
        self.reason = reason


async def wait_until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110 — the limits have no event to wait for
            await asyncio.sleep(0.01)


def test_the_oldest_of_a_peer_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer keeps its newest connections, one whose bytes the server has not read yet, and other peers keep theirs."""
    monkeypatch.setattr(admission, "SETTLE_SECONDS", 0.05)

    async def scenario() -> None:
        limits = Admission(AdmissionLimits(seconds=60, connections=2))
        mine, other = [Silent() for _ in range(5)], Silent()
        mine[0].unread = True
        for connection in mine:
            limits.enter(connection, "10.0.0.1")
        limits.enter(other, "10.0.0.2")
        await wait_until(lambda: all(connection.reason for connection in mine[1:4]))
        assert "more than 2" in mine[1].reason
        assert not any(connection.reason for connection in (mine[0], mine[4], other))

    asyncio.run(scenario())


def test_none_stays_for_ever() -> None:
    """A connection that is not accepted in time goes, and one that was accepted stays."""

    async def scenario() -> None:
        limits = Admission(AdmissionLimits(seconds=0.1))
        late, accepted = Silent(), Silent()
        limits.enter(late, "10.0.0.1")
        limits.enter(accepted, "10.0.0.1")
        limits.leave(accepted, "10.0.0.1")
        limits.leave(accepted, "10.0.0.1")
        await wait_until(lambda: bool(late.reason))
        assert late.reason == "no token was accepted within 0.1 s"
        assert not accepted.reason

    asyncio.run(scenario())


def test_all_peers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many connections of all peers, the oldest of the largest peer makes room."""
    monkeypatch.setattr(admission, "MOST", 3)

    async def scenario() -> None:
        limits = Admission(AdmissionLimits())
        crowd, single, last = [Silent(), Silent()], Silent(), Silent()
        limits.enter(single, "10.0.0.1")
        for connection in crowd:
            limits.enter(connection, "10.0.0.2")
        limits.enter(last, "10.0.0.3")
        assert [bool(each.reason) for each in (*crowd, single, last)] == [True, False, False, False]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:1000", "unix:1000"),
    ],
)
def test_what_a_peer_is(address: str, peer: str) -> None:
    """An IPv6 network of 64 bits is one peer, as one client has it whole."""
    assert name_peer(address) == peer


def test_unread_bytes() -> None:
    """The kernel says how many bytes wait in a socket."""
    near, far = socket.socketpair()
    with near, far:
        far.send(b"abc")
        assert count_unread(near.fileno()) == 3
