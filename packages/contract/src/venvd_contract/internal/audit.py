"""The events of a server for its controller's audit log: `GET /audit?after=POSITION` beside the probes.

The header `POSITION_HEADER` of `/readyz` names the position of the newest event, so that the controller asks for
nothing where nothing is new. What it asks for the server may forget.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import List, Optional

PATH = "/audit"
POSITION_HEADER = "X-Venvd-Audit"

REFUSED = "token.refuse"
KEY_ENDED = "key.end"
SESSION_ENDED = "session.end"
"""A session that was idle for too long; `session.create`, `session.reset` and `session.delete` are commands."""


PEERS = ("loopback", "private", "public", "socket")
"""The kinds of peers; a label of metrics has few values, and the audit log has the addresses."""
REFUSALS = tuple((code, peer) for code in ("unauthenticated", "forbidden") for peer in PEERS)
"""The labels of the metric that counts refused tokens."""


def classify_peer(peer: str) -> str:
    """Return the kind of a peer: that of its address, or `socket` where it has none."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return "socket"
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return "loopback"
    return "private" if address.is_private or address.is_link_local else "public"


@dataclass
class ServerEvent:
    """One event.

    Attributes:
        time: RFC 3339; of the first one, where the event stands for several.
        action: a command that begins or ends a session, or one of the names above.
        key: the name of the token; null if it is unknown or missing, or none was needed.
        peer: the address of the client; empty if the server acted by itself.
        session: the ID of the session.
        code: that of the error; null is success.
        detail: a sentence.
        count: how many equal events this one stands for.
    """

    time: str
    action: str
    key: Optional[str] = None
    peer: str = ""
    session: Optional[str] = None
    code: Optional[str] = None
    detail: Optional[str] = None
    count: int = 1


@dataclass
class ServerEvents:
    """The events after a position.

    Attributes:
        position: of the last of them.
        dropped: how many were lost between that position and the first of them.
        events: the oldest first.
    """

    position: str
    dropped: int = 0
    events: List[ServerEvent] = field(default_factory=list)
