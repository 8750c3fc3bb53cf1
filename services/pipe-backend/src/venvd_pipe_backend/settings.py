"""The settings of the pipe server beside those that every server has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from venvd_contract.framing import MAX_ATTACHMENT_BYTES
from venvd_core.settings import BackendSettings


def _octal(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    try:
        return int(given, 8)
    except ValueError:
        raise ValueError(f'"{given[:20]}" is no file mode: write it in octal, such as 0660') from None


def _uids(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    words = given.replace(",", " ").split()
    if words == ["any"]:
        return "any"
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f'"{given[:80]}" is no list of user IDs: write numbers with commas, or any')
    return frozenset(map(int, words)) or None


Mode = Annotated[int, BeforeValidator(_octal), Field(ge=0, le=0o777)]
Uids = Annotated[frozenset[int] | str | None, NoDecode, BeforeValidator(_uids)]


class PipeSettings(BackendSettings):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    socket_dir: Path = Path("/run/venvd/socket")
    """The directory of `pipe.sock` and `http.sock`; it must exist."""
    socket_prefix: str = ""
    """What the names of both sockets begin with."""
    socket_mode: Mode = 0o660
    socket_owner: int | None = Field(default=None, ge=0)
    """User ID that owns the sockets; null is that of this process."""
    socket_group: int | None = Field(default=None, ge=0)
    socket_uids: Uids = None
    """User IDs of the peers that are served, as this machine's kernel knows them, or `any`. Null is any for a backend
    with a token; else it is this process's own, root's, and that of the directory's owner."""
    max_connections: int = Field(default=1024, ge=1)
    max_pipelined: int = Field(default=1024, ge=1)
    """Running and waiting calls of one connection; further lines wait unread."""
    max_attachment_bytes: int = Field(default=256 << 20, ge=0, le=MAX_ATTACHMENT_BYTES)
    """Of all attachments of one request."""
    max_held_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Of the requests of all connections together, complete or not."""
    max_unread_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """Replies that one client may leave unread; more of them end its connection."""
    stall_timeout: float = Field(default=60, gt=0)
    """How long a peer may pause in the middle of a request, or leave replies unread."""
    drain: float = Field(default=5, ge=0)
    """For running calls when the server ends."""
