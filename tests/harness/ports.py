"""Ports for what tests start."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 10_000, 25_000


def free_port() -> int:
    """A port of the loopback on which nothing listens.

    It is drawn by lot, since tests run side by side, and from below the range of which the kernel gives connections
    their near ends: one of those would come between this look and the listening.
    """
    lot = random.SystemRandom()
    while True:
        number = lot.randrange(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return number
