"""The table of a backend's replicas, which its servers and its router read from their key files.

Every program that reads it finds the same home for a session, without asking the others.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import List, Optional

DEFAULT = "default"
"""The session that is always there, on replica 0."""
_NUMBERED = re.compile(r"(\d{1,4})-")
_MULTIPLIER = 2862933555777941757
_MASK = (1 << 64) - 1


@dataclass
class ReplicaEntry:
    """One replica.

    Attributes:
        url: where clients reach it; null while it has no address.
        innerUrl: where the router reaches it; null where that is `url`.
        innerHttpUrl: the same, of the HTTP port of a gRPC server.
        draining: whether it takes no new sessions, since it will be removed.
        certificate: what the server may show, PEM, one after another; null without TLS.
        left: the number of the replica whose launch this was before an update; null where it is its launch now.
        sessions: the IDs of the sessions that such a launch still has; null until it has said so.
    """

    url: Optional[str] = None
    innerUrl: Optional[str] = None
    innerHttpUrl: Optional[str] = None
    draining: bool = False
    certificate: Optional[str] = None
    left: Optional[int] = None
    sessions: Optional[List[str]] = None


@dataclass
class ReplicaTable:
    """All replicas of a backend.

    Attributes:
        names: the number of replicas that take sessions with names; these are the first ones. A new replica does not
            raise it, because a name must not move away from its session.
        replicas: the replicas by number; a removed one has no address. After them come the replaced launches that still
            drain, oldest first, with numbers that no ID has. The table of a successor lists the launch that it will
            replace among them.
        own: the number of the reader of this table, if it is a replaced launch.
    """

    names: int = 1
    replicas: List[ReplicaEntry] = field(default_factory=lambda: [ReplicaEntry()])
    own: Optional[int] = None

    @property
    def count(self) -> int:
        """The number of replicas, without replaced launches."""
        return sum(each.left is None for each in self.replicas)

    def find_home(self, session: str) -> Optional[int]:
        """Return the number of the replica to which the session with this name or ID belongs.

        Return None if that replica is not in the table.
        """
        if session == DEFAULT:
            return 0
        left = self.find_left(session)
        if left is not None:
            return left
        number = read_number(session)
        if number is not None:
            return number if number < self.count else None
        return choose_home(session, self.names)

    def find_left(self, session: str) -> Optional[int]:
        """Return the replaced launch that has reported the session with this name or ID, or None."""
        if len(self.replicas) > self.count:
            for number in range(len(self.replicas) - 1, self.count - 1, -1):
                entry = self.replicas[number]
                if entry.sessions and (session in entry.sessions or f"{entry.left}-{session}" in entry.sessions):
                    return number
        return None

    def list_left(self, replica: int) -> List[int]:
        """List the numbers of the replaced launches of a replica that still drain, newest first."""
        return [number for number in range(len(self.replicas) - 1, -1, -1) if self.replicas[number].left == replica]

    def list_open(self) -> List[int]:
        """List the replicas that have an address and take new sessions."""
        return [number for number, each in enumerate(self.replicas) if each.url is not None and not each.draining]


def read_number(identity: str) -> Optional[int]:
    """Return the number of the replica at the start of the ID of a session or a call, or None."""
    numbered = _NUMBERED.match(identity)
    return None if numbered is None else int(numbered[1])


def choose_home(name: str, count: int) -> int:
    """Choose one of `count` replicas for the sessions with this name.

    It is the jump consistent hash of Lamping and Veach (2014): with one replica less, it chooses the same one unless
    that was the last.
    """
    key = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    chosen, following = 0, 0
    while following < count:
        chosen = following
        key = (key * _MULTIPLIER + 1) & _MASK
        following = int((chosen + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return chosen
