"""The settings of the pipe server beside those that every server has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from venvd_contract.framing import MAX_ATTACHMENT_BYTES
from venvd_core.settings import BackendSettings, Count, Seconds, SecondsFromZero, Size, with_reader

_MOST_MODE = 0o777


def _octal(given: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", given) or int(given, 8) > _MOST_MODE:
        raise ValueError(f'"{given[:20]}" is no file mode: write it in octal, such as 0660')
    return int(given, 8)


def _uids(given: str) -> frozenset[int] | Literal["any"] | None:
    words = given.replace(",", " ").split()
    if words == ["any"]:
        return "any"
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f'"{given[:80]}" is no list of user IDs: write numbers with commas, or any')
    return frozenset(map(int, words)) or None


Mode = Annotated[int, with_reader(_octal)]
Uids = Annotated[frozenset[int] | str | None, with_reader(_uids)]


class PipeSettings(BackendSettings, frozen=True, kw_only=True):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    socket_dir: Path = Path("/run/venvd/socket")
    """The directory of `pipe.sock` and `http.sock`; it must exist."""
    socket_prefix: str = ""
    """The prefix of the names of both sockets."""
    socket_mode: Mode = 0o660
    socket_owner: Size | None = None
    """User ID that owns the sockets; null is that of this process."""
    socket_group: Size | None = None
    socket_uids: Uids = None
    """User IDs on this machine that the server serves, or `any`. Null is any for a backend
    with a token; else it is this process's own, root's, and that of the directory's owner."""
    max_connections: Count = 1024
    max_pipelined: Count = 1024
    """Running and waiting calls of one connection; further lines wait unread."""
    max_attachment_bytes: Annotated[int, Meta(ge=0, le=MAX_ATTACHMENT_BYTES)] = 256 << 20
    """Of all attachments of one request."""
    max_held_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    """Of the requests of all connections together, complete or not."""
    max_unread_bytes: Annotated[int, Meta(ge=1 << 16)] = 64 << 20
    """Replies that one client may leave unread; more of them end its connection."""
    stall_timeout: Seconds = 60
    """How long a peer may pause in the middle of a request, or leave replies unread."""
    drain: SecondsFromZero = 5
    """For running calls when the server ends."""
