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
    """Where `pipe.sock` and `http.sock` are made; it must exist."""
    socket_mode: Mode = 0o660
    socket_owner: int | None = Field(default=None, ge=0)
    """User ID that the sockets are given to; null leaves them to this process."""
    socket_group: int | None = Field(default=None, ge=0)
    socket_uids: Uids = None
    """User IDs of peers that are served, as this machine's kernel knows them, or `any`. Null: any where a token guards
    the backend, else this process's own, root's, and that of the directory's owner."""
    max_connections: int = Field(default=1024, ge=1)
    max_pipelined: int = Field(default=1024, ge=1)
    """Calls of one connection under way; further lines wait unread."""
    max_attachment_bytes: int = Field(default=256 << 20, ge=0, le=MAX_ATTACHMENT_BYTES)
    """Of one request together."""
    max_held_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Of all requests, whole or not, of all connections together."""
    max_unread_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """Replies that one client may leave unread; more ends its connection."""
    stall_timeout: float = Field(default=60, gt=0)
    """Of a peer in the middle of a request, or with replies unread, that does nothing."""
    first_request_timeout: float = Field(default=300, gt=0)
    """Until a connection has made one request that was let in."""
    drain: float = Field(default=5, ge=0)
    """For running calls when the server is asked to end."""
