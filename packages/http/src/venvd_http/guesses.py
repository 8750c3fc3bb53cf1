"""Counts refused tokens by peer, and decides how long to delay each refusal and whether to log it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from venvd_http.admission import name_peer

USUAL_SECONDS = 0.5
"""How long the refusal of a wrong token is delayed."""
LONGEST_SECONDS = 8.0
WINDOW = 60.0
"""Seconds after which the count of a peer begins again."""
MOST_PEERS = 4096
"""The most peers in the count. A further one replaces the peer that began first."""


@dataclass(slots=True)
class _Peer:
    since: float
    refused: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequences of a refusal.

    Attributes:
        delay: seconds by which it is delayed.
        count: the refusals of this peer in the current window.
        logged: whether it is logged.
    """

    delay: float
    count: int
    logged: bool


class Guesses:
    """Counts refusals by peer. It delays only wrong tokens, so a peer's other clients are not locked out.

    Args:
        free: the number of wrong tokens of a peer within a minute with the usual delay. The delay doubles with each
            further one.
        clock: monotonic seconds.
    """

    def __init__(self, free: int = 30, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = free
        self._clock = clock
        self._peers: dict[str, _Peer] = {}

    def note(self, address: str, *, wrong: bool) -> Verdict:
        """Count a refusal; `wrong` says whether there was a token that is unknown or has ended."""
        name, now = name_peer(address), self._clock()
        peer = self._peers.get(name)
        if peer is None or now - peer.since >= WINDOW:
            self._peers.pop(name, None)  # keeps the peers in the order in which they began
            if len(self._peers) >= MOST_PEERS:
                del self._peers[next(iter(self._peers))]
            peer = self._peers[name] = _Peer(now)
        peer.refused += 1
        peer.wrong += wrong
        doublings = min(max(0, peer.wrong - self._free), 16)
        delay = min(LONGEST_SECONDS, USUAL_SECONDS * 2**doublings) if wrong else 0.0
        is_round = peer.refused & (peer.refused - 1) == 0
        return Verdict(delay, peer.refused, logged=peer.refused <= self._free or is_round)
