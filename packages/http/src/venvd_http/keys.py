"""The key file of a server: the keys of clients, and the table of the backend's replicas.

The server checks the file strictly, and reads it again when it changes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Protocol

import msgspec

from venvd_contract.internal.replica_table import ReplicaTable
from venvd_contract.watched_file import WatchedFile
from venvd_http.auth import Key, OwnToken, TokenGuard

_log = logging.getLogger("venvd.access")

PAUSE = 0.5
"""Seconds between two checks of the file."""
LARGEST = 32 << 20


class _Token(msgspec.Struct, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    expiresAt: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None  # noqa: N815 - a name in the file

    @property
    def end(self) -> float | None:
        return None if self.expiresAt is None else self.expiresAt.timestamp()


class _Entry(_Token, kw_only=True):
    scope: Literal["use", "metrics"]


class _File(msgspec.Struct):
    keys: list[_Entry]
    tokens: list[_Token] = []
    """The server's own tokens: the newest, and older ones, whose ends a rotation has set."""
    siblings: ReplicaTable = msgspec.field(default_factory=ReplicaTable)
    """The replicas of the backend."""


_file = msgspec.json.Decoder(_File)


def parse(data: bytes) -> tuple[list[Key], ReplicaTable]:
    """Parse the content of a key file: the keys, and the table of the backend's replicas.

    Raises:
        ValueError: the content is invalid; the message says why.
    """
    content = _file.decode(data)
    keys = [
        *(Key(each.name, bytes.fromhex(each.sha256), each.scope, each.end) for each in content.keys),
        *(OwnToken(each.name, bytes.fromhex(each.sha256), expires_at=each.end) for each in content.tokens),
    ]
    return keys, content.siblings


class Siblings(Protocol):
    """The replicas of a backend, for its server."""

    refresh: Callable[[], None] | None

    def replace_table(self, table: ReplicaTable) -> None:
        """Use the table of the file."""


class KeyFile:
    """Gives a guard the keys in a file, and a server the table of replicas.

    If the file becomes invalid or disappears, the last valid content stays.
    """

    def __init__(self, path: Path, guard: TokenGuard, siblings: Siblings) -> None:
        self._file = WatchedFile(path, parse, LARGEST)
        self._guard = guard
        self._siblings = siblings
        self._problem = ""

    def refresh(self) -> None:
        """Read the file if it has changed, and end the keys that have expired."""
        try:
            content = self._file.read_changed()
            if content is not None:
                keys, table = content
                self._guard.replace_keys(keys)
                self._siblings.replace_table(table)
                self._problem = ""
        except (OSError, ValueError) as error:
            self._report(f"VENVD_KEYS_FILE: {self._file.path} cannot be used, and the keys stay as they were: {error}")
        self._guard.end_expired()

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            _log.error(problem)

    async def watch(self) -> None:
        """Call `refresh` regularly until this task is cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.refresh()


def watch(path: Path | None, guard: TokenGuard, siblings: Siblings) -> asyncio.Task[None] | None:
    """Update a guard's keys and the table of replicas from a file, until the returned task is cancelled.

    Without a file, do nothing and return None.
    """
    if path is None:
        return None
    file = KeyFile(path, guard, siblings)
    file.refresh()
    guard.refresh_keys = siblings.refresh = file.refresh
    return asyncio.get_running_loop().create_task(file.watch())
