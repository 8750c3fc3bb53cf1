"""Refused tokens by the peer that sent them: how long each refusal is delayed, and which of them are logged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from venvd_http.admission import name_peer

USUAL_SECONDS = 0.5
"""How long the refusal of a wrong token is delayed."""
LONGEST_SECONDS = 8.0
WINDOW = 60.0
"""Seconds after which a peer begins anew."""
MOST_PEERS = 4096
"""Peers that are counted apart. Beyond them, the one that began first is forgotten."""


@dataclass(slots=True)
class _Peer:
    since: float
    refused: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequences of a refusal.

    Attributes:
        delay: seconds for which it is held back.
        count: the refusals of this peer in the present window.
        logged: whether it gets a line in the log.
    """

    delay: float
    count: int
    logged: bool


class Guesses:
    """Counts refusals by peer. Only wrong tokens are delayed, so a peer's other clients are not locked out.

    Args:
        free: wrong tokens of a peer within a minute that are refused after the usual time. The time doubles with each
            further one.
        clock: monotonic seconds.
    """

    def __init__(self, free: int = 30, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = free
        self._clock = clock
        self._peers: dict[str, _Peer] = {}

    def note(self, address: str, *, wrong: bool) -> Verdict:
        """Note a refusal; `wrong` is whether there was a token, and it is unknown or has ended."""
        name, now = name_peer(address), self._clock()
        peer = self._peers.get(name)
        if peer is None or now - peer.since >= WINDOW:
            self._peers.pop(name, None)  # so that the first is the one that began first
            if len(self._peers) >= MOST_PEERS:
                del self._peers[next(iter(self._peers))]
            peer = self._peers[name] = _Peer(now)
        peer.refused += 1
        peer.wrong += wrong
        doublings = min(max(0, peer.wrong - self._free), 16)
        delay = min(LONGEST_SECONDS, USUAL_SECONDS * 2**doublings) if wrong else 0.0
        is_round = peer.refused & (peer.refused - 1) == 0
        return Verdict(delay, peer.refused, logged=peer.refused <= self._free or is_round)
