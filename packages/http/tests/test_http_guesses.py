"""Refused tokens by peer: what each costs, and which are logged."""

from __future__ import annotations

import logging

import pytest

from venvd_contract.errors import Unauthenticated
from venvd_contract.internal.audit import classify_peer
from venvd_http.auth import TokenGuard, WrongToken, sha256
from venvd_http.guesses import LONGEST_SECONDS, MOST_PEERS, USUAL_SECONDS, WINDOW, Guesses


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_guess_costs_more() -> None:
    """The first wrong tokens of a peer cost half a second, further ones twice as much each time, up to a bound."""
    guesses = Guesses(3, Clock())
    delays = [guesses.note("192.0.2.1", wrong=True).delay for _ in range(9)]
    assert delays == [USUAL_SECONDS] * 3 + [1.0, 2.0, 4.0] + [LONGEST_SECONDS] * 3


def test_a_peer_begins_anew_after_a_minute() -> None:
    """A client that has its token right again pays the usual time a minute later."""
    clock = Clock()
    guesses = Guesses(1, clock)
    assert [guesses.note("192.0.2.1", wrong=True).delay for _ in range(2)] == [0.5, 1.0]
    clock.now = WINDOW
    assert guesses.note("192.0.2.1", wrong=True).delay == USUAL_SECONDS


def test_peers_are_apart() -> None:
    """Another address pays nothing for it; addresses of one IPv6 network count as one."""
    guesses = Guesses(1, Clock())
    for _ in range(5):
        guesses.note("192.0.2.1", wrong=True)
    assert guesses.note("192.0.2.2", wrong=True).delay == USUAL_SECONDS
    assert guesses.note("2001:db8::1", wrong=True).delay == USUAL_SECONDS
    assert guesses.note("2001:db8::2", wrong=True).delay == 1.0


def test_requests_without_a_token_cost_nothing() -> None:
    """A missing token is no guess."""
    guesses = Guesses(1, Clock())
    assert {guesses.note("192.0.2.1", wrong=False).delay for _ in range(5)} == {0.0}
    assert guesses.note("192.0.2.1", wrong=True).delay == USUAL_SECONDS


def test_the_number_of_peers_is_bounded() -> None:
    """Someone with many addresses takes no more memory: the peer that began first is forgotten."""
    guesses = Guesses(1, Clock())
    for _ in range(3):
        guesses.note("first", wrong=True)
    for number in range(MOST_PEERS):
        guesses.note(str(number), wrong=True)
    assert len(guesses._peers) == MOST_PEERS
    assert guesses.note("first", wrong=True).delay == USUAL_SECONDS


def test_the_log_has_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A guard logs the first refusals of a peer, and then ever fewer of them."""
    guard = TokenGuard(sha256("own"), guesses=Guesses(4, Clock()))
    delays = []
    with caplog.at_level(logging.WARNING, "venvd.access"):
        for number in range(100):
            with pytest.raises(WrongToken) as caught:
                guard.check(f"wrong{number}", peer="192.0.2.1")
            delays.append(caught.value.delay)
    assert (delays[0], delays[-1]) == (USUAL_SECONDS, LONGEST_SECONDS)
    counts = [record.fields["refusals"] for record in caplog.records]  # type: ignore[attr-defined]
    assert counts == [1, 2, 3, 4, 8, 16, 32, 64]


def test_a_right_token_is_never_delayed() -> None:
    """A client with the right token is let in, whatever others of its address send."""
    guard = TokenGuard(sha256("own"), guesses=Guesses(1, Clock()))
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            guard.check("wrong", peer="192.0.2.1")
    assert guard.check("own", peer="192.0.2.1") is not None


@pytest.mark.parametrize(
    ("peer", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("fe80::1%eth0", "private"),
        ("8.8.8.8", "public"),
        ("2606:4700::1", "public"),
        ("unix", "socket"),
        ("uid 1000", "socket"),
    ],
)
def test_kinds_of_peers(peer: str, kind: str) -> None:
    """A label of metrics has the kind of a peer, and never its address."""
    assert classify_peer(peer) == kind
